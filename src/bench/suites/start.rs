//! How long it takes until the workload runs, and until it is over.

use std::fs;

use super::super::error::{Context, Error, Result};
use super::super::method::{self, Quantity, Sample};
use super::super::process;
use super::super::results::{Better::Less, Suite};
use super::{Bench, Size};

pub const ABOUT: &str = "how long until the workload's first instruction, and until it has ended";
/// Rounds with nothing cached: each reads everything from its disk again.
const COLD: usize = 3;

const QUANTITIES: [Quantity; 3] = [
    Quantity {
        name: "first",
        title: "Time to the first instruction",
        unit: "s",
        better: Less,
        how: "From the start of the target's program until a line comes that is the first thing the workload writes; a static program without a library, so its first instruction is microseconds before. Warm: the round before has filled the caches.",
    },
    Quantity {
        name: "exit",
        title: "Time to the exit",
        unit: "s",
        better: Less,
        how: "From the start of the target's program until it has ended, of a workload that ends at once. Same runs.",
    },
    Quantity {
        name: "cpu",
        title: "CPU time on the host",
        unit: "s",
        better: Less,
        how: "User and system time of every process that the run had on this machine, a guest's included, also of those that go on when the target's program has ended (getrusage of waited-for children). Same runs.",
    },
];
const COLD_QUANTITIES: [Quantity; 2] = [
    Quantity {
        name: "first-cold",
        title: "Time to the first instruction, cold",
        unit: "s",
        better: Less,
        how: "The same after the page cache was dropped (/proc/sys/vm/drop_caches) before each run.",
    },
    Quantity {
        name: "exit-cold",
        title: "Time to the exit, cold",
        unit: "s",
        better: Less,
        how: "The same after the page cache was dropped before each run.",
    },
];

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs);
    method::rounds(suite, &names, &QUANTITIES, (1, runs), |at| once(bench, at))?;
    match drop_caches() {
        Ok(()) => {}
        Err(error @ Error::Interrupted(_)) => return Err(error),
        Err(error) => {
            log::warn!("start: the cold start is left out: {error}: it takes root");
            suite.about += "; without the cold start, which takes root";
            return Ok(());
        }
    }
    // Where it does not run warm, it does not run cold.
    let well = suite.well(&names);
    let names: Vec<_> = well.iter().map(|at| names[*at]).collect();
    method::rounds(suite, &names, &COLD_QUANTITIES, (0, runs.min(COLD)), |n| {
        drop_caches()?;
        let sample = once(bench, well[n])?;
        let name = |name| match name {
            "first" => Some("first-cold"),
            "exit" => Some("exit-cold"),
            _ => None,
        };
        Ok(sample
            .into_iter()
            .filter_map(|(n, v)| Some((name(n)?, v)))
            .collect())
    })
}

fn once(bench: &mut Bench, at: usize) -> Result<Sample> {
    let ended = bench.run(at, &["first"], Size::DEFAULT)?;
    let first = ended.first.ok_or_else(|| {
        Error::Failed(format!(
            "the workload's first line did not come: {}",
            ended.errors
        ))
    })?;
    Ok(vec![
        ("first", first.as_secs_f64()),
        ("exit", ended.time.as_secs_f64()),
        ("cpu", ended.cpu),
    ])
}

fn drop_caches() -> Result<()> {
    const PATH: &str = "/proc/sys/vm/drop_caches";
    process::check()?;
    // What is not written cannot be dropped.
    rustix::fs::sync();
    fs::write(PATH, "3").context(|| PATH.into())
}
