//! From `exec` of drupe to the guest's first instruction, on any KVM.
//!
//! The guest is a dozen bytes of machine code whose first act is to write a
//! line's end to the console and whose second is to stand still. When the byte
//! arrives here, the CPU time of drupe's threads is read: what it took to get to
//! the first instruction, with one exit and one write on top. Run by `make bench`.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

#[path = "../tests/common/bare_metal.rs"]
mod bare_metal;
mod common;

use common::{is_guest_memory, verdict};

const RUNS: usize = 60;
const BUDGET_MS: f64 = 5.0;
const BUDGET_MIB: f64 = 4.0;

fn main() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let kernel = dir.path().join("kernel");
    fs::write(&kernel, bare_metal::elf(bare_metal::NEWLINE))?;
    let mut times = Vec::new();
    let mut resident = Vec::new();
    for run in 0..RUNS {
        let (cpu_ms, rss_mib) = start(&kernel)?;
        // The first runs fill the host's caches.
        if run >= RUNS / 10 {
            times.push(cpu_ms);
            resident.push(rss_mib);
        }
    }
    times.sort_by(f64::total_cmp);
    resident.sort_by(f64::total_cmp);
    let at = |v: &[f64], q: f64| v[((v.len() - 1) as f64 * q) as usize];
    let (time, rss) = (at(&times, 0.5), at(&resident, 0.5));
    println!(
        "start: exec to first instruction, 1 vCPU, 128 MiB: {time:.2} ms of CPU (10% {:.2}, 90% {:.2}, n={}), budget {BUDGET_MS}: {}",
        at(&times, 0.1),
        at(&times, 0.9),
        times.len(),
        verdict(time <= BUDGET_MS)
    );
    println!(
        "start: resident beyond guest memory, 1 vCPU, 128 MiB: {rss:.2} MiB, budget {BUDGET_MIB}: {}",
        verdict(rss <= BUDGET_MIB)
    );
    Ok(())
}

/// CPU time in ms up to the guest's first byte, and resident MiB then.
fn start(kernel: &Path) -> io::Result<(f64, f64)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["boot", "--memory", "128M", "--kernel"])
        .arg(kernel)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut byte = [0];
    let read = child.stdout.take().map(|mut out| out.read_exact(&mut byte));
    let figures = cpu_ms(child.id()).and_then(|cpu| Ok((cpu, resident_mib(child.id())?)));
    child.kill()?;
    child.wait()?;
    read.unwrap_or(Ok(()))?;
    figures
}

/// What the process's threads have spent, from /proc/PID/task/*/schedstat.
fn cpu_ms(pid: u32) -> io::Result<f64> {
    let mut ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        let spent = stat.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        ns += spent.unwrap_or(0);
    }
    Ok(ns as f64 / 1e6)
}

/// Resident memory of every mapping but the guest's.
fn resident_mib(pid: u32) -> io::Result<f64> {
    let mut kib = 0.0;
    let mut guest = false;
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        if line
            .split(' ')
            .next()
            .is_some_and(|word| word.contains('-'))
        {
            guest = is_guest_memory(line);
        } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| !guest) {
            let number = rest.trim().trim_end_matches(" kB");
            kib += number.parse::<f64>().unwrap_or(0.0);
        }
    }
    Ok(kib / 1024.0)
}
