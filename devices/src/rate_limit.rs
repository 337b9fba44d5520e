//! How much of something may pass in a time: token buckets.
//!
//! A bucket holds as many tokens as may pass at once and is refilled evenly. What
//! passes takes a token for each byte or operation. What is larger than a full
//! bucket passes when the bucket is full, and leaves a debt: the next one waits
//! until that is paid. So over any time no more passes than the size, the
//! burst, what was refilled, and the debt of one request.
//!
//! Time is an argument: nothing here reads a clock, or waits.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::size::ByteSize;

mod limiter;

pub use limiter::{IoLimits, Limiter, LimiterState};

/// The time in which a bucket is filled unless it is said.
const SECOND: Duration = Duration::from_secs(1);
/// The longest time in which a bucket is filled: a day.
const MAX_REFILL_MS: u64 = 24 * 60 * 60 * 1000;
/// The most tokens: no device moves a pebibyte in a time that matters, and sums
/// of them fit 64 bits.
const MAX_TOKENS: u64 = 1 << 50;

/// A limit: `SIZE[/TIME][+BURST]`, as `50M`, `5M/100ms` or `50M+1G`. At most
/// `size` at once, refilled in `refill`, one second unless it is said; and once,
/// when it is new, `burst` more. Sizes have the binary suffixes K, M and G, for
/// operations as for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    size: u64,
    refill_ms: u64,
    burst: u64,
}

impl Limit {
    /// At most `size` in `refill`, at first `burst` more.
    ///
    /// # Errors
    /// Which number is out of bounds.
    pub fn new(size: u64, refill: Duration, burst: u64) -> Result<Self, String> {
        if !(1..=MAX_TOKENS).contains(&size) || burst > MAX_TOKENS {
            let most = ByteSize(MAX_TOKENS);
            return Err(format!("a limit is 1 to {most}, its burst {most} at most"));
        }
        let refill_ms = u64::try_from(refill.as_millis()).unwrap_or(u64::MAX);
        if !(1..=MAX_REFILL_MS).contains(&refill_ms) {
            return Err("the time of a limit is from 1ms to 24h".to_owned());
        }
        Ok(Limit {
            size,
            refill_ms,
            burst,
        })
    }

    fn refill_nanos(&self) -> u128 {
        u128::from(self.refill_ms) * 1_000_000
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("'{text}' is not a limit: write it as 50M, 5M/100ms or 50M+1G (burst)");
        let number = |text: &str| match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => text.parse::<ByteSize>().map_err(|_| bad()),
            false => Err(bad()),
        };
        let (rate, burst) = match text.split_once('+') {
            Some((rate, burst)) => (rate, number(burst)?.bytes()),
            None => (text, 0),
        };
        let (size, refill) = match rate.split_once('/') {
            Some((size, time)) => (size, duration(time).ok_or_else(bad)?),
            None => (rate, SECOND),
        };
        Limit::new(number(size)?.bytes(), refill, burst)
    }
}

/// `100ms`, `1s`, or `s` and `ms` for one of them.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Duration::from_millis(1),
        "s" => SECOND,
        "m" | "min" => 60 * SECOND,
        "h" => 3600 * SECOND,
        _ => return None,
    };
    let count = match digits {
        "" => 1,
        digits => digits.parse::<u32>().ok()?,
    };
    unit.checked_mul(count)
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ByteSize(self.size))?;
        match self.refill_ms {
            1000 => {}
            ms if ms.is_multiple_of(1000) => write!(f, "/{}s", ms / 1000)?,
            ms => write!(f, "/{ms}ms")?,
        }
        match self.burst {
            0 => Ok(()),
            burst => write!(f, "+{}", ByteSize(burst)),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = Limit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit: \"50M\", \"5M/100ms\", \"50M+1G\", or a number in a second")
            }

            fn visit_u64<E: serde::de::Error>(self, size: u64) -> Result<Limit, E> {
                Limit::new(size, SECOND, 0).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Limit, E> {
                text.parse().map_err(E::custom)
            }
        }

        d.deserialize_any(Text)
    }
}

/// A token bucket. Saved and restored, it goes on with what it held then: the
/// time between does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bucket {
    limit: Limit,
    /// Tokens that it holds; less than none is a debt.
    level: i64,
    /// What is left of the burst.
    burst: u64,
    /// Up to when it has been refilled.
    #[serde(skip)]
    filled: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub fn new(limit: Limit) -> Self {
        Bucket {
            limit,
            level: tokens(limit.size),
            burst: limit.burst,
            filled: None,
        }
    }

    /// How long `count` tokens have to wait from `now` on; no time when they may
    /// pass.
    pub fn wait(&mut self, count: u64, now: Instant) -> Duration {
        self.refill(now);
        let wanted = tokens(count.min(self.limit.size));
        let missing = wanted - self.level - tokens(self.burst);
        let Ok(missing @ 1..) = u128::try_from(missing) else {
            return Duration::ZERO;
        };
        let nanos = (missing * self.limit.refill_nanos()).div_ceil(self.limit.size.into());
        let since = self.filled.map_or(Duration::ZERO, |at| now - at);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos).saturating_sub(since)
    }

    /// Takes `count` tokens, whether they are there or not.
    pub fn take(&mut self, count: u64) {
        let by_burst = count.min(self.burst);
        self.burst -= by_burst;
        let debt_limit = -tokens(MAX_TOKENS);
        let level = self.level.saturating_sub(tokens(count - by_burst));
        self.level = level.max(debt_limit);
    }

    fn refill(&mut self, now: Instant) {
        let since = *self.filled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since).as_nanos();
        let size = u128::from(self.limit.size);
        let gained = elapsed * size / self.limit.refill_nanos();
        let room = tokens(self.limit.size) - self.level;
        match i64::try_from(gained) {
            Ok(gained) if gained < room => {
                self.level += gained;
                // What is left of the time counts the next time.
                let used = (u128::try_from(gained).unwrap_or(0) * self.limit.refill_nanos())
                    .div_ceil(size);
                let used = Duration::from_nanos(u64::try_from(used).unwrap_or(u64::MAX));
                self.filled = since.checked_add(used);
            }
            _ => {
                self.level = tokens(self.limit.size);
                self.filled = Some(now);
            }
        }
    }
}

