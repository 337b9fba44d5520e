//! A reader of tar streams: ustar, PAX, and GNU's extensions with sparse files.
//!
//! Nothing is trusted: extended headers, sparse maps and numbers are bounded,
//! and what one entry claims never decides how much memory is taken. File names
//! are bytes, as they stand; what they may mean is the caller's to judge.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

use thiserror::Error;

use header::{BLOCK, Header};
use pax::Extensions;
pub use sparse::Segment;

/// The longest extended header (PAX, GNU long name), in bytes. Each holds at
/// most a path, a link target and some extended attributes of 64 KiB.
const MAX_EXTENDED_HEADER: u64 = 1 << 20;
/// The most bytes of all extended headers of one entry: what they say is kept until
/// the entry comes.
const MAX_EXTENDED_HEADERS: u64 = 4 << 20;

/// What is wrong with a tar stream.
#[derive(Debug, Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The stream ends within an entry.
    #[error("the archive is truncated within an entry")]
    Truncated,
    /// This is not a header.
    #[error("no tar header at byte {0}: not a tar archive, or a damaged one")]
    Checksum(u64),
    /// A header or an extended header does not make sense.
    #[error("the tar entry '{name}' has {what}")]
    Malformed {
        /// The entry, as far as it is known.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

impl TarError {
    fn malformed(name: &[u8], what: impl Into<String>) -> Self {
        TarError::Malformed {
            name: String::from_utf8_lossy(name).into_owned(),
            what: what.into(),
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry before it.
    HardLink(Vec<u8>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A directory.
    Directory,
}

/// A device's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

/// A time, as inodes have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds behind them, below 10⁹.
    pub nanoseconds: u32,
}

/// One entry, without its data.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, as it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Timestamp,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored data go, when the file has holes.
    pub sparse: Option<Vec<Segment>>,
}

/// Reads entries one after another from a stream.
pub struct TarReader<R> {
    from: R,
    /// Bytes read so far.
    position: u64,
    /// Stored bytes of the present entry that are still to come.
    data_left: u64,
    /// Bytes behind them, up to the next header.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// A reader at the first header.
    pub fn new(from: R) -> Self {
        TarReader {
            from,
            position: 0,
            data_left: 0,
            padding: 0,
        }
    }

    /// Where the reader is in the stream, in bytes: behind `next_entry`, where
    /// the entry's stored data begin.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The stream, at wherever it is.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// The next entry; `None` at the end of the archive. What was not read of
    /// the last one's data is passed over.
    ///
    /// # Errors
    /// [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip(self.data_left + self.padding)?;
        (self.data_left, self.padding) = (0, 0);
        let mut extensions = Extensions::default();
        let mut extended = 0;
        loop {
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            if extended > MAX_EXTENDED_HEADERS {
                let what = format!("over {MAX_EXTENDED_HEADERS} bytes of extended headers");
                return Err(TarError::malformed(&header.path(), what));
            }
            if matches!(header.type_flag(), b'x' | b'X' | b'g' | b'L' | b'K' | b'V') {
                // What it says is checked where it is read.
                let size = number::<u64>(header.size()).unwrap_or_default();
                extended = (BLOCK as u64 + size).saturating_add(extended);
            }
            match header.type_flag() {
                b'x' | b'X' => extensions.add_pax(&self.extended(&header)?)?,
                // Defaults for all entries: container tools leave them out, too.
                b'g' => drop(self.extended(&header)?),
                b'L' => extensions.path = Some(until_nul(self.extended(&header)?)),
                b'K' => extensions.link = Some(until_nul(self.extended(&header)?)),
                // A volume's label.
                b'V' => {}
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let path = match &extensions.path {
            Some(path) => path.clone(),
            None => header.path(),
        };
        let bad = |what: &str| TarError::malformed(&path, what);
        let link = || extensions.link.clone().unwrap_or_else(|| header.link());
        let device = || -> Result<Device, TarError> {
            Ok(Device {
                major: number(header.device_major()).ok_or_else(|| bad("no device number"))?,
                minor: number(header.device_minor()).ok_or_else(|| bad("no device number"))?,
            })
        };
        let kind = match header.type_flag() {
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => Kind::CharDevice(device()?),
            b'4' => Kind::BlockDevice(device()?),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(bad(&format!("an unknown type, '{}'", other.escape_ascii())));
            }
        };
        let stored = match extensions.size {
            Some(size) => size,
            None => number(header.size()).ok_or_else(|| bad("no size"))?,
        };
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => Timestamp {
                seconds: header.mtime().ok_or_else(|| bad("no time"))?,
                nanoseconds: 0,
            },
        };
        let mode: u32 = number(header.mode()).ok_or_else(|| bad("no mode"))?;
        let mut entry = Entry {
            kind,
            mode: (mode & 0o7777) as u16,
            uid: match extensions.uid {
                Some(uid) => uid,
                None => number(header.uid()).ok_or_else(|| bad("no user id"))?,
            },
            gid: match extensions.gid {
                Some(gid) => gid,
                None => number(header.gid()).ok_or_else(|| bad("no group id"))?,
            },
            mtime,
            size: 0,
            xattrs: Vec::new(),
            sparse: None,
            path,
        };
        // Only files have data, whatever the size of another entry says.
        if entry.kind == Kind::File {
            // Larger than any file; sums below stay in range.
            if stored > i64::MAX as u64 {
                return Err(TarError::malformed(&entry.path, "an impossible size"));
            }
            self.data_left = stored;
            self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
            entry.size = stored;
            self.read_sparse_map(header, &extensions, &mut entry)?;
        }
        entry.xattrs = extensions.xattrs;
        Ok(entry)
    }

    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let start = self.position;
        let Some(header) = self.read_block()?.map(Header::new) else {
            return Ok(None);
        };
        if header.is_zero() {
            // The end is two blocks of zeroes, or the stream's end behind one.
            return match self.read_block()?.map(Header::new) {
                Some(second) if !second.is_zero() => Err(TarError::Checksum(start)),
                _ => Ok(None),
            };
        }
        if !header.checksum_matches() {
            return Err(TarError::Checksum(start));
        }
        Ok(Some(header))
    }

    /// A block; `None` at the end of the stream.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.from.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    /// The data of an extended header.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let name = header.path();
        let size = number::<u64>(header.size())
            .filter(|size| *size <= MAX_EXTENDED_HEADER)
            .ok_or_else(|| {
                let what = format!("an extended header over {MAX_EXTENDED_HEADER} bytes");
                TarError::malformed(&name, what)
            })?;
        let mut data = Vec::new();
        (&mut self.from).take(size).read_to_end(&mut data)?;
        self.position += data.len() as u64;
        if (data.len() as u64) < size {
            return Err(TarError::Truncated);
        }
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(data)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink())?;
        self.position += skipped;
        if skipped < bytes {
            return Err(TarError::Truncated);
        }
        Ok(())
    }
}

/// The stored data of the present entry.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf
            .len()
            .min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        let n = self.from.read(&mut buf[..most])?;
        if n == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                TarError::Truncated,
            ));
        }
        self.data_left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

fn number<T: TryFrom<i64>>(value: Option<i64>) -> Option<T> {
    value.and_then(|value| T::try_from(value).ok())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

#[cfg(test)]
mod tests;
