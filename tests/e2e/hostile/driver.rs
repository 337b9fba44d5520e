//! A guest that plays the hostile driver of every device (`guest-images/hostile`):
//! drupe goes on, and each device works again after a reset.

use std::fs;

use tempfile::TempDir;

use crate::guest::{Finished, Guest};

/// Anonymous memory and program pages beyond the guest's own: what a monitor with
/// a device of each kind takes, and no more than a few requests' buffers.
const MAX_BEYOND_GUEST_KIB: u64 = 24 * 1024;
const GUEST_KIB: u64 = 32 * 1024;
/// Lines on standard error. Each kind of message comes in a burst of ten, then one
/// in five seconds.
const MAX_LINES: usize = 200;
const DISK_SIZE: usize = 1 << 20;
/// Stands beside the share.
pub const SECRET: &str = "secret";

/// A guest with one device of each kind, and the directory of their files.
pub fn machine(command: &str) -> (Guest, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().to_owned();
    fs::create_dir(files.join("share")).unwrap();
    fs::create_dir(files.join("sockets")).unwrap();
    fs::write(files.join("share/x"), "x").unwrap();
    fs::write(files.join(SECRET), SECRET).unwrap();
    fs::write(files.join("kernel"), hostile::KERNEL).unwrap();
    let disk = files.join("disk");
    fs::write(&disk, vec![hostile::DISK_BYTE; DISK_SIZE]).unwrap();
    let guest = Guest::with_kernel(&files.join("kernel"))
        .args("--net user --memory")
        .arg(hostile::MEMORY)
        .append(command)
        .disk(&disk, "")
        .arg("--share")
        .arg(format!("{},tag=s", files.join("share").display()))
        .arg("--vsock")
        .arg(files.join("sockets/v"));
    (guest, dir)
}

/// Lets the guest attack, looks at drupe meanwhile, and ends the guest.
fn attack(command: &str) -> Finished {
    let (guest, dir) = machine(command);
    let files = dir.path();
    let mut run = guest.start();
    run.wait_for("done: ");
    let status = fs::read_to_string(format!("/proc/{}/status", run.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().unwrap();
    run.type_line("q");
    let end = run.finish();
    println!("{}drupe had {peak} KiB at most", end.console);
    assert!(peak < GUEST_KIB + MAX_BEYOND_GUEST_KIB, "{peak} KiB");
    assert_eq!(end.status.code(), Some(0), "{}", end.errors);
    assert!(end.errors.lines().count() < MAX_LINES, "{}", end.errors);
    assert!(!end.errors.contains("panicked"), "{}", end.errors);
    // What no honest request was made to is as it was.
    let disk = fs::read(files.join("disk")).unwrap();
    assert!(disk.len() == DISK_SIZE && disk.iter().all(|byte| *byte == hostile::DISK_BYTE));
    let names = fs::read_dir(files).unwrap().count();
    assert_eq!(names, 5, "something is new beside the share");
    assert_eq!(fs::read_to_string(files.join(SECRET)).unwrap(), SECRET);
    assert_eq!(fs::read_dir(files.join("share")).unwrap().count(), 1);
    end
}

#[test]
fn no_device_is_broken_by_its_driver() {
    if !kvm() {
        return;
    }
    let (command, least) = match crate::IN_A_LAB {
        true => ("attack every=40", 90),
        false => ("attack", 950),
    };
    let end = attack(command);
    let done = end.value("done:");
    let (cases, wrong) = done.split_once(" cases, ").unwrap();
    assert_eq!(wrong, "0 wrong", "{}", end.console);
    // A guest that did not find its devices would have nothing wrong, too.
    assert!(cases.parse::<usize>().unwrap() > least, "{done}");
    for device in ["blk", "net", "fs", "vsock", "rng"] {
        let good = format!("device {device}: good");
        assert!(end.console.contains(&good), "{}", end.console);
        let resets = format!("case {device} q0 ");
        let mut resets = end.console.lines().filter(|line| line.starts_with(&resets));
        let reset = resets.any(|line| line.ends_with(": needs-reset, good"));
        assert!(reset, "{device}: {}", end.console);
    }
}

/// False where there is no KVM: the unit tests go without.
fn kvm() -> bool {
    let there = fs::File::options().read(true).write(true).open("/dev/kvm");
    if there.is_err() {
        println!("skipped: there is no /dev/kvm");
    }
    there.is_ok()
}
