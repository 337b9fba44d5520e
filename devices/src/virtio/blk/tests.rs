//! The device behind its transport, driven by the fake driver.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::config::*;
use super::request_type::*;
use super::*;
use crate::testing::{Desc, Driver};
use crate::virtio::{GuestBuffer, ring_features};

pub(super) const SECTORS: u64 = 64;
pub(super) const HEADER: u64 = 0x1000;
pub(super) const STATUS: u64 = 0x1800;
pub(super) const DATA: u64 = 0x2000;

/// A disk in memory that counts and, when told so, fails or takes its time.
#[derive(Default)]
pub(super) struct MemDisk {
    bytes: Mutex<Vec<u8>>,
    calls: Mutex<Vec<&'static str>>,
    flushes: AtomicUsize,
    in_read: AtomicBool,
    read_time: Duration,
    fails: AtomicBool,
    /// Called by each flush.
    on_flush: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl MemDisk {
    pub(super) fn new() -> Self {
        MemDisk {
            // The bytes past the last sector are not the guest's.
            bytes: Mutex::new(vec![0x55; SECTORS as usize * 512 + 100]),
            ..MemDisk::default()
        }
    }

    fn note(&self, call: &'static str) -> io::Result<()> {
        self.calls.lock().unwrap().push(call);
        if self.fails.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl DiskBackend for MemDisk {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn discard_granularity(&self) -> Option<u32> {
        Some(4096)
    }

    fn read_at(&self, mut into: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        self.note("read")?;
        self.in_read.store(true, SeqCst);
        std::thread::sleep(self.read_time);
        into.write_all(&self.bytes.lock().unwrap()[offset as usize..][..into.len()])
    }

    fn write_at(&self, mut from: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        self.note("write")?;
        let n = from.len();
        from.read_exact(&mut self.bytes.lock().unwrap()[offset as usize..][..n])
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, SeqCst);
        if let Some(hook) = self.on_flush.get() {
            hook();
        }
        self.note("flush")
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap()[offset as usize..][..len as usize].fill(0);
        self.note("discard")
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        self.bytes.lock().unwrap()[offset as usize..][..len as usize].fill(0);
        self.note(if may_unmap { "unmap" } else { "zeroes" })
    }
}

/// A driver with a disk of [`SECTORS`] sectors in memory, started with all that
/// it offers.
pub(super) struct Rig {
    pub(super) d: Driver,
    disk: Arc<MemDisk>,
}

impl Rig {
    fn new() -> Self {
        Self::with("x", MemDisk::new())
    }

    pub(super) fn with(spec: &str, disk: MemDisk) -> Self {
        let disk = Arc::new(disk);
        let blk = Blk::with_backend(disk.clone(), &spec.parse().unwrap(), 0);
        let mut d = Driver::new(blk);
        let offered = d.offered();
        assert!(d.start(offered));
        Rig { d, disk }
    }

    fn header(&self, kind: u32, sector: u64) {
        put_header(&self.d, kind, sector);
    }

    /// One request whose header, data and status are a descriptor each; the
    /// used length and the status.
    pub(super) fn request(&mut self, kind: u32, sector: u64, data: Option<Desc>) -> (u32, u8) {
        self.header(kind, sector);
        self.d.put(STATUS, &[0xff]);
        let mut chain = vec![Desc::readable(HEADER, 16)];
        chain.extend(data);
        chain.push(Desc::writable(STATUS, 1));
        let len = self.d.request(0, &chain);
        (len, self.d.get(STATUS, 1)[0])
    }

    pub(super) fn segments(&mut self, kind: u32, segments: &[(u64, u32, u32)]) -> (u32, u8) {
        let mut bytes = Vec::new();
        for (sector, sectors, flags) in segments {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.d.put(DATA, &bytes);
        self.request(kind, 0, Some(Desc::readable(DATA, bytes.len() as u32)))
    }
}

pub(super) fn put_header(d: &Driver, kind: u32, sector: u64) {
    d.put(HEADER, &kind.to_le_bytes());
    d.put(HEADER + 4, &[0xee; 4]);
    d.put(HEADER + 8, &sector.to_le_bytes());
}

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[test]
fn features_and_configuration_follow_the_description() {
    let mut rig = Rig::new();
    let always = F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
    let writable = always | F_DISCARD | F_WRITE_ZEROES;
    assert_eq!(rig.d.offered() & !ring_features::OFFERED, writable);
    assert_eq!(u64::from_le_bytes(rig.d.config(0)), SECTORS);
    assert_eq!(u16::from_le_bytes(rig.d.config(34)), 1);
    assert_eq!(u32::from_le_bytes(rig.d.config(44)), 8);
    assert_eq!(rig.d.config::<4>(60), [0; 4], "past the end");
    assert_eq!(rig.d.config::<4>(u64::MAX - 0x102), [0; 4]);

    let mut rig = Rig::with("x,readonly,queues=3", MemDisk::new());
    let offered = rig.d.offered() & !ring_features::OFFERED;
    assert_eq!(offered, always | F_RO | F_MQ);
    assert_eq!(u16::from_le_bytes(rig.d.config(34)), 3);
    assert_eq!(u32::from_le_bytes(rig.d.config(36)), 0, "no discards");

    let blk = Blk::with_backend(Arc::new(MemDisk::new()), &DiskSpec::new("/a/b.img"), 0);
    let json = serde_json::to_string(blk.state()).unwrap();
    let state: BlkState = serde_json::from_str(&json).unwrap();
    assert_eq!((&state, &state.serial[..6]), (blk.state(), &b"b.img\0"[..]));
}

#[test]
fn reads_give_what_writes_left() {
    let mut rig = Rig::new();
    let pattern: Vec<u8> = (0..1024u32).map(|i| (i * 7 % 251) as u8).collect();
    rig.d.put(DATA, &pattern);
    let (len, status) = rig.request(OUT, 3, Some(Desc::readable(DATA, 1024)));
    assert_eq!((len, status), (1, 0));
    assert_eq!(rig.disk.bytes.lock().unwrap()[3 * 512..5 * 512], pattern);
    let (len, status) = rig.request(IN, 3, Some(Desc::writable(DATA + 0x1000, 1024)));
    assert_eq!((len, status), (1025, 0));
    assert_eq!(rig.d.get(DATA + 0x1000, 1024), pattern);
    assert!(rig.d.irq.count() > 0);
}

#[test]
fn descriptors_may_be_cut_anywhere() {
    let mut rig = Rig::new();
    for event_idx in [0, ring_features::EVENT_IDX] {
        assert!(rig.d.start(F_FLUSH | event_idx));
        for fill in [1u8, 2] {
            rig.disk.bytes.lock().unwrap()[512..1024].fill(fill);
            rig.header(IN, 1);
            // A header in three parts, data in two, the second with the status.
            let len = rig.d.request(
                0,
                &[
                    Desc::readable(HEADER, 1),
                    Desc::readable(HEADER + 1, 8),
                    Desc::readable(HEADER + 9, 7),
                    Desc::writable(DATA, 100),
                    Desc::writable(DATA + 100, 413),
                ],
            );
            assert_eq!((len, rig.d.get(DATA, 512)), (513, vec![fill; 512]));
            assert_eq!(rig.d.get(DATA + 512, 1), [0]);

            // A write in a single readable descriptor.
            rig.header(OUT, 2);
            rig.d.put(HEADER + 16, &[fill + 8; 512]);
            let len = rig
                .d
                .request(0, &[Desc::readable(HEADER, 528), Desc::writable(STATUS, 1)]);
            assert_eq!((len, rig.d.get(STATUS, 1)), (1, vec![0]));
            assert_eq!(rig.disk.bytes.lock().unwrap()[1024..1536], [fill + 8; 512]);
        }
    }
    // More room than a write needs: the status is the very last byte.
    rig.d.put(STATUS, &[0xff; 9]);
    rig.header(FLUSH, 0);
    let len = rig
        .d
        .request(0, &[Desc::readable(HEADER, 16), Desc::writable(STATUS, 9)]);
    assert_eq!(len, 1);
    assert_eq!(
        rig.d.get(STATUS, 9),
        [255, 255, 255, 255, 255, 255, 255, 255, 0]
    );
}

#[test]
fn requests_outside_the_disk_or_cut_short_fail() {
    let mut rig = Rig::new();
    let before = rig.disk.bytes.lock().unwrap().clone();
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (SECTORS + 1, 0),
        (u64::MAX, 512),
        (u64::MAX, 1024),
        (u64::MAX >> 9, 512),
        (1 << 55, 512),
        (0, 511),
        (0, 513),
        (0, 512 * (SECTORS as u32 + 1)),
    ] {
        let read = rig.request(IN, sector, Some(Desc::writable(DATA, len)));
        let write = rig.request(OUT, sector, Some(Desc::readable(DATA, len)));
        assert_eq!((read, write), ((1, 1), (1, 1)), "{len} at {sector}");
    }
    assert!(rig.disk.calls().is_empty());
    assert_eq!(*rig.disk.bytes.lock().unwrap(), before);
    // The last sector, and nothing at the very end.
    let last = rig.request(IN, SECTORS - 1, Some(Desc::writable(DATA, 512)));
    let none = rig.request(IN, SECTORS, None);
    let all = rig.request(IN, 0, Some(Desc::writable(DATA, 512 * SECTORS as u32)));
    assert_eq!((last, none, all), ((513, 0), (1, 0), (32769, 0)));
}

#[test]
fn a_readonly_disk_refuses_all_that_changes_it() {
    let mut rig = Rig::with("x,readonly", MemDisk::new());
    let write = rig.request(OUT, 0, Some(Desc::readable(DATA, 512)));
    let read = rig.request(IN, 0, Some(Desc::writable(DATA, 512)));
    let flush = rig.request(FLUSH, 0, None);
    assert_eq!((write, read, flush), ((1, 1), (513, 0), (1, 0)));
    assert_eq!(rig.segments(DISCARD, &[(0, 1, 0)]).1, 2);
    assert_eq!(rig.segments(WRITE_ZEROES, &[(0, 1, 0)]).1, 2);
    assert_eq!(rig.disk.calls(), ["read", "flush"]);
}

#[test]
fn the_serial_number_and_unknown_requests() {
    let mut rig = Rig::with("/images/root.img", MemDisk::new());
    let (len, status) = rig.request(GET_ID, 0, Some(Desc::writable(DATA, 20)));
    assert_eq!((len, status), (21, 0));
    assert_eq!(rig.d.get(DATA, 20), b"root.img\0\0\0\0\0\0\0\0\0\0\0\0");
    let short = rig.request(GET_ID, 0, Some(Desc::writable(DATA, 4)));
    let long = rig.request(GET_ID, 0, Some(Desc::writable(DATA, 512)));
    assert_eq!((short, long), ((5, 0), (21, 0)));
    for kind in [2, 3, 5, 10, 14, u32::MAX] {
        let data = Some(Desc::writable(DATA, 512));
        assert_eq!(rig.request(kind, 0, data), (1, 2));
    }
    assert!(rig.disk.calls().is_empty());
}

#[test]
fn discards_and_zeroes_reach_the_back_end() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.segments(DISCARD, &[(0, 8, 0), (16, 1, 0), (5, 0, 0)]),
        (1, 0)
    );
    assert_eq!(rig.segments(WRITE_ZEROES, &[(8, 2, 0)]), (1, 0));
    assert_eq!(rig.segments(WRITE_ZEROES, &[(10, 2, 1)]), (1, 0));
    assert_eq!(rig.disk.calls(), ["discard", "discard", "zeroes", "unmap"]);
    let bytes = rig.disk.bytes.lock().unwrap();
    for sector in 0..SECTORS as usize {
        let zero = matches!(sector, 0..12 | 16);
        let value = if zero { 0 } else { 0x55 };
        assert_eq!(bytes[sector * 512..][..512], [value; 512], "{sector}");
    }
}

