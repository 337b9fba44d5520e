//! One block of 512 bytes as a header (POSIX.1-2017 pax, "ustar Interchange
//! Format"; GNU tar manual, "Basic Tar Format").

/// Bytes in a block.
pub const BLOCK: usize = 512;

/// A header.
pub struct Header([u8; BLOCK]);

impl Header {
    pub fn new(block: [u8; BLOCK]) -> Self {
        Header(block)
    }

    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether the sum of all bytes, with that of the field itself as blanks, is
    /// what the field says. Some old programs summed signed bytes.
    pub fn checksum_matches(&self) -> bool {
        let Some(expected) = numeric(&self.0[148..156]) else {
            return false;
        };
        let bytes = || {
            let field = 148..156;
            (0..BLOCK).map(move |i| if field.contains(&i) { b' ' } else { self.0[i] })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
        expected == unsigned || expected == signed
    }

    pub fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if !self.is_posix() {
            // GNU's format has other things there.
            &[]
        } else if &self.0[508..512] == b"tar\0" {
            // star's format: times stand behind a shorter prefix.
            text(&self.0[345..476])
        } else {
            text(&self.0[345..500])
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub fn mode(&self) -> Option<i64> {
        numeric(&self.0[100..108])
    }

    pub fn uid(&self) -> Option<i64> {
        numeric(&self.0[108..116])
    }

    pub fn gid(&self) -> Option<i64> {
        numeric(&self.0[116..124])
    }

    pub fn size(&self) -> Option<i64> {
        numeric(&self.0[124..136])
    }

    pub fn mtime(&self) -> Option<i64> {
        numeric(&self.0[136..148])
    }

    pub fn device_major(&self) -> Option<i64> {
        numeric(&self.0[329..337])
    }

    pub fn device_minor(&self) -> Option<i64> {
        numeric(&self.0[337..345])
    }

    /// GNU's old format of sparse files: four pieces, as offset and length.
    pub fn sparse_map(&self) -> &[u8] {
        &self.0[386..482]
    }

    /// Whether a block with more pieces follows.
    pub fn sparse_map_goes_on(&self) -> bool {
        self.0[482] != 0
    }

    /// The size of a sparse file, holes included.
    pub fn sparse_size(&self) -> Option<i64> {
        numeric(&self.0[483..495])
    }

    fn is_posix(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }
}

/// A number in octal digits, or in GNU's binary form when the first bit is set.
/// An empty field is 0.
pub fn numeric(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        let digits = text(field).trim_ascii();
        if digits.is_empty() {
            return Some(0);
        }
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        return i64::from_str_radix(digits, 8).ok();
    }
    // Two's complement, with the sign in the second bit.
    let start = if first & 0x40 == 0 {
        i64::from(first & 0x3f)
    } else {
        i64::from(*first as i8)
    };
    rest.iter().try_fold(start, |value, byte| {
        value.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(numeric(b"0000644\0"), Some(0o644));
        assert_eq!(numeric(b"   644 \0"), Some(0o644));
        assert_eq!(numeric(b"\0\0\0\0"), Some(0));
        assert_eq!(numeric(b"00000008"), None);
        assert_eq!(numeric(b"-1\0"), None);
        assert_eq!(numeric(b"+1\0"), None);
        assert_eq!(numeric(&[0x80, 0, 0, 0, 1, 0, 0, 0]), Some(1 << 24));
        assert_eq!(numeric(&[0xff; 12]), Some(-1));
        assert_eq!(numeric(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
        // Does not fit.
        assert_eq!(numeric(&[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
