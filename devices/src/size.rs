//! Sizes, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes; written as `512M`, `2G`, `1048576`, with the binary
/// suffixes K, M, G, T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As a number.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a size: write it as 512M or 2G");
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[digits.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true if !digits.is_empty() => digits.parse::<u64>().map_err(|_| bad()),
            _ => Err(bad()),
        };
        let too_large = || format!("'{text}' is more than 64 bits can count");
        let bytes = number(whole)?
            .checked_mul(1 << shift)
            .ok_or_else(too_large)?;
        let part = match (digits.contains('.'), fraction.len()) {
            (false, _) => 0,
            // Of bytes that are whole, more digits say nothing.
            (true, 1..=18) => {
                let unit = 10_u128.pow(fraction.len() as u32);
                ((u128::from(number(fraction)?) << shift) / unit) as u64
            }
            _ => return Err(bad()),
        };
        bytes.checked_add(part).map(ByteSize).ok_or_else(too_large)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Size;

        impl Visitor<'_> for Size {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: \"512M\", \"2G\", or a number of bytes")
            }

            fn visit_u64<E>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        d.deserialize_any(Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("2g", 2 << 30),
            ("1GiB", 1 << 30),
            ("3kb", 3 << 10),
            ("1T", 1 << 40),
            ("1.5g", 3 << 29),
            ("0.5k", 512),
            ("0.0000001M", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "M",
            "1.G",
            ".5G",
            "1.+5G",
            "1.2.3M",
            "-1M",
            "12Q",
            "1 2",
            "99999999999G",
            "é",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(3 << 29).to_string(), "1536M");
        assert_eq!(ByteSize(0).to_string(), "0");
    }
}
