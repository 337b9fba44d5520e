//! The parts of drupe that need no guest kernel, by criterion, on any machine: each
//! device with its real back end, run by the fake driver of the unit tests in the
//! same thread, and the conversion of a layer. Neither a guest, nor an exit, nor a
//! wake-up is in it. Run by `make bench`, which compares with the last time.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use devices::testing::{Desc, Driver};
use devices::virtio::blk::request_type;
use devices::virtio::fs::{Fs, FsSpec};
use devices::virtio::vsock::{Vsock, VsockSpec};
use images::{ContainerConfig, Import, Input, Store};
use vmm_sys_util::epoll::EventSet;

mod common;
use common::drivers::{self, BATCH, PACKET, disk_requests};

const PAGE: usize = 4096;

fn main() -> io::Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    // In memory: what a disk takes is not drupe's.
    let dir = tempfile::tempdir_in("/dev/shm")?;
    blocks(&mut criterion, dir.path())?;
    sockets(&mut criterion, dir.path())?;
    files(&mut criterion, dir.path())?;
    if env::var_os("DRUPE_BENCH_NET").is_some() {
        packets(&mut criterion)?;
    } else {
        println!("net: left out: DRUPE_BENCH_NET is not set, see tools/bench");
    }
    layers(&mut criterion, dir.path())?;
    criterion.final_summary();
    Ok(())
}

/// Four requests and a kick.
fn blocks(criterion: &mut Criterion, dir: &Path) -> io::Result<()> {
    let path = dir.join("disk");
    drivers::disk_file(&path)?;
    let mut group = criterion.benchmark_group("blk");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, kind) in [
        ("4 reads of 4 KiB", request_type::IN),
        ("4 writes of 4 KiB", request_type::OUT),
    ] {
        let (mut driver, mut n) = (drivers::disk(&path)?, 0);
        group.bench_function(name, |b| {
            b.iter(|| {
                disk_requests(&mut driver, n, kind);
                n += 1;
            });
        });
    }
    group.finish();
    Ok(())
}

/// The guest's side of one connection with a program of the host's.
struct Socket {
    driver: Driver,
    host: UnixStream,
    received: u32,
}

impl Socket {
    const CID: u64 = 3;
    const PORT: u32 = 1024;
    const HEADER: usize = 44;
    const REQUEST: u16 = 1;
    const RW: u16 = 5;
    const RX: usize = 0;
    const TX: usize = 1;
    /// Where the buffers are.
    const RECEIVE: u64 = 0x1_0000;
    const SEND: u64 = 0x2_0000;

    fn new(dir: &Path) -> io::Result<Self> {
        let path = dir.join("vsock");
        let listener = UnixListener::bind(dir.join(format!("vsock_{}", Self::PORT)))?;
        let spec = VsockSpec {
            path,
            cid: Self::CID,
        };
        let device = Vsock::open(&spec).map_err(io::Error::other)?;
        let mut driver = drivers::started(Driver::new(device))?;
        Self::offer(&mut driver);
        // It connects at once: the listener is there.
        Self::send(&mut driver, Self::REQUEST, 0, 0);
        let (host, _) = listener.accept()?;
        let mut socket = Socket {
            driver,
            host,
            received: 0,
        };
        while socket.receive() == 0 {}
        socket.received = 0;
        Ok(socket)
    }

    fn offer(driver: &mut Driver) {
        let len = (Self::HEADER + PAGE) as u32;
        driver.offer(Self::RX, &[Desc::writable(Self::RECEIVE, len)]);
    }

    /// A packet of the guest's (virtio 1.2 §5.10.6), with room for as much again.
    fn send(driver: &mut Driver, op: u16, len: u32, received: u32) {
        let mut header = Vec::with_capacity(Self::HEADER);
        header.extend(Self::CID.to_le_bytes());
        header.extend(2_u64.to_le_bytes());
        for word in [Self::PORT, Self::PORT, len] {
            header.extend(word.to_le_bytes());
        }
        header.extend(1_u16.to_le_bytes());
        header.extend(op.to_le_bytes());
        for word in [0, 1 << 20, received] {
            header.extend(word.to_le_bytes());
        }
        driver.put(Self::SEND, &header);
        let packet = Desc::readable(Self::SEND, Self::HEADER as u32 + len);
        driver.offer(Self::TX, &[packet]);
        driver.kick(Self::TX);
        assert!(driver.used(Self::TX).is_some(), "a packet was not sent");
    }

    /// Plays the event loop, and takes a packet if there is one; bytes with header.
    fn receive(&mut self) -> u32 {
        self.driver.kick(Self::RX);
        event(&self.driver);
        match self.driver.used(Self::RX) {
            Some((_, len)) => {
                Self::offer(&mut self.driver);
                len
            }
            None => 0,
        }
    }

    /// A page to the host, and a page back.
    fn round_trip(&mut self, page: &mut [u8; PAGE]) -> io::Result<()> {
        Self::send(&mut self.driver, Self::RW, PAGE as u32, self.received);
        self.host.read_exact(page)?;
        self.host.write_all(page)?;
        let mut got = 0;
        while got < PAGE as u32 {
            // What brings no data tells of credit.
            got += self.receive().saturating_sub(Self::HEADER as u32);
        }
        self.received = self.received.wrapping_add(got);
        Ok(())
    }
}

/// What the event loop does when a device's descriptor is ready.
fn event(driver: &Driver) {
    let mut device = driver.device.lock().unwrap_or_else(PoisonError::into_inner);
    for source in device.event_sources() {
        device.handle_event(source.token, EventSet::IN);
    }
}

