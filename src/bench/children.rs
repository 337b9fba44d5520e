//! What this process's children use, and their children that outlive them.

use std::fs;
use std::io;
use std::mem;

use rustix::io::Errno;
use rustix::process::WaitOptions;

/// Field of `/proc/PID/stat` (proc(5)), counted from 0 behind the name: guest
/// time of children that were waited for.
const CGUEST_TIME: usize = 44 - 3;
/// The ticks of that file in a second: `USER_HZ`, on every architecture.
const TICKS: f64 = 100.0;

/// What processes that were waited for have used, up to now.
#[derive(Debug, Clone, Copy)]
pub struct Children {
    /// Processor time in ms.
    pub cpu_ms: f64,
    /// That of guests, which is a part of it. In whole ticks: only sums over
    /// many runs mean anything.
    #[allow(dead_code, reason = "the measurements in benches/ use it")]
    pub guest_ms: f64,
}

impl Children {
    /// Makes processes whose parents end this process's children.
    ///
    /// # Errors
    /// The system call's.
    pub fn adopt() -> io::Result<()> {
        let own = rustix::process::getpid();
        Ok(rustix::process::set_child_subreaper(Some(own))?)
    }

    /// Waits until there is no child.
    ///
    /// # Errors
    /// The system call's.
    #[allow(dead_code, reason = "the measurements in benches/ use it")]
    pub fn reap() -> io::Result<()> {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// As of now.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = fields.split_whitespace().nth(CGUEST_TIME);
        let ticks = ticks.and_then(|ticks| ticks.parse::<f64>().ok());
        let usage = usage();
        let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
        Ok(Children {
            cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime),
            guest_ms: ticks.ok_or(io::ErrorKind::InvalidData)? * 1e3 / TICKS,
        })
    }
}

fn usage() -> libc::rusage {
    // SAFETY: all zeroes is a valid `rusage`: it is integers.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live one, which the kernel fills in. It fails
    // for a wrong number or pointer only.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    usage
}
