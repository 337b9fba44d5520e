//! How streams come to be, and not.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::virtio::DeviceSubscriber;
use crate::virtio::vsock::connection::REQUEST_TIMEOUT;
use crate::virtio::vsock::muxer::MAX_STREAMS;
use crate::virtio::vsock::packet::{SHUTDOWN_BOTH, SHUTDOWN_RCV};

#[test]
fn the_driver_finds_cid_and_features() {
    let mut g = Guest::new();
    assert_eq!(g.d.config::<8>(0), CID.to_le_bytes());
    assert_eq!(g.d.config::<4>(6), [0; 4]);
    assert_eq!(g.d.offered() & 0xff_ffff, 1, "stream sockets only");
    assert!(g.d.start(1));
    assert_eq!(g.d.read(8), 19);
}

#[test]
fn the_guest_accepts_a_host_program() {
    let mut g = Guest::new();
    let (mut host, key) = g.connected(52);
    host.write_all(b"question").unwrap();
    assert_eq!(g.expect(Op::Rw).data, b"question");
    g.send(key, Op::Rw, b"answer");
    assert_eq!(read(&host, 6), b"answer");
    // Another program at the same port is another connection.
    let (other, other_key) = g.connected(52);
    assert_ne!(key.local, other_key.local);
    g.send(other_key, Op::Rw, b"other");
    assert_eq!(read(&other, 5), b"other");
    drop(host);
    let shutdown = g.expect(Op::Shutdown);
    assert_eq!((key_of(&shutdown), shutdown.flags()), (key, SHUTDOWN_BOTH));
    g.send(key, Op::Rst, &[]);
    g.nothing();
    assert_eq!(g.sizes(), (1, 0, 0));
}

#[test]
fn the_guest_refuses_a_host_program() {
    let mut g = Guest::new();
    let host = g.host_dials(52);
    let key = key_of(&g.expect(Op::Request));
    g.send(key, Op::Rst, &[]);
    assert!(at_end(&host), "closed without OK");
    g.nothing();
    assert_eq!(g.sizes(), (0, 0, 0));
}

#[test]
fn whoever_keeps_the_device_waiting_is_dropped() {
    let mut g = Guest::new();
    let start = Instant::now();
    let unanswered = g.host_dials(52);
    let silent = UnixStream::connect(&g.path).unwrap();
    let key = key_of(&g.expect(Op::Request));
    let rst = g.expect(Op::Rst);
    assert_eq!(key_of(&rst), key);
    assert!(start.elapsed() >= REQUEST_TIMEOUT);
    g.until("both are dropped", |g| g.sizes() == (0, 0, 0));
    assert!(at_end(&unanswered) && at_end(&silent));
    // An answer that comes too late is told so.
    g.send(key, Op::Response, &[]);
    assert_eq!(key_of(&g.expect(Op::Rst)), key);
}

#[test]
fn a_request_that_the_guest_never_saw_leaves_no_reset() {
    let mut g = Guest::new();
    g.starve();
    // Uses the buffers up.
    let fill: Vec<_> = (0..8).map(|_| g.host_dials(1)).collect();
    g.until("requests are out", |g| g.inbox.len() == 8);
    let host = g.host_dials(2);
    g.until("all are dropped", |g| g.sizes().0 == 0);
    assert!(at_end(&host) && fill.iter().all(at_end));
    g.inbox.clear();
    g.feed();
    let resets: Vec<_> = (0..8).map(|_| g.expect(Op::Rst)).collect();
    assert!(resets.iter().all(|p| key_of(p).peer == 1));
    g.nothing();
}

#[test]
fn wrong_lines_close_the_socket() {
    let mut g = Guest::new();
    for line in ["HELLO\n", "CONNECT x\n", "CONNECT 4294967296\n"] {
        let mut host = UnixStream::connect(&g.path).unwrap();
        host.write_all(line.as_bytes()).unwrap();
        g.until("closed", |g| g.sizes().0 == 0);
        assert!(at_end(&host), "{line}");
    }
    let mut host = UnixStream::connect(&g.path).unwrap();
    host.write_all(&[b'C'; 1 << 16]).unwrap();
    g.until("a line without end", |g| g.sizes().0 == 0);
    assert!(at_end(&host));
    g.nothing();
}

#[test]
fn data_may_follow_the_line_at_once() {
    let mut g = Guest::new();
    let mut host = UnixStream::connect(&g.path).unwrap();
    for part in ["CONN", "ECT 9", "\nearly"] {
        host.write_all(part.as_bytes()).unwrap();
        g.pump();
    }
    let key = key_of(&g.expect(Op::Request));
    g.nothing();
    g.send(key, Op::Response, &[]);
    assert_eq!(g.expect(Op::Rw).data, b"early");
}

#[test]
fn a_host_program_may_leave_before_the_answer() {
    let mut g = Guest::new();
    let mut host = g.host_dials(9);
    host.write_all(b"message").unwrap();
    drop(host);
    let key = key_of(&g.expect(Op::Request));
    g.send(key, Op::Response, &[]);
    g.pump();
    let data = g.inbox.iter().position(|p| p.op() == Op::Rw).unwrap();
    assert_eq!(g.inbox.remove(data).unwrap().data, b"message");
    g.until("the end", |g| {
        g.inbox.back().is_some_and(|p| p.flags() == SHUTDOWN_BOTH)
    });
    g.send(key, Op::Rst, &[]);
    assert_eq!(g.sizes(), (0, 0, 0));
}

