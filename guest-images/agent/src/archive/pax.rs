//! Extended headers of POSIX.1 archives: records of a length, a key and a
//! value.
//!
//! The tar crate's own reader splits at line ends, which values may contain:
//! file capabilities are binary.

/// Extended attributes, in the form of which every tar knows: prefix and name.
pub const XATTR: &str = "SCHILY.xattr.";

/// The records of a header; `None` for what does not parse, once, at its end.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let record = record(bytes);
        bytes = match record {
            Some((_, _, rest)) => rest,
            None => &[],
        };
        Some(record.map(|(key, value, _)| (key, value)))
    })
}

/// Key, value, and what follows the record.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let (whole, rest) = bytes.split_at_checked(length)?;
    let pair = whole.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_may_be_binary() {
        let bytes = b"12 path=abc\n12 x=\n=\0\n\x0a\xff\n7 y=z\xee\n5 q=\n";
        let all: Vec<_> = records(bytes).collect();
        assert_eq!(all[0], Some((&b"path"[..], &b"abc"[..])));
        assert_eq!(
            all[1],
            Some((&b"x"[..], &b"\n=\0\n\x0a\xff"[..]).to_owned())
        );
        assert_eq!(all[2], Some((&b"y"[..], &b"z\xee"[..])));
        assert_eq!(all[3], Some((&b"q"[..], &b""[..])));
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn what_does_not_parse_ends_it() {
        for bad in [
            &b"x"[..],
            b"99 a=b\n",
            b"0 a=b\n",
            b"2 a=b\n",
            b"5 a=b\n",
            b"6 a-b\n",
            b"-1 a=b\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert_eq!(records(bad).last(), Some(None), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            prop_assert!(records(&bytes).count() <= bytes.len());
        }
    }
}
