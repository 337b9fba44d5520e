//! The keys that leave a sandbox without ending it.

use std::str::FromStr;

/// The most keys in a sequence.
const MAX_KEYS: usize = 16;

/// A sequence of keys; none leaves never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// Ctrl-P and Ctrl-Q, as Docker has it.
    fn default() -> Self {
        DetachKeys(vec![0x10, 0x11])
    }
}

/// Keys with commas between them: a character, or `ctrl-` and one of `a` to `z`,
/// `@`, `[`, `\`, `]`, `^`, `_`.
impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(DetachKeys(Vec::new()));
        }
        let bad = |key: &str| format!("'{key}' is no key: write keys as ctrl-p,ctrl-q");
        let keys = text.split(',').map(|key| {
            let control = key.get(..5).filter(|p| p.eq_ignore_ascii_case("ctrl-"));
            match (control, key.as_bytes()) {
                (Some(_), [.., byte]) if key.len() == 6 => match byte.to_ascii_uppercase() {
                    code @ b'@'..=b'_' => Ok(code & 0x1f),
                    _ => Err(bad(key)),
                },
                (None, [byte]) => Ok(*byte),
                _ => Err(bad(key)),
            }
        });
        let keys: Vec<u8> = keys.collect::<Result<_, _>>()?;
        match keys.len() > MAX_KEYS {
            true => Err(format!("{} keys are more than {MAX_KEYS}", keys.len())),
            false => Ok(DetachKeys(keys)),
        }
    }
}

/// Finds the keys in what is typed.
#[derive(Debug)]
pub struct DetachFilter {
    keys: Vec<u8>,
    /// What was typed and may be their beginning.
    held: Vec<u8>,
}

impl DetachFilter {
    /// A filter for these keys.
    pub fn new(keys: DetachKeys) -> Self {
        DetachFilter {
            keys: keys.0,
            held: Vec::new(),
        }
    }

    /// Appends to `guest` what of `input` is for the guest. True when all keys
    /// have been typed; the rest of the input is dropped then.
    pub fn filter(&mut self, input: &[u8], guest: &mut Vec<u8>) -> bool {
        for byte in input {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                guest.push(self.held.remove(0));
            }
            if !self.keys.is_empty() && self.held == self.keys {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, inputs: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut filter = DetachFilter::new(keys.parse().unwrap());
        let mut guest = Vec::new();
        let left = inputs.iter().any(|input| filter.filter(input, &mut guest));
        (guest, left)
    }

    #[test]
    fn keys_are_written_as_docker_has_them() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert_eq!("ctrl-@,ctrl-[,a".parse(), Ok(DetachKeys(vec![0, 27, b'a'])));
        for text in [
            "ctrl-",
            "ctrl-1",
            "ab",
            "a,",
            "ctrl-é",
            "é",
            &"a,".repeat(20),
        ] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_keys_leave_and_everything_else_passes() {
        let default = "ctrl-p,ctrl-q";
        assert_eq!(
            typed(default, &[b"ls\r\x10\x11rest"]),
            (b"ls\r".to_vec(), true)
        );
        assert_eq!(typed(default, &[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(typed(default, &[b"\x10b"]), (b"\x10b".to_vec(), false));
        assert_eq!(typed(default, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(default, &[b"\x11\x10"]), (b"\x11".to_vec(), false));
        assert_eq!(typed("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }
}
