//! The host's side of a share: what is opened once, before the VM starts.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, Statx, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use thiserror::Error;

use super::owner::Owners;
use super::spec::FsSpec;
use super::tables::Inode;
use crate::virtio::OpenDirectory;

/// Why something cannot be shared.
#[derive(Debug, Error)]
pub enum FsError {
    /// Nothing is at the path.
    #[error("share '{}': no such file or directory; check the path, or create it", .0.display())]
    Missing(PathBuf),
    /// The caller may not go there.
    #[error("share '{}': permission denied; change the mode of the directories on the way", .0.display())]
    Denied(PathBuf),
    /// A device, a pipe or a socket.
    #[error("share '{}' is a {kind}; give a directory or a regular file", .path.display())]
    NotShareable {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// `/proc` is needed to open a file that was looked up before.
    #[error("share '{}': cannot use /proc/self/fd: {source}; mount /proc", .path.display())]
    Proc {
        /// The path.
        path: PathBuf,
        /// The host's answer.
        source: std::io::Error,
    },
    /// Anything else that the host refuses.
    #[error("share '{}': cannot open it: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The host's answer.
        source: std::io::Error,
    },
}

/// What the guest finds at the top of the share.
#[derive(Debug)]
pub enum Root {
    /// A directory of the host.
    Dir(Arc<Inode>),
    /// A directory that no host has, with one file in it.
    File(SingleFile),
}

/// A file that is shared without its directory, which is not open: whoever takes
/// the process over has that one file. One that is put in its place is not seen.
#[derive(Debug)]
pub struct SingleFile {
    /// The file, by a descriptor that can neither read nor write it.
    pub file: OwnedFd,
    /// Its name in the share.
    pub name: CString,
}

impl SingleFile {
    /// The file for one more look-up, as a node of its own.
    ///
    /// # Errors
    /// The host's.
    pub fn found(&self) -> Result<(Inode, Statx), Errno> {
        Inode::new(fcntl_dupfd_cloexec(&self.file, 0)?)
    }
}

/// How nodes are opened: not to be read or written, and never through a link.
pub const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is shared, and how.
#[derive(Debug)]
pub struct Share {
    /// Where it begins.
    pub root: Root,
    /// Nothing may change.
    pub readonly: bool,
    /// How long the guest may use names and attributes before it asks again, in
    /// seconds.
    pub cache: u64,
    /// `/proc/self/fd`.
    pub proc: OwnedFd,
    /// Owners on either side.
    pub owners: Owners,
}

impl Share {
    /// Opens what `spec` describes. Links on the way there and at its end are
    /// followed now; later the share stays what it was then, whatever its path
    /// leads to.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn open(spec: &FsSpec) -> Result<Self, FsError> {
        let path = &spec.path;
        let failed = |e: Errno| match e {
            Errno::NOENT | Errno::NOTDIR => FsError::Missing(path.clone()),
            Errno::ACCESS | Errno::PERM => FsError::Denied(path.clone()),
            e => FsError::Io {
                path: path.clone(),
                source: e.into(),
            },
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let (inode, _) = Inode::new(fd).map_err(failed)?;
        let root = match inode.kind {
            FileType::Directory => Root::Dir(Arc::new(inode)),
            FileType::RegularFile => Root::File(SingleFile {
                file: inode.fd,
                name: name_of(path).map_err(failed)?,
            }),
            kind => {
                return Err(FsError::NotShareable {
                    path: path.clone(),
                    kind: kind_name(kind),
                });
            }
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc =
            openat(CWD, "/proc/self/fd", flags, Mode::empty()).map_err(|e| FsError::Proc {
                path: path.clone(),
                source: e.into(),
            })?;
        Ok(Share {
            root,
            readonly: spec.readonly,
            cache: spec.cache.into(),
            proc,
            owners: Owners::of_process(),
        })
    }

    /// What stays open: where it begins, or the single file, and `/proc/self/fd`.
    pub fn directories(&self) -> Vec<OpenDirectory> {
        let root = match &self.root {
            Root::Dir(inode) => inode.fd.as_raw_fd(),
            Root::File(single) => single.file.as_raw_fd(),
        };
        let proc = self.proc.as_raw_fd();
        [(root, self.readonly), (proc, false)]
            .map(|(fd, readonly)| OpenDirectory { fd, readonly })
            .to_vec()
    }
}

/// What the user called a file, where that is a name at all.
fn name_of(path: &Path) -> Result<CString, Errno> {
    let resolved;
    let name = match path.file_name() {
        Some(name) => name,
        None => {
            resolved = path
                .canonicalize()
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            // A regular file has one.
            resolved.file_name().ok_or(Errno::ISDIR)?
        }
    };
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &Path) -> String {
        let message = Share::open(&FsSpec::new(path, "t"))
            .unwrap_err()
            .to_string();
        assert!(message.contains(path.to_str().unwrap()) && !message.contains('\n'));
        message
    }

    #[test]
    fn what_cannot_be_shared_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(&dir.path().join("none")).contains("no such file or directory; check"));
        assert!(
            message(Path::new("/dev/null")).contains("is a character device; give a directory")
        );
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(message(&socket).contains("is a socket"));
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(message(&dir.path().join("loop")).contains("cannot open it: "));
        assert!(message(&dir.path().join("s/x")).contains("no such file"));
    }

    #[test]
    fn a_single_file_is_the_one_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "1").unwrap();
        std::fs::write(dir.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let share = Share::open(&FsSpec::new(&link, "t")).unwrap();
        let Root::File(single) = &share.root else {
            panic!("a file is no directory");
        };
        assert_eq!(single.name, c"link");
        let key = || single.found().unwrap().0.key;
        let first = key();
        std::fs::rename(&file, dir.path().join("old")).unwrap();
        std::fs::write(&file, "2").unwrap();
        assert_eq!(key(), first);
        std::fs::remove_file(dir.path().join("old")).unwrap();
        assert_eq!(key(), first);
        // What stays open leads to nothing beside it.
        for name in ["secret", "../secret", ".."] {
            let found = openat(&single.file, name, OFlags::PATH, Mode::empty());
            assert_eq!(found.unwrap_err(), Errno::NOTDIR, "{name}");
        }
        assert_eq!(share.directories()[0].fd, single.file.as_raw_fd());
    }
}
