//! Streams in use: data, credit, and how they end.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;

use super::*;
use crate::virtio::vsock::connection::LINGER;
use crate::virtio::vsock::packet::{SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND};

const MIB: usize = 1 << 20;

/// The guest's end of a stream, which keeps to the rules of credit.
struct Peer {
    key: Key,
    buf_alloc: u32,
    received: Vec<u8>,
    sent: u32,
    device_alloc: u32,
    device_fwd: u32,
    /// The most that the device had under way at once.
    most_under_way: u32,
    credit_requests: usize,
    told: u32,
}

impl Peer {
    fn new(key: Key, buf_alloc: u32) -> Self {
        Peer {
            key,
            buf_alloc,
            received: Vec::new(),
            sent: 0,
            device_alloc: BUF_ALLOC,
            device_fwd: 0,
            most_under_way: 0,
            credit_requests: 0,
            told: 0,
        }
    }

    fn header(&self, op: Op, len: usize) -> Header {
        Header {
            buf_alloc: self.buf_alloc.into(),
            fwd_cnt: self.told.into(),
            ..header(self.key, op, len)
        }
    }

    /// Takes what has arrived; tells of its credit when `update` says so.
    fn take(&mut self, g: &mut Guest, update: bool) {
        while let Some(packet) = g.inbox.pop_front() {
            self.device_alloc = packet.header.buf_alloc.into();
            self.device_fwd = packet.header.fwd_cnt.into();
            self.credit_requests += usize::from(packet.op() == Op::CreditRequest);
            assert!([Op::Rw, Op::CreditRequest, Op::CreditUpdate].contains(&packet.op()));
            self.received.extend(packet.data);
            let under_way = self.received.len() as u32 - self.told;
            assert!(under_way <= self.buf_alloc, "the device overran its credit");
            self.most_under_way = self.most_under_way.max(under_way);
        }
        if update && self.told != self.received.len() as u32 {
            self.told = self.received.len() as u32;
            let update = self.header(Op::CreditUpdate, 0);
            g.send_raw(&update, &[]);
        }
    }

    /// Sends as much of `data` as the device has room for; how much.
    fn send(&mut self, g: &mut Guest, data: &[u8]) -> usize {
        let room = self.device_alloc - (self.sent - self.device_fwd);
        let n = data.len().min(room as usize).min(MAX_SEND);
        if n > 0 {
            let header = self.header(Op::Rw, n);
            g.send_raw(&header, &data[..n]);
            self.sent += n as u32;
        }
        n
    }
}

#[test]
fn a_mebibyte_to_the_guest_through_small_buffers() {
    let mut g = Guest::idle();
    g.rx_len = HEADER_SIZE as u32 + 1000;
    g.start();
    let listener = g.host_listens(5);
    let mut peer = Peer::new(Key { local: 5, peer: 6 }, 10_000);
    let request = peer.header(Op::Request, 0);
    g.send_raw(&request, &[]);
    g.expect(Op::Response);
    let (mut host, _) = listener.accept().unwrap();
    let writer = std::thread::spawn(move || {
        host.write_all(&pattern(MIB)).unwrap();
        host
    });
    // Without credit, no more than the guest's buffer comes.
    g.until("the first bytes", |g| {
        peer.take(g, false);
        peer.received.len() == 10_000 && peer.credit_requests > 0
    });
    std::thread::sleep(Duration::from_millis(20));
    g.pump();
    peer.take(&mut g, false);
    assert_eq!((peer.received.len(), peer.credit_requests), (10_000, 1));
    g.until("all bytes", |g| {
        peer.take(g, true);
        peer.received.len() == MIB
    });
    assert_eq!(peer.most_under_way, 10_000);
    assert!(peer.received == pattern(MIB));
    writer.join().unwrap();
}

