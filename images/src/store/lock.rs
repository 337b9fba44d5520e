//! Advisory locks between processes (`flock`): they go with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Waits for a lock on an open file that others may have, too.
pub fn share(file: &File) -> io::Result<()> {
    wait(file, FlockOperation::LockShared)
}

/// Waits for a lock that nobody else has.
pub fn own(file: &File) -> io::Result<()> {
    wait(file, FlockOperation::LockExclusive)
}

/// Takes a lock that nobody else has, or tells that someone does.
pub fn try_own(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn wait(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match flock(file, operation) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens a file that exists for its lock.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// A lock with a file of its own, which is removed with it.
pub struct NamedLock {
    path: PathBuf,
    _file: File,
}

impl NamedLock {
    /// Waits for the lock.
    pub fn acquire(path: PathBuf) -> io::Result<Self> {
        loop {
            let file = open(&path)?;
            own(&file)?;
            // Its last owner removed it while this one waited.
            if file.metadata()?.nlink() > 0 {
                return Ok(NamedLock { path, _file: file });
            }
        }
    }
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        // One that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}
