//! `drupe logs`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::cli::CliError;
use crate::cli::sandbox::LogsArgs;
use crate::commands::Failure;
use crate::exit::Exit;
use crate::sandbox::files;
use crate::sandbox::log::{Piece, Reader, Stream};
use crate::sandbox::monitor;
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::time::Time;

/// How often a log that is followed is looked at.
const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, Error)]
#[error("the log of {name}: {source}")]
struct LogError {
    name: String,
    source: io::Error,
}

/// Prints what a sandbox wrote, each stream where it belongs.
///
/// # Errors
/// When there is no such sandbox or log.
pub fn run(args: &LogsArgs) -> Result<Exit, Failure> {
    let now = Time::now();
    let point = |text: &Option<String>, flag: &str| {
        let parsed = text.as_deref().map(|text| Time::parse_point(text, now));
        parsed
            .transpose()
            .map_err(|e| CliError::Usage(format!("{flag}: {e}")))
    };
    let (since, until) = (
        point(&args.since, "--since")?,
        point(&args.until, "--until")?,
    );
    let sandbox = Store::open()?.find(&args.sandbox)?;
    let printed = match args.console {
        true => console(&sandbox),
        false => log(args, &sandbox, since, until),
    };
    match printed {
        // Whoever read it has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(source) => Err(Failure::runtime(LogError {
            name: sandbox.label(),
            source,
        })),
        Ok(()) => Ok(Exit::Success),
    }
}

fn console(sandbox: &Sandbox) -> io::Result<()> {
    let text = match files::read(&sandbox.path(monitor::CONSOLE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        text => text?,
    };
    io::stdout().write_all(&text)
}

fn log(
    args: &LogsArgs,
    sandbox: &Sandbox,
    since: Option<Time>,
    until: Option<Time>,
) -> io::Result<()> {
    let mut reader = Reader::open(sandbox.dir())?;
    let mut lines = Lines::new(args.timestamps, args.tail.0);
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let wanted = |piece: &Piece| since.is_none_or(|since| piece.time >= since);
    let over = |piece: &Piece| until.is_some_and(|until| piece.time > until);
    loop {
        // Before it is read: what is written until the end is then there.
        let ended = !args.follow || !sandbox.has_monitor().unwrap_or(false);
        while let Some(piece) = reader.next()? {
            if over(&piece) {
                return lines.finish(&mut out, &mut err);
            }
            if wanted(&piece) {
                lines.add(piece, &mut out, &mut err)?;
            }
        }
        let passed = until.is_some_and(|until| Time::now() > until);
        if ended || passed {
            return lines.finish(&mut out, &mut err);
        }
        // From here on everything is new.
        lines.release(&mut out, &mut err)?;
        out.flush()?;
        thread::sleep(TICK);
    }
}

/// Lines on their way: with times before them, and only the last ones.
struct Lines {
    timestamps: bool,
    /// How many to hold back; none when everything is printed as it comes.
    tail: Option<usize>,
    /// What may yet be among the last lines: each a line, or its beginning.
    held: VecDeque<(Stream, Vec<u8>)>,
    /// For each stream, whether its last line is at its end.
    at_start: [bool; 2],
}

impl Lines {
    fn new(timestamps: bool, tail: Option<usize>) -> Self {
        Lines {
            timestamps,
            tail,
            held: VecDeque::new(),
            at_start: [true; 2],
        }
    }

    fn add(&mut self, piece: Piece, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        let stream = piece.stream;
        let Some(tail) = self.tail else {
            if !self.timestamps {
                return write(stream, &piece.bytes, out, err);
            }
            for line in piece.bytes.split_inclusive(|b| *b == b'\n') {
                let text = self.line(piece.time, stream, line);
                write(stream, &text, out, err)?;
            }
            return Ok(());
        };
        for line in piece.bytes.split_inclusive(|b| *b == b'\n') {
            let goes_on = !self.at_start[stream as usize];
            let text = self.line(piece.time, stream, line);
            let last = self.held.iter_mut().rfind(|(held, _)| *held == stream);
            match last {
                Some((_, held)) if goes_on => held.extend(text),
                _ => self.held.push_back((stream, text)),
            }
            if self.held.len() > tail {
                self.held.pop_front();
            }
        }
        Ok(())
    }

    /// A line, or a part of one, as it is printed.
    fn line(&mut self, time: Time, stream: Stream, line: &[u8]) -> Vec<u8> {
        let start = std::mem::replace(&mut self.at_start[stream as usize], line.ends_with(b"\n"));
        let mut text = match self.timestamps && start {
            true => format!("{time} ").into_bytes(),
            false => Vec::new(),
        };
        text.extend_from_slice(line);
        text
    }

    /// Prints what was held back; from now on nothing is.
    fn release(&mut self, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        self.tail = None;
        for (stream, text) in self.held.drain(..) {
            write(stream, &text, out, err)?;
        }
        Ok(())
    }

    fn finish(mut self, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        self.release(out, err)?;
        out.flush()
    }
}

fn write(
    stream: Stream,
    bytes: &[u8],
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<()> {
    match stream {
        Stream::Stdout => out.write_all(bytes),
        Stream::Stderr => {
            // In the order in which it was written, where both go to one place.
            out.flush()?;
            err.write_all(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(
        timestamps: bool,
        tail: Option<usize>,
        pieces: &[(Stream, &str)],
    ) -> (String, String) {
        let mut lines = Lines::new(timestamps, tail);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let time: Time = "2026-01-31T12:00:00Z".parse().unwrap();
        for (stream, text) in pieces {
            let piece = Piece {
                time,
                stream: *stream,
                bytes: text.as_bytes().to_vec(),
            };
            lines.add(piece, &mut out, &mut err).unwrap();
        }
        lines.finish(&mut out, &mut err).unwrap();
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    const PIECES: [(Stream, &str); 5] = [
        (Stream::Stdout, "one\ntw"),
        (Stream::Stderr, "oops\n"),
        (Stream::Stdout, "o\n"),
        (Stream::Stdout, "three\n"),
        (Stream::Stdout, "four"),
    ];

    #[test]
    fn streams_stay_apart() {
        let (out, err) = printed(false, None, &PIECES);
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("one\ntwo\nthree\nfour", "oops\n")
        );
    }

    #[test]
    fn a_line_has_one_time_however_it_came() {
        let (out, _) = printed(true, None, &PIECES);
        let time = "2026-01-31T12:00:00.000000000Z";
        assert_eq!(
            out,
            format!("{time} one\n{time} two\n{time} three\n{time} four")
        );
    }

    #[test]
    fn the_last_lines_are_whole() {
        assert_eq!(printed(false, Some(2), &PIECES).0, "three\nfour");
        assert_eq!(
            printed(false, Some(4), &PIECES),
            ("two\nthree\nfour".into(), "oops\n".into())
        );
        assert_eq!(printed(false, Some(0), &PIECES).0, "");
        assert_eq!(
            printed(false, Some(100), &PIECES).0,
            "one\ntwo\nthree\nfour"
        );
    }
}
