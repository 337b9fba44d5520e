//! Unpacking an archive that a guest made, on the host. Every name in it is
//! walked from the destination on, a directory at a time and through no link, so
//! that nothing outside of it can be reached, whatever the archive says. Nor does it
//! fill the disk: a part of it stays free, of its inodes, too.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};

use images::space::KeepFree;
use images::tar::{Entry, Kind, Segment, TarError, TarReader, Timestamp};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use thiserror::Error;

/// The most directories below one another.
const MAX_DEPTH: usize = 1000;
/// The longest name, in bytes: twice what a path may have in a system call.
const MAX_NAME: usize = 8 << 10;
/// How much of a file is copied at once.
const BUFFER: usize = 64 << 10;
/// The memory for directories that wait for the end, in bytes: some 150,000.
const MAX_WAITING: usize = 64 << 20;
/// What comes behind the end of an archive, in bytes: blocks of zeroes, to the length
/// of whatever it was meant to be written to.
const MAX_TAIL: u64 = 1 << 20;
/// How many devices are named of those that are not copied.
const DEVICES_NAMED: usize = 10;
/// As [`KeepFree`] calls what grows.
const WHAT: &str = "what the sandbox sends";

/// Why an archive cannot be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The archive.
    #[error("the archive from the sandbox: {0}")]
    Archive(#[from] TarError),
    /// A name that leads elsewhere.
    #[error("the archive from the sandbox has the name '{0}', which leads out of the destination")]
    Name(String),
    /// A name that no tool of the host could remove.
    #[error(
        "the archive from the sandbox has a name of more than {MAX_DEPTH} directories or {MAX_NAME} bytes"
    )]
    Deep,
    /// It has no end.
    #[error("the archive from the sandbox goes on behind its end")]
    Tail,
    /// The host's disk.
    #[error("{path}: {source}; what came before it was copied: make room, or copy to another disk")]
    Full {
        /// What would have been made, below the destination. It was not.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The host's files.
    #[error("{path}: {source}")]
    File {
        /// Which, below the destination.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The first part of each name is that of the source, which goes; a root has
    /// none.
    pub named: bool,
    /// What comes in its place. Without it, what is in the source goes to the
    /// destination.
    pub top: Option<OsString>,
    /// Keep owners, and the bits that give their rights away.
    pub owners: bool,
}

/// Unpacks an archive in a directory, and reads it to its end.
///
/// # Errors
/// The first thing that is wrong; what was unpacked before stays.
pub fn unpack(from: impl Read, directory: OwnedFd, options: &Options) -> Result<(), UnpackError> {
    Unpacker::new(directory, options, |disk| KeepFree::of(disk, WHAT)).unpack(from)
}

struct Unpacker<'a, K> {
    root: OwnedFd,
    options: &'a Options,
    /// Of each disk that something is written to, by its number: others may be
    /// mounted below the destination.
    disks: BTreeMap<u64, KeepFree>,
    keep: K,
    /// Directories get their permissions and times when all is in them. One that an
    /// archive says again and again is here once.
    directories: BTreeMap<Vec<OsString>, Entry>,
    /// The memory that they take, and may take, in bytes.
    waiting: usize,
    most_waiting: usize,
    /// Devices, which are not copied.
    devices: usize,
    buffer: Vec<u8>,
}

