//! Packets to the guest.

use super::*;

const MRG: u64 = features::MRG_RXBUF;

/// The bytes of used chains, each of which began at `0x1000 * (n + 1)`.
fn collect(b: &Bench, used: &[(u16, u32)]) -> Vec<u8> {
    used.iter()
        .flat_map(|&(head, len)| b.d.get(0x1000 * (u64::from(head) + 1), len as usize))
        .collect()
}

fn offer(b: &mut Bench, sizes: &[u32]) {
    for &size in sizes {
        let head = b.d.queues[0].next_free();
        let addr = 0x1000 * (u64::from(head) + 1);
        b.d.offer(0, &[Desc::writable(addr, size)]);
    }
}

#[test]
fn each_packet_gets_a_buffer_and_a_count_of_one() {
    for features in [0, MRG] {
        let mut b = started(features);
        offer(&mut b, &[2048, 1526]);
        b.d.kick(0);
        let (p, q) = (packet(60, 1), packet(1514, 2));
        b.arrive(&p);
        b.arrive(&q);
        assert_eq!(b.received(), [(0, 72), (1, 1526)]);
        assert_eq!(b.d.get(0x1000, 72), with_buffers(&p, 1));
        assert_eq!(b.d.get(0x2000, 1526), with_buffers(&q, 1));
        assert_eq!(b.d.irq.count(), 2);
        let c = b.counters();
        assert_eq!((c.rx_packets, c.rx_bytes), (2, 1574));
    }
}

#[test]
fn a_large_packet_is_spread_over_buffers() {
    let mut b = started(MRG | features::OFFLOADS);
    offer(&mut b, &[1000, 12, 500, 100, 700, 2000]);
    b.d.kick(0);
    let p = packet(2000, 1);
    b.arrive(&p);
    let used = b.received();
    assert_eq!(used, [(0, 1000), (1, 12), (2, 500), (3, 100), (4, 400)]);
    assert_eq!(collect(&b, &used), with_buffers(&p, 5));
    // The last one is still there: for a small packet, although the one before
    // was large.
    let p = packet(60, 2);
    b.arrive(&p);
    let used = b.received();
    assert_eq!(used, [(5, 72)]);
    assert_eq!(collect(&b, &used), with_buffers(&p, 1));
}

#[test]
fn large_packets_in_a_row_are_read_in_place() {
    let mut b = started(MRG | features::OFFLOADS);
    // Round the ring more than once, and across its end.
    offer(&mut b, &[4096]);
    b.arrive(&packet(60, 1));
    b.received();
    for seed in 0..20 {
        offer(&mut b, &[4096, 4096]);
        let p = packet(5000, seed);
        b.arrive(&p);
        let used = b.received();
        assert_eq!(used.len(), 2);
        assert_eq!(collect(&b, &used), with_buffers(&p, 2));
    }
}

#[test]
fn all_chains_of_a_packet_count_for_the_interrupt() {
    let mut b = started(MRG | ring_features::EVENT_IDX);
    let used_event = b.d.queues[0].avail + 4 + 16 * 2;
    for (event, interrupts) in [(0u16, 1), (5, 2), (9, 2), (9, 3)] {
        b.d.put(used_event, &event.to_le_bytes());
        offer(&mut b, &[100; 3]);
        b.arrive(&packet(250, 1));
        assert_eq!(b.received().len(), 3);
        assert_eq!(b.d.irq.count(), interrupts, "{event}");
        b.d.put(used_event, &100u16.to_le_bytes());
    }
}

#[test]
fn scattered_buffers_and_split_headers() {
    for features in [0, MRG] {
        let mut b = started(features);
        let parts = [(0x5000, 3), (0x1000, 8), (0x3001, 1), (0x6000, 100)];
        let chain: Vec<_> = parts
            .iter()
            .map(|&(addr, len)| Desc::writable(addr, len))
            .collect();
        b.d.offer(0, &chain);
        let p = packet(100, 9);
        b.arrive(&p);
        assert_eq!(b.received(), [(0, 112)]);
        let got: Vec<_> = parts
            .iter()
            .flat_map(|&(addr, len)| b.d.get(addr, len as usize))
            .collect();
        assert_eq!(got, with_buffers(&p, 1));
    }
}

#[test]
fn without_buffers_packets_wait_for_the_kick() {
    for ring in [0, ring_features::EVENT_IDX] {
        let mut b = started(MRG | ring);
        b.arrive(&packet(60, 1));
        b.arrive(&packet(60, 2));
        assert_eq!(
            b.wire().reads,
            0,
            "nothing is read that cannot be delivered"
        );
        let c = b.counters();
        assert_eq!((c.rx_dropped, c.rx_stalls), (0, 3));
        let asked = b.d.kick_wanted(0, 1);
        assert!(asked);
        offer(&mut b, &[2048]);
        b.d.kick(0);
        assert_eq!(b.received(), [(0, 72)]);
        assert!(b.d.kick_wanted(0, 1));
        offer(&mut b, &[2048]);
        b.d.kick(0);
        assert_eq!(b.received(), [(1, 72)]);
        assert_eq!(b.d.get(0x2000, 72), with_buffers(&packet(60, 2), 1));
    }
}

