//! A share with limits.

use std::time::{Duration, Instant};

use super::*;

const PAUSE: Duration = Duration::from_millis(50);

/// Puts a request for the attributes of the root into the queue.
fn offer(c: &mut Client) -> u16 {
    let request = c.header(opcode::GETATTR, ROOT, 16);
    c.d.put(REQUEST, &request);
    c.d.put(REQUEST + IN_HEADER as u64, &[0; 16]);
    let chain = [
        Desc::readable(REQUEST, IN_HEADER as u32 + 16),
        Desc::writable(ANSWER, 256),
    ];
    let head = c.d.offer(1, &chain);
    c.d.kick(1);
    head
}

fn with_threads(options: &str) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("{},tag=t{options}", dir.path().display());
    let mut c = Client::over(Fs::open(&spec.parse().unwrap(), 0, FILES).unwrap());
    assert!(c.d.start(0));
    (dir, c)
}

fn set(c: &Client, text: &str) {
    let spec: FsSpec = format!("x,tag=t,{text}").parse().unwrap();
    let limits = DeviceLimits {
        share: Some(spec.limits),
        ..DeviceLimits::default()
    };
    c.fs.lock().unwrap().set_limits(&limits);
}

#[test]
fn no_more_is_written_than_was_there_and_refilled() {
    // What the client has room for in its answers counts as well: 128 KiB for each.
    let (_dir, mut c) = Client::in_dir("");
    let (f, handle) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    let start = Instant::now();
    set(&c, "bw=1M/100ms");
    let data = [7; 128 << 10];
    for n in 0..8 {
        assert_eq!(c.write(f.node, handle, n << 17, &data), Ok(128 << 10));
    }
    // 2 MiB, of which one had to be waited for.
    let least = Duration::from_millis(100);
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
}

#[test]
fn what_is_copied_on_the_host_counts_too() {
    let (_dir, mut c) = Client::in_dir("");
    let (from, a) = c.create(ROOT, "a", libc::O_RDWR).unwrap();
    let (to, b) = c.create(ROOT, "b", libc::O_RDWR).unwrap();
    for n in 0..8 {
        assert_eq!(
            c.write(from.node, a, n << 17, &[7; 128 << 10]),
            Ok(128 << 10)
        );
    }
    set(&c, "bw=1M/1h");
    let words = [a, 0, to.node, b, 0, 1 << 20, 0];
    let args: Vec<u8> = words.iter().flat_map(|n: &u64| n.to_le_bytes()).collect();
    let copied = c.call(opcode::COPY_FILE_RANGE, from.node, &args).unwrap();
    assert_eq!(u32_at(&copied, 0), 1 << 20);
    let left = c.fs.lock().unwrap().limiter.pass(1);
    assert!(
        left.is_some_and(|time| time > Duration::from_secs(60)),
        "{left:?}"
    );
}

#[test]
fn every_request_is_an_operation_on_either_queue() {
    let (_dir, mut c) = with_threads(",iops=3/1h");
    c.init();
    assert!(c.getattr(ROOT).is_ok());
    // Forgetting costs the host nothing.
    for _ in 0..10 {
        c.forget(ROOT, 0);
    }
    // What stands in the queue of high priority is no way round.
    let request = c.header(opcode::GETATTR, ROOT, 16);
    c.d.put(REQUEST, &request);
    let chain = [
        Desc::readable(REQUEST, IN_HEADER as u32 + 16),
        Desc::writable(ANSWER, 256),
    ];
    assert!(c.d.request(0, &chain) > 0);
    c.d.offer(0, &chain);
    c.d.kick(0);
    offer(&mut c);
    std::thread::sleep(PAUSE);
    assert!(c.d.used(0).is_none() && c.d.used(1).is_none());
}

#[test]
fn one_that_waits_can_be_reset_changed_and_dropped() {
    let (_dir, mut c) = with_threads(",iops=1/1h");
    let start = Instant::now();
    let head = offer(&mut c);
    assert_eq!(c.d.wait_used(1).map(|used| used.0), Some(head));
    for _ in 0..6 {
        offer(&mut c);
    }
    std::thread::sleep(PAUSE);
    assert!(c.d.used(1).is_none());
    let saved = c.fs.lock().unwrap().limits();
    c.d.write(0x70, 0);
    // The limit outlives the reset.
    assert!(c.d.start(0));
    let head = offer(&mut c);
    std::thread::sleep(PAUSE);
    assert!(c.d.used(1).is_none());
    set(&c, "iops=1000");
    assert_eq!(c.d.wait_used(1).map(|used| used.0), Some(head));
    c.fs.lock().unwrap().restore_limits(saved);
    offer(&mut c);
    std::thread::sleep(PAUSE);
    assert!(c.d.used(1).is_none());
    drop(c);
    assert!(start.elapsed() < Duration::from_secs(5));
}
