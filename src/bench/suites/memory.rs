//! What a target adds to the memory in use, for one instance and for several.

use super::super::error::Result;
use super::super::method::{self, Quantity, Sample};
use super::super::process;
use super::super::results::{Better::Less, Suite};
use super::{Bench, Size};

pub const ABOUT: &str = "the memory that an instance adds, whose workload only waits";
/// How many run side by side for the second figure.
const SEVERAL: usize = 4;
/// Samples that are enough: they differ little, and each takes four starts.
const RUNS: usize = 6;

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "rss-1",
        title: "Resident memory of one instance",
        unit: "B",
        better: Less,
        how: "Rss (/proc/PID/smaps_rollup) of every process that the run has started, runtime, monitor and workload, once the workload has written its first line and waits. A guest's memory is its monitor's. The kernel's own memory for them is not in it.",
    },
    Quantity {
        name: "pss-1",
        title: "Proportional memory of one instance",
        unit: "B",
        better: Less,
        how: "Pss of the same processes: pages that several processes share are divided among these.",
    },
    Quantity {
        name: "rss-4",
        title: "Resident memory of each of four instances",
        unit: "B",
        better: Less,
        how: "Rss of all processes of four instances that run side by side, divided by four.",
    },
    Quantity {
        name: "pss-4",
        title: "Proportional memory of each of four instances",
        unit: "B",
        better: Less,
        how: "Pss of the same, divided by four: what one more instance costs, more or less.",
    },
];

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs.min(RUNS));
    // Nothing of it depends on what ran before: there is nothing to warm up.
    method::rounds(suite, &names, &QUANTITIES, (0, runs), |at| {
        let result = once(bench, at);
        bench.end(at);
        result
    })
}

fn once(bench: &mut Bench, at: usize) -> Result<Sample> {
    let mut runs = Vec::new();
    let mut sample = Sample::new();
    for n in 1..=SEVERAL {
        let mut run = bench.start(at, &["hold"], Size::DEFAULT)?;
        run.wait_first()?;
        runs.push(run);
        if n == 1 || n == SEVERAL {
            let memory = process::memory(&process::all(&bench.residents))?;
            let names = if n == 1 {
                ["rss-1", "pss-1"]
            } else {
                ["rss-4", "pss-4"]
            };
            sample.push((names[0], memory.rss as f64 / n as f64));
            sample.push((names[1], memory.pss as f64 / n as f64));
        }
    }
    Ok(sample)
}
