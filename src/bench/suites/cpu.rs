//! What a processor does alone.

use super::super::error::Result;
use super::super::method::{self, Quantity};
use super::super::results::{Better::Less, Suite};
use super::{Bench, Size, all_cpus, counted};

pub const ABOUT: &str = "computing without the kernel, on one CPU and on all";
/// Rounds of one process: a second or so of an ordinary processor.
const ROUNDS: &str = "300000";

const QUANTITIES: [Quantity; 2] = [
    Quantity {
        name: "one",
        title: "A round of arithmetic, one process",
        unit: "s",
        better: Less,
        how: "Integer arithmetic on a table of 16 KiB, 300000 rounds in one process, timed inside by the target's own monotonic clock; the time of one round.",
    },
    Quantity {
        name: "all",
        title: "A round of arithmetic, a process for each CPU",
        unit: "s",
        better: Less,
        how: "The same in as many processes as this machine has CPUs, and as many virtual CPUs in machines; time until all have ended, divided by all rounds.",
    },
];

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs);
    let all = all_cpus();
    method::rounds(suite, &names, &QUANTITIES, (1, runs), |at| {
        let mut run = |cpus: usize| {
            let size = Size {
                cpus: cpus as u32,
                ..Size::DEFAULT
            };
            let ended = bench.run(at, &["cpu", ROUNDS, &cpus.to_string()], size)?;
            counted(&ended.output, "cpu")
        };
        Ok(vec![("one", run(1)?), ("all", run(all)?)])
    })
}
