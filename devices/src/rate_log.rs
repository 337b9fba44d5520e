//! A limit on messages that a guest can cause, so that it cannot fill a disk or
//! a terminal with them.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Messages let through at once before the limit bites.
const BURST: u32 = 10;
/// After a burst, one message is let through in each of these.
const REFILL: Duration = Duration::from_secs(5);

/// Says whether a message may be written now. One `static` per place that logs.
#[derive(Debug)]
pub struct RateLog(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    left: u32,
    refilled: Option<Instant>,
}

impl RateLog {
    /// A limiter with a full burst.
    pub const fn new() -> Self {
        RateLog(Mutex::new(Inner {
            left: BURST,
            refilled: None,
        }))
    }

    /// True when this message may be written; false when it should be dropped.
    pub fn allow(&self) -> bool {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *inner.refilled.get_or_insert(now);
        let earned = (now.saturating_duration_since(since).as_nanos() / REFILL.as_nanos()) as u32;
        if earned > 0 {
            inner.left = inner.left.saturating_add(earned).min(BURST);
            inner.refilled = Some(now);
        }
        let allowed = inner.left > 0;
        inner.left = inner.left.saturating_sub(1);
        allowed
    }
}

impl Default for RateLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_in_each_interval() {
        let log = RateLog::new();
        let start = Instant::now();
        let passed = (0..1000).filter(|_| log.allow_at(start)).count();
        assert_eq!(passed as u32, BURST);
        assert!(log.allow_at(start + REFILL));
        assert!(!log.allow_at(start + REFILL));
        let later = start + REFILL * 1000;
        assert_eq!(
            (0..100).filter(|_| log.allow_at(later)).count() as u32,
            BURST
        );
    }
}
