//! The Unix socket that host programs connect to, and its file.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::VsockError;
use super::sock;
use crate::sys_io;

/// A listening socket, whose file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: another one at its path is left alone.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`. A socket there that nobody listens on, left by a VM
    /// that was killed, is replaced: under a lock, for of two VMs that find it at
    /// the same time the second would replace the first one's.
    ///
    /// # Errors
    /// When somebody listens there, when the path is another kind of file, and
    /// when the socket cannot be made.
    pub fn open(path: &Path) -> Result<Self, VsockError> {
        let bind = |source| VsockError::Bind {
            path: path.to_owned(),
            source,
        };
        let _lock = match Lock::take(path).map_err(bind)? {
            Some(lock) => lock,
            None => {
                return Err(VsockError::InUse {
                    path: path.to_owned(),
                });
            }
        };
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(bind(e)),
            Ok(m) if !m.file_type().is_socket() => {
                return Err(VsockError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Ok(_) => match sock::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(bind)?;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // A full backlog is somebody's, too.
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(bind(e)),
                _ => {
                    return Err(VsockError::InUse {
                        path: path.to_owned(),
                    });
                }
            },
        }
        let socket = sock::listen(path).map_err(bind)?;
        Ok(Listener {
            socket,
            path: path.to_owned(),
            file: identity(path),
        })
    }

    /// Takes the next connection, which does not block.
    ///
    /// # Errors
    /// `WouldBlock` when nobody waits.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// The host's socket for `port`, which a host program may listen on.
    pub fn port_path(&self, port: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            // Nobody is left to tell of an error; the next VM replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock file `PATH.lock`, there while a VM takes its place at `PATH`.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock; none while another VM has it.
    fn take(socket: &Path) -> io::Result<Option<Self>> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)?;
            match sys_io::try_lock(&file, true) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // Some network file systems have no locks.
                Err(_) => return Ok(Some(Lock { path, _file: file })),
            }
            // Its last owner may have removed it between the two calls.
            let metadata = file.metadata()?;
            if identity(&path) == Some((metadata.dev(), metadata.ino())) {
                return Ok(Some(Lock { path, _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked. One that stays is taken by the next VM.
        let _ = fs::remove_file(&self.path);
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
