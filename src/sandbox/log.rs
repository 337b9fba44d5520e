//! What a sandbox's process wrote, kept in its directory: a JSON object in a
//! line for each piece, in files of bounded size and number. The one that is
//! written to is `log`, those before it are `log.1`, `log.2` and so on.
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
use vmm::config::ByteSize;

/// The current file's name in the sandbox's directory.
pub const FILE: &str = "log";
/// The most files that there may be: to look for them all is cheap.
const MAX_FILES: u32 = 100;
/// The least that a file may hold, in bytes: what is rotated at each line is of no
/// use.
const MIN_FILE: ByteSize = ByteSize(4 << 10);
/// How often the files are looked at again when they are rotated meanwhile.
const TRIES: usize = 5;
/// The longest piece, in bytes: what is longer is cut.
const MAX_PIECE: usize = 64 << 10;
/// The longest line of a file: a piece with every byte escaped, and its name.
const MAX_LINE: u64 = 8 * MAX_PIECE as u64;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// The most bytes in a file; a single piece may be longer.
    pub max_size: ByteSize,
    /// The most files.
    pub max_files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_size: ByteSize(10 << 20),
            max_files: 3,
        }
    }
}

impl Limits {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Which one is out of bounds.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_size < MIN_FILE {
            return Err(format!(
                "max-size: {} is less than {MIN_FILE}",
                self.max_size
            ));
        }
        match (1..=MAX_FILES).contains(&self.max_files) {
            true => Ok(()),
            false => Err(format!("max-file: give 1 to {MAX_FILES}")),
        }
    }
}

/// The name of file `n`, counted from the newest.
fn name(n: u32) -> String {
    match n {
        0 => FILE.to_owned(),
        n => format!("{FILE}.{n}"),
    }
}

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
    limits: Limits,
    /// The last line may have been written by half.
    torn: bool,
}

impl Writer {
    /// Goes on with the log in `directory`.
    ///
    /// # Errors
    /// The file's.
    pub fn open(directory: &Path, limits: Limits) -> io::Result<Self> {
        // Before, there may have been more.
        for n in limits.max_files..MAX_FILES {
            if fs::remove_file(directory.join(name(n))).is_err() {
                break;
            }
        }
        Self::begin(directory, limits)
    }

