//! Content digests (OCI image specification, "Digests"). SHA-256 alone: no
//! registry hands out others without being asked.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A SHA-256 digest, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// This is no digest.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("'{0}' is not a digest: give sha256: and 64 hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The first 12 digits, as listings show them.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }

    /// The digest of 64 digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .bytes()
            .map(|b| match b {
                b'0'..=b'9' => Some(b - b'0'),
                b'a'..=b'f' => Some(b - b'a' + 10),
                _ => None,
            })
            .collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|d| d[0] << 4 | d.get(1).unwrap_or(&0))
            .collect();
        (digits.len() == 64).then_some(())?;
        bytes.try_into().ok().map(Digest)
    }

    /// The first 16 bytes.
    pub(crate) fn prefix(&self) -> [u8; 16] {
        std::array::from_fn(|i| self.0[i])
    }

    /// The chain ID of a layer of this diff ID upon the layers of chain ID
    /// `below` (OCI image specification, "Layer ChainID").
    pub(crate) fn chain(self, below: Option<Digest>) -> Digest {
        match below {
            Some(below) => Digest::of(format!("{below} {self}").as_bytes()),
            None => self,
        }
    }
}

/// Two digits for each byte. Every path into the store has a digest's, so that a
/// start writes a dozen of them.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    halves
        .map(|half| char::from(DIGITS[usize::from(half)]))
        .collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.strip_prefix("sha256:")
            .and_then(Digest::from_hex)
            .ok_or_else(|| DigestError(text.chars().take(100).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A reader that takes the digest of what passes.
pub struct HashingReader<R> {
    from: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    /// Reads from `from`.
    pub fn new(from: R) -> Self {
        HashingReader {
            from,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// The digest of what was read, and how much that was.
    pub fn finish(self) -> (Digest, u64) {
        (Digest(self.hash.finalize().into()), self.bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_come_back_from_their_text() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(digest.short(), "e3b0c44298fc");
        for bad in [
            &text[1..],
            &text[..70],
            "sha512:00",
            "sha256:",
            &text.to_uppercase(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let mut reader = HashingReader::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish(), (Digest::of(b"abc"), 3));
    }

    #[test]
    fn chains_depend_on_what_is_below() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(a.chain(None), a);
        assert_eq!(b.chain(Some(a)), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
