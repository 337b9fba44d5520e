//! What the measurements share: where their files are, how a program is timed,
//! and how figures are printed.

#![allow(dead_code, reason = "each user of this file wants some of it")]

pub mod children;
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

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