#[test]
fn bad_discards_and_zeroes_change_nothing() {
    let mut rig = Rig::new();
    let many = vec![(0, 1, 0); MAX_DISCARD_SEGMENTS as usize + 1];
    for (segments, expect) in [
        (&[(0, 1, 1)][..], (2, 0)),
        (&[(0, 1, 2)], (2, 2)),
        (&[(0, 1, 0), (0, 1, 4)], (2, 1)),
        (&[(SECTORS, 1, 0)], (1, 1)),
        (&[(SECTORS - 1, 2, 0)], (1, 1)),
        (&[(u64::MAX, 1, 0)], (1, 1)),
        (&[(0, 1, 0), (SECTORS + 1, 0, 0)], (1, 1)),
        (&[(0, u32::MAX, 0)], (1, 1)),
        (&[], (1, 1)),
        (&many, (1, 1)),
    ] {
        let discard = rig.segments(DISCARD, segments).1;
        assert_eq!(discard, expect.0, "{segments:?}");
        assert!(rig.disk.calls().is_empty(), "all are checked first");
        if segments != [(0, 1, 1)] {
            let zeroes = rig.segments(WRITE_ZEROES, segments).1;
            assert_eq!(zeroes, expect.1, "{segments:?}");
            assert!(rig.disk.calls().is_empty(), "{segments:?}");
        }
    }
    let cut = rig.request(DISCARD, 0, Some(Desc::readable(DATA, 24)));
    assert_eq!(cut, (1, 1));
    // Not negotiated: not known.
    assert!(rig.d.start(F_FLUSH));
    assert_eq!(rig.segments(DISCARD, &[(0, 1, 0)]).1, 2);
    assert_eq!(rig.segments(WRITE_ZEROES, &[(0, 1, 0)]).1, 2);
    assert!(rig.disk.calls().is_empty());
}

