//! Drivers that break the rules, on a real file.

use std::fs;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::request_type::{FLUSH, IN, OUT};
use super::tests::{SECTORS, put_header};
use super::*;
use crate::testing::{Desc, Driver};
use crate::virtio::ring_features;

const HEADER: u64 = 0x1000;
/// Bytes of the file behind its last whole sector.
const TAIL: usize = 100;
/// The guest memory that requests use, and where some have their status.
const LOW: usize = 0x2_0000;
const STATUS: u64 = 0x1_f000;
/// All features, less those that only some file systems give.
const FEATURES: u64 = config::F_FLUSH | ring_features::INDIRECT_DESC;

fn image() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![0x55; SECTORS as usize * 512 + TAIL]).unwrap();
    file
}

fn driver(file: &NamedTempFile, options: &str) -> Driver {
    let spec = format!("{}{options}", file.path().display());
    Driver::new(Blk::open(&spec.parse().unwrap(), 0).unwrap())
}

/// Waits until the device has used a chain (true) or asks for a reset.
fn settle(d: &mut Driver, queue: usize) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if d.used(queue).is_some() {
            return true;
        }
        if d.needs_reset() {
            return false;
        }
        std::thread::yield_now();
    }
    panic!("the device neither answers nor asks for a reset");
}

/// The device reads its first sector as it should.
fn check_alive(d: &mut Driver) {
    assert!(d.start(FEATURES));
    put_header(d, IN, 0);
    let chain = [Desc::readable(HEADER, 16), Desc::writable(0x2000, 513)];
    assert_eq!(d.request(0, &chain), 513);
    assert_eq!(d.get(0x2200, 1), [0]);
}

#[test]
fn chains_without_room_for_header_or_status_need_a_reset() {
    let cases: &[(&str, &[Desc])] = &[
        ("no status", &[Desc::readable(HEADER, 16)]),
        (
            "short header",
            &[Desc::readable(HEADER, 15), Desc::writable(0x2000, 1)],
        ),
        ("no header", &[Desc::writable(0x2000, 512)]),
        (
            "empty status",
            &[Desc::readable(HEADER, 16), Desc::writable(0x2000, 0)],
        ),
        (
            "status outside memory",
            &[Desc::readable(HEADER, 16), Desc::writable(1 << 40, 1)],
        ),
        (
            "header outside memory",
            &[Desc::readable(u64::MAX - 3, 16), Desc::writable(0x2000, 1)],
        ),
        (
            "writable first",
            &[Desc::writable(0x2000, 1), Desc::readable(HEADER, 16)],
        ),
    ];
    let file = image();
    let mut d = driver(&file, "");
    for (name, chain) in cases {
        assert!(d.start(FEATURES));
        put_header(&d, OUT, 0);
        d.offer(0, chain);
        d.kick(0);
        assert!(!settle(&mut d, 0), "{name}");
        check_alive(&mut d);
    }
    assert_eq!(fs::read(&file).unwrap()[..512], [0x55; 512]);
}

#[test]
fn a_violation_on_one_queue_stops_the_others() {
    let file = image();
    let mut d = driver(&file, ",queues=2");
    assert!(d.start(FEATURES | config::F_MQ));
    put_header(&d, FLUSH, 0);
    let flush = [Desc::readable(HEADER, 16), Desc::writable(0x2000, 1)];
    assert_eq!(d.request(0, &flush), 1);
    d.offer(1, &flush[..1]);
    d.kick(1);
    assert!(!settle(&mut d, 1));
    d.offer(0, &flush);
    d.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(d.used(0).is_none());
    check_alive(&mut d);
}

#[test]
fn real_discards_and_zeroes_stay_inside_their_range() {
    let file = image();
    let mut d = driver(&file, "");
    let offered = d.offered();
    assert!(d.start(offered));
    if offered & config::F_DISCARD == 0 {
        return;
    }
    for (kind, sector, flags) in [
        (request_type::WRITE_ZEROES, 1u64, 0u32),
        (request_type::WRITE_ZEROES, 5, 1),
        (request_type::DISCARD, SECTORS - 3, 0),
    ] {
        put_header(&d, kind, 0);
        d.put(0x2000, &sector.to_le_bytes());
        d.put(0x2008, &3u32.to_le_bytes());
        d.put(0x200c, &flags.to_le_bytes());
        let chain = [
            Desc::readable(HEADER, 16),
            Desc::readable(0x2000, 16),
            Desc::writable(0x3000, 1),
        ];
        assert_eq!(d.request(0, &chain), 1);
        assert_eq!(d.get(0x3000, 1), [0]);
    }
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len(), SECTORS as usize * 512 + TAIL);
    for (i, byte) in bytes.iter().enumerate() {
        let zero = matches!(i / 512, 1..=3 | 5..=7 | 61..=63);
        assert_eq!(*byte, if zero { 0 } else { 0x55 }, "at {i}");
    }
}

