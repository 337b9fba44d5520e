//! What a kernel does for a process.

use super::super::error::Result;
use super::super::method::{self, Quantity};
use super::super::results::{Better::Less, Suite};
use super::{Bench, Size, counted};

pub const ABOUT: &str =
    "what a kernel does for a process, each as often as fits into the same time";
/// Milliseconds for each.
const BUDGET: &str = "100";

const fn quantity(name: &'static str, title: &'static str, how: &'static str) -> Quantity {
    Quantity {
        name,
        title,
        unit: "s",
        better: Less,
        how,
    }
}

const QUANTITIES: [Quantity; 5] = [
    quantity(
        "getpid",
        "getpid",
        "getpid(2), the shortest system call, for 100 ms and more, timed inside by the target's own monotonic clock; the time of one.",
    ),
    quantity(
        "read",
        "Reading a small file",
        "open, read and close of a file of 1 KiB that is in the cache; likewise.",
    ),
    quantity(
        "exec",
        "fork and exec",
        "fork, execve of the workload itself, which ends at once, and wait4; likewise.",
    ),
    quantity(
        "switch",
        "Context switch, there and back",
        "A byte by a pipe to another process on the same CPU, and one back: two switches; likewise.",
    ),
    quantity(
        "fault",
        "First touch of a page",
        "A byte written to each page of 1 MiB of new anonymous memory, in pages of 4 KiB; likewise, mapping not timed.",
    ),
];

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs);
    method::rounds(suite, &names, &QUANTITIES, (1, runs), |at| {
        let output = bench.run(at, &["calls", BUDGET], Size::DEFAULT)?.output;
        QUANTITIES
            .iter()
            .map(|quantity| Ok((quantity.name, counted(&output, quantity.name)?)))
            .collect()
    })
}
