//! What a sandbox's process wrote, kept in its directory: a JSON object in a
//! line for each piece, in two files of bounded size. The older one is `log.1`.
//!
//! A piece is what came at once, and may be many lines or half of one. Text is
//! kept as it is; bytes that are no UTF-8 as base64: nothing is lost.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::time::Time;

/// The current file's name in the sandbox's directory.
pub const FILE: &str = "log";
/// The older file's.
const OLDER: &str = "log.1";
/// The most bytes in each of the two files.
pub const MAX_FILE: u64 = 32 << 20;
/// The longest piece, in bytes: what is longer is cut.
const MAX_PIECE: usize = 64 << 10;
/// The longest line of a file: a piece with every byte escaped, and its name.
const MAX_LINE: u64 = 8 * MAX_PIECE as u64;

/// Where a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    time: Time,
    stream: Stream,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// When it came.
    pub time: Time,
    /// Where from.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Piece {
    fn parse(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let bytes = match (line.log, line.base64) {
            (Some(text), None) => text.into_owned().into_bytes(),
            (None, Some(text)) => BASE64.decode(text).ok()?,
            _ => return None,
        };
        Some(Piece {
            time: line.time,
            stream: line.stream,
            bytes,
        })
    }
}

/// Writes a sandbox's log.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// The last line may have been written by half.
    torn: bool,
}

impl Writer {
    /// Goes on with the log in `directory`.
    ///
    /// # Errors
    /// The file's.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Self::with_limit(directory, MAX_FILE)
    }

    fn with_limit(directory: &Path, limit: u64) -> io::Result<Self> {
        let path = directory.join(FILE);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        Ok(Writer {
            directory: directory.to_owned(),
            size: file.metadata()?.len(),
            file,
            limit,
            // A monitor that was killed may have left one.
            torn: true,
        })
    }

    /// Adds what came at once.
    ///
    /// # Errors
    /// The file's, as on a full disk: the log then has a hole.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        for bytes in bytes.chunks(MAX_PIECE) {
            let text = std::str::from_utf8(bytes).ok();
            let mut line = Vec::with_capacity(bytes.len() + 128);
            if self.torn && self.size > 0 {
                // Or this one would be lost with it. An empty line is nothing.
                line.push(b'\n');
            }
            let content = Line {
                time: Time::now(),
                stream,
                log: text.map(Cow::Borrowed),
                base64: text.is_none().then(|| BASE64.encode(bytes)),
            };
            serde_json::to_writer(&mut line, &content)?;
            line.push(b'\n');
            if self.size > 0 && self.size + line.len() as u64 > self.limit {
                fs::rename(self.directory.join(FILE), self.directory.join(OLDER))?;
                *self = Self::with_limit(&self.directory, self.limit)?;
            }
            // Counted before it is written: after half a line, the size errs on
            // the safe side.
            self.size += line.len() as u64;
            self.torn = true;
            self.file.write_all(&line)?;
            self.torn = false;
        }
        Ok(())
    }
}

