//! The host's clock jumps by a day, forwards and back.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::sandbox::{Home, IMAGE};

const DAY: i64 = 24 * 60 * 60;
/// A stop with a second's patience: under emulation much longer, but no day.
const SOON: Duration = Duration::from_secs(60);

fn set(ahead: i64, start: (Timespec, Instant)) {
    let (then, instant) = start;
    let time = Timespec {
        tv_sec: then.tv_sec + instant.elapsed().as_secs() as i64 + ahead,
        tv_nsec: then.tv_nsec,
    };
    clock_settime(ClockId::Realtime, time).expect("this test sets the clock: as root");
}

/// Puts the clock right when dropped.
struct Restore((Timespec, Instant));

impl Drop for Restore {
    fn drop(&mut self) {
        set(0, self.0);
    }
}

#[test]
fn a_clock_that_jumps_stops_nothing() {
    if !super::in_the_lab() {
        return;
    }
    let home = Home::new();
    let start = (clock_gettime(ClockId::Realtime), Instant::now());
    let _restore = Restore(start);
    let ticks = "trap '' TERM; while :; do echo tick $(date +%s); sleep 0.5; done";
    let run = [
        "run",
        "-d",
        "--name",
        "clock",
        "-p",
        "127.0.0.1::80",
        IMAGE,
        "sh",
        "-c",
        ticks,
    ];
    home.ok(&run);
    let lines = || home.ok(&["logs", "clock"]).lines().count();
    let lease = || home.ok(&["exec", "clock", "ip", "-4", "addr", "show", "eth0"]);
    home.until("its ticks", || lines() > 2);
    let before = lease();

    for ahead in [DAY, -DAY, 0] {
        set(ahead, start);
        let seen = lines();
        home.until("more ticks", || lines() > seen + 2);
        assert_eq!(lease(), before);
        // The host's commands, and what they wait for, go by time that passes.
        assert!(home.ok(&["ps"]).contains("clock"));
        assert_eq!(home.ok(&["exec", "clock", "echo", "yes"]), "yes");
    }
    // The guest has a clock of its own, which goes on from where it was set.
    let log = home.ok(&["logs", "clock"]);
    let times: Vec<i64> = log
        .lines()
        .filter_map(|line| line.strip_prefix("tick ")?.parse().ok())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(last - first < DAY / 2, "{times:?}");

    // In the middle of a stop that waits, which the jump neither ends nor holds.
    let asked = Instant::now();
    let mut stop = home.command(&["stop", "-t", "3", "clock"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    set(-DAY, start);
    assert!(stop.wait().unwrap().success());
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(3) && took < SOON, "{took:?}");
    assert_eq!(home.inspect("clock")["State"]["ExitCode"], 137);
    set(DAY, start);
    assert!(home.ok(&["ps", "-a"]).contains("Exited (137)"));
    home.ok(&["rm", "clock"]);
}
