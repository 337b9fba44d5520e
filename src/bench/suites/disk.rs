//! Reading and writing a file past the page cache: by the workload, and by fio where
//! this machine has it.

use super::super::error::Result;
use super::super::fio::Report;
use super::super::method::{self, Quantity};
use super::super::results::{
    Better::{Less, More},
    Output, Suite,
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

const FIO: [Quantity; 6] = [
    Quantity {
        name: "fio-write-sequential",
        title: "Sequential write, by fio",
        unit: "B/s",
        better: More,
        how: "bw_bytes of fio's job rw=write bs=1m ioengine=psync direct=1 on a file of 32 MiB that is written already, for 500 ms, all jobs one after the other in one run of this machine's fio. The file is beside that of the workload.",
    },
    Quantity {
        name: "fio-read-sequential",
        title: "Sequential read, by fio",
        unit: "B/s",
        better: More,
        how: "The same with rw=read.",
    },
    Quantity {
        name: "fio-write-random",
        title: "Random writes of 4 KiB, by fio",
        unit: "1/s",
        better: More,
        how: "iops of fio's job rw=randwrite bs=4k ioengine=psync direct=1: one at a time.",
    },
    Quantity {
        name: "fio-read-random",
        title: "Random reads of 4 KiB, by fio",
        unit: "1/s",
        better: More,
        how: "The same with rw=randread.",
    },
    Quantity {
        name: "fio-read-deep",
        title: "Random reads of 4 KiB, 32 at a time, by fio",
        unit: "1/s",
        better: More,
        how: "iops of fio's job rw=randread bs=4k ioengine=libaio iodepth=32 direct=1.",
    },
    Quantity {
        name: "fio-fsync",
        title: "fsync after a write of 4 KiB, by fio",
        unit: "s",
        better: Less,
        how: "The mean of sync.lat_ns of fio's job rw=randwrite bs=4k fsync=1 ioengine=psync direct=1: the fsync alone.",
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
        ..Size::DEFAULT
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
    })?;
    let Some(fio) = bench.fio.clone() else {
        suite.about += "; without fio's figures: it is not installed, or linked statically";
        return Ok(());
    };
    let args = fio.args();
    let well = suite.well(&names);
    let names: Vec<_> = well.iter().map(|at| names[*at]).collect();
    let mut counts = vec![0; names.len()];
    method::rounds(suite, &names, &FIO, (1, runs), |n| {
        let output = bench.run(well[n], &args, size)?.output;
        let (report, json) = Report::parse(&output)?;
        let sample = vec![
            (FIO[0].name, report.job("write-sequential")?.write.bw_bytes),
            (FIO[1].name, report.job("read-sequential")?.read.bw_bytes),
            (FIO[2].name, report.job("write-random")?.write.iops),
            (FIO[3].name, report.job("read-random")?.read.iops),
            (FIO[4].name, report.job("read-deep")?.read.iops),
            (FIO[5].name, report.job("fsync")?.sync.lat_ns.mean / 1e9),
        ];
        // The first is the warm-up.
        if counts[n] > 0 {
            bench.outputs.push(Output {
                name: format!("fio/{}-{}.json", names[n], counts[n]),
                text: json.to_owned(),
            });
        }
        counts[n] += 1;
        Ok(sample)
    })
}
