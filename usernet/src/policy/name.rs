//! DNS names, as rules and queries have them.

use std::fmt;
use std::str::FromStr;

/// The longest name in text form (RFC 1035 §2.3.4: 255 octets on the wire).
const MAX_NAME: usize = 253;
/// The longest label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// A DNS name in lower case, without the final dot. The root is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Makes a name of its labels. Bytes that no host name has become `?`, which
    /// no rule can contain: such a name matches wildcards above it at most.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut text = String::new();
        for label in labels {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|&byte| match byte {
                b if is_label_byte(b) => char::from(b.to_ascii_lowercase()),
                _ => '?',
            }));
        }
        Name(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `name.example`, that name alone; or `*.name.example`, all names below it at
/// any depth, without itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamePattern {
    name: String,
    below: bool,
}

impl NamePattern {
    /// True when the pattern is about this name.
    pub fn matches(&self, name: &Name) -> bool {
        if !self.below {
            return name.0 == self.name;
        }
        name.0
            .strip_suffix(&self.name)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl FromStr for NamePattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || name.len() > MAX_NAME {
            return Err("is not a DNS name");
        }
        for label in name.split('.') {
            if label.contains('*') {
                return Err(
                    "has a wildcard that is not the whole first label: write '*.example.org'",
                );
            }
            if label.is_empty() || label.len() > MAX_LABEL || !label.bytes().all(is_label_byte) {
                return Err("is not a DNS name");
            }
        }
        Ok(NamePattern {
            name: name.to_ascii_lowercase(),
            below,
        })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.below { "*." } else { "" };
        write!(f, "{prefix}{}", self.name)
    }
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}
