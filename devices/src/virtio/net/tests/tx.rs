//! Packets from the guest.

use super::*;

#[test]
fn packets_leave_whole_from_one_or_many_descriptors() {
    let mut b = started(0);
    let p = packet(1000, 3);
    b.d.put(0x1000, &p);
    assert_eq!(b.d.request(1, &[Desc::readable(0x1000, 1012)]), 0);
    // The header on its own, then split in the middle of a field.
    let whole = |cuts: &[u32]| {
        let mut addr = 0x1000;
        let ends = cuts.iter().chain(&[1012]);
        let mut start = 0;
        ends.map(|&end| {
            let d = Desc::readable(addr, end - start);
            addr += u64::from(end - start);
            start = end;
            d
        })
        .collect::<Vec<_>>()
    };
    b.d.request(1, &whole(&[12]));
    b.d.request(1, &whole(&[1, 11, 11, 300]));
    assert_eq!(b.sent(), [p.clone(), p.clone(), p]);
    let c = b.counters();
    assert_eq!((c.tx_packets, c.tx_bytes), (3, 3000));
}

#[test]
fn what_is_no_packet_is_used_and_counted() {
    let mut b = started(0);
    for len in [1, 11, 12] {
        assert_eq!(b.d.request(1, &[Desc::readable(0x1000, len)]), 0);
    }
    let most = (HEADER_SIZE + MAX_FRAME) as u32;
    b.d.request(1, &[Desc::readable(0x1000, most + 1)]);
    assert_eq!((b.counters().tx_malformed, b.sent().len()), (4, 0));
    b.d.request(1, &[Desc::readable(0x1000, most)]);
    assert_eq!(b.sent()[0].len(), most as usize);
}

#[test]
fn refused_packets_are_dropped_and_the_next_ones_sent() {
    let mut b = started(0);
    for code in [libc::EIO, libc::EINVAL, libc::ENOBUFS] {
        b.wire().error = Some(code);
        assert_eq!(b.d.request(1, &[Desc::readable(0x1000, 100)]), 0);
    }
    b.wire().error = None;
    b.d.request(1, &[Desc::readable(0x1000, 100)]);
    let c = b.counters();
    assert_eq!((c.tx_dropped, c.tx_packets), (3, 1));
}

#[test]
fn a_full_back_end_is_waited_for() {
    for ring in [0, ring_features::EVENT_IDX] {
        let mut b = started(ring);
        b.wire().room = Some(1);
        for seed in 0..3 {
            let addr = 0x1000 * u64::from(seed + 1);
            b.d.put(addr, &packet(100, seed));
            b.d.offer(1, &[Desc::readable(addr, 112)]);
        }
        b.d.kick(1);
        assert!(b.d.used(1).is_some() && b.d.used(1).is_none());
        // A kick alone changes nothing.
        b.d.kick(1);
        assert!(b.d.used(1).is_none());
        b.wire().room = None;
        b.net().handle_event(BACKEND, EventSet::OUT);
        assert!(b.d.used(1).is_some() && b.d.used(1).is_some());
        let sent: Vec<_> = (0..3).map(|seed| packet(100, seed)).collect();
        assert_eq!(b.sent(), sent);
        assert_eq!(b.counters().tx_dropped, 0);
    }
}

#[test]
fn event_idx_is_kept_to() {
    let mut b = started(ring_features::EVENT_IDX);
    let q = b.d.queues[1].clone();
    let entries = 16;
    // used_event: an interrupt once the third chain is used.
    b.d.put(q.avail + 4 + entries * 2, &2u16.to_le_bytes());
    for interrupts in [0, 0, 1, 1] {
        b.d.request(1, &[Desc::readable(0x1000, 100)]);
        assert_eq!(b.d.irq.count(), interrupts);
    }
    // avail_event: the device asks for a kick at the fifth.
    assert_eq!(b.d.get(q.used + 4 + entries * 8, 2), 4u16.to_le_bytes());
    // Without the feature, the flag alone counts.
    let mut b = started(0);
    b.d.put(q.avail, &1u16.to_le_bytes());
    b.d.request(1, &[Desc::readable(0x1000, 100)]);
    assert_eq!(b.d.irq.count(), 0);
    b.d.put(q.avail, &0u16.to_le_bytes());
    b.d.request(1, &[Desc::readable(0x1000, 100)]);
    assert_eq!(b.d.irq.count(), 1);
}

#[test]
fn a_long_run_leaves_others_their_turn() {
    let mut b = started(0);
    // 16 packets of 64 KB are more than one event's share.
    for _ in 0..16 {
        b.d.offer(1, &[Desc::readable(0x1000, 65000)]);
    }
    b.d.kick(1);
    let first = b.sent().len();
    assert!((1..16).contains(&first));
    let mut rest = 0;
    while b.d.run_own_kicks() {
        rest += b.sent().len();
    }
    assert_eq!(first + rest, 16);
}
