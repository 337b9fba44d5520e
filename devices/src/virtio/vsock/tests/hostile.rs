//! A guest that keeps to no rules.

use std::io::Write;

use super::*;
use crate::virtio::vsock::muxer::{MAX_RESETS, MAX_STREAMS};

const KEY: Key = Key { local: 5, peer: 6 };

#[test]
fn packets_of_others_are_dropped() {
    let mut g = Guest::new();
    for (src, dst) in [
        (CID + 1, HOST_CID),
        (CID, HOST_CID + 1),
        (HOST_CID, CID),
        (CID | 1 << 32, HOST_CID),
        (CID, HOST_CID | 1 << 32),
        (CID, u64::MAX),
    ] {
        let header = Header {
            src_cid: src.into(),
            dst_cid: dst.into(),
            ..header(KEY, Op::Request, 0)
        };
        g.send_raw(&header, &[]);
        g.nothing();
    }
}

#[test]
fn what_belongs_to_no_connection_is_reset_but_no_reset_is() {
    let mut g = Guest::new();
    for op in [
        Op::Response,
        Op::Shutdown,
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        g.send(KEY, op, &[]);
        assert_eq!(key_of(&g.expect(Op::Rst)), KEY);
    }
    for op in [0, 8, u16::MAX] {
        let header = Header {
            op: op.into(),
            ..header(KEY, Op::Rw, 0)
        };
        g.send_raw(&header, &[]);
        g.expect(Op::Rst);
    }
    g.send(KEY, Op::Rst, &[]);
    g.nothing();
    // Datagrams and what not: the answer is of the same type.
    let _listener = g.host_listens(5);
    for kind in [0, 2, 3, u16::MAX] {
        let unknown = |op| Header {
            socket_type: kind.into(),
            ..header(KEY, op, 0)
        };
        g.send_raw(&unknown(Op::Request), &[]);
        let rst = g.expect(Op::Rst);
        assert_eq!(u16::from(rst.header.socket_type), kind);
        g.send_raw(&unknown(Op::Rst), &[]);
        g.nothing();
    }
}

#[test]
fn breaches_within_a_connection_reset_it() {
    type Breach = fn(&mut Guest, Key);
    let breaches: &[(&str, Breach)] = &[
        ("a length beyond the buffer", |g, key| {
            g.send_raw(&header(key, Op::Rw, 101), &[0; 100]);
        }),
        ("a length beyond everything", |g, key| {
            let header = Header {
                len: u32::MAX.into(),
                ..header(key, Op::Rw, 0)
            };
            g.send_raw(&header, &[0; 100]);
        }),
        ("a second request", |g, key| g.send(key, Op::Request, &[])),
        ("a second response", |g, key| g.send(key, Op::Response, &[])),
        ("an operation that does not exist", |g, key| {
            let header = Header {
                op: 99.into(),
                ..header(key, Op::Rw, 0)
            };
            g.send_raw(&header, &[]);
        }),
        ("more than its credit", |g, key| {
            // The host's own buffer takes some; beyond it, credit counts.
            for _ in 0..1000 {
                g.send(key, Op::Rw, &[0; MAX_SEND]);
                g.pump();
                let held = g.inbox.iter().all(|p| p.op() != Op::Rst);
                if !held {
                    return g.inbox.retain(|p| p.op() == Op::Rst);
                }
            }
        }),
    ];
    for (name, breach) in breaches {
        let mut g = Guest::new();
        let (host, key) = g.connected(6);
        let (other, other_key) = g.connected(7);
        breach(&mut g, key);
        assert_eq!(key_of(&g.expect(Op::Rst)), key, "{name}");
        while !at_end(&host) {}
        // The others do not notice.
        g.send(other_key, Op::Rw, b"fine");
        assert_eq!(read(&other, 4), b"fine", "{name}");
        assert_eq!(g.sizes(), (1, 0, 0), "{name}");
        assert!(!g.d.needs_reset(), "{name}");
    }
}

#[test]
fn an_answer_before_the_question_is_a_breach() {
    let mut g = Guest::new();
    g.starve();
    let fill: Vec<_> = (0..8).map(|_| g.host_dials(1)).collect();
    g.until("requests are out", |g| g.inbox.len() == 8);
    let unasked = g.host_dials(2);
    g.until("one more waits", |g| g.sizes().0 == 9);
    let local = g.inbox.iter().map(|p| key_of(p).local).max().unwrap() + 1;
    g.send(Key { local, peer: 2 }, Op::Response, &[]);
    assert!(at_end(&unasked));
    // A request is not answered by data.
    let key = key_of(&g.inbox[0]);
    g.send(key, Op::Rw, b"early");
    let closed = fill.iter().filter(|host| {
        host.set_nonblocking(true).unwrap();
        at_end(host)
    });
    assert_eq!(closed.count(), 1);
}

