//! Bad input where a real KVM is: one line that names the thing, status 1 or 2,
//! and nothing touched.

use std::fs;
use std::process::Command;

use crate::guest::{DRUPE, Guest, tuned};

/// Runs `drupe boot` with these arguments, split at blanks; what it said.
fn refused(args: &str, status: i32) -> String {
    let output = Command::new(DRUPE)
        .arg("boot")
        .args(args.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args}: {said}");
    assert!(output.stdout.is_empty());
    assert_eq!(said.trim_end().lines().count(), 1, "{args}: {said}");
    assert!(said.starts_with("drupe: "), "{said}");
    said
}

fn kernel() -> String {
    format!("--kernel {}", tuned().join("kernel").display())
}

#[test]
fn disks_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    for (disk, says) in [
        ("/nonexistent.img", "/nonexistent.img"),
        (empty.to_str().unwrap(), "empty"),
        (dir.path().to_str().unwrap(), "directory"),
        ("/dev/null", "/dev/null"),
    ] {
        let said = refused(&format!("{} --disk {disk}", kernel()), 1);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_disk_is_written_by_one_vm_only() {
    let (guest, disk) = Guest::tuned()
        .script("echo ready: yes; sleep 600")
        .data_disk(1 << 20, "");
    let run = guest.start();
    run.wait_for("ready: yes");
    for mode in ["", ",readonly"] {
        let said = refused(&format!("{} --disk {}{mode}", kernel(), disk.display()), 1);
        assert!(
            said.contains("another VM") && said.contains("data"),
            "{said}"
        );
    }
    run.signal(libc::SIGKILL);
    run.finish();
}

#[test]
fn interfaces_that_are_not_there_are_named() {
    let said = refused(&format!("{} --net tap=nosuchtap0", kernel()), 1);
    assert!(
        said.contains("nosuchtap0") && said.contains("ip tuntap add"),
        "{said}"
    );
    let said = refused(&format!("{} --net tap=lo", kernel()), 1);
    assert!(said.contains("lo"), "{said}");
    assert!(!fs::exists("/sys/class/net/nosuchtap0").unwrap());
}

#[test]
fn sockets_in_use_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let said = refused(&format!("{} --vsock {},cid=3", kernel(), file.display()), 1);
    assert!(said.contains("file"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let said = refused(
        &format!("{} --vsock {},cid=3", kernel(), socket.display()),
        1,
    );
    assert!(said.contains("in use"), "{said}");
    assert!(socket.exists());
}

#[test]
fn too_many_devices_and_too_little_memory_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let disks: String = (0..20)
        .map(|n| {
            let path = dir.path().join(n.to_string());
            fs::write(&path, [0; 512]).unwrap();
            format!(" --disk {}", path.display())
        })
        .collect();
    let said = refused(&format!("{}{disks}", kernel()), 1);
    assert!(said.contains("too many"), "{said}");
    let said = refused(&format!("{} --memory 8M", kernel()), 1);
    assert!(said.contains("--memory"), "{said}");
}

#[test]
fn kvm_without_permission_is_named_with_the_remedy() {
    use std::os::unix::fs::MetadataExt;
    // Only its owner can take it away, root outside of a user namespace.
    // SAFETY: geteuid has no effects.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || fs::metadata("/dev/kvm").unwrap().uid() != 0 {
        return;
    }
    // As nobody, with /dev/kvm as a host leaves it to its group.
    let before = host_mode();
    set_mode(0o600);
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            DRUPE,
            "boot",
        ])
        .args(kernel().split_whitespace())
        .output();
    set_mode(before);
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("group kvm"), "{said}");
}

fn host_mode() -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata("/dev/kvm").unwrap().permissions().mode()
}

fn set_mode(mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(mode)).unwrap();
}
