//! A limit on messages that a guest can cause, so that it cannot fill a disk or a
//! terminal with them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Messages let through in one interval.
const BURST: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(60);

/// Writes a warning, unless there were many of late.
pub fn warn(message: &str) {
    static STATE: Mutex<Option<(Instant, u32)>> = Mutex::new(None);
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let (since, count) = state.get_or_insert((now, 0));
    if now.saturating_duration_since(*since) >= INTERVAL {
        (*since, *count) = (now, 0);
    }
    *count = count.saturating_add(1);
    if *count <= BURST {
        log::warn!("network: {message}");
    }
}