#[test]
fn flushes_reach_the_back_end_and_without_them_it_is_written_through() {
    let mut rig = Rig::new();
    let data = Some(Desc::readable(DATA, 512));
    rig.request(OUT, 0, data);
    assert_eq!(rig.disk.flushes.load(SeqCst), 0);
    assert_eq!(rig.request(FLUSH, 0, None), (1, 0));
    assert_eq!(rig.disk.calls(), ["write", "flush"]);

    assert!(rig.d.start(F_DISCARD | F_WRITE_ZEROES));
    rig.request(OUT, 0, data);
    rig.segments(DISCARD, &[(0, 1, 0)]);
    rig.segments(WRITE_ZEROES, &[(0, 1, 0)]);
    rig.request(IN, 0, Some(Desc::writable(DATA, 512)));
    let calls = rig.disk.calls();
    let through = [
        "write", "flush", "discard", "flush", "zeroes", "flush", "read",
    ];
    assert_eq!(calls, through);
}

#[test]
fn the_hosts_errors_become_the_guests() {
    let mut rig = Rig::new();
    rig.disk.fails.store(true, SeqCst);
    let read = rig.request(IN, 0, Some(Desc::writable(DATA, 512)));
    let write = rig.request(OUT, 0, Some(Desc::readable(DATA, 512)));
    let flush = rig.request(FLUSH, 0, None);
    assert_eq!((read, write, flush), ((1, 1), (1, 1), (1, 1)));
    assert_eq!(rig.segments(DISCARD, &[(0, 1, 0)]).1, 1);
    rig.disk.fails.store(false, SeqCst);
    // Write-through: the write fails with its flush.
    assert!(rig.d.start(0));
    let write = rig.request(OUT, 0, Some(Desc::readable(DATA, 512)));
    assert_eq!(write, (1, 0));
    assert!(!rig.d.needs_reset());
}

