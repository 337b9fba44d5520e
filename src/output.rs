//! What drupe prints, safe for a terminal and for a pipe that closes early.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};

use crate::{logging, terminal};

/// Prints `text` on standard output. A reader that has gone away is no error: it is
/// false then, so that who would go on printing ends.
///
/// # Errors
/// Any other failure to write, as on a full disk.
pub fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

/// Prints an error on standard error: one line, and with `verbose` its causes,
/// which may be of several lines.
pub fn print_error(error: &(dyn Error + 'static), verbose: bool) {
    let end = terminal::line_end();
    let mut text = format!("drupe: {}{end}", message(&error.to_string()));
    let mut cause = error.source().filter(|_| verbose);
    while let Some(error) = cause {
        for line in error.to_string().lines() {
            let _ = write!(text, "drupe:   because: {}{end}", message(line));
        }
        cause = error.source();
    }
    logging::write(&text);
}

/// Prints a line that goes before an error, of somebody else's words.
pub fn print_note(text: &str) {
    let end = terminal::line_end();
    logging::write(&format!("drupe: | {}{end}", one_line(text)));
}

/// The most characters of a message: room for two of the longest paths. What made it
/// may be a guest's, and longer.
const MAX_MESSAGE: usize = 8192;

/// A message as one line of bounded length, safe for a terminal.
pub fn message(text: &str) -> String {
    let mut line = one_line(&without_numbers(text));
    if let Some((end, _)) = line.char_indices().nth(MAX_MESSAGE) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// `text` without the numbers that follow the host's errors: "(os error 2)" says
/// nothing that "No such file or directory" has not.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, after)) if number.parse::<u32>().is_ok() => rest.push_str(after),
            _ => {
                rest.push_str(" (os error ");
                rest.push_str(part);
            }
        }
    }
    rest
}

/// `text` with every control character escaped, and those that turn text round: it came from a file name, a
/// config file or a guest, and must neither break the line nor the terminal.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        if c.is_control() || turns_text(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// JSON with the characters escaped in it that a terminal acts upon: its own
/// escapes leave those above ASCII as they are.
pub fn json_for_terminal(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => safe.push(c),
            c if c.is_control() || turns_text(c) => {
                // All of them stand in strings, and fit into four digits.
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// Characters that make a terminal show others in another order, or on another
/// line: what is printed would not be what is read.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_host_have_no_numbers() {
        let error = io::Error::from_raw_os_error(2);
        let text = message(&format!("a: {error}; b: {error}: see c"));
        let words = "No such file or directory";
        assert_eq!(text, format!("a: {words}; b: {words}: see c"));
        let other = "x (os error five) (os error 5";
        assert_eq!(message(other), other);
    }

    #[test]
    fn nothing_breaks_the_line() {
        assert_eq!(one_line("a\nb\r\x07é\n"), "a\\nb\\r\\u{7}é");
        assert_eq!(one_line("\u{9b}2J"), "\\u{9b}2J");
        assert_eq!(one_line("a\u{202e}b"), "a\\u{202e}b");
        let json = serde_json::to_string_pretty(&["\u{9b}2J\u{7f}\u{202e}é\n"]).unwrap();
        let safe = json_for_terminal(&json);
        assert_eq!(safe, "[\n  \"\\u009b2J\\u007f\\u202eé\\n\"\n]");
        let again: [String; 1] = serde_json::from_str(&safe).unwrap();
        assert_eq!(again, ["\u{9b}2J\u{7f}\u{202e}é\n"]);
        let long = message(&"\u{7}".repeat(100_000));
        assert_eq!(long.chars().count(), MAX_MESSAGE + 1);
        assert!(long.starts_with("\\u{7}"));
    }
}