fn sockets(criterion: &mut Criterion, dir: &Path) -> io::Result<()> {
    let mut socket = Socket::new(dir)?;
    let (mut page, mut failed) = ([0; PAGE], Ok(()));
    let mut group = criterion.benchmark_group("vsock");
    group.throughput(Throughput::Bytes(2 * PAGE as u64));
    group.bench_function("4 KiB to a Unix socket and back", |b| {
        b.iter(|| {
            if failed.is_ok() {
                failed = socket.round_trip(&mut page);
            }
        });
    });
    group.finish();
    failed
}

/// A FUSE request on a share, answered with `room` bytes at most behind the header.
fn fuse(driver: &mut Driver, opcode: u32, node: u64, args: &[u8], room: u32) -> Vec<u8> {
    const IN_HEADER: usize = 40;
    const OUT_HEADER: u32 = 16;
    const ANSWER: u64 = 0x1_0000;
    let mut request = Vec::with_capacity(IN_HEADER + args.len());
    request.extend(((IN_HEADER + args.len()) as u32).to_le_bytes());
    request.extend(opcode.to_le_bytes());
    request.extend(1_u64.to_le_bytes());
    request.extend(node.to_le_bytes());
    request.extend([0; 16]);
    request.extend(args);
    driver.put(0, &request);
    let chain = [
        Desc::readable(0, request.len() as u32),
        Desc::writable(ANSWER, OUT_HEADER + room),
    ];
    let len = driver.request(1, &chain);
    let answer = driver.get(ANSWER, len as usize);
    assert_eq!(answer[4..8], [0; 4], "FUSE request {opcode} failed");
    answer[OUT_HEADER as usize..].to_vec()
}

/// Reads of a file in a share, and look-ups of its name.
fn files(criterion: &mut Criterion, dir: &Path) -> io::Result<()> {
    const ROOT: u64 = 1;
    const LOOKUP: u32 = 1;
    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const INIT: u32 = 26;
    let share = dir.join("share");
    fs::create_dir(&share)?;
    fs::write(share.join("file"), vec![1; 1 << 20])?;
    let mut fs = Fs::open(&FsSpec::new(&share, "bench"), 0, 64).map_err(io::Error::other)?;
    fs.serve_on_event_loop();
    let mut driver = drivers::started(Driver::new(fs))?;
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let mut init = words(&[7, 45, 0x2_0000, u32::MAX, u32::MAX]);
    init.resize(64, 0);
    fuse(&mut driver, INIT, 0, &init, 64);
    let found = fuse(&mut driver, LOOKUP, ROOT, b"file\0", 128);
    let mut node = [0; 8];
    node.copy_from_slice(&found[..8]);
    let node = u64::from_le_bytes(node);
    let handle = fuse(&mut driver, OPEN, node, &[0; 8], 16)[..8].to_vec();

    let mut group = criterion.benchmark_group("fs");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a look-up of a name", |b| {
        b.iter(|| fuse(&mut driver, LOOKUP, ROOT, b"file\0", 128));
    });
    let mut n = 0_u64;
    group.bench_function("a read of 4 KiB", |b| {
        b.iter(|| {
            n += 1;
            let offset = n.wrapping_mul(0x9e37_79b9) % 256 * PAGE as u64;
            let mut read = handle.clone();
            read.extend(offset.to_le_bytes());
            read.extend(words(&[PAGE as u32, 0, 0, 0, 0, 0]));
            let data = fuse(&mut driver, READ, node, &read, PAGE as u32);
            assert_eq!(data.len(), PAGE);
        });
    });
    group.finish();
    Ok(())
}

/// Packets to nobody.
fn packets(criterion: &mut Criterion) -> io::Result<()> {
    drivers::tap()?;
    let mut driver = drivers::started(Driver::new(drivers::card()?))?;
    drivers::put_packets(&driver);
    let mut group = criterion.benchmark_group("net");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("4 packets of {PACKET} bytes to a TAP"), |b| {
        b.iter(|| drivers::send_packets(&mut driver));
    });
    group.finish();
    Ok(())
}

/// A tar of 512 files of 32 KiB becomes a layer in an empty store.
fn layers(criterion: &mut Criterion, dir: &Path) -> io::Result<()> {
    const FILES: u64 = 512;
    const SIZE: usize = 32 << 10;
    let path = dir.join("layer.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path)?);
    for n in 0..FILES {
        let data: Vec<u8> = (0..SIZE as u64 / 8)
            .flat_map(|at| ((n << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
            .collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(SIZE as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{}/{n}", n % 16), &data[..])?;
    }
    tar.into_inner()?;
    let name = "bench".parse().map_err(io::Error::other)?;
    let import = Import {
        from: &Input::Path(path),
        name: Some(&name),
        config: ContainerConfig::default(),
        message: None,
        platform: None,
    };
    let mut failed = None;
    let mut group = criterion.benchmark_group("images");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(FILES * SIZE as u64));
    group.bench_function("import of a tar of 16 MiB, 512 files", |b| {
        b.iter_batched(
            || tempfile::tempdir_in(dir),
            |store| {
                let done = store.and_then(|store| {
                    let at = Store::open(store.path()).map_err(io::Error::other)?;
                    at.import(&import, &|_| {}).map_err(io::Error::other)?;
                    // It is removed outside what is timed.
                    Ok(store)
                });
                done.map_err(|e| failed = Some(e)).ok()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    failed.map_or(Ok(()), Err)
}
