use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use super::guest::{Guest, PATIENCE};
use super::pattern;
use crate::Offload;

const SIZE: usize = 10 << 20;

/// A server on loopback, and its address as the guest sees it.
fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddr::from(([10, 0, 2, 2], port)))
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Ten megabytes each way at the same time, byte by byte.
fn both_ways(guest: &mut Guest, listener: TcpListener, to: SocketAddr) {
    let far = thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut writer = stream.try_clone().unwrap();
        let write = thread::spawn(move || {
            writer.write_all(&pattern(SIZE)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        write.join().unwrap();
        all
    });
    let handle = guest.connect(to);
    let (out, mut sent, mut got) = (pattern(SIZE), 0, Vec::with_capacity(SIZE));
    guest.until("all moved", |g| {
        let socket = g.tcp(handle);
        if sent < SIZE {
            sent += socket.send_slice(&out[sent..]).unwrap();
            if sent == SIZE {
                socket.close();
            }
        }
        while socket.can_recv() {
            got.extend(socket.recv(|data| (data.len(), data.to_vec())).unwrap());
        }
        (sent == SIZE && got.len() == SIZE).then_some(())
    });
    assert!(got == pattern(SIZE));
    guest.until("the end", |g| (!g.tcp(handle).is_open()).then_some(()));
    assert!(far.join().unwrap() == pattern(SIZE));
}

#[test]
fn ten_megabytes_each_way() {
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    both_ways(&mut guest, listener, to);
    // Large segments, so that each is worth its cost.
    assert!(guest.seen.largest > 60_000, "{}", guest.seen.largest);
    assert_eq!(guest.seen.unfinished, 0);
}

#[test]
fn ten_megabytes_each_way_over_ipv6() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("this host has no IPv6");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::on_loopback();
    both_ways(
        &mut guest,
        listener,
        SocketAddr::new("fd00::2".parse().unwrap(), port),
    );
}

#[test]
fn checksums_and_segmentation_are_left_to_a_guest_that_takes_them() {
    let mut guest = Guest::with_mtu(1500, |c| c.host_loopback = true);
    let (listener, to) = server();
    both_ways(&mut guest, listener, to);
    assert!(guest.seen.largest <= 1514 && guest.seen.unfinished == 0);

    let (listener, to) = server();
    guest.card().reset(Offload {
        checksum: true,
        tso4: true,
    });
    both_ways(&mut guest, listener, to);
    assert!(guest.seen.largest > 30_000, "{}", guest.seen.largest);
    assert!(!guest.seen.segments.is_empty());
    assert!(guest.seen.segments.iter().all(|size| *size == 1460));
}

#[test]
fn each_way_ends_by_itself() {
    let mut guest = Guest::on_loopback();
    // The guest first.
    let (listener, to) = server();
    let handle = guest.begin(to);
    let far = thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        stream.write_all(format!("{question}?").as_bytes()).unwrap();
    });
    guest.until("established", |g| g.tcp(handle).may_send().then_some(()));
    guest.write(handle, b"what");
    guest.tcp(handle).close();
    assert_eq!(guest.read_to_end(handle).unwrap(), b"what?");
    far.join().unwrap();

    // The host first.
    let (listener, to) = server();
    let handle = guest.connect(to);
    let mut stream = accept(&listener);
    stream.write_all(b"bye").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.read_to_end(handle).unwrap(), b"bye");
    assert_eq!(guest.tcp(handle).state(), State::CloseWait);
    let far = thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    guest.write(handle, &pattern(1 << 20));
    guest.tcp(handle).close();
    guest.until("closed", |g| {
        (g.tcp(handle).state() == State::Closed).then_some(())
    });
    assert!(far.join().unwrap() == pattern(1 << 20));
}

