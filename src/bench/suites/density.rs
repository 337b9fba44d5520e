//! How many instances fit into a given memory.

use std::fs;

use super::super::error::{Error, Result};
use super::super::machine::of_meminfo;
use super::super::method::{self, Quantity, Sample};
use super::super::results::{Better::More, Suite};
use super::{Bench, Size};

pub const ABOUT: &str = "how many instances fit into half a gigabyte";
/// The memory that may go, in bytes.
const BUDGET: u64 = 512 << 20;
/// What must be left to the machine, in bytes.
const RESERVE: u64 = 512 << 20;
/// The most that are started.
const MOST: usize = 64;
/// Each counts as many lives: they are long.
const RUNS: usize = 3;
/// A small machine, as many would be.
const SIZE: Size = Size {
    memory_mib: 128,
    ..Size::DEFAULT
};

const QUANTITY: Quantity = Quantity {
    name: "instances",
    title: "Instances in 512 MiB",
    unit: "count",
    better: More,
    how: "Instances of 128 MiB each where they have a size, whose workload waits, are started one after the other until MemAvailable (/proc/meminfo) has gone down by 512 MiB, one fails, or there are 64 of them; the last that took more than was left does not count.",
};

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs.min(RUNS));
    method::rounds(suite, &names, &[QUANTITY], (0, runs), |at| {
        let result = once(bench, at);
        bench.end(at);
        result
    })
}

fn once(bench: &mut Bench, at: usize) -> Result<Sample> {
    let start = available()?;
    if start < BUDGET + RESERVE {
        return Err(Error::Failed(format!(
            "only {} MiB of memory are free: free some, or leave the suite out",
            start >> 20
        )));
    }
    let mut runs = Vec::new();
    while runs.len() < MOST {
        let mut run = match bench.start(at, &["hold"], SIZE) {
            Ok(run) => run,
            Err(error) if runs.is_empty() => return Err(error),
            Err(error @ Error::Interrupted(_)) => return Err(error),
            Err(_) => break,
        };
        match run.wait_first() {
            Ok(_) => {}
            Err(error @ Error::Interrupted(_)) => return Err(error),
            Err(error) if runs.is_empty() => return Err(error),
            Err(_) => break,
        }
        if start.saturating_sub(available()?) > BUDGET {
            break;
        }
        runs.push(run);
    }
    Ok(vec![("instances", runs.len() as f64)])
}

fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    of_meminfo(&text, "MemAvailable")
        .ok_or_else(|| Error::Failed("/proc/meminfo does not say what memory is available".into()))
}