impl<'a, K: Fn(BorrowedFd<'_>) -> io::Result<KeepFree>> Unpacker<'a, K> {
    fn new(root: OwnedFd, options: &'a Options, keep: K) -> Self {
        Unpacker {
            root,
            options,
            disks: BTreeMap::new(),
            keep,
            directories: BTreeMap::new(),
            waiting: 0,
            most_waiting: MAX_WAITING,
            devices: 0,
            buffer: vec![0; BUFFER],
        }
    }

    fn unpack(mut self, from: impl Read) -> Result<(), UnpackError> {
        let mut reader = TarReader::new(from);
        while let Some(entry) = reader.next_entry()? {
            self.entry(&entry, &mut reader)?;
        }
        self.settle_directories(None)?;
        // To the end, so that the agent is not cut off.
        let mut tail = reader.into_inner().take(MAX_TAIL + 1);
        match io::copy(&mut tail, &mut io::sink()).map_err(TarError::from)? {
            ..=MAX_TAIL => Ok(()),
            _ => Err(UnpackError::Tail),
        }
    }

    fn entry(&mut self, entry: &Entry, data: &mut TarReader<impl Read>) -> Result<(), UnpackError> {
        let path = self.path(&entry.path)?;
        let Some((name, above)) = path.split_last() else {
            return Ok(());
        };
        if matches!(entry.kind, Kind::CharDevice(_) | Kind::BlockDevice(_)) {
            // A device of the host is not the guest's to make.
            self.devices = self.devices.saturating_add(1);
            match self.devices {
                ..=DEVICES_NAMED => log::warn!("{}: a device is not copied", display(&path)),
                n if n == DEVICES_NAMED + 1 => log::warn!("nor are more devices"),
                _ => {}
            }
            return Ok(());
        }
        let parent = self.walk(above, &path)?;
        let failed = |e: Errno| file_error(&path, e.into());
        let full = |e: io::Error| file_error(&path, e);
        self.disk(&parent).and_then(KeepFree::make).map_err(full)?;
        match &entry.kind {
            Kind::Directory => {
                match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                    Err(Errno::EXIST) => {
                        // It has to be one, and no link to one.
                        open_directory(&parent, name).map_err(failed)?;
                    }
                    made => made.map_err(failed)?,
                }
                return self.settle_later(path, entry);
            }
            Kind::File => {
                let (mut file, made) = create(&parent, name).map_err(failed)?;
                let copied = self.copy(entry, data, &mut file, &parent);
                let settled = copied
                    .and_then(|()| Ok(self.settle(&parent, &made, entry)?))
                    .and_then(|()| Ok(rustix::fs::renameat(&parent, &made, &parent, name)?));
                return settled.map_err(|e| {
                    // Half a file is none, and what was there before still is.
                    let _ = rustix::fs::unlinkat(&parent, &made, AtFlags::empty());
                    file_error(&path, e)
                });
            }
            Kind::Symlink(target) => {
                replace(&parent, name).map_err(failed)?;
                // It is made and never followed.
                rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name).map_err(failed)?;
            }
            Kind::HardLink(target) => {
                let target = self.path(target)?;
                let Some((old, above)) = target.split_last() else {
                    return Err(UnpackError::Name(text(&entry.path)));
                };
                let old_parent = self.walk(above, &target)?;
                replace(&parent, name).map_err(failed)?;
                let flags = AtFlags::empty();
                return rustix::fs::linkat(old_parent, old, &parent, name, flags).map_err(failed);
            }
            Kind::Fifo => {
                replace(&parent, name).map_err(failed)?;
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0).map_err(failed)?;
            }
            // See above.
            Kind::CharDevice(_) | Kind::BlockDevice(_) => return Ok(()),
        }
        self.settle(&parent, name, entry).map_err(failed)
    }

    /// The disk of a directory.
    fn disk(&mut self, of: &OwnedFd) -> io::Result<&mut KeepFree> {
        let number = rustix::fs::fstat(of)?.st_dev;
        Ok(match self.disks.entry(number) {
            Place::Occupied(known) => known.into_mut(),
            Place::Vacant(new) => new.insert((self.keep)(of.as_fd())?),
        })
    }

    /// The parts of a name, below the destination. None for the destination
    /// itself.
    fn path(&self, name: &[u8]) -> Result<Vec<OsString>, UnpackError> {
        if name.len() > MAX_NAME {
            return Err(UnpackError::Deep);
        }
        let parts = name
            .split(|b| *b == b'/')
            .filter(|part| !part.is_empty() && *part != b".");
        let mut path: Vec<OsString> = Vec::new();
        for part in parts {
            if part == b".." || part.contains(&0) {
                return Err(UnpackError::Name(text(name)));
            }
            if path.len() == MAX_DEPTH {
                return Err(UnpackError::Deep);
            }
            path.push(OsString::from_vec(part.to_vec()));
        }
        if self.options.named && !path.is_empty() {
            path.remove(0);
        }
        if let Some(top) = &self.options.top {
            path.insert(0, top.clone());
        }
        Ok(path)
    }

    /// Opens a directory below the destination, and makes those that are missing.
    fn walk(&mut self, parts: &[OsString], path: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let failed = |e: Errno| file_error(path, e.into());
        let mut at = rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(failed)?;
        for part in parts {
            at = match open_directory(&at, part) {
                Err(Errno::NOENT) => {
                    self.disk(&at)
                        .and_then(KeepFree::make)
                        .map_err(|e| file_error(path, e))?;
                    rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)).map_err(failed)?;
                    open_directory(&at, part).map_err(failed)?
                }
                opened => opened.map_err(failed)?,
            };
        }
        Ok(at)
    }

    /// Gives a file its owner, its permissions and its time.
    fn settle(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let mut mode = entry.mode & 0o777;
        if self.options.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?;
            mode = entry.mode;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // It was made here, and is no link.
            let mode = Mode::from_raw_mode(mode.into());
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), flags)
    }

    /// A directory gets what the archive says of it when all is in it.
    fn settle_later(&mut self, path: Vec<OsString>, entry: &Entry) -> Result<(), UnpackError> {
        let entry = Entry {
            path: Vec::new(),
            kind: Kind::Directory,
            xattrs: Vec::new(),
            sparse: None,
            ..*entry
        };
        if self.waiting > self.most_waiting {
            self.settle_directories(Some(&path))?;
        }
        let size = size_of_waiting(&path);
        if self.directories.insert(path, entry).is_none() {
            self.waiting += size;
        }
        Ok(())
    }

    /// Settles the directories that wait, but for those that lead to `but`.
    fn settle_directories(&mut self, but: Option<&[OsString]>) -> Result<(), UnpackError> {
        self.waiting = 0;
        // The innermost first: those above may not let anybody in any more.
        for (path, entry) in std::mem::take(&mut self.directories).into_iter().rev() {
            if but.is_some_and(|but| but.starts_with(&path)) {
                self.waiting += size_of_waiting(&path);
                self.directories.insert(path, entry);
                continue;
            }
            let Some((name, above)) = path.split_last() else {
                continue;
            };
            let parent = self.walk(above, &path)?;
            open_directory(&parent, name)
                .and_then(|_| self.settle(&parent, name, &entry))
                .map_err(|e| file_error(&path, e.into()))?;
        }
        Ok(())
    }

    /// Copies what is in a file, the reader's present entry.
    fn copy(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<impl Read>,
        file: &mut File,
        parent: &OwnedFd,
    ) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let disk = self.disk(parent)?;
        let whole = [Segment {
            offset: 0,
            len: entry.size,
        }];
        let segments = match &entry.sparse {
            Some(segments) => {
                grow(file, entry.size, disk)?;
                segments
            }
            None => &whole[..],
        };
        for segment in segments {
            let (mut at, end) = (segment.offset, segment.offset + segment.len);
            while at < end {
                let most = buffer
                    .len()
                    .min(usize::try_from(end - at).unwrap_or(BUFFER));
                let piece = &mut buffer[..most];
                data.read_exact(piece)?;
                disk.write_piece(most as u64)?;
                file.write_all_at(piece, at)?;
                at += most as u64;
            }
        }
        self.buffer = buffer;
        Ok(())
    }
}

