//! What system call filters cost a disk and a card: the devices themselves, their
//! real back ends, and a driver that is part of the same thread, with and without
//! the filters that the thread has in a machine. Neither guest nor wake-ups are in
//! it, so that a real request takes longer and its filters' share is smaller.

use std::env;
use std::io;
use std::path::Path;
use std::thread;

use confine::Role;
use devices::testing::Driver;
use devices::virtio::blk::request_type;
use rustix::time::{ClockId, clock_gettime};

mod common;
use common::drivers::{self, BATCH, disk_requests};
use common::{Pairs, verdict};

/// What seccomp may add to a benchmark.
const BUDGET: Option<f64> = Some(1.03);
/// Pairs of runs, one with and one without, turn by turn.
const PAIRS: usize = 21;
const REQUESTS: usize = 40_000;

fn main() -> io::Result<()> {
    common::in_memory(run)
}

fn run(dir: &Path) -> io::Result<()> {
    let disk = dir.join("disk");
    drivers::disk_file(&disk)?;
    // As in a machine: a disk's worker is born in the spawner, whose filter it
    // keeps; the event loop is not.
    let worker: &[Role] = &[Role::Spawner, Role::Disk];
    compare("disk, 4 KiB reads", BUDGET, worker, || reads(&disk))?;
    compare("disk, 4 KiB writes", BUDGET, worker, || writes(&disk))?;
    compare(
        "a vCPU's KVM_RUN, without the guest",
        None,
        &[Role::Vcpu],
        enter_guest,
    )?;
    if env::var_os("DRUPE_BENCH_NET").is_some() {
        drivers::tap()?;
        compare("network, packets sent", BUDGET, &[Role::EventLoop], packets)?;
    } else {
        println!("seccomp: network: left out: DRUPE_BENCH_NET is not set, see tools/bench");
    }
    Ok(())
}

/// What is measured: does this many requests.
type Turn = Box<dyn FnMut(usize)>;

fn compare(
    what: &str,
    budget: Option<f64>,
    roles: &'static [Role],
    make: impl Fn() -> io::Result<Turn> + Sync,
) -> io::Result<()> {
    let Pairs {
        without,
        with,
        ratio,
        quarters: (low, high),
    } = common::pairs(PAIRS, |filtered| {
        measure(if filtered { roles } else { &[] }, &make)
    })?;
    let kept = |budget| format!(", budget {budget}: {}", verdict(ratio <= budget));
    println!(
        "seccomp: {what}: {without:.0} ns each without, {with:.0} ns with, ratio {ratio:.3} (n={PAIRS}, {low:.3} to {high:.3}){}",
        budget.map_or_else(String::new, kept)
    );
    Ok(())
}

/// CPU time of a request in ns, in a thread of its own under these roles' filters.
fn measure(roles: &[Role], make: &(impl Fn() -> io::Result<Turn> + Sync)) -> io::Result<f64> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<f64> {
            let mut turn = make()?;
            for role in roles {
                confine::enter_role(*role, "bench").map_err(io::Error::other)?;
            }
            let mut run = |requests: usize| {
                let before = cpu_ns();
                for n in 0..requests / BATCH {
                    turn(n);
                }
                (cpu_ns() - before) / requests as f64
            };
            // Caches and page tables.
            run(REQUESTS / 10);
            Ok(run(REQUESTS))
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn reads(path: &Path) -> io::Result<Turn> {
    requests(path, request_type::IN)
}

fn writes(path: &Path) -> io::Result<Turn> {
    requests(path, request_type::OUT)
}

fn requests(path: &Path, kind: u32) -> io::Result<Turn> {
    let mut driver = drivers::disk(path)?;
    Ok(Box::new(move |n| disk_requests(&mut driver, n, kind)))
}

fn packets() -> io::Result<Turn> {
    let mut driver = drivers::started(Driver::new(drivers::card()?))?;
    drivers::put_packets(&driver);
    Ok(Box::new(move |_| drivers::send_packets(&mut driver)))
}

/// The call that enters a guest, of which the filter has to see the argument. On
/// no descriptor: what it adds to each exit, and nothing of the exit itself.
fn enter_guest() -> io::Result<Turn> {
    const KVM_RUN: libc::Ioctl = 0xae80;
    Ok(Box::new(|_| {
        for _ in 0..BATCH {
            // SAFETY: there is no such descriptor, and no pointer.
            let result = unsafe { libc::ioctl(-1, KVM_RUN, 0) };
            assert_eq!(result, -1);
        }
    }))
}
