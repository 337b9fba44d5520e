//! Unpacking an archive that a guest made, on the host. Every name in it is
//! walked from the destination on, a directory at a time and through no link, so
//! that nothing outside of it can be reached, whatever the archive says.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use images::tar::{Entry, Kind, TarError, TarReader, Timestamp};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use thiserror::Error;

/// The most directories below one another.
const MAX_DEPTH: usize = 1000;
/// How much of a file is copied at once.
const BUFFER: usize = 64 << 10;

/// Why an archive cannot be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The archive.
    #[error("the archive from the sandbox: {0}")]
    Archive(#[from] TarError),
    /// A name that leads elsewhere.
    #[error("the archive from the sandbox has the name '{0}', which leads out of the destination")]
    Name(String),
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

/// Unpacks an archive in a directory.
///
/// # Errors
/// The first thing that is wrong; what was unpacked before stays.
pub fn unpack(from: impl Read, directory: OwnedFd, options: &Options) -> Result<(), UnpackError> {
    let mut unpacker = Unpacker {
        root: directory,
        options,
        directories: BTreeMap::new(),
    };
    let mut reader = TarReader::new(from);
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: OwnedFd,
    options: &'a Options,
    /// Directories get their permissions and times when all is in them. One that an
    /// archive says again and again is here once.
    directories: BTreeMap<Vec<OsString>, Entry>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut TarReader<impl Read>) -> Result<(), UnpackError> {
        let path = self.path(&entry.path)?;
        let Some((name, above)) = path.split_last() else {
            return Ok(());
        };
        let parent = self.walk(above, &path)?;
        let failed = |e: Errno| file_error(&path, e.into());
        match &entry.kind {
            Kind::Directory => {
                match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                    Err(Errno::EXIST) => {
                        // It has to be one, and no link to one.
                        open_directory(&parent, name).map_err(failed)?;
                    }
                    made => made.map_err(failed)?,
                }
                let entry = Entry {
                    path: Vec::new(),
                    kind: Kind::Directory,
                    xattrs: Vec::new(),
                    sparse: None,
                    ..*entry
                };
                self.directories.insert(path, entry);
                return Ok(());
            }
            Kind::File => {
                replace(&parent, name).map_err(failed)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR);
                let mut file = File::from(file.map_err(failed)?);
                copy(entry, data, &mut file).map_err(|e| file_error(&path, e))?;
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
            Kind::CharDevice(_) | Kind::BlockDevice(_) => {
                // A device of the host is not the guest's to make.
                log::warn!("{}: a device is not copied", display(&path));
                return Ok(());
            }
        }
        self.settle(&parent, name, entry).map_err(failed)
    }

    /// The parts of a name, below the destination. None for the destination
    /// itself.
    fn path(&self, name: &[u8]) -> Result<Vec<OsString>, UnpackError> {
        let parts = name
            .split(|b| *b == b'/')
            .filter(|part| !part.is_empty() && *part != b".");
        let mut path: Vec<OsString> = Vec::new();
        for part in parts {
            if part == b".." || part.contains(&0) || path.len() == MAX_DEPTH {
                return Err(UnpackError::Name(text(name)));
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
    fn walk(&self, parts: &[OsString], path: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let failed = |e: Errno| file_error(path, e.into());
        let mut at = rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(failed)?;
        for part in parts {
            at = match open_directory(&at, part) {
                Err(Errno::NOENT) => {
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

    fn finish(mut self) -> Result<(), UnpackError> {
        // The innermost first: those above may not let anybody in any more.
        while let Some((path, entry)) = self.directories.pop_last() {
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

fn copy(entry: &Entry, data: &mut TarReader<impl Read>, file: &mut File) -> io::Result<()> {
    let Some(segments) = &entry.sparse else {
        // The reader ends with the entry.
        return io::copy(&mut data.take(entry.size), file).map(drop);
    };
    file.set_len(entry.size)?;
    let mut buffer = vec![0; BUFFER];
    for segment in segments {
        let (mut at, end) = (segment.offset, segment.offset + segment.len);
        while at < end {
            let most = BUFFER.min(usize::try_from(end - at).unwrap_or(BUFFER));
            data.read_exact(&mut buffer[..most])?;
            file.write_all_at(&buffer[..most], at)?;
            at += most as u64;
        }
    }
    file.flush()
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
    UnpackError::File {
        path: display(path),
        source,
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
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;
    use tar::{Builder, EntryType, Header};

    fn header(kind: EntryType, size: u64, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// Writes a name as it stands, which the builder would not.
    fn raw(builder: &mut Builder<Vec<u8>>, name: &str, mut header: Header, data: &[u8]) {
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    fn file(builder: &mut Builder<Vec<u8>>, name: &str, data: &[u8]) {
        raw(
            builder,
            name,
            header(EntryType::Regular, data.len() as u64, 0o640),
            data,
        );
    }

    fn link(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, to: &str) {
        let mut header = header(kind, 0, 0o777);
        header.set_link_name_literal(to).unwrap();
        raw(builder, name, header, b"");
    }

    fn run(dir: &Path, archive: Vec<u8>, top: Option<&str>) -> Result<(), UnpackError> {
        let options = Options {
            named: true,
            top: top.map(Into::into),
            owners: false,
        };
        unpack(&archive[..], File::open(dir).unwrap().into(), &options)
    }

    #[test]
    fn files_come_out_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        raw(
            &mut tar,
            "src/",
            header(EntryType::Directory, 0, 0o555),
            b"",
        );
        file(&mut tar, "src/a", b"text");
        link(&mut tar, EntryType::Symlink, "src/s", "/etc/passwd");
        link(&mut tar, EntryType::Link, "src/h", "src/a");
        raw(&mut tar, "src/f", header(EntryType::Fifo, 0, 0o600), b"");
        raw(&mut tar, "src/d", header(EntryType::Char, 0, 0o600), b"");
        let mut setuid = header(EntryType::Regular, 0, 0o4755);
        setuid.set_cksum();
        raw(&mut tar, "src/x", setuid, b"");
        run(dir.path(), tar.into_inner().unwrap(), Some("dst")).unwrap();
        let at = |name: &str| dir.path().join("dst").join(name);
        assert_eq!(fs::read(at("a")).unwrap(), b"text");
        assert_eq!(fs::read_link(at("s")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(
            fs::metadata(at("a")).unwrap().ino(),
            fs::metadata(at("h")).unwrap().ino()
        );
        assert_eq!(fs::metadata(at("a")).unwrap().mtime(), 1_000_000_000);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(""), mode("a"), mode("x")), (0o555, 0o640, 0o755));
        assert!(!at("d").exists() && at("f").exists());
        fs::set_permissions(at(""), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_content_of_a_directory_goes_into_another() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let mut tar = Builder::new(Vec::new());
        raw(
            &mut tar,
            "src/",
            header(EntryType::Directory, 0, 0o700),
            b"",
        );
        file(&mut tar, "src/a", b"new");
        file(&mut tar, "src/sub/b", b"b");
        run(dir.path(), tar.into_inner().unwrap(), None).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(fs::read(dir.path().join("sub/b")).unwrap(), b"b");
    }

    #[test]
    fn a_directory_that_is_said_again_is_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::default();
        let mut unpacker = Unpacker {
            root: File::open(dir.path()).unwrap().into(),
            options: &options,
            directories: BTreeMap::new(),
        };
        let mut tar = Builder::new(Vec::new());
        for mode in [0o700, 0o750, 0o755] {
            raw(&mut tar, "a/b/", header(EntryType::Directory, 0, mode), b"");
            raw(&mut tar, "a/", header(EntryType::Directory, 0, 0o555), b"");
        }
        let archive = tar.into_inner().unwrap();
        let mut reader = TarReader::new(&archive[..]);
        while let Some(entry) = reader.next_entry().unwrap() {
            unpacker.entry(&entry, &mut reader).unwrap();
        }
        assert_eq!(unpacker.directories.len(), 2);
        unpacker.finish().unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        // The last word counts.
        assert_eq!((mode("a"), mode("a/b")), (0o555, 0o755));
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_root_has_no_name() {
        for (top, expected) in [(None, "etc/a"), (Some("new"), "new/etc/a")] {
            let dir = tempfile::tempdir().unwrap();
            let mut tar = Builder::new(Vec::new());
            raw(&mut tar, "./", header(EntryType::Directory, 0, 0o755), b"");
            file(&mut tar, "./etc/a", b"a");
            let options = Options {
                top: top.map(Into::into),
                ..Options::default()
            };
            let to = File::open(dir.path()).unwrap().into();
            unpack(&tar.into_inner().unwrap()[..], to, &options).unwrap();
            assert!(dir.path().join(expected).exists());
        }
    }

    #[test]
    fn nothing_leads_out_of_the_destination() {
        let outside = tempfile::tempdir().unwrap();
        let outside_path = outside.path().to_str().unwrap();
        type Make = fn(&mut Builder<Vec<u8>>, &str);
        let hostile: [Make; 6] = [
            |tar, _| file(tar, "t/../../x", b"x"),
            |tar, _| file(tar, "../x", b"x"),
            |tar, to| {
                link(tar, EntryType::Symlink, "t/l", to);
                file(tar, "t/l/x", b"x");
            },
            |tar, to| {
                link(tar, EntryType::Symlink, "t/l", to);
                raw(tar, "t/l/", header(EntryType::Directory, 0, 0o777), b"");
            },
            |tar, to| {
                link(tar, EntryType::Symlink, "t/l", to);
                link(tar, EntryType::Link, "t/h", "t/l/secret");
            },
            |tar, _| link(tar, EntryType::Link, "t/h", "t/../../secret"),
        ];
        for (n, make) in hostile.iter().enumerate() {
            let dir = tempfile::tempdir_in(outside.path()).unwrap();
            fs::write(outside.path().join("secret"), "s").unwrap();
            let mut tar = Builder::new(Vec::new());
            make(&mut tar, outside_path);
            assert!(
                run(dir.path(), tar.into_inner().unwrap(), Some("t")).is_err(),
                "{n}"
            );
            assert!(!outside.path().join("x").exists(), "{n}");
            assert!(!dir.path().join("t/h").exists(), "{n}");
        }
        // A link that an archive brings is replaced, not written through.
        let dir = tempfile::tempdir_in(outside.path()).unwrap();
        let mut tar = Builder::new(Vec::new());
        link(
            &mut tar,
            EntryType::Symlink,
            "t/l",
            &format!("{outside_path}/secret"),
        );
        file(&mut tar, "t/l", b"mine");
        run(dir.path(), tar.into_inner().unwrap(), Some("t")).unwrap();
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"s");
        assert_eq!(fs::read(dir.path().join("t/l")).unwrap(), b"mine");
    }
}
