//! Lines on standard output: words and numbers between blanks.

use crate::sys;

/// The longest line.
const SIZE: usize = 512;

/// A line that is being made. What is too long for it is cut.
pub struct Line {
    text: [u8; SIZE],
    len: usize,
}

impl Line {
    /// An empty one.
    pub fn new() -> Self {
        Line {
            text: [0; SIZE],
            len: 0,
        }
    }

    fn push(mut self, byte: u8) -> Self {
        // The last place is the line's end's.
        if let Some(place) = self.text[..SIZE - 1].get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
        self
    }

    /// Appends a blank, save at the beginning, and a text.
    pub fn word(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// The same with bytes of others, which may neither end the line nor say
    /// anything to a terminal.
    pub fn bytes(mut self, text: &[u8]) -> Self {
        if self.len > 0 {
            self = self.push(b' ');
        }
        for byte in text {
            self = self.push(if byte.is_ascii_graphic() || *byte == b' ' {
                *byte
            } else {
                b'?'
            });
        }
        self
    }

    /// A number in digits.
    pub fn number(self, number: u64) -> Self {
        let (digits, from) = digits(number);
        self.bytes(&digits[from..])
    }

    /// Writes it. Nobody is told when that fails: there is no other way out.
    pub fn end(mut self) {
        self.text[self.len] = b'\n';
        let _ = sys::write(1, &self.text[..=self.len]);
    }
}

/// A number's digits, from this place on.
pub fn digits(mut number: u64) -> ([u8; 20], usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return (digits, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line) -> &str {
        std::str::from_utf8(&line.text[..line.len]).unwrap()
    }

    #[test]
    fn lines_are_words() {
        let line = Line::new().word("a").number(0).number(u64::MAX);
        assert_eq!(text(&line), "a 0 18446744073709551615");
        assert_eq!(text(&Line::new().bytes(b"x\n\x1b[2J\xff")), "x??[2J?");
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let line = Line::new().bytes(&[b'x'; 2 * SIZE]).word("y");
        assert_eq!(text(&line), "x".repeat(SIZE - 1));
    }
}
