//! What a processor does alone: integer arithmetic on a table that fits its
//! first cache. No system call happens while it is timed.

use core::hint::black_box;

use crate::out::Line;
use crate::sys;

/// 16 KiB.
const WORDS: usize = 2048;

/// As many processes, each this many rounds over the table; prints the time until
/// all have ended.
pub fn run(rounds: u64, processes: u64) -> sys::Result<()> {
    let start = sys::now();
    for n in 1..processes {
        if sys::fork()? == 0 {
            compute(rounds, n);
            sys::exit(0);
        }
    }
    compute(rounds, 0);
    for _ in 1..processes {
        sys::wait()?;
    }
    let time = sys::now() - start;
    Line::new()
        .word("cpu")
        .number(rounds * processes)
        .number(time)
        .end();
    Ok(())
}

fn compute(rounds: u64, seed: u64) {
    let mut table = [seed | 1; WORDS];
    let mut sum = seed;
    for round in 0..rounds {
        for word in &mut table {
            let mixed = (*word ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *word = mixed ^ (mixed >> 29);
            sum = sum.rotate_left(5).wrapping_add(*word);
        }
    }
    black_box(sum);
}
