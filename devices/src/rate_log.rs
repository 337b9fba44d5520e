//! A limit on messages that a guest can cause, so that it cannot fill a disk or
//! a terminal with them.

use std::collections::BTreeMap;
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

/// How long the same failure is not told again.
const REPEAT: Duration = Duration::from_secs(60);
/// Kinds of failure of one thing: there are not that many error numbers.
const MAX_KINDS: usize = 256;

/// Says whether a failure may be told now: one that is new at once, the same one
/// once a minute. One for each thing that can fail, so that what one says hides
/// nothing of another.
#[derive(Debug, Default)]
pub struct FailureLog(Mutex<BTreeMap<(&'static str, i32), Instant>>);

impl FailureLog {
    /// Whether to tell that `what` failed with this error number.
    pub fn allow(&self, what: &'static str, error: i32) -> bool {
        self.allow_at(what, error, Instant::now())
    }

    fn allow_at(&self, what: &'static str, error: i32, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < REPEAT;
        if told.get(&(what, error)).is_some_and(recent) || told.len() >= MAX_KINDS {
            return false;
        }
        told.insert((what, error), now);
        true
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

    #[test]
    fn a_failure_is_told_once_a_minute_and_a_new_one_at_once() {
        let log = FailureLog::default();
        let start = Instant::now();
        assert!(log.allow_at("write", libc::ENOSPC, start));
        for _ in 0..1000 {
            assert!(!log.allow_at("write", libc::ENOSPC, start));
        }
        assert!(log.allow_at("write", libc::EIO, start));
        assert!(log.allow_at("read", libc::EIO, start));
        assert!(log.allow_at("write", libc::ENOSPC, start + REPEAT));
        assert!(!log.allow_at("write", libc::ENOSPC, start + REPEAT));
    }
}
