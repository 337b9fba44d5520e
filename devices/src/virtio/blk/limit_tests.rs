//! A disk with limits, behind its transport.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tests::{DATA, HEADER, MemDisk, Rig, STATUS, put_header};
use super::*;
use crate::testing::{Desc, Driver};

const HOUR: &str = "1h";

fn set(blk: &std::sync::Mutex<Blk>, text: &str) {
    let spec: DiskSpec = format!("x,{text}").parse().unwrap();
    let limits = DeviceLimits {
        disk: Some(spec.limits),
        ..DeviceLimits::default()
    };
    blk.lock().unwrap().set_limits(&limits);
}

fn started(spec: &str) -> (Driver, Arc<std::sync::Mutex<Blk>>) {
    let disk = Arc::new(MemDisk::new());
    let blk = Blk::with_backend(disk, &spec.parse().unwrap(), 0);
    let blk = Arc::new(std::sync::Mutex::new(blk));
    let mut d = Driver::shared(blk.clone());
    let offered = d.offered();
    assert!(d.start(offered));
    put_header(&d, request_type::IN, 0);
    (d, blk)
}

fn read(len: u32) -> [Desc; 3] {
    [
        Desc::readable(HEADER, 16),
        Desc::writable(DATA, len),
        Desc::writable(STATUS, 1),
    ]
}

#[test]
fn no_more_is_read_than_was_there_and_refilled() {
    let start = Instant::now();
    // 8 KiB, and 4 KiB more every 20 ms.
    let mut rig = Rig::with("x,bw=8K/40ms", MemDisk::new());
    for _ in 0..12 {
        let data = Some(Desc::writable(DATA, 4096));
        assert_eq!(rig.request(request_type::IN, 0, data), (4097, 0));
    }
    // 48 KiB, of which 40 had to be waited for.
    let least = Duration::from_millis(200);
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
}

#[test]
fn every_request_is_an_operation_and_bad_ones_cost_nothing() {
    let mut rig = Rig::with("x,iops=4/1h", MemDisk::new());
    let data = Some(Desc::writable(DATA, 512));
    for _ in 0..20 {
        // Past the end, and of no kind that there is.
        assert_eq!(rig.request(request_type::IN, 1 << 30, data).1, 1);
        assert_eq!(rig.request(99, 0, None).1, 2);
    }
    assert_eq!(rig.request(request_type::IN, 0, data).1, 0);
    let out = Some(Desc::readable(DATA, 512));
    assert_eq!(rig.request(request_type::OUT, 0, out).1, 0);
    assert_eq!(rig.request(request_type::FLUSH, 0, None).1, 0);
    assert_eq!(rig.segments(request_type::DISCARD, &[(0, 8, 0)]).1, 0);
    put_header(&rig.d, request_type::FLUSH, 0);
    let flush = [Desc::readable(HEADER, 16), Desc::writable(STATUS, 1)];
    rig.d.offer(0, &flush);
    rig.d.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(rig.d.used(0).is_none());
}

#[test]
fn zeroes_are_bytes() {
    let mut rig = Rig::with("x,bw=4K/1h", MemDisk::new());
    assert_eq!(rig.segments(request_type::WRITE_ZEROES, &[(0, 8, 0)]).1, 0);
    put_header(&rig.d, request_type::IN, 0);
    rig.d.offer(0, &read(512));
    rig.d.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(rig.d.used(0).is_none());
}

#[test]
fn a_disk_that_waits_for_its_limit_can_be_reset_and_dropped() {
    let (mut d, blk) = started(&format!("x,queues=2,iops=1/{HOUR}"));
    d.request(0, &read(512));
    for queue in [0, 1] {
        d.offer(queue, &read(512));
        d.kick(queue);
    }
    let start = Instant::now();
    d.write(0x70, 0);
    // The limit outlives the reset.
    assert!(d.start(0));
    d.offer(1, &read(512));
    d.kick(1);
    std::thread::sleep(Duration::from_millis(50));
    assert!(d.used(1).is_none());
    drop((d, blk));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_new_limit_holds_at_once_and_nothing_is_lost() {
    let (mut d, blk) = started(&format!("x,bw=512/{HOUR}"));
    d.request(0, &read(512));
    let saved = blk.lock().unwrap().limits();
    let heads = [d.offer(0, &read(4096)), d.offer(0, &read(512))];
    d.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(d.used(0).is_none());
    set(&blk, "bw=1G");
    assert_eq!(d.wait_used(0), Some((heads[0], 4097)));
    assert_eq!(d.wait_used(0), Some((heads[1], 513)));
    // One that is larger than the bucket passes all the same.
    set(&blk, &format!("bw=1/{HOUR}"));
    assert_eq!(d.request(0, &read(8192)), 8193);
    set(&blk, "iops=1000");
    assert_eq!(d.request(0, &read(512)), 513);
    // What was saved goes on: nothing was left of it.
    let text = serde_json::to_string(&saved).unwrap();
    let saved = serde_json::from_str(&text).unwrap();
    blk.lock().unwrap().restore_limits(saved);
    d.offer(0, &read(512));
    d.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(d.used(0).is_none());
}

#[test]
fn a_large_request_of_one_queue_gets_its_turn() {
    let (mut d, _blk) = started("x,queues=2,bw=4K/20ms");
    d.request(0, &read(4096));
    let large = d.offer(1, &read(8192));
    d.kick(1);
    let mut small = 0;
    let start = Instant::now();
    while d.used(1).map(|(head, _)| head) != Some(large) {
        d.request(0, &read(512));
        small += 1;
        assert!(start.elapsed() < Duration::from_secs(10), "after {small}");
    }
}
