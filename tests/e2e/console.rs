//! The console: input, output in bulk, and a terminal that comes back as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Command, Stdio};

use crate::guest::{DRUPE, Guest, tuned};

#[test]
fn what_is_typed_reaches_the_guest() {
    let mut run = Guest::tuned()
        .script("echo ready: yes; read line; echo heard: $line; read line; echo heard2: $line")
        .start();
    run.wait_for("ready: yes");
    run.type_line("good morning");
    run.wait_for("heard: good morning");
    let long: String = (0..40).map(|n| format!("word{n} ")).collect();
    run.type_line(&long);
    let end = run.finish().succeeded();
    assert_eq!(end.value("heard2:"), long.trim());
}

#[test]
fn much_output_arrives_whole_and_in_order() {
    let end = Guest::tuned()
        .script("seq -f 'line %g of the output' 1 3000")
        .run()
        .succeeded();
    let lines: Vec<_> = end
        .console
        .lines()
        .filter(|l| l.starts_with("line "))
        .collect();
    assert_eq!(lines.len(), 3000);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {} of the output", n + 1));
    }
}

#[test]
fn console_off_is_silent() {
    let end = Guest::tuned()
        .args("--console off")
        .script("echo hello")
        .run();
    assert_eq!((end.status.code(), end.console.as_str()), (Some(0), ""));
}

fn terminal() -> (File, File) {
    let (mut master, mut slave) = (0, 0);
    // SAFETY: openpty fills two descriptors; the other arguments may be null.
    let r = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(r, 0);
    // SAFETY: both are new and nobody else's.
    unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) }
}

fn settings(terminal: &File) -> (u32, u32, u32, u32) {
    // SAFETY: termios is plain data that tcgetattr fills.
    let t = unsafe {
        let mut t: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &mut t), 0);
        t
    };
    (t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag)
}

/// By the escape, by a signal and by power-off alike.
#[test]
fn the_terminal_is_raw_while_the_guest_runs_and_restored_after() {
    let kernel = tuned().join("kernel");
    for end_by in ["escape", "signal"] {
        let (mut master, slave) = terminal();
        let before = settings(&slave);
        let mut child = Command::new(DRUPE)
            .args([
                "boot",
                "--stop-timeout",
                "0",
                "--append",
                "console=ttyS0 panic=0",
                "--kernel",
            ])
            .arg(&kernel)
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The guest says something: drupe has set the terminal up.
        let mut buf = [0; 256];
        assert!(master.read(&mut buf).unwrap() > 0);
        assert_ne!(settings(&slave), before, "raw");
        let code = if end_by == "escape" {
            master.write_all(b"\x01x").unwrap();
            None
        } else {
            // SAFETY: no memory effects; the child has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            Some(128 + libc::SIGTERM)
        };
        // Keep reading, as a terminal does.
        let reader = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while master.read(&mut buf).is_ok_and(|n| n > 0) {}
        });
        let status = child.wait().unwrap();
        if code.is_some() {
            assert_eq!(status.code(), code);
        }
        assert_eq!(settings(&slave), before, "restored after {end_by}");
        drop(slave);
        reader.join().unwrap();
    }
}
