//! Reading and writing a file past the page cache, one request at a time, timed.

use core::ffi::CStr;

use crate::out::Line;
use crate::sys::{self, Result};

/// The file, below the directory that it starts in.
const FILE: &CStr = c"data/bench";
/// Its bytes.
const SIZE: u64 = 32 << 20;
/// Bytes of a request in sequence, and of one anywhere.
const LARGE: u64 = 1 << 20;
const SMALL: u64 = 4096;

/// Prints, of each, how many requests there were, and the nanoseconds that all
/// took.
pub fn run(budget: u64) -> Result<()> {
    let file = sys::open(FILE, sys::O_DIRECT_CREATE)?;
    let mut memory = sys::Memory::new(LARGE as usize)?;
    let buffer = memory.bytes();
    buffer.fill(0xa5);
    // All of it is there before anything is timed: to allocate is another matter.
    for at in (0..SIZE).step_by(LARGE as usize) {
        whole(sys::write_at(file, buffer, at)?, LARGE)?;
    }
    sys::sync(file)?;
    let in_turn = |n: u64| n * LARGE % SIZE;
    // A permutation of the places: an odd step through a power of two.
    let anywhere = |n: u64| n.wrapping_mul(0x9e37_79b1) % (SIZE / SMALL) * SMALL;
    let result = [
        measure("write-sequential", budget, |n| {
            whole(sys::write_at(file, buffer, in_turn(n))?, LARGE)
        }),
        measure("read-sequential", budget, |n| {
            whole(sys::read_at(file, buffer, in_turn(n))?, LARGE)
        }),
        measure("write-random", budget, |n| {
            whole(
                sys::write_at(file, &buffer[..SMALL as usize], anywhere(n))?,
                SMALL,
            )
        }),
        measure("read-random", budget, |n| {
            whole(
                sys::read_at(file, &mut buffer[..SMALL as usize], anywhere(n))?,
                SMALL,
            )
        }),
        measure("fsync", budget, |n| {
            whole(
                sys::write_at(file, &buffer[..SMALL as usize], anywhere(n))?,
                SMALL,
            )?;
            sys::sync(file)
        }),
    ];
    sys::close(file);
    sys::unlink(FILE);
    result.into_iter().collect()
}

/// Less than all is the end of the disk.
fn whole(done: usize, wanted: u64) -> Result<()> {
    match done as u64 == wanted {
        true => Ok(()),
        false => Err(sys::Errno::ENOSPC),
    }
}

fn measure(name: &str, budget: u64, mut act: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let (mut count, start) = (0, sys::now());
    loop {
        act(count)?;
        count += 1;
        let time = sys::now() - start;
        if time >= budget {
            Line::new().word(name).number(count).number(time).end();
            return Ok(());
        }
    }
}