/// A descriptor: mostly of whole sectors in ordinary memory, sometimes anything.
fn any_desc() -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![
        24 => (0x100u64..0x1000).prop_map(|n| n * 16),
        2 => 0x1_0000u64..LOW as u64,
        // At the edges of both regions, in the hole, and anywhere.
        1 => (1u64 << 20) - 600..(1 << 20),
        1 => (1u64 << 22) - 600..(1 << 22) + 600,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![
        24 => prop_oneof![4 => Just(512u32), 2 => Just(1024), 1 => Just(4096), 1 => Just(16)],
        2 => 0u32..2048,
        1 => any::<u32>(),
    ];
    (addr, len, any::<bool>()).prop_map(|(addr, len, write)| Desc { addr, len, write })
}

/// Chains in a legal order more often than not, so that requests get through.
fn any_chain() -> impl Strategy<Value = Vec<Desc>> {
    let body = proptest::collection::vec(any_desc(), 0..4);
    (body, 0..8u8).prop_map(|(mut body, shape)| {
        if shape > 6 {
            // One segment of a discard.
            body = vec![Desc::readable(0x2000, 16)];
        }
        if shape > 0 {
            body.sort_by_key(|d| d.write);
            body.insert(0, Desc::readable(HEADER, 16));
        }
        if shape > 1 {
            body.push(Desc::writable(STATUS, 1));
        }
        if body.is_empty() {
            body.push(Desc::writable(STATUS, 1));
        }
        body
    })
}

/// Mostly at the edges of the disk.
fn any_sector() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => SECTORS - 2..=SECTORS,
        2 => 0..SECTORS,
        1 => u64::MAX - 4..=u64::MAX,
        1 => any::<u64>(),
    ]
}

fn any_header() -> impl Strategy<Value = (u32, u64)> {
    let kind = prop_oneof![
        3 => Just(OUT),
        6 => prop_oneof![Just(IN), Just(FLUSH), Just(8), Just(11), Just(13)],
        1 => any::<u32>(),
    ];
    (kind, any_sector())
}

/// The segment of a discard or of zeroes: all of memory is filled with it.
fn any_segment() -> impl Strategy<Value = Vec<u8>> {
    let count = prop_oneof![4 => 0u32..5, 1 => any::<u32>()];
    let flags = prop_oneof![4 => 0u32..2, 1 => any::<u32>()];
    (any_sector(), count, flags).prop_map(|(sector, count, flags)| {
        let fields = [sector.to_le_bytes(), [0; 8]];
        let mut segment = fields.concat();
        segment[8..12].copy_from_slice(&count.to_le_bytes());
        segment[12..].copy_from_slice(&flags.to_le_bytes());
        segment
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Whatever the chains: no panic, no byte of the file changes outside the
    /// disk, and no byte of memory that the chain did not offer for writing.
    #[test]
    fn arbitrary_requests_stay_inside_disk_and_memory(
        requests in proptest::collection::vec((any_header(), any_chain()), 1..6),
        segment in any_segment(),
        readonly in proptest::bool::weighted(0.2),
        event_idx in any::<bool>(),
    ) {
        let file = image();
        let before = fs::read(&file).unwrap();
        let mut d = driver(&file, if readonly { ",readonly" } else { "" });
        let offered = d.offered();
        let wanted = if event_idx { offered } else { offered & !ring_features::EVENT_IDX };
        prop_assert!(d.start(wanted));
        for ((kind, sector), chain) in &requests {
            d.put(0, &segment.repeat(LOW / segment.len()));
            put_header(&d, *kind, *sector);
            let memory = d.get(0, LOW);
            d.offer(0, chain);
            d.kick(0);
            let answered = settle(&mut d, 0);
            let after = d.get(0, LOW);
            let changed = (0..LOW).filter(|at| memory[*at] != after[*at]);
            for at in changed {
                let offered = |c: &Desc| c.write && (at as u64).wrapping_sub(c.addr) < c.len.into();
                prop_assert!(chain.iter().any(offered), "byte {at:#x}");
            }
            if !answered {
                prop_assert!(d.start(wanted));
            }
        }
        check_alive(&mut d);
        let after = fs::read(&file).unwrap();
        prop_assert_eq!(after.len(), before.len());
        prop_assert_eq!(&after[SECTORS as usize * 512..], &[0x55; TAIL]);
        if readonly {
            prop_assert_eq!(after, before);
        }
    }
}
