//! Features, configuration, link, reset.

use super::*;

#[test]
fn features_follow_the_back_end() {
    let mut b = bench_with(true);
    let offered = features::ALWAYS | features::OFFLOADS | ring_features::OFFERED;
    assert_eq!(b.d.offered(), offered);
    assert_eq!(b.d.read(8), 1);
    let mut b = bench_with(false);
    assert_eq!(b.d.offered(), features::ALWAYS | ring_features::OFFERED);
    assert!(!b.d.start(features::GUEST_TSO4));
}

#[test]
fn the_configuration_tells_address_link_and_mtu() {
    let mut b = bench_with(true);
    let config = [2, 1, 2, 3, 4, 5, 1, 0, 1, 0, 0x78, 5, 0, 0];
    assert_eq!(b.d.config::<14>(0), config);
    assert_eq!(b.d.config::<2>(10), 1400u16.to_le_bytes());
    assert_eq!(b.d.config::<4>(1 << 40), [0; 4]);
}

#[test]
fn a_driver_that_agrees_on_no_offload_starts_the_back_end_as_well() {
    let mut b = bench_with(true);
    assert!(b.d.start(0));
    assert_eq!(b.wire().starts, 1);
    assert!(b.wire().offloads.is_empty());
    assert!(b.d.start(0));
    assert_eq!(b.wire().starts, 2);
}

#[test]
fn accepted_features_switch_offloads_and_a_reset_switches_them_off() {
    use features::*;
    let mut b = bench_with(true);
    let offload = |csum, tso4, tso6, ecn| Offload {
        csum,
        tso4,
        tso6,
        ecn,
    };
    for (accepted, expected) in [
        (GUEST_CSUM, offload(true, false, false, false)),
        (
            GUEST_CSUM | GUEST_TSO4 | GUEST_ECN,
            offload(true, true, false, true),
        ),
        (GUEST_CSUM | GUEST_TSO6, offload(true, false, true, false)),
        (OFFLOADS, Offload::ALL),
        // ECN depends on segmentation.
        (GUEST_CSUM | GUEST_ECN, offload(true, false, false, false)),
    ] {
        assert!(b.d.start(accepted));
        assert_eq!(b.wire().offloads.last(), Some(&expected));
        b.d.write(0x70, 0);
        assert_eq!(b.wire().offloads.last(), Some(&Offload::NONE));
    }
    // Segmentation depends on checksums; what the device does is its own matter.
    let calls = b.wire().offloads.len();
    for accepted in [0, GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN, CSUM | HOST_TSO4] {
        assert!(b.d.start(accepted));
    }
    assert_eq!(b.wire().offloads.len(), calls);
}

#[test]
fn the_next_driver_does_not_get_large_packets_of_the_one_before() {
    let mut b = started(features::OFFLOADS | features::MRG_RXBUF);
    // One waits in the card, two in the back end; the driver has no room.
    b.d.offer(0, &[Desc::writable(0x1000, 100)]);
    b.d.offer(0, &[Desc::writable(0x1000, 100)]);
    b.event();
    b.d.offer(0, &[Desc::writable(0x2000, 100)]);
    b.arrive(&packet(50, 1));
    for seed in 2..5 {
        b.arrive(&packet(5000, seed));
    }
    b.d.write(0x70, 0);
    assert_eq!(b.counters().rx_dropped, 3);
    assert!(b.d.start(0));
    b.assert_works();
}

#[test]
fn the_back_end_hears_of_resets() {
    let mut b = started(0);
    let before = b.wire().resets;
    b.d.write(0x70, 0);
    assert_eq!(b.wire().resets, before + 1);
}

#[test]
fn packets_from_before_the_driver_reach_it() {
    let mut b = bench_with(true);
    b.arrive(&packet(100, 1));
    assert!(b.d.start(features::OFFLOADS));
    b.d.offer(0, &[Desc::writable(0x1000, 2048)]);
    b.d.kick(0);
    assert_eq!(b.received(), [(0, 112)]);
}

#[test]
fn a_pulled_cable_is_told_and_loses_packets() {
    let mut b = started(features::STATUS | features::MRG_RXBUF);
    b.d.offer(0, &[Desc::writable(0x1000, 2048)]);
    let generation = b.d.read(0xfc);
    b.net().set_link(false);
    b.net().set_link(false);
    assert_eq!(b.d.irq.count(), 1);
    assert_eq!(b.d.read(0x60), 2);
    assert_ne!(b.d.read(0xfc), generation);
    assert_eq!(b.d.config::<2>(6), [0, 0]);

    b.arrive(&packet(100, 1));
    assert_eq!(b.received(), []);
    b.d.put(0x3000, &packet(100, 2));
    assert_eq!(b.d.request(1, &[Desc::readable(0x3000, 112)]), 0);
    assert_eq!(b.sent(), Vec::<Vec<u8>>::new());
    let c = b.counters();
    assert_eq!((c.rx_dropped, c.tx_dropped), (1, 1));

    b.net().set_link(true);
    assert_eq!(b.d.config::<2>(6), [1, 0]);
    b.arrive(&packet(100, 3));
    assert_eq!(b.received(), [(0, 112)]);
    // A driver that did not ask for it is not disturbed.
    assert!(b.d.start(0));
    let interrupts = b.d.irq.count();
    b.net().set_link(false);
    assert_eq!(b.d.irq.count(), interrupts);
}

#[test]
fn a_back_end_that_is_gone_takes_the_link_down_and_the_rest_goes_on() {
    for by_sending in [false, true] {
        let mut b = started(features::STATUS);
        b.d.offer(0, &[Desc::writable(0x1000, 2048)]);
        b.d.put(0x3000, &packet(100, 2));
        b.wire().error = Some(libc::EBADFD);
        if by_sending {
            b.d.offer(1, &[Desc::readable(0x3000, 112)]);
            b.d.offer(1, &[Desc::readable(0x3000, 112)]);
            b.d.kick(1);
            assert!(b.d.used(1).is_some() && b.d.used(1).is_some());
        } else {
            b.event();
        }
        assert!(!b.net().link_up());
        assert_eq!(b.d.config::<2>(6), [0, 0]);
        assert_eq!(b.d.request(1, &[Desc::readable(0x3000, 112)]), 0);
        b.net().set_link(true);
        assert!(!b.net().link_up());
        assert!(b.d.start(features::OFFLOADS));
        assert_eq!(b.d.request(1, &[Desc::readable(0x3000, 112)]), 0);
        assert!(!b.d.needs_reset());
    }
}