/// Reads a sandbox's log from its beginning, and what is added meanwhile.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    files: Vec<BufReader<File>>,
    /// A line of which the end has not been written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// The log in `directory`; an empty one when there is none.
    ///
    /// # Errors
    /// The files'.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        // The newer one first: when the log is rotated meanwhile, the older one
        // that is opened then is the same file, and is left out.
        for name in [FILE, OLDER] {
            match File::open(directory.join(name)) {
                Ok(file) => files.push(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if let [newer, older] = &files[..]
            && same(newer, older)?
        {
            files.truncate(1);
        }
        Ok(Reader {
            directory: directory.to_owned(),
            files: files.into_iter().map(BufReader::new).collect(),
            partial: Vec::new(),
        })
    }

    /// The next piece; `None` when there is no more for now. What does not
    /// parse, half a line after a crash, is passed over.
    ///
    /// # Errors
    /// The files'.
    pub fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let Some(file) = self.files.last_mut() else {
                if !self.open_current()? {
                    return Ok(None);
                }
                continue;
            };
            let room = MAX_LINE - self.partial.len() as u64;
            let n = io::Read::take(&mut *file, room).read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") || self.partial.len() as u64 >= MAX_LINE {
                let line = std::mem::take(&mut self.partial);
                if let Some(piece) = Piece::parse(&line) {
                    return Ok(Some(piece));
                }
            } else if n == 0 {
                if self.files.len() == 1 && !self.rotated()? {
                    return Ok(None);
                }
                // Nothing more is written to this file.
                self.files.pop();
                self.partial.clear();
            }
        }
    }

    /// Opens the current file when there is one.
    fn open_current(&mut self) -> io::Result<bool> {
        match File::open(self.directory.join(FILE)) {
            Ok(file) => self.files.push(BufReader::new(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// The file that is being read is no longer the current one, and has been
    /// read to its end.
    fn rotated(&mut self) -> io::Result<bool> {
        let Some(file) = self.files.last_mut() else {
            return Ok(false);
        };
        match File::open(self.directory.join(FILE)) {
            Ok(current) if same(&current, file.get_ref())? => Ok(false),
            // It was written to until it was rotated: look once more.
            Ok(_) => Ok(file.fill_buf()?.is_empty()),
            // The sandbox has been removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(reader: &mut Reader) -> Vec<Piece> {
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        assert!(reader.next().unwrap().is_none());
        let mut writer = Writer::open(dir.path()).unwrap();
        let all: Vec<u8> = (0..=255).collect();
        let texts: [(Stream, &[u8]); 4] = [
            (Stream::Stdout, b"line\nhalf"),
            (Stream::Stderr, "ü\u{0}\u{1b}\"\\\n".as_bytes()),
            (Stream::Stdout, &all),
            (Stream::Stdout, b"\xff"),
        ];
        for (stream, bytes) in texts {
            writer.write(stream, bytes).unwrap();
        }
        let read = pieces(&mut reader);
        let read: Vec<_> = read.iter().map(|p| (p.stream, &p.bytes[..])).collect();
        assert_eq!(read, texts);
    }

    #[test]
    fn what_is_long_is_cut_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        let long = vec![1; 3 * MAX_PIECE + 1];
        writer.write(Stream::Stdout, &long).unwrap();
        let read = pieces(&mut Reader::open(dir.path()).unwrap());
        assert_eq!(read.len(), 4);
        assert_eq!(
            read.into_iter().flat_map(|p| p.bytes).collect::<Vec<_>>(),
            long
        );
    }

    #[test]
    fn the_log_stays_small_and_a_follower_misses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 1000;
        let mut writer = Writer::with_limit(dir.path(), limit).unwrap();
        let mut follower = Reader::open(dir.path()).unwrap();
        let mut seen = Vec::new();
        for n in 0..100 {
            writer
                .write(Stream::Stdout, format!("{n}\n").as_bytes())
                .unwrap();
            if n % 7 == 0 {
                seen.extend(pieces(&mut follower));
            }
            let size = |name: &str| fs::metadata(dir.path().join(name)).map_or(0, |m| m.len());
            assert!(size(FILE) <= limit && size(OLDER) <= limit);
        }
        seen.extend(pieces(&mut follower));
        let numbers: Vec<u32> = seen
            .iter()
            .map(|p| String::from_utf8_lossy(&p.bytes).trim().parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        // A late reader sees the end of it, in order.
        let late = pieces(&mut Reader::open(dir.path()).unwrap());
        assert!(late.len() > 10 && late.len() < 100);
        assert_eq!(late, seen[100 - late.len()..]);
    }

    #[test]
    fn what_a_crash_cut_off_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path()).unwrap();
        writer.write(Stream::Stdout, b"a").unwrap();
        let mut raw = OpenOptions::new()
            .append(true)
            .open(dir.path().join(FILE))
            .unwrap();
        raw.write_all(b"{\"time\":\"2026").unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        assert_eq!(pieces(&mut reader).len(), 1);
        // Whoever goes on does not lose a line to it.
        let mut writer = Writer::open(dir.path()).unwrap();
        writer.write(Stream::Stdout, b"b").unwrap();
        let rest = pieces(&mut reader);
        assert_eq!((rest.len(), &rest[0].bytes[..]), (1, &b"b"[..]));
    }
}