#[test]
fn credit_that_makes_no_sense_sends_nothing() {
    let mut g = Guest::new();
    let listener = g.host_listens(5);
    let request = Header {
        buf_alloc: 1000.into(),
        fwd_cnt: 0x8000_0000.into(),
        ..header(KEY, Op::Request, 0)
    };
    g.send_raw(&request, &[]);
    g.expect(Op::Response);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(b"data").unwrap();
    g.expect(Op::CreditRequest);
    let none = Header {
        buf_alloc: 0.into(),
        ..header(KEY, Op::CreditUpdate, 0)
    };
    for _ in 0..3 {
        g.send_raw(&none, &[]);
        g.nothing();
    }
    g.send(KEY, Op::CreditUpdate, &[]);
    assert_eq!(g.expect(Op::Rw).data, b"data");
}

#[test]
fn a_flood_without_reading_is_held_back() {
    let mut g = Guest::new();
    g.starve();
    let _listener = g.host_listens(5);
    // Kinds of packets that each have an answer; none is read.
    let mut sent = 0;
    for n in 0..20_000_u32 {
        let op = [Op::Request, Op::Rw, Op::CreditRequest][n as usize % 3];
        let local = if n % 2 == 0 { 5 } else { 77 };
        g.offer(&header(Key { local, peer: n % 7 }, op, 0), &[]);
        g.d.kick(TX);
        let (streams, ready, resets) = g.sizes();
        assert!(streams <= MAX_STREAMS && ready <= streams && resets <= MAX_RESETS);
        if g.d.used(TX).is_none() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 20_000, "the guest's packets wait at some point");
    assert!(!g.ready(), "and the event loop does not");
    // When it reads, everything comes out and the queue moves on.
    let mut answers = 0;
    g.feed();
    g.until("the last packet is taken", |g| {
        answers += std::mem::take(&mut g.inbox).len();
        g.sizes().1 == 0 && g.sizes().2 == 0
    });
    assert!(answers >= MAX_RESETS);
    assert!(g.d.used(TX).is_some());
}

#[test]
fn opening_and_closing_without_reading_leaves_nothing() {
    let mut g = Guest::new();
    g.starve();
    let listener = g.host_listens(5);
    for peer in 0..2000 {
        let key = Key { local: 5, peer };
        g.send(key, Op::Request, &[]);
        let _host = listener.accept().unwrap();
        g.send(key, Op::Rst, &[]);
        assert_eq!(g.sizes(), (0, 0, 0));
    }
}

#[test]
fn chains_that_hold_no_packet_need_a_reset() {
    type Plant = fn(&mut Guest);
    let plants: &[(&str, Plant)] = &[
        ("half a header", |g| {
            g.d.offer(TX, &[Desc::readable(0x1000, 43)]);
        }),
        ("nothing to read", |g| {
            g.d.offer(TX, &[Desc::writable(0x1000, 100)]);
        }),
        ("room for a header only", |g| {
            g.d.offer(RX, &[Desc::writable(0x1000, 44)]);
        }),
        ("nothing to write to", |g| {
            g.d.offer(RX, &[Desc::readable(0x1000, 100)]);
        }),
        ("a loop", |g| {
            let table = g.d.queues[TX].desc;
            g.d.raw_desc(table, 0, 0x1000, 8, 1, 0);
            g.d.offer_head(TX, 0);
        }),
    ];
    for (name, plant) in plants {
        let mut g = Guest::idle();
        // No RX buffers but the planted one.
        assert!(g.d.start(0));
        let host = g.host_dials(5);
        plant(&mut g);
        for _ in 0..3 {
            g.device.lock().unwrap().handle_event(0, EventSet::IN);
            g.d.kick(TX);
            g.d.kick(RX);
        }
        assert!(g.d.needs_reset(), "{name}");
        assert!(!g.ready() && g.sizes() == (0, 0, 0), "{name}");
        drop(host);
        g.start();
        let (host, key) = g.connected(8);
        g.send(key, Op::Rw, b"works");
        assert_eq!(read(&host, 5), b"works", "{name}");
    }
}
