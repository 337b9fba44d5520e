//! PAX extended headers (POSIX.1-2017 pax, "pax Extended Header"), with the
//! keywords of star, libarchive and GNU tar that matter to a file system.

use base64::Engine;

use super::sparse::Segment;
use super::{TarError, Timestamp};

/// The most extended attributes of one entry.
const MAX_XATTRS: usize = 256;

/// What extended headers said about the entry that follows.
#[derive(Default)]
pub struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: SparseRecords,
}

/// GNU tar's records about a sparse file.
#[derive(Default)]
pub struct SparseRecords {
    /// Format 1.0: the map stands before the data.
    pub major: Option<u64>,
    pub minor: Option<u64>,
    /// The file's size with its holes.
    pub size: Option<u64>,
    /// Formats 0.0 and 0.1.
    pub map: Option<Vec<Segment>>,
    /// Format 0.0: an offset that waits for its length.
    offset: Option<u64>,
}

impl Extensions {
    /// Adds the records of one extended header.
    pub fn add_pax(&mut self, mut data: &[u8]) -> Result<(), TarError> {
        while !data.is_empty() && data != b"\0" {
            let (key, value, rest) = record(data)
                .ok_or_else(|| TarError::malformed(key_hint(data), "a damaged PAX header"))?;
            self.set(key, value)
                .ok_or_else(|| TarError::malformed(key, "a bad value in a PAX header"))?;
            data = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // Values are binary: an attribute may hold any byte.
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.set_xattr(name.to_vec(), value.to_vec());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            // Some write both forms; the other one needs no decoding.
            let name = percent_decoded(name)?;
            let coded: Vec<u8> = value
                .iter()
                .copied()
                .filter(|b| !b"=\r\n".contains(b))
                .collect();
            let value = base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(coded)
                .ok()?;
            return self.set_xattr(name, value);
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.set_sparse(key, value);
        }
        // No value takes an earlier one back; what the header says counts.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" if given => self.size = Some(decimal(value)?),
            b"uid" if given => self.uid = Some(decimal(value)?.try_into().ok()?),
            b"gid" if given => self.gid = Some(decimal(value)?.try_into().ok()?),
            b"mtime" if given => self.mtime = Some(timestamp(value)?),
            _ => {}
        }
        Some(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Option<()> {
        match self.xattrs.iter_mut().find(|(n, _)| *n == name) {
            Some(xattr) => xattr.1 = value,
            None => self.xattrs.push((name, value)),
        }
        (self.xattrs.len() <= MAX_XATTRS).then_some(())
    }

    fn set_sparse(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let sparse = &mut self.sparse;
        match key {
            b"major" => sparse.major = Some(decimal(value)?),
            b"minor" => sparse.minor = Some(decimal(value)?),
            b"size" | b"realsize" => sparse.size = Some(decimal(value)?),
            b"name" => self.path = Some(value.to_vec()),
            b"numblocks" => sparse.map = Some(Vec::new()),
            b"offset" => sparse.offset = Some(decimal(value)?),
            b"numbytes" => {
                let (offset, len) = (sparse.offset.take()?, decimal(value)?);
                sparse
                    .map
                    .get_or_insert_default()
                    .push(Segment { offset, len });
            }
            b"map" => {
                let mut map = Vec::new();
                let mut numbers = value.split(|b| *b == b',').filter(|n| !n.is_empty());
                while let Some(offset) = numbers.next() {
                    map.push(Segment {
                        offset: decimal(offset)?,
                        len: decimal(numbers.next()?)?,
                    });
                }
                sparse.map = Some(map);
            }
            _ => {}
        }
        Some(())
    }
}

/// The first record of `data`, and what is behind it: `LENGTH KEY=VALUE\n`,
/// where the length counts the whole record.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = data.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&data[..blank])?).ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// Some of the data for a message.
fn key_hint(data: &[u8]) -> &[u8] {
    &data[..data.len().min(40)]
}

pub fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `1234.56789`, before 1970 with a minus.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..dot])?).ok()?;
    let mut nanoseconds = 0;
    let mut unit = 100_000_000;
    for digit in text.iter().skip(dot + 1) {
        if !digit.is_ascii_digit() {
            return None;
        }
        nanoseconds += u32::from(digit - b'0') * unit;
        unit /= 10;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'%' {
            let (digits, behind) = behind.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind;
        } else {
            out.push(*first);
            rest = behind;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(data: &[u8]) -> Option<Extensions> {
        let mut extensions = Extensions::default();
        extensions.add_pax(data).ok().map(|()| extensions)
    }

    #[test]
    fn values_may_hold_any_byte() {
        let mut data = b"12 path=a/b\n".to_vec();
        let value = b"\x01\0\0\x02\n\n= \xff";
        let body = [b" SCHILY.xattr.security.capability=", &value[..], b"\n"].concat();
        data.extend((body.len() + 2).to_string().bytes());
        data.extend(body);
        let extensions = parse(&data).unwrap();
        assert_eq!(extensions.path.unwrap(), b"a/b");
        let xattr = (b"security.capability".to_vec(), value.to_vec());
        assert_eq!(extensions.xattrs, [xattr]);
    }

    #[test]
    fn libarchives_form_is_decoded() {
        let e = parse(b"38 LIBARCHIVE.xattr.user.a%3Db=aGkAAQ\n").unwrap();
        assert_eq!(e.xattrs, [(b"user.a=b".to_vec(), b"hi\0\x01".to_vec())]);
    }

    #[test]
    fn attributes_have_an_end() {
        let data = |n| -> Vec<u8> {
            let records = (0..n).map(|i| format!("27 SCHILY.xattr.user.{i:04}=\n"));
            records.collect::<String>().into_bytes()
        };
        assert_eq!(parse(&data(256)).unwrap().xattrs.len(), 256);
        assert!(parse(&data(257)).is_none());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [
            &b"x"[..],
            b"99 path=a\n",
            b"11 path=a/b",
            b"0 path=a\n",
            b"3 a\n",
            b"18446744073709551615 path=a\n",
            b"10 size=-1\n",
            b"16 uid=4294967296\n",
        ] {
            assert!(parse(bad).is_none(), "{:?}", bad.escape_ascii());
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let time = |text: &str| timestamp(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("1.0000000019"), Some((1, 1)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("1.x"), None);
        assert_eq!(time(""), None);
        assert_eq!(time("-"), None);
    }
}