/// The far half is slow: what the guest left behind when it closed must not be
/// lost, however its half has ended.
#[test]
fn nothing_is_lost_at_the_end() {
    let mut guest = Guest::on_loopback();
    for host_first in [false, true] {
        let (listener, to) = server();
        let handle = guest.connect(to);
        let mut stream = accept(&listener);
        if host_first {
            stream.shutdown(Shutdown::Write).unwrap();
            guest.until("ended", |g| (!g.tcp(handle).may_recv()).then_some(()));
        }
        // More than the host's buffers take.
        let data = pattern(8 << 20);
        let (mut sent, mut stalled) = (0, Instant::now());
        guest.until("no more room", |g| {
            let n = g.tcp(handle).send_slice(&data[sent..]).unwrap();
            sent += n;
            if n > 0 {
                stalled = Instant::now();
            }
            (stalled.elapsed() > Duration::from_millis(300)).then_some(())
        });
        assert!(sent < data.len(), "nothing held the guest back");
        guest.tcp(handle).close();
        guest.wait(Duration::from_millis(100));
        let far = thread::spawn(move || {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        guest.until("closed", |g| {
            let ended = if host_first {
                State::Closed
            } else {
                State::TimeWait
            };
            (g.tcp(handle).state() == ended).then_some(())
        });
        let all = far.join().unwrap();
        assert!(all == data[..sent], "{} of {sent}", all.len());
    }
}

#[test]
fn a_guest_that_does_not_read_holds_the_host_back() {
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    let handle = guest.connect(to);
    let mut stream = accept(&listener);
    stream.set_nonblocking(true).unwrap();
    let data = pattern(64 << 20);
    let (mut sent, mut stalled) = (0, Instant::now());
    guest.until("no more room", |_| {
        match stream.write(&data[sent..]) {
            Ok(n) => {
                sent += n;
                stalled = Instant::now();
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        (stalled.elapsed() > Duration::from_millis(300)).then_some(())
    });
    assert!(sent < data.len(), "nothing held the host back");
    drop(stream);
    assert!(guest.read_to_end(handle).unwrap() == data[..sent]);
}

#[test]
fn refusals_are_passed_on() {
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    drop(listener);
    let began = Instant::now();
    let handle = guest.begin(to);
    guest.until("refused", |g| {
        (g.tcp(handle).state() == State::Closed).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn resets_are_passed_on() {
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    let handle = guest.connect(to);
    let stream = accept(&listener);
    guest.write(handle, b"unread");
    guest.wait(Duration::from_millis(50));
    // To close with bytes unread is a reset.
    drop(stream);
    guest.read_to_end(handle).unwrap_err();

    let handle = guest.connect(to);
    let mut stream = accept(&listener);
    guest.tcp(handle).abort();
    guest.poll();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// A server that has answered and closes without having read all resets: the
/// answer is still the guest's.
#[test]
fn what_came_before_a_reset_is_delivered() {
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    let handle = guest.connect(to);
    let mut stream = accept(&listener);
    guest.write(handle, b"unread");
    guest.wait(Duration::from_millis(50));
    stream.write_all(&pattern(100_000)).unwrap();
    // The guest takes its time.
    thread::sleep(Duration::from_millis(100));
    drop(stream);
    thread::sleep(Duration::from_millis(100));
    let got = guest.read_to_end(handle).unwrap_err();
    assert!(got == pattern(100_000), "{}", got.len());
}

#[test]
fn a_host_that_does_not_answer_is_silence() {
    let (listener, to) = server();
    // Its queue is full: one waits, and further ones get no answer.
    let local = listener.local_addr().unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let waiting = TcpStream::connect(local).unwrap();
    let mut guest = Guest::on_loopback();
    let handle = guest.begin(to);
    guest.wait(Duration::from_millis(500));
    assert_eq!(guest.tcp(handle).state(), State::SynSent);
    // When there is an answer, the guest gets it.
    drop(waiting);
    drop(listener.accept().unwrap());
    guest.until("connected", |g| {
        (g.tcp(handle).state() == State::Established).then_some(())
    });
}

#[test]
fn a_reset_of_the_card_ends_connections() {
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    let handle = guest.connect(to);
    let mut stream = accept(&listener);
    guest.write(handle, b"hello");
    stream.read_exact(&mut [0; 5]).unwrap();
    guest.card().reset(Offload::default());
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // What is left of the old one is told so, and a new one works.
    guest.tcp(handle).send_slice(b"still there?").unwrap();
    guest.read_to_end(handle).unwrap_err();
    let handle = guest.connect(to);
    guest.write(handle, b"hello");
    accept(&listener).read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn many_connections_at_once() {
    const MANY: usize = 200;
    let mut guest = Guest::on_loopback();
    let (listener, to) = server();
    let far = thread::spawn(move || {
        let streams: Vec<_> = (0..MANY).map(|_| accept(&listener)).collect();
        for mut stream in streams {
            let mut byte = [0; 100];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        }
    });
    let handles: Vec<_> = (0..MANY).map(|_| guest.begin(to)).collect();
    for (n, handle) in handles.iter().enumerate() {
        guest.until("connected", |g| g.tcp(*handle).may_send().then_some(()));
        guest.write(*handle, &[n as u8; 100]);
    }
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(guest.read_to_end(*handle).unwrap(), [n as u8; 100]);
    }
    far.join().unwrap();
}
