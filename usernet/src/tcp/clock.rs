//! The library's time, which is counted from the stack's beginning.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn new(now: Instant) -> Self {
        Clock(now)
    }

    pub fn at(&self, time: Instant) -> smoltcp::time::Instant {
        // One, since zero means "at once" to the library.
        let since = time.saturating_duration_since(self.0).as_micros() + 1;
        smoltcp::time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }

    pub fn from(&self, time: smoltcp::time::Instant) -> Instant {
        let since = u64::try_from(time.total_micros()).unwrap_or(0);
        self.0 + Duration::from_micros(since)
    }
}