    fn begin(directory: &Path, limits: Limits) -> io::Result<Self> {
        let path = directory.join(FILE);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Writer {
            directory: directory.to_owned(),
            size: file.metadata()?.len(),
            file,
            limits,
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
            if self.size > 0 && self.size + line.len() as u64 > self.limits.max_size.bytes() {
                self.rotate()?;
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

    /// Gives each file the next name; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let path = |n| self.directory.join(name(n));
        if self.limits.max_files == 1 {
            fs::remove_file(path(0))?;
        }
        for n in (1..self.limits.max_files).rev() {
            match fs::rename(path(n - 1), path(n)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        *self = Self::begin(&self.directory, self.limits)?;
        Ok(())
    }
}

/// Reads a sandbox's log from its beginning, and what is added meanwhile.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    /// Those that are to be read, the next one last.
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
        Ok(Reader {
            directory: directory.to_owned(),
            files: all(directory)?.into_iter().map(BufReader::new).collect(),
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
                self.files = all(&self.directory)?
                    .into_iter()
                    .map(BufReader::new)
                    .collect();
                if self.files.is_empty() {
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
                let next = match self.files.len() {
                    1 => match self.newer()? {
                        Some(files) => files,
                        None => return Ok(None),
                    },
                    _ => Vec::new(),
                };
                // Nothing more is written to this file.
                self.files.pop();
                self.files.extend(next);
                self.partial.clear();
            }
        }
    }

    /// The files that are newer than the one that is being read, when that is no
    /// longer written to and has been read to its end.
    fn newer(&mut self) -> io::Result<Option<Vec<BufReader<File>>>> {
        let Some(file) = self.files.last_mut() else {
            return Ok(None);
        };
        match File::open(self.directory.join(FILE)) {
            Ok(current) if same(&current, file.get_ref())? => return Ok(None),
            Ok(_) => {}
            // The sandbox has been removed, or its log is being rotated.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
        // It was written to until it was rotated: look once more.
        if !file.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut files = all(&self.directory)?;
        for n in 0..files.len() {
            if same(&files[n], file.get_ref())? {
                files.truncate(n);
                break;
            }
        }
        Ok(Some(files.into_iter().map(BufReader::new).collect()))
    }
}

/// All files, the newest first.
fn all(directory: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for _ in 0..TRIES {
        files.clear();
        for n in 0..MAX_FILES {
            match File::open(directory.join(name(n))) {
                Ok(file) => files.push(file),
                // While the log is rotated, one name may stand for no file.
                Err(e) if e.kind() == io::ErrorKind::NotFound && n < 2 => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            }
        }
        // Rotated meanwhile, a file may have been met twice, or not at all.
        match (files.first(), File::open(directory.join(FILE))) {
            (Some(first), Ok(current)) if !same(first, &current)? => {}
            _ => break,
        }
    }
    let mut n = 1;
    while n < files.len() {
        match same(&files[n - 1], &files[n])? {
            true => drop(files.remove(n)),
            false => n += 1,
        }
    }
    Ok(files)
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
        let mut writer = Writer::open(dir.path(), Limits::default()).unwrap();
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
        let mut writer = Writer::open(dir.path(), Limits::default()).unwrap();
        let long = vec![1; 3 * MAX_PIECE + 1];
        writer.write(Stream::Stdout, &long).unwrap();
        let read = pieces(&mut Reader::open(dir.path()).unwrap());
        assert_eq!(read.len(), 4);
        assert_eq!(
            read.into_iter().flat_map(|p| p.bytes).collect::<Vec<_>>(),
            long
        );
    }

    fn numbers(pieces: &[Piece]) -> Vec<u32> {
        let texts = pieces.iter().map(|p| String::from_utf8_lossy(&p.bytes));
        texts.map(|text| text.trim().parse().unwrap()).collect()
    }

    #[test]
    fn the_log_stays_small_and_a_follower_misses_nothing() {
        for max_files in [1, 2, 3, 7] {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits {
                max_size: ByteSize(1000),
                max_files,
            };
            let mut writer = Writer::open(dir.path(), limits).unwrap();
            let mut follower = Reader::open(dir.path()).unwrap();
            let mut seen = Vec::new();
            for n in 0..200 {
                writer
                    .write(Stream::Stdout, format!("{n}\n").as_bytes())
                    .unwrap();
                // Behind by nearly as much as is kept.
                if n % (10 * max_files - 3) == 0 {
                    seen.extend(pieces(&mut follower));
                }
                let sizes: Vec<u64> = (0..MAX_FILES)
                    .map_while(|n| fs::metadata(dir.path().join(name(n))).ok())
                    .map(|m| m.len())
                    .collect();
                assert!(sizes.len() <= max_files as usize, "{sizes:?}");
                assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
            }
            seen.extend(pieces(&mut follower));
            assert_eq!(numbers(&seen), (0..200).collect::<Vec<_>>());
            // A late reader sees the end of it, in order.
            let late = pieces(&mut Reader::open(dir.path()).unwrap());
            assert!(!late.is_empty() && late.len() < 200);
            assert_eq!(late, seen[200 - late.len()..]);
            // With fewer files from now on, those that are too many go.
            let fewer = Limits {
                max_files: 1,
                ..limits
            };
            drop(Writer::open(dir.path(), fewer).unwrap());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_follower_that_is_far_behind_goes_on_with_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            max_size: ByteSize(1000),
            max_files: 2,
        };
        let mut writer = Writer::open(dir.path(), limits).unwrap();
        let mut follower = Reader::open(dir.path()).unwrap();
        let mut write = |n: u32| {
            let line = format!("{n}\n");
            writer.write(Stream::Stdout, line.as_bytes()).unwrap();
        };
        write(0);
        let mut seen = pieces(&mut follower);
        (1..100).for_each(&mut write);
        seen.extend(pieces(&mut follower));
        let seen = numbers(&seen);
        assert_eq!((seen[0], *seen.last().unwrap()), (0, 99));
        assert!(seen.len() > 10 && seen.is_sorted());
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let check = |size, max_files| {
            let max_size = ByteSize(size);
            Limits {
                max_size,
                max_files,
            }
            .validate()
        };
        assert_eq!(Limits::default().validate(), Ok(()));
        assert!(check(4095, 1).unwrap_err().starts_with("max-size"));
        assert!(check(4096, 0).unwrap_err().starts_with("max-file"));
        assert!(check(4096, 101).is_err());
        assert_eq!(check(4096, 100), Ok(()));
    }

    #[test]
    fn what_a_crash_cut_off_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), Limits::default()).unwrap();
        writer.write(Stream::Stdout, b"a").unwrap();
        let mut raw = OpenOptions::new()
            .append(true)
            .open(dir.path().join(FILE))
            .unwrap();
        raw.write_all(b"{\"time\":\"2026").unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        assert_eq!(pieces(&mut reader).len(), 1);
        // Whoever goes on does not lose a line to it.
        let mut writer = Writer::open(dir.path(), Limits::default()).unwrap();
        writer.write(Stream::Stdout, b"b").unwrap();
        let rest = pieces(&mut reader);
        assert_eq!((rest.len(), &rest[0].bytes[..]), (1, &b"b"[..]));
    }
}
