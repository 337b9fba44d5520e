//! What confinement costs a request of a guest, all of it: the same guest twice at
//! once, with `--confine=on` and `--confine=off`, measured turn by turn. Of what
//! confinement is, only the system call filters are in the way of a request; so
//! this is the most that they cost. The guests have no operating system, so that it
//! runs on any KVM; each poll of their wait is an exit, so that there are many
//! more calls in a request than Linux makes. Run by `make bench`.

use std::fs;
use std::io;
use std::path::Path;

mod common;
#[path = "common/ping.rs"]
mod ping;

use common::{median, verdict};
use ping::{Request, Running};

/// What it may add.
const BUDGET: f64 = 1.03;
const PAIRS: usize = 31;

fn main() -> io::Result<()> {
    let dir = Path::new("/dev/shm").join(format!("drupe-bench-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = run(&dir);
    fs::remove_dir_all(&dir)?;
    result
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
        let mut figures = [Vec::new(), Vec::new()];
        let mut ratios = Vec::new();
        for pair in 0..=PAIRS {
            let mut times = [0.0; 2];
            // The second of two is in no better place than the first.
            for n in [pair & 1, 1 - (pair & 1)] {
                // One that waits for a key looks for it without end.
                guests[1 - n].pause(true)?;
                times[n] = guests[n].measure(request)?;
                guests[1 - n].pause(false)?;
            }
            // The first fills caches.
            if pair > 0 {
                ratios.push(times[1] / times[0]);
                figures[0].push(times[0]);
                figures[1].push(times[1]);
            }
        }
        let ratio = median(&mut ratios);
        println!(
            "confined: {what}, in a guest: {:.0} ticks without, {:.0} with, ratio {ratio:.3} (n={PAIRS}, {:.3} to {:.3}), budget {BUDGET}: {}",
            median(&mut figures[0]),
            median(&mut figures[1]),
            ratios[PAIRS / 4],
            ratios[PAIRS - 1 - PAIRS / 4],
            verdict(ratio <= BUDGET)
        );
    }
    Ok(())
}
