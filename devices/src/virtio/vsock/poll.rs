//! The device's own epoll set: one descriptor for the event loop, whatever the
//! number of streams behind it, and one timer for all deadlines.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// Identifies the timer; the callers' own IDs begin above.
pub const TIMER: u64 = 0;

/// Deadlines closer than this are served together: a timer set to zero would
/// not run.
const RESOLUTION: Duration = Duration::from_millis(10);

/// The set and its timer.
pub struct Poller {
    epoll: Epoll,
    timer: TimerFd,
    armed: Option<Instant>,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn new() -> io::Result<Self> {
        let poller = Poller {
            epoll: Epoll::new()?,
            timer: TimerFd::new()?,
            armed: None,
        };
        poller.add(poller.timer.as_raw_fd(), TIMER, EventSet::IN)?;
        Ok(poller)
    }

    /// Watches `fd`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add(&self, fd: RawFd, id: u64, events: EventSet) -> io::Result<()> {
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(events, id))
    }

    /// Watches `fd` for other events. What is ready already is reported again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn modify(&self, fd: RawFd, id: u64, events: EventSet) -> io::Result<()> {
        self.epoll
            .ctl(ControlOperation::Modify, fd, EpollEvent::new(events, id))
    }

    /// Watches `fd` no longer.
    pub fn remove(&self, fd: RawFd) {
        // Fails only for a descriptor that is not watched: then all is well.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// What is ready now, never waiting; how much of `events` was filled.
    pub fn ready(&self, events: &mut [EpollEvent]) -> usize {
        loop {
            match self.epoll.wait(0, events) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result.unwrap_or(0),
            }
        }
    }

    /// Sees to it that the timer is reported at `deadline`, if not before.
    pub fn arm(&mut self, deadline: Instant) {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Fails for no duration in use here; then the next one is tried.
        if self.timer.reset(left.max(RESOLUTION), None).is_ok() {
            self.armed = Some(deadline);
        }
    }

    /// Stops the timer, which also takes its report back.
    pub fn disarm(&mut self) {
        self.armed = None;
        let _ = self.timer.clear();
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}
