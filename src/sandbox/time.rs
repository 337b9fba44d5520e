//! Moments, as logs and states hold them and as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment of the host's clock, in nanoseconds since 1970. In text it is as
/// RFC 3339 has it, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(u64);

impl Time {
    /// The present.
    pub fn now() -> Self {
        Self::of(SystemTime::now())
    }

    /// A moment of the system's clock; 1970 for what lies before.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since 1970.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// How long ago that was; nothing for the future.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(Time::now().0.saturating_sub(self.0))
    }

    /// Reads what `--since` and `--until` take: RFC 3339, with or without an
    /// offset; seconds since 1970, with a fraction; or a length of time before
    /// `now`, as `90s` and `1h30m`.
    ///
    /// # Errors
    /// One line that says what would be right.
    pub fn parse_point(text: &str, now: Time) -> Result<Self, String> {
        if let Ok(seconds) = text.parse::<f64>() {
            if seconds >= 0.0 && seconds < u64::MAX as f64 / 1e9 {
                return Ok(Time((seconds * 1e9) as u64));
            }
        } else if let Ok(length) = humantime::parse_duration(text) {
            let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
            return Ok(Time(now.0.saturating_sub(nanos)));
        } else if let Some(time) = parse_rfc3339(text) {
            return Ok(time);
        }
        Err(format!(
            "'{text}' is not a time: write it as 10m, 2026-01-31T12:00:00Z or 1767225600"
        ))
    }
}

fn parse_rfc3339(text: &str) -> Option<Time> {
    let date_only = text.len() == "2026-01-31".len();
    let owned;
    let text = match date_only {
        true => {
            owned = format!("{text}T00:00:00");
            &owned
        }
        false => text,
    };
    // An offset stands behind the time of day: +hh:mm or -hh:mm.
    let split = text.len().checked_sub("+00:00".len()).filter(|&at| {
        at > "2026-01-31T".len()
            && text.is_char_boundary(at)
            && matches!(text.as_bytes()[at], b'+' | b'-')
    });
    let (local, offset) = match split {
        Some(at) => {
            let (hours, minutes) = text[at + 1..].split_once(':')?;
            let seconds = (hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?) * 60;
            let sign = if text.as_bytes()[at] == b'-' { -1 } else { 1 };
            (&text[..at], sign * seconds)
        }
        None => (text, 0),
    };
    let time = Time::of(humantime::parse_rfc3339_weak(local).ok()?);
    let shift = offset.unsigned_abs() * 1_000_000_000;
    Some(Time(match offset < 0 {
        true => time.0.saturating_add(shift),
        false => time.0.saturating_sub(shift),
    }))
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_nanos(self.0);
        humantime::format_rfc3339_nanos(time).fmt(f)
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_rfc3339(text).ok_or_else(|| format!("'{text}' is not a time as RFC 3339 has it"))
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> String {
        time.to_string()
    }
}

/// A length of time as lists show it: `3 minutes`.
pub fn rough(length: Duration) -> String {
    let seconds = length.as_secs();
    let (count, unit) = match seconds {
        0 => return "less than a second".to_owned(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_out_as_they_went_in() {
        let time: Time = "2026-01-31T12:00:00.000000001Z".parse().unwrap();
        assert_eq!(time.nanos(), 1_769_860_800_000_000_001);
        assert_eq!(time.to_string(), "2026-01-31T12:00:00.000000001Z");
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), time);
    }

    #[test]
    fn people_write_times_in_many_ways() {
        let now: Time = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("90s", "2026-01-31T11:58:30Z"),
            ("1h30m", "2026-01-31T10:30:00Z"),
            ("2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T13:00:00.5-01:30", "2026-01-31T14:30:00.5Z"),
            ("2026-01-31T13:00:00", "2026-01-31T13:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("1769860800", "2026-01-31T12:00:00Z"),
        ] {
            let expected: Time = expected.parse().unwrap();
            assert_eq!(Time::parse_point(text, now), Ok(expected), "{text}");
        }
        for text in [
            "",
            "soon",
            "-1",
            "2026-13-01",
            "1e300",
            "ééééééééééééé",
            "NaN",
        ] {
            assert!(Time::parse_point(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_are_rough() {
        for (seconds, text) in [
            (0, "less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 365 * 3, "3 years"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }
}
