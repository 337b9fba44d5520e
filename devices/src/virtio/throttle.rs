//! Holds the workers of a device to its limit.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::stop::Stop;
use crate::rate_limit::Limiter;
use crate::sys_io;

/// The longest that a worker waits for its limit before it looks again: the limit
/// may have been changed.
const MAX_WAIT: Duration = Duration::from_millis(200);

/// A device's limit, which its workers share.
pub(super) struct Throttle {
    limiter: Arc<Limiter>,
    /// Held by the worker whose turn it is: else small requests of one could keep
    /// a large one of another waiting for ever.
    turn: Mutex<()>,
}

impl Throttle {
    pub fn new(limiter: Arc<Limiter>) -> Self {
        let turn = Mutex::new(());
        Throttle { limiter, turn }
    }

    /// Waits until a request of so many bytes may pass; false when the stop came
    /// first.
    ///
    /// # Errors
    /// The kernel's, when it cannot wait.
    pub fn wait(&self, bytes: u64, stop: &Stop) -> io::Result<bool> {
        if !self.limiter.is_limited() {
            return Ok(true);
        }
        // Whoever holds it waits for the same stop.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(time) = self.limiter.pass(bytes) {
            sys_io::wait_readable_for([stop.as_raw_fd()], Some(time.min(MAX_WAIT)))?;
            if stop.is_raised() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A request turned out to have moved so many bytes more: the next ones wait
    /// until they are paid.
    pub fn add(&self, bytes: u64) {
        self.limiter.add(bytes);
    }
}
