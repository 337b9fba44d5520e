//! Reading and writing a file past the page cache.

use super::super::error::Result;
use super::super::method::{self, Quantity};
use super::super::results::{
    Better::{Less, More},
    Suite,
};
use super::{Bench, Size, counted};

pub const ABOUT: &str = "a file on the target's root, past the page cache, one request at a time";
/// Milliseconds for each.
const BUDGET: &str = "500";
/// Bytes of a request in sequence.
const LARGE: f64 = (1_u64 << 20) as f64;

const QUANTITIES: [Quantity; 5] = [
    Quantity {
        name: "write-sequential",
        title: "Sequential write",
        unit: "B/s",
        better: More,
        how: "pwrite of 1 MiB with O_DIRECT, one after the other through a file of 32 MiB that is written already, for 500 ms and more, timed inside. The file is where the run's directory is (TMPDIR): in it for a process and a container, in a machine on an ext4 disk whose image is in it.",
    },
    Quantity {
        name: "read-sequential",
        title: "Sequential read",
        unit: "B/s",
        better: More,
        how: "The same with pread.",
    },
    Quantity {
        name: "write-random",
        title: "Random write of 4 KiB",
        unit: "s",
        better: Less,
        how: "pwrite of 4 KiB with O_DIRECT, at places all over the same file, one at a time; the time of one.",
    },
    Quantity {
        name: "read-random",
        title: "Random read of 4 KiB",
        unit: "s",
        better: Less,
        how: "The same with pread.",
    },
    Quantity {
        name: "fsync",
        title: "Write of 4 KiB and fsync",
        unit: "s",
        better: Less,
        how: "The same write with an fsync after each; the time of both.",
    },
];

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs);
    let size = Size {
        disk: true,
        ..Size::default()
    };
    method::rounds(suite, &names, &QUANTITIES, (1, runs), |at| {
        let output = bench.run(at, &["disk", BUDGET], size)?.output;
        let value = |quantity: &Quantity| {
            let seconds = counted(&output, quantity.name)?;
            Ok((
                quantity.name,
                match quantity.unit {
                    "B/s" => LARGE / seconds,
                    _ => seconds,
                },
            ))
        };
        QUANTITIES.iter().map(value).collect()
    })
}