#[test]
fn queues_are_served_side_by_side() {
    let disk = MemDisk {
        read_time: Duration::from_millis(300),
        ..MemDisk::new()
    };
    let mut rig = Rig::with("x,queues=2", disk);
    rig.header(IN, 0);
    let slow = [
        Desc::readable(HEADER, 16),
        Desc::writable(DATA, 512),
        Desc::writable(STATUS, 1),
    ];
    rig.d.offer(0, &slow);
    rig.d.kick(0);
    wait_for(|| rig.disk.in_read.load(SeqCst));
    rig.header(FLUSH, 0);
    let flush = [Desc::readable(HEADER, 16), Desc::writable(STATUS + 1, 1)];
    assert_eq!(rig.d.request(1, &flush), 1);
    assert!(rig.d.used(0).is_none(), "queue 1 did not wait for queue 0");
    assert_eq!(rig.d.wait_used(0).unwrap().1, 513);
}

#[test]
fn many_requests_in_flight_are_all_answered() {
    for features in [0, ring_features::EVENT_IDX] {
        let mut rig = Rig::new();
        assert!(rig.d.start(F_FLUSH | features));
        rig.header(IN, 0);
        for round in 0..20 {
            let chain = [
                Desc::readable(HEADER, 16),
                Desc::writable(DATA, 512),
                Desc::writable(STATUS, 1),
            ];
            let heads: Vec<_> = (0..5).map(|_| rig.d.offer(0, &chain)).collect();
            rig.d.kick(0);
            for head in heads {
                assert_eq!(rig.d.wait_used(0), Some((head, 513)), "round {round}");
            }
        }
    }
}

