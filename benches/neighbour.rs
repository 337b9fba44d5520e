//! What a guest that does its worst costs its neighbour and the host's command
//! line: the neighbour's requests, and `drupe ps`, with the load standing still and
//! at work, turn by turn. The guests have no operating system, so that it runs on
//! any KVM. Run by `make bench`.

use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

mod common;
#[path = "common/ping.rs"]
mod ping;

use common::{median, verdict};
use ping::{Request, Running};

/// How much longer the neighbour's requests may take.
const BUDGET: f64 = 2.0;
/// Pairs: one with the load, one without.
const ROUNDS: usize = 15;
/// Bytes that one which fills its disk has written by the end.
const LEAST_FILLED: u64 = 1 << 20;
/// Times that the command line is asked in each.
const COMMANDS: usize = 5;
/// Until a load that was told to go on or to stand still does so.
const SETTLE: Duration = Duration::from_millis(20);

fn main() -> io::Result<()> {
    common::in_memory(run)
}

fn run(dir: &Path) -> io::Result<()> {
    let cpus = thread::available_parallelism()?.get();
    for (what, command) in [
        ("notifies without end", "flood"),
        ("fills its disk", "fill"),
    ] {
        let mut neighbour =
            Running::start(&dir.join("neighbour"), "ping=101", 0, &["--net", "user"])?;
        let load = Running::start(&dir.join(command), command, 1 % cpus, &[])?;
        let (mut disk, mut net, mut shell) = (Vec::new(), Vec::new(), Vec::new());
        let mut one = |load: &Running, still: bool| -> io::Result<[f64; 3]> {
            load.pause(still)?;
            thread::sleep(SETTLE);
            let (disk, net) = (
                neighbour.measure(Request::Disk)?,
                neighbour.measure(Request::Net)?,
            );
            // It looks for a key without end, which is no part of this.
            neighbour.pause(true)?;
            let shell = command_line(dir)?;
            neighbour.pause(false)?;
            Ok([disk, net, shell])
        };
        // Caches.
        one(&load, true)?;
        for _ in 0..ROUNDS {
            let alone = one(&load, true)?;
            let beside = one(&load, false)?;
            for (ratios, (alone, beside)) in [&mut disk, &mut net, &mut shell]
                .into_iter()
                .zip(alone.into_iter().zip(beside))
            {
                ratios.push(beside / alone);
            }
        }
        if command == "fill" && common::disk_bytes(&dir.join(command))? < LEAST_FILLED {
            return Err(io::Error::other("the load does not fill its disk"));
        }
        for (name, ratios, budget) in [
            ("a read of its disk", &mut disk, Some(BUDGET)),
            ("an answer of its network", &mut net, Some(BUDGET)),
            ("the host's drupe ps", &mut shell, None),
        ] {
            let ratio = median(ratios);
            let (low, high) = common::quarters(ratios);
            let kept = |budget: f64| format!(", budget {budget}: {}", verdict(ratio <= budget));
            println!(
                "neighbour of one that {what}, on {cpus} CPUs: {name} takes {ratio:.2} times as long (n={ROUNDS}, {low:.2} to {high:.2}){}",
                budget.map_or_else(String::new, kept)
            );
        }
    }
    Ok(())
}

/// Seconds of a command of the host.
fn command_line(home: &Path) -> io::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..COMMANDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drupe"));
        command.arg("ps").env("DRUPE_HOME", home.join("home"));
        times.push(common::time(&mut command)?);
    }
    Ok(median(&mut times))
}
