//! What confinement costs a request of a guest, all of it: the same guest twice at
//! once, with `--confine=on` and `--confine=off`, measured turn by turn. Of what
//! confinement is, only the system call filters are in the way of a request; so
//! this is the most that they cost. The guests have no operating system, so that it
//! runs on any KVM; each poll of their wait is an exit, so that there are many
//! more calls in a request than Linux makes. Run by `make bench`.

use std::io;
use std::path::Path;

mod common;
#[path = "common/ping.rs"]
mod ping;

use common::{Pairs, verdict};
use ping::{Request, Running};

/// What it may add.
const BUDGET: f64 = 1.03;
const PAIRS: usize = 31;

fn main() -> io::Result<()> {
    common::in_memory(run)
}

fn run(dir: &Path) -> io::Result<()> {
    let start = |confine: &str| {
        let options = ["--net", "user", "--confine", confine];
        Running::start(&dir.join(confine), "ping=101", 0, &options)
    };
    let mut guests = [start("off")?, start("on")?];
    for (what, request) in [
        ("a read of its disk", Request::Disk),
        ("an answer of its network", Request::Net),
    ] {
        let Pairs {
            without,
            with,
            ratio,
            quarters: (low, high),
        } = common::pairs(PAIRS, |confined| {
            let n = usize::from(confined);
            // One that waits for a key looks for it without end.
            guests[1 - n].pause(true)?;
            let time = guests[n].measure(request)?;
            guests[1 - n].pause(false)?;
            Ok(time)
        })?;
        println!(
            "confined: {what}, in a guest: {without:.0} ticks without, {with:.0} with, ratio {ratio:.3} (n={PAIRS}, {low:.3} to {high:.3}), budget {BUDGET}: {}",
            verdict(ratio <= BUDGET)
        );
    }
    Ok(())
}
