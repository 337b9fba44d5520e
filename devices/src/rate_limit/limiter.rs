//! A device's limit on bytes and operations, which may be changed while it works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Bucket, Limit};

/// What is left to a device at a moment: to be saved with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimiterState {
    /// Of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bucket>,
    /// Of operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Bucket>,
}

impl LimiterState {
    /// Full buckets for these limits.
    pub fn new(bytes: Option<Limit>, operations: Option<Limit>) -> Self {
        LimiterState {
            bytes: bytes.map(Bucket::new),
            operations: operations.map(Bucket::new),
        }
    }
}

/// How much a device may do, its queues together. In JSON an object of the same
/// names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IoLimits {
    /// Bytes read, written, or filled with zeroes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bw: Option<Limit>,
    /// Requests of all kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<Limit>,
}

impl IoLimits {
    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == IoLimits::default()
    }

    /// Full buckets.
    pub fn buckets(&self) -> LimiterState {
        LimiterState::new(self.bw, self.iops)
    }
}

/// Two buckets that something has to pass. Any thread may ask and change it.
/// Without a limit, to ask costs one look at a flag.
#[derive(Debug, Default)]
pub struct Limiter {
    limited: AtomicBool,
    state: Mutex<LimiterState>,
}

impl Limiter {
    /// One that goes on with this.
    pub fn new(state: LimiterState) -> Self {
        let limiter = Limiter::default();
        limiter.set(state);
        limiter
    }

    /// From now on this limits it. Whoever waits asks again within the time that
    /// it was told to wait.
    pub fn set(&self, state: LimiterState) {
        let limited = state.bytes.is_some() || state.operations.is_some();
        *self.lock() = state;
        self.limited.store(limited, Ordering::Release);
    }

    /// True when there is a limit.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    /// What is to be saved.
    pub fn state(&self) -> LimiterState {
        self.lock().clone()
    }

    /// Lets one operation of this many bytes pass; or how long it has to wait
    /// before it asks again.
    pub fn pass(&self, bytes: u64) -> Option<Duration> {
        self.ask(bytes, true)
    }

    /// As [`Limiter::pass`] for one whose size nobody knows yet: it is told
    /// afterwards, by [`Limiter::passed`].
    pub fn may_pass(&self) -> Option<Duration> {
        self.ask(1, false)
    }

    /// One operation of this many bytes has passed.
    pub fn passed(&self, bytes: u64) {
        if self.is_limited() {
            take(&mut self.lock(), bytes);
        }
    }

    /// What has passed took so many bytes more than it was counted for.
    pub fn add(&self, bytes: u64) {
        if self.is_limited()
            && let Some(bucket) = &mut self.lock().bytes
        {
            bucket.take(bytes);
        }
    }

    fn ask(&self, bytes: u64, pass: bool) -> Option<Duration> {
        if !self.is_limited() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.lock();
        let wait = |bucket: &mut Option<Bucket>, count| match bucket {
            Some(bucket) => bucket.wait(count, now),
            None => Duration::ZERO,
        };
        let by_bytes = match bytes {
            0 => Duration::ZERO,
            bytes => wait(&mut state.bytes, bytes),
        };
        let longest = by_bytes.max(wait(&mut state.operations, 1));
        if !longest.is_zero() {
            return Some(longest);
        }
        if pass {
            take(&mut state, bytes);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(state: &mut LimiterState, bytes: u64) {
    if let Some(bucket) = &mut state.bytes {
        bucket.take(bytes);
    }
    if let Some(bucket) = &mut state.operations {
        bucket.take(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(bytes: &str, operations: &str) -> Limiter {
        let limit = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Limiter::new(LimiterState::new(limit(bytes), limit(operations)))
    }

    #[test]
    fn both_buckets_have_to_let_it_pass() {
        let limiter = limiter("1000/1h", "2/1h");
        assert_eq!(limiter.pass(600), None);
        // Nothing is taken from one while the other says no.
        assert!(limiter.pass(600).is_some());
        assert_eq!(limiter.pass(400), None);
        // An operation without bytes needs none.
        assert!(limiter.pass(0).is_some());
        assert!(limiter.may_pass().is_some());
        limiter.set(LimiterState::new(None, None));
        assert_eq!(limiter.pass(u64::MAX), None);
    }

    #[test]
    fn what_passed_is_paid_afterwards() {
        let limiter = limiter("10/1h", "");
        assert_eq!(limiter.may_pass(), None);
        limiter.passed(100);
        assert!(limiter.may_pass().unwrap() > Duration::from_secs(8 * 3600));
        let saved = serde_json::to_string(&limiter.state()).unwrap();
        let restored = Limiter::new(serde_json::from_str(&saved).unwrap());
        assert!(restored.may_pass().unwrap() > Duration::from_secs(8 * 3600));
    }
}