/// A number of tokens where there may be debts; see [`MAX_TOKENS`].
fn tokens(count: u64) -> i64 {
    i64::try_from(count.min(MAX_TOKENS)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limit(text: &str) -> Limit {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        for (text, size, ms, burst) in [
            ("50M", 50 << 20, 1000, 0),
            ("1000", 1000, 1000, 0),
            ("5M/100ms", 5 << 20, 100, 0),
            ("10/s", 10, 1000, 0),
            ("10/2s+1G", 10, 2000, 1 << 30),
            ("1k+7", 1024, 1000, 7),
        ] {
            let limit = limit(text);
            assert_eq!(
                (limit.size, limit.refill_ms, limit.burst),
                (size, ms, burst)
            );
            let json = serde_json::to_string(&limit).unwrap();
            assert_eq!(serde_json::from_str::<Limit>(&json).unwrap(), limit);
        }
        assert_eq!(limit("5242880/100ms+1024").to_string(), "5M/100ms+1K");
        assert_eq!(serde_json::from_str::<Limit>("42").unwrap(), limit("42"));
        for text in [
            "", "M", "0", "-1", "+1", "1/", "1/0s", "1/5", "1/5x", "1+", "1+-1", "1/25h", "é",
            "2000T", "1/é",
        ] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Limit>("0").is_err());
        assert!(serde_json::from_str::<Limit>("1.5").is_err());
    }

    #[test]
    fn a_bucket_fills_evenly_up_to_its_size() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit("1000"));
        assert_eq!(bucket.wait(1000, start), Duration::ZERO);
        bucket.take(1000);
        assert_eq!(bucket.wait(1, start), MS);
        assert_eq!(bucket.wait(100, start), 100 * MS);
        // Half a token stays half a token.
        let at = start + Duration::from_micros(1500);
        assert_eq!(bucket.wait(2, at), Duration::from_micros(500));
        assert_eq!(bucket.wait(2, start + 2 * MS), Duration::ZERO);
        // However long it rests, it holds no more.
        let at = start + 3600 * SECOND;
        assert_eq!(bucket.wait(1000, at), Duration::ZERO);
        bucket.take(1000);
        assert_eq!(bucket.wait(1000, at), SECOND);
        // A clock that goes back gives nothing.
        assert!(bucket.wait(1, start) > Duration::ZERO);
    }

    #[test]
    fn a_burst_is_there_once() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit("10+100"));
        for _ in 0..11 {
            assert_eq!(bucket.wait(10, start), Duration::ZERO);
            bucket.take(10);
        }
        assert_eq!(bucket.wait(10, start), SECOND);
        let later = start + 100 * SECOND;
        assert_eq!(bucket.wait(10, later), Duration::ZERO);
        bucket.take(10);
        assert_eq!(bucket.wait(1, later), 100 * MS);
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_and_is_paid_afterwards() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit("100"));
        assert_eq!(bucket.wait(1000, start), Duration::ZERO);
        bucket.take(1000);
        // 900 of debt, and one.
        assert_eq!(bucket.wait(1, start), 9 * SECOND + 10 * MS);
        // A large one waits until the bucket is full.
        assert_eq!(bucket.wait(u64::MAX, start), 10 * SECOND);
        bucket.take(u64::MAX);
        bucket.take(u64::MAX);
        assert!(bucket.wait(1, start) > 3600 * SECOND);
    }

    #[test]
    fn never_more_passes_than_was_there_and_refilled() {
        let start = Instant::now();
        for (text, most) in [("1000", 1000), ("7/3ms", 7), ("999+500", 1499), ("3/s", 3)] {
            let limit = limit(text);
            let mut bucket = Bucket::new(limit);
            let (mut passed, mut now) = (0u64, start);
            // Requests of many sizes, as soon as they may.
            for n in 0..5000u64 {
                let count = 1 + n * 7919 % limit.size;
                now += bucket.wait(count, now);
                assert_eq!(bucket.wait(count, now), Duration::ZERO);
                bucket.take(count);
                passed += count;
                let nanos = (now - start).as_nanos() * u128::from(limit.size);
                let refilled = nanos / limit.refill_nanos();
                assert!(
                    u128::from(passed) <= most + refilled,
                    "{text}: {passed} > {most} + {refilled}"
                );
            }
            // Nor much less.
            let refilled = (now - start).as_nanos() * u128::from(limit.size) / limit.refill_nanos();
            assert!(u128::from(passed) + u128::from(limit.size) > refilled);
        }
    }

    #[test]
    fn a_saved_bucket_goes_on_where_it_was() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit("100"));
        bucket.wait(100, start);
        bucket.take(150);
        let text = serde_json::to_string(&bucket).unwrap();
        let mut restored: Bucket = serde_json::from_str(&text).unwrap();
        let later = start + 3600 * SECOND;
        assert_eq!(restored.wait(50, later), SECOND);
        assert_eq!(restored.wait(50, later + SECOND), Duration::ZERO);
    }
}
