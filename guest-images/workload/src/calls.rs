//! What a kernel does for a process, timed: each for about the same time, with as
//! many repetitions as fit.

use core::ffi::CStr;

use crate::out::Line;
use crate::sys::{self, Result};

/// The program itself.
const SELF: &CStr = c"/proc/self/exe";
/// A file of a kilobyte in the directory that it starts in.
const SMALL: &CStr = c"small";
/// Bytes of a page.
const PAGE: usize = 4096;
/// Pages that are touched in one go.
const PAGES: usize = 256;

/// Prints, of each, how often it was done and the nanoseconds that all took.
pub fn run(budget: u64) -> Result<()> {
    measure("getpid", budget, 1000, || {
        sys::getpid();
        Ok(())
    })?;
    let mut buffer = [0; 1024];
    measure("read", budget, 20, || {
        let file = sys::open(SMALL, sys::O_RDONLY)?;
        let read = sys::read(file, &mut buffer);
        sys::close(file);
        read.map(drop)
    })?;
    measure("exec", budget, 1, || {
        if sys::fork()? == 0 {
            sys::exec(SELF, &[SELF, c"true"]);
            sys::exit(127);
        }
        match sys::wait()? {
            0 => Ok(()),
            _ => Err(sys::Errno::ENOEXEC),
        }
    })?;
    switch(budget)?;
    faults(budget)
}

/// Does it until the budget, in nanoseconds, is used up; looks at the clock after
/// each batch.
pub fn measure(
    name: &str,
    budget: u64,
    batch: u64,
    mut act: impl FnMut() -> Result<()>,
) -> Result<()> {
    // Once for what happens the first time only.
    act()?;
    let (mut count, start) = (0, sys::now());
    loop {
        for _ in 0..batch {
            act()?;
        }
        count += batch;
        let time = sys::now() - start;
        if time >= budget {
            Line::new().word(name).number(count).number(time).end();
            return Ok(());
        }
    }
}

/// A byte to another process and back, both on one processor: two switches.
fn switch(budget: u64) -> Result<()> {
    sys::stay_on_one_cpu()?;
    let (there, back) = (sys::pipe()?, sys::pipe()?);
    if sys::fork()? == 0 {
        // Without its end, it would wait for itself when the other has gone.
        sys::close(there.write);
        let mut byte = [0];
        while sys::read(there.read, &mut byte) == Ok(1) {
            let _ = sys::write(back.write, &byte);
        }
        sys::exit(0);
    }
    sys::close(there.read);
    let mut byte = [0];
    let result = measure("switch", budget, 20, || {
        sys::write(there.write, &[1])?;
        sys::read(back.read, &mut byte).map(drop)
    });
    sys::close(there.write);
    sys::close(back.read);
    sys::close(back.write);
    sys::wait()?;
    result
}

/// Memory that is touched for the first time, page by page.
fn faults(budget: u64) -> Result<()> {
    let (mut count, mut time) = (0, 0);
    while time < budget {
        let mut memory = sys::Memory::new(PAGES * PAGE)?;
        let bytes = memory.bytes();
        let start = sys::now();
        for at in (0..bytes.len()).step_by(PAGE) {
            bytes[at] = core::hint::black_box(1);
        }
        time += sys::now() - start;
        count += PAGES as u64;
    }
    Line::new().word("fault").number(count).number(time).end();
    Ok(())
}
