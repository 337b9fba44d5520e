//! Locks on files, held by an open file and not by a process: the kernel lets
//! go of them when the holder dies, however it dies, and no other descriptor of
//! the process takes them along. (Open file description locks, fcntl(2).)

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A lock that is held as long as this lives.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By many.
    Shared,
    /// By one.
    Exclusive,
}

impl FileLock {
    /// Takes the lock, and waits for it. The file is made when it is not there.
    ///
    /// # Errors
    /// The file's.
    pub fn wait(path: &Path, kind: Kind) -> io::Result<Self> {
        let file = open(path)?;
        while let Err(e) = request(&file, libc::F_OFD_SETLKW, kind) {
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
        Ok(FileLock { _file: file })
    }

    /// Takes the lock unless somebody has it.
    ///
    /// # Errors
    /// The file's.
    pub fn try_take(path: &Path, kind: Kind) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match request(&file, libc::F_OFD_SETLK, kind) {
            Ok(_) => Ok(Some(FileLock { _file: file })),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// True while somebody holds the lock. Asks without taking it, so that it never
/// stands in somebody's way. A file that is not there is not locked.
///
/// # Errors
/// The file's.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let answer = request(&file, libc::F_OFD_GETLK, Kind::Exclusive)?;
    Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn request(file: &File, command: libc::c_int, kind: Kind) -> io::Result<libc::flock> {
    // SAFETY: all zeroes is a valid flock: the whole file, and no process.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
    } as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the commands read and write one flock, which outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_the_others_see_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let held = FileLock::wait(&path, Kind::Exclusive).unwrap();
        assert!(is_held(&path).unwrap());
        for kind in [Kind::Shared, Kind::Exclusive] {
            assert!(FileLock::try_take(&path, kind).unwrap().is_none());
        }
        // Another descriptor of this process does not let go of it.
        drop(File::open(&path).unwrap());
        assert!(is_held(&path).unwrap());
        drop(held);
        assert!(!is_held(&path).unwrap());
        let shared = FileLock::try_take(&path, Kind::Shared).unwrap();
        assert!(FileLock::try_take(&path, Kind::Shared).unwrap().is_some());
        assert!(
            FileLock::try_take(&path, Kind::Exclusive)
                .unwrap()
                .is_none()
        );
        assert!(shared.is_some() && is_held(&path).unwrap());
    }

    #[test]
    fn a_waiter_gets_it_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::wait(&path, Kind::Exclusive).unwrap();
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || FileLock::wait(&path, Kind::Exclusive).is_ok())
        };
        drop(held);
        assert!(waiter.join().unwrap());
    }
}