#[test]
fn a_mebibyte_to_the_host_that_reads_slowly() {
    let mut g = Guest::new();
    let (host, key) = g.connected(52);
    let mut peer = Peer::new(key, 4096);
    let data = pattern(MIB);
    let mut sent = 0;
    // The host does not read: the guest runs out of credit.
    loop {
        let n = peer.send(&mut g, &data[sent..]);
        g.pump();
        peer.take(&mut g, true);
        sent += n;
        if n == 0 && peer.device_fwd == peer.sent - BUF_ALLOC {
            break;
        }
        assert!(sent < MIB, "nothing holds the guest back");
    }
    let reader = std::thread::spawn(move || {
        let data = read(&host, MIB);
        (host, data)
    });
    g.until("everything is sent", |g| {
        peer.take(g, true);
        sent += peer.send(g, &data[sent..]);
        sent == MIB
    });
    g.until("everything is read", |_| reader.is_finished());
    let (_host, received) = reader.join().unwrap();
    assert!(received == data);
}

#[test]
fn a_guest_that_asks_for_credit_gets_it() {
    let mut g = Guest::new();
    let (host, key) = g.connected(52);
    g.send(key, Op::Rw, b"four");
    g.nothing();
    g.send(key, Op::CreditRequest, &[]);
    let update = g.expect(Op::CreditUpdate).header;
    assert_eq!(u32::from(update.fwd_cnt), 4);
    assert_eq!(u32::from(update.buf_alloc), BUF_ALLOC);
    assert_eq!(read(&host, 4), b"four");
}

/// Many streams share what there is, and each keeps to its part.
#[test]
fn a_buffer_is_smaller_where_there_are_many() {
    let mut g = Guest::new();
    let streams: Vec<_> = (0..100).map(|_| g.connected(52)).collect();
    let alloc = |g: &mut Guest, key| {
        g.send(key, Op::CreditRequest, &[]);
        u32::from(g.expect(Op::CreditUpdate).header.buf_alloc)
    };
    let first = alloc(&mut g, streams[0].1);
    let key = &streams[99].1;
    let last = alloc(&mut g, *key);
    assert_eq!(first, BUF_ALLOC);
    assert!((MIN_ALLOC..BUF_ALLOC / 2).contains(&last), "{last}");
    // As much as that, and what the socket of the host takes; then no more.
    let piece = vec![1; 4096];
    let mut sent = 0;
    while g.inbox.is_empty() {
        g.send(*key, Op::Rw, &piece);
        g.pump();
        sent += piece.len();
        assert!(
            sent < 2 * MIB,
            "nothing ends a guest that overruns its credit"
        );
        let most = g.device.lock().unwrap().muxer.most_held();
        assert!(most <= last as usize, "{most}");
        // It goes on without credit, which it is told of meanwhile.
        g.inbox.retain(|packet| packet.op() == Op::Rst);
    }
}

#[test]
fn the_host_finishes_and_still_gets_the_answer() {
    let mut g = Guest::new();
    let (mut host, key) = g.connected(52);
    host.write_all(b"hi").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(g.expect(Op::Rw).data, b"hi");
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_SEND);
    g.send(key, Op::Rw, b"hi yourself");
    g.shutdown(key, SHUTDOWN_BOTH);
    assert_eq!(key_of(&g.expect(Op::Rst)), key);
    assert_eq!(read(&host, 11), b"hi yourself");
    assert!(at_end(&host));
    assert_eq!(g.sizes(), (0, 0, 0));
}

#[test]
fn the_guest_finishes_and_still_gets_the_answer() {
    let mut g = Guest::new();
    let (mut host, key) = g.connected(52);
    g.send(key, Op::Rw, b"hi");
    g.shutdown(key, SHUTDOWN_SEND);
    assert_eq!(read(&host, 2), b"hi");
    assert!(at_end(&host));
    g.nothing();
    host.write_all(b"hi yourself").unwrap();
    assert_eq!(g.expect(Op::Rw).data, b"hi yourself");
    drop(host);
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_BOTH);
    // Data after its end are a breach.
    g.send(key, Op::Rw, b"more");
    g.expect(Op::Rst);
    assert_eq!(g.sizes(), (0, 0, 0));
}

#[test]
fn a_guest_that_reads_no_more_breaks_the_hosts_pipe() {
    let mut g = Guest::new();
    let (mut host, key) = g.connected(52);
    g.shutdown(key, SHUTDOWN_RCV);
    let error = host.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    g.send(key, Op::Rw, b"still");
    assert_eq!(read(&host, 5), b"still");
    g.shutdown(key, SHUTDOWN_SEND);
    g.expect(Op::Rst);
    assert!(at_end(&host));
}

