//! Tells the workers of a device to end.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Reaches workers awake or asleep: those wait for its descriptor to become
/// readable. Stays raised.
pub(super) struct Stop {
    raised: AtomicBool,
    event: EventFd,
}

impl Stop {
    pub fn new() -> io::Result<Self> {
        Ok(Stop {
            raised: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        // Fails only when the counter is full: it is readable then.
        let _ = self.event.write(1);
    }

    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

impl AsRawFd for Stop {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}
