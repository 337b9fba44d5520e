//! Arbitrary guests and hosts: nothing panics, spins or grows.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::virtio::vsock::muxer::{MAX_RESETS, MAX_STREAMS};

#[derive(Debug, Clone)]
enum Step {
    /// A packet, with ports and types that are often those in use.
    Packet(Header, usize),
    /// A chain of whatever is there in memory.
    Chain(usize, Vec<(u64, u32, bool)>),
    HostDials(u32),
    HostWrites(usize, usize),
    HostReads(usize),
    HostCloses(usize),
    Answer,
    Starve,
    Feed,
    Restart,
}

fn packet() -> impl Strategy<Value = Step> {
    let port = || prop_oneof![8 => 0..4_u32, 2 => (1 << 30)..(1 << 30) + 6_u32, 1 => any::<u32>()];
    let counter = || prop_oneof![4 => 0..100_000_u32, 1 => any::<u32>()];
    (
        prop_oneof![20 => Just(CID), 1 => any::<u64>()],
        prop_oneof![20 => Just(HOST_CID), 1 => any::<u64>()],
        (port(), port()),
        prop_oneof![20 => Just(TYPE_STREAM), 1 => any::<u16>()],
        prop_oneof![20 => 0..9_u16, 1 => any::<u16>()],
        (0..5_u32, counter(), counter()),
        (
            0..MAX_SEND,
            prop_oneof![10 => Just(None), 1 => any::<u32>().prop_map(Some)],
        ),
    )
        .prop_map(
            |(src, dst, ports, kind, op, (flags, alloc, fwd), (n, len))| {
                let header = Header {
                    src_cid: src.into(),
                    dst_cid: dst.into(),
                    src_port: ports.0.into(),
                    dst_port: ports.1.into(),
                    len: len.unwrap_or(n as u32).into(),
                    socket_type: kind.into(),
                    op: op.into(),
                    flags: flags.into(),
                    buf_alloc: alloc.into(),
                    fwd_cnt: fwd.into(),
                };
                Step::Packet(header, n)
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let desc = (0..0x8_1000_u64, 0..0x2000_u32, any::<bool>());
    prop_oneof![
        20 => packet(),
        1 => (0..3_usize, prop::collection::vec(desc, 1..4)).prop_map(|(q, c)| Step::Chain(q, c)),
        4 => (0..4_u32).prop_map(Step::HostDials),
        6 => (any::<usize>(), 0..100_000_usize).prop_map(|(i, n)| Step::HostWrites(i, n)),
        6 => any::<usize>().prop_map(Step::HostReads),
        3 => any::<usize>().prop_map(Step::HostCloses),
        10 => Just(Step::Answer),
        1 => Just(Step::Starve),
        2 => Just(Step::Feed),
        1 => Just(Step::Restart),
    ]
}

/// As [`Guest::pump`], with rings that may hold anything.
fn turn(g: &mut Guest) {
    for _ in 0..1000 {
        g.offer_rx();
        let was_ready = g.ready();
        if was_ready {
            let device = g.d.device.clone();
            device.lock().unwrap().handle_event(0, EventSet::IN);
        }
        g.d.kick(RX);
        g.d.kick(TX);
        let mut any = false;
        while let Some((head, len)) = g.d.used(RX) {
            let at = g.d.queues[RX].desc + u64::from(head % RING_SIZE) * 16;
            let addr = u64::from_le_bytes(g.d.get(at, 8).try_into().unwrap());
            let Some(i) = g.rx_offered.iter().position(|&a| a == addr) else {
                continue;
            };
            any = true;
            g.rx_offered.remove(i);
            g.rx_free.push(addr);
            let bytes =
                g.d.get(addr, (len as usize).clamp(HEADER_SIZE, RX_STRIDE as usize));
            let header = *Header::from_slice(&bytes[..HEADER_SIZE]).unwrap();
            if Op::from_u16(header.op.into()).is_some() {
                let data = bytes[HEADER_SIZE..].to_vec();
                g.inbox.push_back(Packet { header, data });
            }
        }
        while g.d.used(TX).is_some() {}
        if !any && !was_ready || g.d.needs_reset() {
            return;
        }
    }
    panic!("the device spins");
}

fn run(steps: Vec<Step>) {
    let mut g = Guest::new();
    let listeners: Vec<_> = (0..2).map(|port| g.host_listens(port)).collect();
    let mut hosts: Vec<UnixStream> = Vec::new();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    for step in steps {
        let n = hosts.len();
        match step {
            Step::Packet(header, n) => g.offer(&header, &pattern(n)),
            Step::Chain(queue, descs) => {
                let descs: Vec<_> = descs
                    .into_iter()
                    .map(|(addr, len, write)| Desc { addr, len, write })
                    .collect();
                g.d.offer(queue, &descs);
            }
            Step::HostDials(port) => {
                let host = g.host_dials(port);
                host.set_nonblocking(true).unwrap();
                hosts.push(host);
            }
            Step::HostWrites(i, len) if n > 0 => {
                let _ = hosts[i % n].write(&pattern(len));
            }
            Step::HostReads(i) if n > 0 => {
                let _ = hosts[i % n].read(&mut [0; 50_000]);
            }
            Step::HostCloses(i) if n > 0 => drop(hosts.swap_remove(i % n)),
            Step::Answer => {
                let requests: Vec<_> = std::mem::take(&mut g.inbox)
                    .iter()
                    .filter(|p| p.op() == Op::Request)
                    .map(key_of)
                    .collect();
                for key in requests {
                    g.offer(&header(key, Op::Response, 0), &[]);
                    g.d.kick(TX);
                }
            }
            Step::Starve => g.starve(),
            Step::Feed => g.feeding = true,
            Step::Restart => g.start(),
            _ => {}
        }
        if g.d.needs_reset() {
            assert!(!g.ready(), "a device that waits for its reset is quiet");
            g.start();
        }
        turn(&mut g);
        for listener in &listeners {
            if let Ok((host, _)) = listener.accept() {
                host.set_nonblocking(true).unwrap();
                hosts.push(host);
            }
        }
        let (streams, ready, resets) = g.sizes();
        assert!(streams <= MAX_STREAMS && ready <= streams);
        assert!(resets <= MAX_RESETS + MAX_STREAMS);
        assert!(g.device.lock().unwrap().muxer.most_held() <= BUF_ALLOC as usize);
    }
    // Whoever has not been accepted yet is, and then dropped.
    g.start();
    drop(hosts);
    g.start();
    assert_eq!(g.sizes(), (0, 0, 0));
    let (host, key) = g.connected(8);
    g.send(key, Op::Rw, b"works");
    assert_eq!(read(&host, 5), b"works");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_panics_or_grows(steps in prop::collection::vec(step(), 1..80)) {
        run(steps);
    }
}