/// The memory that a directory takes while it waits, in bytes, more or less.
fn size_of_waiting(path: &[OsString]) -> usize {
    let parts = path
        .iter()
        .map(|part| size_of::<OsString>() + 16 + part.len());
    size_of::<Entry>() + size_of::<Vec<OsString>>() + parts.sum::<usize>()
}

fn open_directory(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Makes room for a new file.
fn replace(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Makes a new file, under a name of its own as long as there is another one under
/// the name that it will have.
fn create(parent: &OwnedFd, name: &OsStr) -> Result<(File, OsString), Errno> {
    let open = |name: &OsStr| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok((File::from(file), name.to_owned()))
    };
    match open(name) {
        Err(Errno::EXIST) => {}
        opened => return opened,
    }
    let old = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(old.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    let own = OsString::from(format!(".drupe-cp-{}", std::process::id()));
    replace(parent, &own)?;
    open(&own)
}

/// Makes a file of holes. Where the file system has none, they take what data would.
fn grow(file: &File, size: u64, disk: &mut KeepFree) -> io::Result<()> {
    let first = size.min(BUFFER as u64);
    file.set_len(first)?;
    disk.write(taken_by_holes(size, first, file.metadata()?.blocks() * 512))?;
    file.set_len(size)
}

/// What holes of `size` bytes take, when the first ones take `taken`.
fn taken_by_holes(size: u64, first: u64, taken: u64) -> u64 {
    match taken < first {
        true => 0,
        false => size,
    }
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn file_error(path: &[OsString], source: io::Error) -> UnpackError {
    let path = display(path);
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            UnpackError::Full { path, source }
        }
        _ => UnpackError::File { path, source },
    }
}

fn display(path: &[OsString]) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
