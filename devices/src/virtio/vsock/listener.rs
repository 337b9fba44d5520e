//! The Unix socket that host programs connect to, and its file.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::VsockError;
use super::sock;

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
    /// that was killed, is replaced.
    ///
    /// # Errors
    /// When somebody listens there, when the path is another kind of file, and
    /// when the socket cannot be made.
    pub fn open(path: &Path) -> Result<Self, VsockError> {
        let bind = |source| VsockError::Bind {
            path: path.to_owned(),
            source,
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

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