#[test]
fn after_a_reset_nothing_in_flight_touches_memory() {
    let disk = MemDisk {
        read_time: Duration::from_millis(50),
        ..MemDisk::new()
    };
    let mut rig = Rig::with("x", disk);
    rig.header(IN, 0);
    let chain = [
        Desc::readable(HEADER, 16),
        Desc::writable(DATA, 512),
        Desc::writable(STATUS, 1),
    ];
    for _ in 0..5 {
        rig.d.offer(0, &chain);
    }
    rig.d.kick(0);
    wait_for(|| rig.disk.in_read.load(SeqCst));
    rig.d.write(0x70, 0);
    rig.d.put(DATA, &[0xdd; 512]);
    let used = rig.d.get(rig.d.queues[0].used, 64);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(rig.d.get(DATA, 512), [0xdd; 512]);
    assert_eq!(rig.d.get(rig.d.queues[0].used, 64), used);
    assert!(rig.disk.calls().len() < 5, "the rest was never begun");

    assert!(rig.d.start(F_FLUSH));
    assert_eq!(rig.d.request(0, &chain), 513);
}

#[test]
fn a_driver_that_keeps_the_ring_full_cannot_hold_off_a_reset() {
    let mut rig = Rig::new();
    rig.header(FLUSH, 0);
    let chain = [Desc::readable(HEADER, 16), Desc::writable(STATUS, 1)];
    rig.d.request(0, &chain);
    let (mem, avail) = (rig.d.mem.clone(), rig.d.queues[0].avail + 2);
    let over = Arc::new(AtomicBool::new(false));
    // Each flush offers one more, as a driver on another CPU would.
    let refill = {
        let over = over.clone();
        move || {
            if !over.load(SeqCst) {
                let idx: u16 = mem.load(GuestAddress(avail), SeqCst).unwrap();
                let next = idx.wrapping_add(1);
                mem.store(next, GuestAddress(avail), SeqCst).unwrap();
            }
        }
    };
    assert!(rig.disk.on_flush.set(Box::new(refill)).is_ok());
    rig.d.offer_head(0, 0);
    rig.d.kick(0);
    wait_for(|| rig.disk.flushes.load(SeqCst) > 100);
    rig.d.write(0x70, 0);
    over.store(true, SeqCst);
    assert!(rig.d.start(F_FLUSH));
    assert_eq!(rig.d.request(0, &chain), 1);
}

#[test]
fn a_device_dropped_at_work_ends_its_threads() {
    let mut rig = Rig::with("x,queues=4", MemDisk::new());
    rig.request(FLUSH, 0, None);
    let disk = rig.disk.clone();
    drop(rig);
    assert_eq!(Arc::strong_count(&disk), 1);
}

#[test]
fn without_threads_kicks_are_served_on_the_event_loop() {
    let disk = Arc::new(MemDisk::new());
    let mut blk = Blk::with_backend(disk.clone(), &"x,queues=2".parse().unwrap(), 0);
    blk.serve_on_event_loop();
    let mut d = Driver::new(blk);
    let offered = d.offered();
    for queue in [0, 1] {
        assert!(d.start(offered));
        put_header(&d, IN, 3);
        let chain = [Desc::readable(HEADER, 16), Desc::writable(DATA, 513)];
        d.offer(queue, &chain);
        d.kick(queue);
        assert_eq!(d.used(queue).unwrap().1, 513);
        assert_eq!(disk.calls(), ["read"]);
        // A violation on one queue stops both.
        d.offer(queue, &chain[..1]);
        d.kick(queue);
        assert!(d.needs_reset());
        d.offer(1 - queue, &chain);
        d.kick(1 - queue);
        assert!(d.used(1 - queue).is_none());
    }
}
