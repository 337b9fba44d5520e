//! The device itself: configuration, threads, limits, resets.

use std::fs;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn the_configuration_is_the_standards() {
    let (_dir, mut c) = Client::in_dir("");
    let mut tag = [0; TAG_SIZE];
    tag[0] = b't';
    assert_eq!(c.d.config::<TAG_SIZE>(0), tag);
    assert_eq!(u32::from_le_bytes(c.d.config(36)), 1);
    assert_eq!(c.d.config::<4>(40), [0; 4]);
    assert_eq!(c.d.read(8), 26);
}

#[test]
fn init_agrees_upon_the_protocol() {
    let (_dir, mut c) = Client::in_dir("");
    let out = c.init();
    assert_eq!(out.len(), 64);
    assert_eq!((u32_at(&out, 0), u32_at(&out, 4)), (7, 38));
    assert_eq!(u32_at(&out, 12), init_flag::OFFERED);
    assert_eq!(u32_at(&out, 20), MAX_DATA);
    assert_eq!(out[28..30], 256u16.to_le_bytes());
    let mut init = |major: u32, minor: u32| {
        let words = [major, minor, 0, 0];
        let args: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        c.call(opcode::INIT, 0, &args)
    };
    assert_eq!(u32_at(&init(8, 0).unwrap(), 0), 7);
    assert_eq!(
        u32_at(&init(7, 31).unwrap(), 12),
        0,
        "nothing was asked for"
    );
    assert_eq!(init(7, 30), Err(libc::EPROTO));
    assert_eq!(init(6, 40), Err(libc::EPROTO));
}

#[test]
fn a_new_beginning_closes_all_that_was_open() {
    let (_dir, mut c) = Client::in_dir("");
    let fill = |c: &mut Client| {
        c.create(ROOT, "f", libc::O_RDWR).unwrap();
        assert_eq!(c.held(), (2, 1));
    };
    fill(&mut c);
    c.init();
    assert_eq!(c.held(), (1, 0));
    fill(&mut c);
    c.call(opcode::DESTROY, 0, &[]).unwrap();
    assert_eq!(c.held(), (1, 0));
    fill(&mut c);
    c.d.write(0x70, 0);
    assert_eq!(c.held(), (1, 0));
    assert!(c.d.start(0));
    c.init();
    fill(&mut c);
}

#[test]
fn descriptors_are_bounded() {
    let (dir, mut c) = Client::in_dir("");
    let (f, _) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    let opened = (0..)
        .take_while(|_| c.open(f.node, libc::O_RDONLY).is_ok())
        .count();
    assert_eq!(opened, FILES / 4 - 1);
    assert_eq!(c.open(f.node, libc::O_RDONLY), Err(libc::ENFILE));
    // A file that cannot be opened is not known either.
    assert_eq!(c.create(ROOT, "g", libc::O_RDWR), Err(libc::ENFILE));
    assert_eq!(c.held(), (2, FILES / 4));
    for n in 0..FILES {
        fs::write(dir.path().join(n.to_string()), "").unwrap();
    }
    let known = (0..FILES)
        .take_while(|n| c.lookup(ROOT, n.to_string()).is_ok())
        .count();
    assert_eq!(known, FILES * 3 / 4 - 2);
    // What is known can be looked up again.
    assert_eq!(c.lookup(ROOT, "f").unwrap().node, f.node);
}

#[test]
fn descriptors_may_be_cut_anywhere() {
    let (_dir, mut c) = Client::in_dir("");
    let (f, h) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    // A write whose data begins in the middle of a piece.
    let mut args = Client::io_args(h, 0, 300, 0, 0);
    args.extend((0..300u32).map(|i| i as u8));
    let mut request = c.header(opcode::WRITE, f.node, args.len());
    request.extend(args);
    c.d.put(REQUEST, &request);
    let (len, cuts) = (request.len() as u32, [0, 1, 39, 41, 85, 200]);
    let mut chain: Vec<_> = cuts
        .iter()
        .zip(cuts.iter().skip(1).chain([&len]))
        .map(|(from, to)| Desc::readable(REQUEST + u64::from(*from), to - from))
        .collect();
    chain.extend([(0, 3), (3, 10), (13, 20)].map(|(at, len)| Desc::writable(ANSWER + at, len)));
    let written = c.d.request(1, &chain);
    assert_eq!(u32_at(&c.answer(written as usize).unwrap(), 0), 300);

    // And a read.
    let args = Client::io_args(h, 0, 300, 0, 0);
    let mut request = c.header(opcode::READ, f.node, args.len());
    request.extend(args);
    c.d.put(REQUEST, &request);
    let mut chain = vec![Desc::readable(REQUEST, 80)];
    chain.extend([(0, 7), (7, 100), (107, 1000)].map(|(at, len)| Desc::writable(ANSWER + at, len)));
    let written = c.d.request(1, &chain);
    let data = c.answer(written as usize).unwrap();
    assert!(data.iter().enumerate().all(|(i, b)| *b == i as u8) && data.len() == 300);
}

/// With threads: many requests at once, each answered once, and a reset in the
/// middle ends them.
#[test]
fn threads_answer_side_by_side_and_end() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..8 {
        fs::write(dir.path().join(n.to_string()), vec![n; 4096]).unwrap();
    }
    let spec = FsSpec::new(dir.path(), "t");
    let mut c = Client::over(Fs::open(&spec, 0, FILES).unwrap());
    for round in 0..20 {
        assert!(c.d.start(crate::virtio::ring_features::EVENT_IDX * (round % 2)));
        c.init();
        let mut heads = Vec::new();
        for n in 0..8u64 {
            let mut request = c.header(opcode::LOOKUP, ROOT, 2);
            request.extend(text(n.to_string()));
            let (at, answer) = (REQUEST + n * 0x100, ANSWER + n * 0x100);
            c.d.put(at, &request);
            let chain = [
                Desc::readable(at, request.len() as u32),
                Desc::writable(answer, 0x100),
            ];
            heads.push(c.d.offer(1, &chain));
            c.d.kick(1);
        }
        if round % 4 == 3 {
            // Resets at once; whatever comes of the requests.
            let start = Instant::now();
            c.d.write(0x70, 0);
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(c.held(), (1, 0));
            continue;
        }
        for _ in 0..8 {
            let (head, len) = c.d.wait_used(1).unwrap();
            let n = heads.iter().position(|h| *h == head).unwrap() as u64;
            heads[n as usize] = u16::MAX;
            assert_eq!(len as usize, OUT_HEADER + 128);
            let answer = c.d.get(ANSWER + n * 0x100 + OUT_HEADER as u64, 128);
            assert_eq!(found(&answer).size, 4096);
        }
        assert!(c.d.used(1).is_none());
    }
}

#[test]
fn a_device_dropped_at_work_ends_its_threads() {
    let dir = tempfile::tempdir().unwrap();
    let spec = FsSpec::new(dir.path(), "t");
    let mut c = Client::over(Fs::open(&spec, 0, FILES).unwrap());
    assert!(c.d.start(0));
    c.init();
    let weak = Arc::downgrade(&c.fs.lock().unwrap().server);
    drop(c);
    assert!(weak.upgrade().is_none());
}
