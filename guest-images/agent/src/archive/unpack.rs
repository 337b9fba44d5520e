//! An archive to a tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType, Header};

use super::{CHUNK, PERMISSIONS, pax};
use crate::error::{Error, Result, describe};
use crate::resolve::{Leaf, Root, type_of};

/// Bytes of an extended header or a long name.
const MAX_EXTENSION: u64 = 1 << 20;
/// Directories whose time is set when everything is in them.
const MAX_DIRECTORIES: usize = 1 << 16;
/// `UTIME_OMIT`, from `linux/stat.h`.
const UTIME_OMIT: i64 = (1 << 30) - 2;

/// Whose the files will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The archive's owners, by number.
    Archive,
    /// Root.
    Root,
}

/// How to unpack.
#[derive(Debug, Clone, Copy)]
pub struct Unpack {
    /// Whose the files will be.
    pub owner: Owner,
    /// An entry for the directory itself counts: its owner, permissions, times.
    pub top: bool,
}

/// Unpacks an archive in `directory`, which has to be there. Files that are
/// there are replaced, directories are merged; one for the other is an error.
///
/// # Errors
/// An archive that makes no sense, or what the kernel says to its files.
pub fn unpack(root: &Root, directory: &Path, from: impl Read, options: Unpack) -> Result<()> {
    let top = root.locate(directory, true);
    if let Err(e) = top {
        return Err(Error::System {
            what: directory.display().to_string(),
            source: e,
        });
    }
    let mut unpacker = Unpacker {
        root,
        directory,
        options,
        directories: Vec::new(),
    };
    let mut archive = Archive::new(from);
    let bad = |e: io::Error| Error::request(format!("the archive: {e}"));
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(bad)?.raw(true) {
        let mut entry = entry.map_err(bad)?;
        if extended.take(&mut entry).map_err(bad)? {
            continue;
        }
        let extended = std::mem::take(&mut extended);
        let name = extended.path(entry.header());
        unpacker.one(&name, &mut entry, &extended).map_err(|e| {
            let reason = match Errno::from_io_error(&e) {
                Some(errno) => describe(errno),
                None => e.to_string(),
            };
            Error::request(format!("unpack {}: {reason}", name.to_string_lossy()))
        })?;
    }
    unpacker.finish();
    Ok(())
}