#[test]
fn a_packet_larger_than_what_is_left_waits_for_more() {
    for ring in [0, ring_features::EVENT_IDX] {
        let mut b = started(MRG | ring);
        offer(&mut b, &[1000; 4]);
        b.d.kick(0);
        b.arrive(&packet(60, 1));
        b.arrive(&packet(60, 2));
        let (p, q) = (packet(3000, 3), packet(60, 4));
        b.arrive(&p);
        b.arrive(&q);
        assert_eq!(b.received().len(), 2);
        // Two buffers are left, so that the kick is wanted behind them.
        assert!(b.d.kick_wanted(0, 1));
        offer(&mut b, &[1000]);
        b.d.kick(0);
        assert_eq!(b.received(), []);
        assert!(b.d.kick_wanted(0, 1));
        offer(&mut b, &[1000, 1000]);
        b.d.kick(0);
        let used = b.received();
        assert_eq!(used.len(), 5);
        assert_eq!(collect(&b, &used[..4]), with_buffers(&p, 4));
        assert_eq!(collect(&b, &used[4..]), with_buffers(&q, 1));
        assert_eq!(b.counters().rx_dropped, 0);
    }
}

#[test]
fn what_never_fits_is_dropped_and_the_next_delivered() {
    // All that the driver has is too little for the first.
    for features in [0, MRG] {
        let mut b = started(features);
        offer(&mut b, &[100, 100]);
        b.d.kick(0);
        b.arrive(&packet(1000, 1));
        b.arrive(&packet(50, 2));
        assert_eq!(b.received(), [(0, 62)]);
        assert_eq!(b.d.get(0x1000, 62), with_buffers(&packet(50, 2), 1));
        assert_eq!((b.counters().rx_dropped, b.d.needs_reset()), (1, false));
    }
    // So it is, after some were used and came back.
    let mut b = started(MRG);
    offer(&mut b, &[100; 4]);
    b.d.kick(0);
    b.arrive(&packet(50, 1));
    b.arrive(&packet(1000, 2));
    b.arrive(&packet(50, 3));
    assert_eq!(b.received().len(), 1);
    offer(&mut b, &[100]);
    b.d.kick(0);
    assert_eq!(b.received(), [(1, 62)]);
    assert_eq!(b.counters().rx_dropped, 1);
}

#[test]
fn the_largest_packet_and_many_pieces() {
    let mut b = started(MRG | features::OFFLOADS);
    // An indirect table of more pieces than one system call takes.
    let (table, pieces) = (0x6_0000, 1024);
    for n in 0..pieces {
        let flags = 2 | u16::from(n + 1 < pieces);
        b.d.raw_desc(table, n, 0x1000 + u64::from(n) * 64, 64, flags, n + 1);
    }
    let desc = b.d.queues[0].desc;
    b.d.raw_desc(desc, 0, table, u32::from(pieces) * 16, 4, 0);
    b.d.offer_head(0, 0);
    b.d.raw_desc(desc, 1, 0x40_0000, 0x1000, 2, 0);
    b.d.offer_head(0, 1);
    b.d.kick(0);
    let p = packet(MAX_FRAME, 5);
    b.arrive(&p);
    assert_eq!(b.received(), [(0, 65536), (1, 26)]);
    let mut got = b.d.get(0x1000, 65536);
    got.extend(b.d.get(0x40_0000, 26));
    assert!(got == with_buffers(&p, 2));
}

#[test]
fn failing_reads_neither_spin_nor_stop_the_card() {
    let mut b = started(MRG);
    offer(&mut b, &[2048]);
    b.wire().error = Some(libc::EFAULT);
    b.event();
    assert!(!b.d.run_own_kicks());
    assert_eq!(b.counters().rx_errors, 1);
    b.wire().error = None;
    // Less than a header is no packet.
    b.arrive(&[0; 12]);
    assert_eq!(b.counters().rx_errors, 2);
    b.arrive(&packet(60, 1));
    assert_eq!(b.received(), [(0, 72)]);
}

#[test]
fn a_long_run_leaves_others_their_turn() {
    let mut b = started(MRG);
    offer(&mut b, &[0x1000; 16]);
    // Packets that nobody can take: many drops in one go.
    for _ in 0..600 {
        b.wire().to_guest.push_back(vec![0; 12]);
    }
    b.event();
    assert_eq!(b.counters().rx_errors, 256);
    assert!(b.d.run_own_kicks());
    assert!(b.d.run_own_kicks());
    assert!(!b.d.run_own_kicks());
    assert_eq!(b.counters().rx_errors, 600);
}
