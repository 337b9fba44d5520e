//! What the measurements share: where their files are, how a program is timed,
//! and how figures are printed.

#![allow(dead_code, reason = "each user of this file wants some of it")]

#[path = "../../src/bench/children.rs"]
pub mod children;
pub mod drivers;
pub mod kvm_run;
pub mod podman;

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Instant;

/// The directory in memory to which `tools/bench-guest` has copied what is to be
/// measured; none when this runs by itself.
pub fn stage() -> Option<PathBuf> {
    env::var_os("DRUPE_BENCH_STAGE").map(PathBuf::from)
}

/// What becomes of a budget.
pub fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "MISSED" }
}

/// The value in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The ends of the middle half of values that are sorted, as [`median`] leaves them.
pub fn quarters(sorted: &[f64]) -> (f64, f64) {
    let quarter = sorted.len() / 4;
    (sorted[quarter], sorted[sorted.len() - 1 - quarter])
}

/// What pairs of measurements, one with and one without, come to.
pub struct Pairs {
    pub without: f64,
    pub with: f64,
    /// The middle of the pairs' ratios: what else the machine does hits both.
    pub ratio: f64,
    pub quarters: (f64, f64),
}

/// Measures without (false) and with, turn by turn; the first pair fills caches.
pub fn pairs(count: usize, mut measure: impl FnMut(bool) -> io::Result<f64>) -> io::Result<Pairs> {
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=count {
        let mut figures = [0.0; 2];
        // The second of two is in no better place than the first.
        for n in [pair & 1, 1 - (pair & 1)] {
            figures[n] = measure(n == 1)?;
        }
        if pair > 0 {
            without.push(figures[0]);
            with.push(figures[1]);
            ratios.push(figures[1] / figures[0]);
        }
    }
    let ratio = median(&mut ratios);
    Ok(Pairs {
        without: median(&mut without),
        with: median(&mut with),
        ratio,
        quarters: quarters(&ratios),
    })
}

/// Runs this with a directory in memory, which is gone afterwards.
pub fn in_memory(run: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    run(dir.path())
}

/// Runs a command to its end, which has to be a good one, with nothing to read;
/// seconds from exec to then. What it prints goes to pipes that are read.
pub fn time(command: &mut Command) -> io::Result<f64> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = start.elapsed().as_secs_f64();
    check(command, &output).map(|()| took)
}

/// What a command that has to succeed printed.
pub fn output(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    check(command, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check(command: &Command, output: &Output) -> io::Result<()> {
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(command, output.status, &output.stderr)),
    }
}

/// The error of a command that failed.
pub fn failed(command: &Command, status: ExitStatus, stderr: &[u8]) -> io::Error {
    let said = String::from_utf8_lossy(stderr);
    io::Error::other(format!("{command:?}: {status}: {said}"))
}

/// Bytes that a directory takes on the disk.
pub fn disk_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// True for the head of a mapping in `/proc/PID/smaps` that is a guest's memory:
/// it says so, where the kernel keeps names for mappings; and nothing else of
/// drupe's is as large and can be written to.
pub fn is_guest_memory(head: &str) -> bool {
    const AT_LEAST: u64 = 64 << 20;
    let mut words = head.split(' ');
    let range = words.next().and_then(|range| range.split_once('-'));
    let [start, end] = range.map_or([0, 0], |(start, end)| {
        [start, end].map(|text| u64::from_str_radix(text, 16).unwrap_or(0))
    });
    let writable = words.next().is_some_and(|flags| flags.starts_with("rw"));
    head.contains("guest-memory") || writable && end - start >= AT_LEAST
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