#[test]
fn what_the_guest_sent_arrives_after_it_has_closed() {
    let mut g = Guest::new();
    let (mut host, key) = g.connected(52);
    let mut peer = Peer::new(key, 4096);
    let data = pattern(MIB);
    let mut sent = 0;
    while sent < BUF_ALLOC as usize * 3 / 2 {
        let n = peer.send(&mut g, &data[sent..]);
        g.pump();
        peer.take(&mut g, true);
        assert!(n > 0 || sent >= BUF_ALLOC as usize);
        if n == 0 {
            break;
        }
        sent += n;
    }
    g.shutdown(key, SHUTDOWN_BOTH);
    // The guest's side is over at once.
    assert_eq!(key_of(&g.expect(Op::Rst)), key);
    assert_eq!(g.sizes().0, 1, "the host has not read yet");
    assert!(host.write_all(b"x").is_err());
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        host.read_to_end(&mut received).map(|_| received)
    });
    g.until("the rest is read", |g| g.sizes().0 == 0);
    assert!(reader.join().unwrap().unwrap() == data[..sent]);
    g.nothing();
}

#[test]
fn a_host_that_never_reads_is_given_up_after_the_guest_has_closed() {
    let mut g = Guest::new();
    let (host, key) = g.connected(52);
    let mut peer = Peer::new(key, 4096);
    while peer.send(&mut g, &[0; MAX_SEND]) > 0 {
        g.pump();
        peer.take(&mut g, true);
    }
    g.shutdown(key, SHUTDOWN_BOTH);
    g.expect(Op::Rst);
    g.expire_in(LINGER - Duration::from_secs(1));
    assert_eq!(g.sizes(), (1, 0, 0));
    g.expire_in(LINGER);
    assert_eq!(g.sizes(), (0, 0, 0));
    while !at_end(&host) {}
    g.nothing();
}

#[test]
fn a_guest_that_does_not_confirm_the_end_is_reset() {
    let mut g = Guest::new();
    let (host, key) = g.connected(52);
    drop(host);
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_BOTH);
    g.expire_in(LINGER - Duration::from_secs(1));
    g.nothing();
    g.expire_in(LINGER);
    assert_eq!(key_of(&g.expect(Op::Rst)), key);
    assert_eq!(g.sizes(), (0, 0, 0));
}

#[test]
fn a_reset_closes_the_streams_and_the_device_works_on() {
    let mut g = Guest::new();
    let listener = g.host_listens(5);
    let key = Key { local: 5, peer: 6 };
    let dialled = g.dialled(&listener, key);
    let (connected, _) = g.connected(7);
    let waiting = g.host_dials(8);
    g.expect(Op::Request);
    g.d.write(0x70, 0);
    assert!(at_end(&dialled) && at_end(&connected) && at_end(&waiting));
    assert!(!g.ready());
    let mut patient = g.host_dials(9);
    assert!(!g.ready(), "or the event loop would spin");
    g.start();
    let key = key_of(&g.expect(Op::Request));
    g.send(key, Op::Response, &[]);
    patient.write_all(b"hello").unwrap();
    assert_eq!(g.expect(Op::Rw).data, b"hello");
}

#[test]
fn a_finished_guest_without_room_leaves_the_event_loop_alone() {
    let mut g = Guest::new();
    let listener = g.host_listens(5);
    let peer = Peer::new(Key { local: 5, peer: 6 }, 0);
    g.send_raw(&peer.header(Op::Request, 0), &[]);
    g.expect(Op::Response);
    let (mut host, _) = listener.accept().unwrap();
    let finished = Header {
        flags: SHUTDOWN_SEND.into(),
        ..peer.header(Op::Shutdown, 0)
    };
    g.send_raw(&finished, &[]);
    // The pump does not end while anything is ready.
    host.write_all(b"x").unwrap();
    g.expect(Op::CreditRequest);
    host.write_all(b"y").unwrap();
    g.nothing();
    drop(host);
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_RCV);
    g.nothing();
    // The data come before the end, as soon as there is room.
    g.send(peer.key, Op::CreditUpdate, &[]);
    assert_eq!(g.expect(Op::Rw).data, b"xy");
    assert_eq!(g.expect(Op::Shutdown).flags(), SHUTDOWN_BOTH);
}
