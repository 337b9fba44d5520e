//! A guest, a reader or a caller that does its worst to the process: it can always
//! be stopped, stays small, and leaves nothing behind. The guests are a few
//! instructions, which run on every KVM.

pub mod driver;
mod neighbour;

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bare_metal::{ECHO_FOUR, FLOOD, NEWLINE, POWER_OFF, elf};
use crate::guest::{DRUPE, Guest, PATIENCE};

fn kernel(code: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    fs::write(&path, elf(code)).unwrap();
    (dir, path)
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: kill has no memory effects; the child has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

fn wait(child: &mut Child) -> ExitStatus {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("drupe does not end");
}

/// Waits until a signal is drupe's to handle: before, it ends it as it ends any
/// program.
fn wait_for_signals(child: &Child, signal: i32) {
    let handled = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let sets = status.lines().filter_map(|line| {
            let set = line
                .strip_prefix("SigBlk:")
                .or(line.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(set.trim(), 16).ok()
        });
        sets.fold(0, |all, set| all | set) & 1 << (signal - 1) != 0
    };
    let limit = Instant::now() + PATIENCE;
    while !handled() {
        assert!(Instant::now() < limit, "drupe handles no signals");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A terminal: the end that nobody reads here, and the program's.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut a, mut b) = (0, 0);
    let none = std::ptr::null_mut;
    // SAFETY: two integers to fill in; no name, no settings.
    unsafe {
        let rc = libc::openpty(&mut a, &mut b, none(), none().cast(), none().cast());
        assert_eq!(rc, 0);
        (OwnedFd::from_raw_fd(a), OwnedFd::from_raw_fd(b))
    }
}

#[test]
fn output_that_nobody_reads_neither_holds_nor_grows_drupe() {
    const MAX_ANONYMOUS_KIB: u64 = 16 * 1024;
    let (_dir, kernel) = kernel(FLOOD);
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = (OwnedFd::from(reader), OwnedFd::from(writer));
    for (_reader, output) in [pipe, terminal()] {
        let mut child = Command::new(DRUPE)
            .args(["boot", "--memory", "64M", "--stop-timeout", "0", "--kernel"])
            .arg(&kernel)
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        wait_for_signals(&child, libc::SIGTERM);
        thread::sleep(Duration::from_secs(5));
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        assert!(kib.parse::<u64>().unwrap() < MAX_ANONYMOUS_KIB, "{kib} KiB");
        signal(&child, libc::SIGTERM);
        let status = wait(&mut child);
        assert_eq!(status.code(), Some(128 + libc::SIGTERM), "{status}");
    }
}

#[test]
fn an_instruction_reads_and_writes_byte_by_byte() {
    let code = [ECHO_FOUR, &NEWLINE[..NEWLINE.len() - 1], POWER_OFF].concat();
    let (_dir, kernel) = kernel(&code);
    let mut run = Guest::with_kernel(&kernel).start();
    run.type_line("abcd");
    let end = run.finish();
    assert_eq!(end.status.code(), Some(0), "{}", end.errors);
    assert_eq!(end.console, "abcd\n");
}

#[test]
fn whatever_signal_ends_it_the_socket_goes() {
    let (_dir, kernel) = kernel(NEWLINE);
    let real_time = libc::SIGRTMIN() + 2;
    for number in [
        libc::SIGUSR1,
        libc::SIGALRM,
        libc::SIGXCPU,
        libc::SIGPWR,
        real_time,
    ] {
        let guest = Guest::with_kernel(&kernel).args("--stop-timeout 0");
        let socket = guest.dir.path().join("v");
        let run = guest.arg("--vsock").arg(&socket).start();
        run.wait_for("\n");
        assert!(socket.exists());
        run.signal(number);
        let end = run.finish();
        assert_eq!(end.status.code(), Some(128 + number), "{}", end.errors);
        assert!(!socket.exists(), "{number}");
    }
}

#[test]
fn a_signal_during_the_start_leaves_nothing() {
    let (dir, kernel) = kernel(NEWLINE);
    let initrd = dir.path().join("initrd");
    File::create(&initrd).unwrap().set_len(400 << 20).unwrap();
    let socket = dir.path().join("v");
    for pause in [1, 3, 10, 30, 100, 200, 300, 500] {
        let mut child = Command::new(DRUPE)
            .args(["boot", "--memory", "1G", "--stop-timeout", "0", "--kernel"])
            .arg(&kernel)
            .arg("--initrd")
            .arg(&initrd)
            .arg("--vsock")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(pause));
        signal(&child, libc::SIGTERM);
        wait(&mut child);
        assert!(!socket.exists(), "after {pause} ms");
    }
}

/// Runs drupe by a shell that does this first.
fn after(first: &str, kernel: &std::path::Path) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg(format!("{first}; exec \"$0\" \"$@\""))
        .args([
            DRUPE,
            "boot",
            "--memory",
            "64M",
            "--stop-timeout",
            "0",
            "--kernel",
        ])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    use std::io::Read;
    let (_dir, kernel) = kernel(NEWLINE);
    let mut child = after("trap '' HUP", &kernel);
    let mut byte = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut byte)
        .unwrap();
    signal(&child, libc::SIGHUP);
    thread::sleep(Duration::from_millis(300));
    signal(&child, libc::SIGTERM);
    assert_eq!(wait(&mut child).code(), Some(128 + libc::SIGTERM));
}

#[test]
fn a_limit_on_files_is_an_error_and_no_death() {
    // Of the guest's memory only what others can map is a file.
    let (_dir, power_off) = kernel(POWER_OFF);
    let output = after("ulimit -f 8", &power_off).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let shared = "ulimit -f 8; set -- \"$@\" --shared-memory";
    let output = after(shared, &power_off).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("drupe: memory: 64M cannot be allocated"),
        "{said}"
    );
}
