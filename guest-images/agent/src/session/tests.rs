use super::*;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

/// A shell script as the process of a session; the other end of its connection.
fn run(script: &str) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child: Child = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let nonblocking = |fd: OwnedFd| {
        rustix::io::ioctl_fionbio(&fd, true).unwrap();
        fd
    };
    let streams = Streams::Pipes {
        input: Some(nonblocking(child.stdin.take().unwrap().into())),
        output: nonblocking(child.stdout.take().unwrap().into()),
        error: nonblocking(child.stderr.take().unwrap().into()),
    };
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let carrier = thread::spawn(move || {
        carry(OwnedFd::from(theirs).into(), streams, &pidfd, |status| {
            Exit {
                status: status.exit_status().unwrap_or(255) as u8,
                oom_killed: false,
            }
        });
        drop(child);
    });
    (ours, carrier)
}

fn read_all(mut from: UnixStream) -> (Vec<u8>, Vec<u8>, Option<Exit>) {
    let (mut out, mut err, mut exit) = (Vec::new(), Vec::new(), None);
    while let Some(frame) = Frame::read_from(&mut from).unwrap() {
        assert!(exit.is_none(), "nothing comes behind the exit");
        match frame.kind {
            FrameKind::Stdout => out.extend(frame.payload),
            FrameKind::Stderr => err.extend(frame.payload),
            _ => exit = Some(frame.parse(FrameKind::Exit).unwrap()),
        }
    }
    (out, err, exit)
}

fn status(exit: Option<Exit>) -> u8 {
    exit.unwrap().status
}

#[test]
fn streams_are_apart_and_the_exit_comes_last() {
    let (host, carrier) = run("echo out; echo err >&2; exit 3");
    let (out, err, exit) = read_all(host);
    assert_eq!((out, err), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(status(exit), 3);
    carrier.join().unwrap();
}

#[test]
fn megabytes_go_through_both_ways_with_a_slow_reader() {
    let (host, carrier) = run("cat");
    let data: Vec<u8> = (0..5_000_000_u32)
        .map(|i| (i * 7 + i / 251) as u8)
        .collect();
    let mut writer = host.try_clone().unwrap();
    let sent = data.clone();
    let writing = thread::spawn(move || {
        for chunk in sent.chunks(300_001) {
            Frame::new(FrameKind::Stdin, chunk)
                .write_to(&mut writer)
                .unwrap();
        }
        Frame::new(FrameKind::Stdin, [])
            .write_to(&mut writer)
            .unwrap();
    });
    thread::sleep(Duration::from_millis(50));
    assert!(
        !writing.is_finished(),
        "nobody reads, so that nobody can write"
    );
    let (out, _, exit) = read_all(host);
    assert!(out == data);
    assert_eq!(status(exit), 0);
    writing.join().unwrap();
    carrier.join().unwrap();
}

#[test]
fn orphans_that_hold_the_pipe_do_not_delay_the_exit() {
    let (host, carrier) = run("sleep 60 & echo done; echo $!");
    let (out, _, exit) = read_all(host);
    let out = String::from_utf8(out).unwrap();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("done"));
    assert_eq!(status(exit), 0);
    crate::sys::kill(lines.next().unwrap().parse().unwrap(), libc::SIGKILL);
    carrier.join().unwrap();
}

#[test]
fn all_output_is_there_before_the_exit() {
    let (host, carrier) = run("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2");
    thread::sleep(Duration::from_millis(100));
    let (out, err, exit) = read_all(host);
    assert_eq!((out.len(), err.len(), status(exit)), (60_000, 60_000, 0));
    carrier.join().unwrap();
}

#[test]
fn a_process_outlives_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("done");
    let (host, carrier) = run(&format!(
        "cat >/dev/null; head -c 1000000 /dev/zero; echo > {}",
        file.display()
    ));
    drop(host);
    carrier.join().unwrap();
    assert!(file.exists());
}

#[test]
fn a_side_that_breaks_the_protocol_is_not_heard_any_more() {
    let (mut host, carrier) = run("cat; exit 4");
    Frame::new(FrameKind::Request, *b"x")
        .write_to(&mut host)
        .unwrap();
    let (_, _, exit) = read_all(host);
    assert!(exit.is_none());
    carrier.join().unwrap();
}

#[test]
fn input_that_nobody_reads_is_thrown_away() {
    let (mut host, carrier) = run("exec <&-; sleep 0.2; echo end");
    let writing = {
        let mut host = host.try_clone().unwrap();
        thread::spawn(move || {
            for _ in 0..20 {
                let frame = Frame::new(FrameKind::Stdin, vec![0; 100_000]);
                if frame.write_to(&mut host).is_err() {
                    return;
                }
            }
        })
    };
    let (out, _, exit) = read_all(host.try_clone().unwrap());
    assert_eq!((out, status(exit)), (b"end\n".to_vec(), 0));
    host.flush().unwrap();
    drop(host);
    writing.join().unwrap();
    carrier.join().unwrap();
}

#[test]
fn a_half_closed_connection_still_gets_output() {
    let (host, carrier) = run("cat; echo after");
    Frame::new(FrameKind::Stdin, *b"x\n")
        .write_to(&mut &host)
        .unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    let (out, _, exit) = read_all(host);
    assert_eq!((out, status(exit)), (b"x\nafter\n".to_vec(), 0));
    carrier.join().unwrap();
}

#[test]
fn frames_may_come_in_any_pieces() {
    let mut bytes = Vec::new();
    for payload in [&b"abc"[..], b"d", &[0xff; 1000], b""] {
        Frame::new(FrameKind::Stdin, payload)
            .write_to(&mut bytes)
            .unwrap();
    }
    for step in 1..40 {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.feed(piece, &mut out).unwrap();
        }
        assert!(decoder.ended && out.len() == 1004 && out.starts_with(b"abcd"));
    }
}

#[test]
fn nothing_but_input_is_taken() {
    let feed = |bytes: &[u8]| Decoder::default().feed(bytes, &mut Vec::new());
    assert_eq!(feed(&[1, 0, 0, 0, 0]), Err(NotStdin));
    assert_eq!(feed(&[3, 1, 0, 16, 0]), Err(NotStdin));
    assert_eq!(feed(&[3, 0, 0, 0, 0, 3, 0, 0, 0, 0]), Err(NotStdin));
    assert_eq!(feed(&[3, 0, 0, 16, 0]), Ok(()));
}
