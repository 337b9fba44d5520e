//! What names a sandbox for good: 64 hexadecimal digits.

use std::fmt::{self, Write as _};
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits of an identifier.
pub const LEN: usize = 64;
/// Digits that people are shown.
pub const SHORT: usize = 12;

/// An identifier of a sandbox or of a volume without a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel has no random bytes.
    pub fn random() -> io::Result<Self> {
        let bytes: [u8; LEN / 2] = random_bytes()?;
        Ok(bytes.iter().fold(Id(String::new()), |mut id, byte| {
            // Writing to a string cannot fail.
            let _ = write!(id.0, "{byte:02x}");
            id
        }))
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As people are shown it.
    pub fn short(&self) -> &str {
        &self.0[..SHORT]
    }

    /// True for text that could begin an identifier.
    pub fn is_prefix(text: &str) -> bool {
        (1..=LEN).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
/// When the kernel has none.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
    }
    Ok(bytes)
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.len() == LEN && Id::is_prefix(text) {
            true => Ok(Id(text.to_owned())),
            false => Err("not 64 hexadecimal digits"),
        }
    }
}

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_hex_and_differ() {
        let (a, b) = (Id::random().unwrap(), Id::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<Id>().unwrap(), a);
        assert_eq!(a.short().len(), SHORT);
        for text in ["", "A", "g", "-", &"a".repeat(65)] {
            assert!(!Id::is_prefix(text), "{text}");
        }
        assert!("ab".parse::<Id>().is_err() && Id::is_prefix("ab"));
        assert!(serde_json::from_str::<Id>("\"../../x\"").is_err());
    }
}