#[test]
fn the_guest_finds_a_listener_or_none() {
    let mut g = Guest::new();
    let key = Key {
        local: 1024,
        peer: 33,
    };
    g.send(key, Op::Request, &[]);
    assert_eq!(key_of(&g.expect(Op::Rst)), key);
    let listener = g.host_listens(1024);
    let mut host = g.dialled(&listener, key);
    g.send(key, Op::Rw, b"hello");
    assert_eq!(read(&host, 5), b"hello");
    host.write_all(b"you").unwrap();
    assert_eq!(g.expect(Op::Rw).data, b"you");
    g.send(key, Op::Rst, &[]);
    assert!(at_end(&host));
    // The listener has gone and left its file.
    drop(listener);
    g.send(key, Op::Request, &[]);
    g.expect(Op::Rst);
    assert_eq!(g.sizes(), (0, 0, 0));
}

#[test]
fn a_listener_that_does_not_accept_is_full_at_some_point() {
    let mut g = Guest::new();
    let _listener = g.host_listens(5);
    let mut refused = 0;
    for peer in 0..8192 {
        g.send(Key { local: 5, peer }, Op::Request, &[]);
        let packet = g.recv();
        if packet.op() == Op::Rst {
            refused += 1;
            break;
        }
    }
    assert_eq!(refused, 1);
}

#[test]
fn a_host_program_waits_for_the_driver() {
    let mut g = Guest::idle();
    let mut host = UnixStream::connect(&g.path).unwrap();
    host.write_all(b"CONNECT 5\n").unwrap();
    assert!(!g.ready(), "or the event loop would spin");
    g.start();
    assert_eq!(key_of(&g.expect(Op::Request)).peer, 5);
}

#[test]
fn the_event_loop_sees_streams_through_one_descriptor() {
    let mut g = Guest::new();
    let mut events = EventManager::<DeviceSubscriber>::new().unwrap();
    events.add_subscriber(DeviceSubscriber::new(g.d.device.clone(), Vec::new()));
    assert_eq!(events.run_with_timeout(0).unwrap(), 0);
    let mut host = g.host_dials(52);
    while events.run_with_timeout(0).unwrap() > 0 {}
    assert!(g.collect());
    let key = key_of(&g.inbox.pop_front().unwrap());
    g.send(key, Op::Response, &[]);
    host.write_all(b"hello").unwrap();
    while events.run_with_timeout(0).unwrap() > 0 {}
    assert!(g.collect());
    assert_eq!(g.inbox.pop_front().unwrap().data, b"hello");
    assert_eq!(events.run_with_timeout(0).unwrap(), 0);
}

#[test]
fn many_streams_at_once_and_places_left_for_the_host() {
    // Each stream has two ends in this process.
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: plain system calls on a live structure.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(8192);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    let mut g = Guest::new();
    let listener = g.host_listens(5);
    let mut hosts = Vec::new();
    let mut dial = 0;
    loop {
        let key = Key {
            local: 5,
            peer: dial,
        };
        g.send(key, Op::Request, &[]);
        if g.recv().op() == Op::Rst {
            break;
        }
        hosts.push((listener.accept().unwrap().0, key));
        dial += 1;
    }
    assert_eq!(hosts.len(), MAX_STREAMS - 64);
    for port in 0..64 {
        hosts.push(g.connected(port));
    }
    assert_eq!(g.sizes().0, MAX_STREAMS);
    // The next one waits, without a spin, until there is a place.
    let waiting = g.host_dials(99);
    g.nothing();
    // Every stream carries its own data, and none starves.
    for (n, (host, _)) in hosts.iter_mut().enumerate() {
        host.write_all(&(n as u32).to_le_bytes()).unwrap();
    }
    for _ in 0..hosts.len() {
        let packet = g.expect(Op::Rw);
        g.send(key_of(&packet), Op::Rw, &packet.data);
    }
    for (n, (host, _)) in hosts.iter().enumerate() {
        assert_eq!(read(host, 4), (n as u32).to_le_bytes());
    }
    let (host, key) = hosts.pop().unwrap();
    host.shutdown(Shutdown::Read).unwrap();
    g.send(key, Op::Rst, &[]);
    assert_eq!(key_of(&g.expect(Op::Request)).peer, 99);
    drop(waiting);
    g.start();
    assert_eq!(g.sizes(), (0, 0, 0));
    assert!(hosts.iter().all(|(host, _)| at_end(host)));
}

#[test]
fn a_host_that_only_reads_no_more_is_reported_as_such() {
    let mut g = Guest::new();
    let (mut host, key) = g.connected(52);
    host.shutdown(Shutdown::Read).unwrap();
    g.send(key, Op::Rw, b"x");
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_RCV);
    // What was under way is dropped, without a reset.
    g.send(key, Op::Rw, b"y");
    g.nothing();
    host.write_all(b"still").unwrap();
    assert_eq!(g.expect(Op::Rw).data, b"still");
    drop(host);
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_BOTH);
}
