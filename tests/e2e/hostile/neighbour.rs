//! A guest that floods its devices with notifications leaves its neighbour's
//! requests as fast as they were.

use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::guest::{Guest, Running};

/// How much longer the neighbour may take.
const MAX_RATIO: f64 = 2.0;
/// Pairs of measurements, one with the flood and one without, in turn: what else
/// happens on the machine meets both alike.
const ROUNDS: usize = 9;
/// Requests in each, of which the guest takes the median.
const REQUESTS: usize = 201;

/// A guest that does this, kept to one CPU with all of its threads.
fn guest(command: &str, cpu: usize) -> (Running, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    let disk = dir.path().join("disk");
    std::fs::write(&kernel, hostile::KERNEL).unwrap();
    std::fs::write(&disk, [hostile::DISK_BYTE; 4096]).unwrap();
    let guest = Guest::with_kernel(&kernel)
        .args("--memory")
        .arg(hostile::MEMORY)
        .disk(&disk, "")
        .append(command)
        .on_cpu(cpu);
    (guest.start(), dir)
}

/// The neighbour's median in ticks of its clock.
fn measure(ping: &mut Running, round: usize) -> f64 {
    ping.type_line("m");
    let text = ping.wait_for_count("median: ", round);
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number of ticks"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_flood_of_notifications_leaves_the_neighbour_its_latency() {
    let cpus = thread::available_parallelism().unwrap().get();
    let (mut ping, _ping_files) = guest(&format!("ping={REQUESTS}"), 0);
    ping.wait_for("ready\n");
    let (flood, _flood_files) = guest("flood", 1 % cpus);
    flood.wait_for("flooding\n");
    let mut alone = Vec::new();
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        flood.signal(libc::SIGSTOP);
        thread::sleep(Duration::from_millis(20));
        let quiet = measure(&mut ping, 2 * round + 1);
        flood.signal(libc::SIGCONT);
        thread::sleep(Duration::from_millis(20));
        let loaded = measure(&mut ping, 2 * round + 2);
        alone.push(quiet);
        ratios.push(loaded / quiet);
    }
    let ratio = median(ratios.clone());
    println!(
        "a read takes {} ticks alone and {ratio:.2} times as long beside a flood ({ratios:.2?}) on {cpus} CPUs",
        median(alone)
    );
    assert!(ratio <= MAX_RATIO, "{ratio:.2} times: {ratios:.2?}");
    flood.signal(libc::SIGTERM);
    ping.type_line("q");
    assert_eq!(ping.finish().status.code(), Some(0));
}
