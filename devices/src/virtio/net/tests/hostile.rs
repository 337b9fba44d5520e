//! Drivers that break the rules.

use proptest::prelude::*;

use super::*;

#[test]
fn buffers_of_the_wrong_direction_need_a_reset() {
    for (queue, chain) in [
        (0, vec![Desc::readable(0x1000, 2048)]),
        (
            0,
            vec![Desc::readable(0x1000, 12), Desc::writable(0x2000, 2048)],
        ),
        (0, vec![Desc::writable(0x1000, 11)]),
        (0, vec![Desc::writable(0x1000, 0)]),
        (1, vec![Desc::writable(0x1000, 2048)]),
        (
            1,
            vec![Desc::readable(0x1000, 100), Desc::writable(0x2000, 1)],
        ),
        (1, vec![Desc::readable(0x20_0000, 100)]),
        (1, vec![Desc::readable(0xf_ffff, 100)]),
    ] {
        let mut b = started(features::MRG_RXBUF | features::OFFLOADS);
        b.d.offer(queue, &chain);
        b.d.kick(queue);
        b.event();
        assert!(b.d.needs_reset(), "{chain:?}");
        // Nothing moves until then, and nothing breaks.
        b.arrive(&packet(60, 1));
        b.d.kick(0);
        b.d.kick(1);
        b.net().set_link(false);
        b.net().set_link(true);
        b.wire().to_guest.clear();
        assert!(b.d.start(0));
        b.assert_works();
    }
}

#[test]
fn an_available_index_that_runs_away_needs_a_reset() {
    for queue in [0, 1] {
        let mut b = started(0);
        let avail = b.d.queues[queue].avail;
        b.d.put(avail + 2, &1000u16.to_le_bytes());
        b.d.kick(queue);
        b.event();
        assert!(b.d.needs_reset());
        assert!(b.d.start(0));
        b.assert_works();
    }
}

#[derive(Debug, Clone)]
enum Act {
    Raw(usize, u16, u64, u32, u16, u16),
    Head(usize, u16),
    Offer(usize, Vec<(u64, u32)>),
    Kick(usize),
    Arrive(usize),
    Room(Option<usize>),
    Link(bool),
    Reset(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let queue = || 0..2usize;
    let addr = prop_oneof![0..0x8_0000u64, 0xf_f000..0x10_1000u64, any::<u64>()];
    let len = prop_oneof![0..3000u32, 60000..70000u32, any::<u32>()];
    let buffers = prop::collection::vec((0..0x7_0000u64, 1..4000u32), 1..4);
    prop_oneof![
        1 => (queue(), 0..16u16, addr, len, 0..8u16, 0..20u16)
            .prop_map(|(q, i, a, l, f, n)| Act::Raw(q, i, a, l, f, n)),
        1 => (queue(), 0..20u16).prop_map(|(q, h)| Act::Head(q, h)),
        6 => (queue(), buffers).prop_map(|(q, b)| Act::Offer(q, b)),
        6 => queue().prop_map(Act::Kick),
        6 => prop_oneof![0..2000usize, 0..66000usize].prop_map(Act::Arrive),
        1 => prop::option::of(0..4usize).prop_map(Act::Room),
        1 => any::<bool>().prop_map(Act::Link),
        1 => any::<u64>().prop_map(Act::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_a_driver_does_breaks_the_card(acts in prop::collection::vec(act(), 1..60)) {
        let all = features::ALWAYS | features::OFFLOADS | ring_features::OFFERED;
        let mut b = started(all);
        for act in acts {
            match act {
                Act::Raw(q, index, addr, len, flags, next) => {
                    let table = b.d.queues[q].desc;
                    b.d.raw_desc(table, index, addr, len, flags, next);
                }
                Act::Head(q, head) => b.d.offer_head(q, head),
                Act::Offer(q, buffers) => {
                    let chain: Vec<_> = buffers
                        .into_iter()
                        .map(|(addr, len)| Desc { addr, len, write: q == 0 })
                        .collect();
                    b.d.offer(q, &chain);
                }
                Act::Kick(q) => b.d.kick(q),
                Act::Arrive(len) => b.arrive(&packet(len, 1)),
                Act::Room(room) => b.wire().room = room,
                Act::Link(up) => b.net().set_link(up),
                Act::Reset(features) => prop_assert!(b.d.start(features & all)),
            }
            for _ in 0..20 {
                b.d.run_own_kicks();
            }
        }
        b.wire().room = None;
        b.wire().to_guest.clear();
        b.net().set_link(true);
        prop_assert!(b.d.start(all));
        b.assert_works();
    }
}
