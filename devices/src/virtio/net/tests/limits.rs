//! A card with limits.

use std::time::{Duration, Instant};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn limits(text: &str) -> NetLimits {
    let text = format!("tap=t,{text}");
    let text = text.trim_end_matches(',');
    text.parse::<NetSpec>().unwrap().limits
}

fn limited(text: &str) -> Bench {
    let b = started(ring_features::EVENT_IDX);
    b.limit(text);
    b
}

impl Bench {
    fn limit(&self, text: &str) {
        let net = Some(limits(text));
        let limits = DeviceLimits {
            net,
            ..DeviceLimits::default()
        };
        self.net().set_limits(&limits);
        // Told to by the event loop.
        assert!(timer_goes_off(&self.net().timer));
        self.timer();
    }

    fn timer(&self) {
        self.net().handle_event(TIMER, EventSet::IN);
    }
}

fn timer_goes_off(timer: &TimerFd) -> bool {
    let soon = Some(Duration::from_secs(5));
    crate::sys_io::wait_readable_for([timer.as_raw_fd()], soon).unwrap()[0]
}

#[test]
fn what_is_over_the_limit_stays_in_the_ring_and_is_sent_later() {
    let mut b = limited("tx-bw=1000/1h");
    let packets: Vec<_> = (0..3).map(|n| packet(600, n)).collect();
    for (n, p) in packets.iter().enumerate() {
        let at = 0x7000 + 0x1000 * n as u64;
        b.d.put(at, p);
        b.d.offer(1, &[Desc::readable(at, p.len() as u32)]);
    }
    b.d.kick(1);
    assert_eq!(b.sent(), packets[..1]);
    // However often it is kicked.
    b.d.kick(1);
    b.timer();
    assert!(b.sent().is_empty());
    // Half an hour for the 200 that are missing, and not before.
    let due = b.net().due.unwrap() - Instant::now();
    assert!(due > HOUR / 6 && due < HOUR / 4, "{due:?}");
    b.limit("tx-bw=10M");
    assert_eq!(b.sent(), packets[1..]);
    assert_eq!(std::iter::from_fn(|| b.d.used(1)).count(), 3);
    b.limit("");
    b.assert_works();
}

#[test]
fn what_comes_over_the_limit_waits_outside() {
    let mut b = limited("rx-pps=2/1h");
    for n in 0..4 {
        b.d.offer(0, &[Desc::writable(0x7000 + 0x1000 * n, 2048)]);
    }
    for n in 0..4 {
        b.arrive(&packet(100, n));
    }
    assert_eq!(b.received().len(), 2);
    assert_eq!(b.wire().to_guest.len(), 2);
    // What is sent has limits of its own.
    b.d.put(0x9000, &packet(100, 9));
    b.d.request(1, &[Desc::readable(0x9000, 112)]);
    assert_eq!(b.sent().len(), 1);
    b.limit("rx-pps=1000");
    assert_eq!(b.received().len(), 2);
    assert_eq!(b.counters().rx_packets, 4);
    assert_eq!(b.counters().rx_dropped, 0);
}

#[test]
fn a_packet_that_is_larger_than_the_limit_passes_and_is_paid() {
    let mut b = limited("rx-bw=100/1h,tx-bw=100/1h");
    b.d.offer(0, &[Desc::writable(0x7000, 2048)]);
    b.d.offer(0, &[Desc::writable(0x8000, 2048)]);
    b.arrive(&packet(1000, 1));
    b.arrive(&packet(10, 1));
    assert_eq!(b.received().len(), 1);
    b.d.put(0x9000, &packet(1000, 2));
    b.d.request(1, &[Desc::readable(0x9000, 1012)]);
    b.d.offer(1, &[Desc::readable(0x9000, 1012)]);
    b.d.kick(1);
    assert_eq!(b.sent().len(), 1);
    let state = serde_json::to_string(&b.net().limits()).unwrap();
    let (rx, tx) = serde_json::from_str(&state).unwrap();
    b.net().restore_limits(rx, tx);
    b.event();
    assert!(b.received().is_empty() && b.sent().is_empty());
}

#[test]
fn a_packet_that_has_to_wait_for_room_pays_once() {
    let mut b = limited("tx-pps=2/1h");
    b.wire().room = Some(0);
    b.d.put(0x9000, &packet(100, 2));
    b.d.offer(1, &[Desc::readable(0x9000, 112)]);
    for _ in 0..5 {
        b.d.kick(1);
    }
    b.wire().room = None;
    b.net().handle_event(BACKEND, EventSet::OUT);
    assert!(b.d.used(1).is_some());
    b.d.request(1, &[Desc::readable(0x9000, 112)]);
    assert_eq!(b.sent().len(), 2);
}

#[test]
fn a_reset_forgets_the_wait_but_not_the_limit() {
    let mut b = limited("tx-pps=1/1h");
    let send = |b: &mut Bench| {
        b.d.put(0x9000, &packet(100, 2));
        b.d.offer(1, &[Desc::readable(0x9000, 112)]);
        b.d.kick(1);
        b.sent().len()
    };
    assert_eq!((send(&mut b), send(&mut b)), (1, 0));
    b.d.write(0x70, 0);
    b.timer();
    assert!(b.d.start(0));
    assert_eq!(send(&mut b), 0);
    b.limit("");
    assert_eq!(b.sent().len(), 1);
    while b.d.used(1).is_some() {}
    b.assert_works();
}