/// What extended headers say of the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extended {
    /// True if the entry is an extended header: then it was read.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<bool> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(long_name(entry)?),
            EntryType::GNULongLink => self.link = Some(long_name(entry)?),
            EntryType::XHeader => {
                let bytes = small(entry)?;
                for record in pax::records(&bytes) {
                    let Some((key, value)) = record else {
                        return Err(io::Error::other("an extended header that does not parse"));
                    };
                    self.record(key, value)?;
                }
            }
            EntryType::XGlobalHeader => {
                small(entry)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"uid" => self.uid = number(),
            b"gid" => self.gid = number(),
            // The header's field would have to be changed before it is read.
            b"size" => return Err(io::Error::other("a size in an extended header")),
            _ if key.starts_with(b"GNU.sparse") => return Err(sparse()),
            _ => {
                if let Some(name) = key.strip_prefix(pax::XATTR.as_bytes()) {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn path(&self, header: &Header) -> OsString {
        let path = self.path.clone();
        OsString::from_vec(path.unwrap_or_else(|| header.path_bytes().into_owned()))
    }
}

fn sparse() -> io::Error {
    io::Error::other("a sparse file: pack it without --sparse")
}

fn small(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_EXTENSION + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_EXTENSION {
        true => Err(io::Error::other(
            "an extended header of more than a megabyte",
        )),
        false => Ok(bytes),
    }
}

fn long_name(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut name = small(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

struct Unpacker<'a> {
    root: &'a Root,
    directory: &'a Path,
    options: Unpack,
    /// Times of directories, for the end.
    directories: Vec<(PathBuf, u64)>,
}

impl Unpacker<'_> {
    fn one(
        &mut self,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
        extended: &Extended,
    ) -> io::Result<()> {
        let relative = plain(Path::new(name))?;
        let Some(last) = relative.file_name() else {
            if self.options.top && entry.header().entry_type().is_dir() {
                let top = self.open_directory(self.directory)?;
                self.directory_attributes(top.as_fd(), &relative, entry.header(), extended)?;
            }
            return Ok(());
        };
        let parent = self
            .directory
            .join(relative.parent().unwrap_or(Path::new("")));
        let parent = self.root.make(&parent, Leaf::Directory)?;
        let kind = entry.header().entry_type();
        let there = match fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(type_of(&stat)),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e.into()),
        };
        match (there, kind.is_dir()) {
            (Some(FileType::Directory), false) => {
                return Err(io::Error::other(
                    "cannot overwrite directory with non-directory",
                ));
            }
            (Some(FileType::Directory), true) | (None, _) => {}
            (Some(_), true) => {
                return Err(io::Error::other(
                    "cannot overwrite non-directory with directory",
                ));
            }
            (Some(there), false) => match fs::unlinkat(&parent, last, AtFlags::empty()) {
                // Something is mounted there, as on /etc/hosts.
                Err(Errno::BUSY) if there == FileType::RegularFile && kind.is_file() => {
                    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW;
                    let file = open_at(parent.as_fd(), last, flags)?;
                    return copy(entry, &mut File::from(file));
                }
                removed => removed?,
            },
        }
        self.make(parent.as_fd(), last, &relative, entry, extended)
    }

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        relative: &Path,
        entry: &mut Entry<'_, impl Read>,
        extended: &Extended,
    ) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let mode = Mode::from_raw_mode(entry.header().mode()? & PERMISSIONS);
        let node = |kind, device| fs::mknodat(parent, name, kind, mode, device);
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = open_at(parent, name, flags)?;
                let mut file = File::from(file);
                copy(entry, &mut file)?;
                return self.attributes(file.as_fd(), entry.header(), extended, true);
            }
            EntryType::Directory => {
                match fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) | Ok(()) => {}
                    Err(e) => return Err(e.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let directory = open_at(parent, name, flags)?;
                let directory = directory.as_fd();
                return self.directory_attributes(directory, relative, entry.header(), extended);
            }
            EntryType::Symlink => {
                let target = OsString::from_vec(link_name(entry.header(), extended)?);
                fs::symlinkat(&target, parent, name)?;
            }
            EntryType::Link => {
                let target = OsString::from_vec(link_name(entry.header(), extended)?);
                let target = self.directory.join(plain(Path::new(&target))?);
                let target = self.root.locate(&target, false)?;
                // Its attributes are those of the file that it is.
                return Ok(fs::linkat(&target, "", parent, name, AtFlags::EMPTY_PATH)?);
            }
            EntryType::Char => node(FileType::CharacterDevice, device(entry.header())?)?,
            EntryType::Block => node(FileType::BlockDevice, device(entry.header())?)?,
            EntryType::Fifo => node(FileType::Fifo, 0)?,
            EntryType::GNUSparse => return Err(sparse()),
            other => {
                let kind = other.as_byte().escape_ascii().to_string();
                return Err(io::Error::other(format!(
                    "an entry of unknown type '{kind}'"
                )));
            }
        }
        // Not to be opened: by its name, which leads nowhere else.
        let (uid, gid) = self.owner(entry.header(), extended)?;
        fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        let times = times(entry.header().mtime()?);
        Ok(fs::utimensat(
            parent,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// The owner, permissions, extended attributes and times of an open file, in
    /// an order in which none undoes another.
    fn attributes(
        &self,
        file: BorrowedFd<'_>,
        header: &Header,
        extended: &Extended,
        time: bool,
    ) -> io::Result<()> {
        let (uid, gid) = self.owner(header, extended)?;
        fs::fchown(file, uid, gid)?;
        fs::fchmod(file, Mode::from_raw_mode(header.mode()? & PERMISSIONS))?;
        for (name, value) in &extended.xattrs {
            match fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                // The file system or the kernel has no such attribute.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if time {
            fs::futimens(file, &times(header.mtime()?))?;
        }
        Ok(())
    }

    fn directory_attributes(
        &mut self,
        directory: BorrowedFd<'_>,
        relative: &Path,
        header: &Header,
        extended: &Extended,
    ) -> io::Result<()> {
        if self.directories.len() < MAX_DIRECTORIES {
            let time = header.mtime()?;
            self.directories.push((relative.to_owned(), time));
        }
        self.attributes(directory, header, extended, false)
    }

    fn owner(
        &self,
        header: &Header,
        extended: &Extended,
    ) -> io::Result<(Option<Uid>, Option<Gid>)> {
        if self.options.owner == Owner::Root {
            return Ok((Some(Uid::ROOT), Some(Gid::ROOT)));
        }
        let id = |extended: Option<u64>, own: io::Result<u64>| {
            let id = match extended {
                Some(id) => id,
                None => own?,
            };
            match u32::try_from(id) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(io::Error::other("an owner that is no id")),
            }
        };
        Ok((
            Some(Uid::from_raw(id(extended.uid, header.uid())?)),
            Some(Gid::from_raw(id(extended.gid, header.gid())?)),
        ))
    }

    fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(self.root.get(path, flags, Mode::empty())?)
    }

    /// The times of directories, now that nothing is put in them any more.
    fn finish(&self) {
        for (path, time) in self.directories.iter().rev() {
            if let Ok(directory) = self.open_directory(&self.directory.join(path)) {
                // Gone or replaced meanwhile: then it is not the archive's.
                let _ = fs::futimens(&directory, &times(*time));
            }
        }
    }
}

/// The path without what leads nowhere.
fn plain(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => {
                return Err(io::Error::other("a path with '..' in it"));
            }
            _ => {}
        }
    }
    Ok(plain)
}

fn open_at(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?)
}

fn link_name(header: &Header, extended: &Extended) -> io::Result<Vec<u8>> {
    let name = extended.link.clone();
    name.or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
        .ok_or_else(|| io::Error::other("a link without a target"))
}

fn device(header: &Header) -> io::Result<u64> {
    let major = header.device_major()?.unwrap_or(0);
    let minor = header.device_minor()?.unwrap_or(0);
    Ok(fs::makedev(major, minor))
}

fn times(mtime: u64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: i64::try_from(mtime).unwrap_or(0),
            tv_nsec: 0,
        },
    }
}

fn copy(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
