//! Files that are there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::{Store, lock};
use crate::Error;
use crate::space::{IMAGE, KeepFree};

/// The largest file that is read as a whole, in bytes: `names.json` with some
/// 100,000 names.
const MAX_FILE: u64 = 64 << 20;
/// What most of them fit into, so that they are read at once.
const USUAL_FILE: usize = 4 << 10;

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(USUAL_FILE);
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(Error::store(path))?;
    Ok(bytes)
}

/// The names in a directory that are text.
pub fn list(directory: &Path) -> Result<Vec<String>, Error> {
    let names = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().into_string().ok()))
            .filter_map(io::Result::transpose)
            .collect()
    });
    names.map_err(Error::store(directory))
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::store(path)(e)),
        _ => Ok(()),
    }
}

/// Makes a directory's entries safe from a crash.
pub fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(Error::store(directory))
}

/// Why something could not be copied into the store.
pub(crate) enum SpoolError {
    /// It could not be read.
    Read(io::Error),
    /// It could not be written.
    Store(Error),
}

impl Store {
    /// Copies all of `from` to a temporary file.
    pub(crate) fn spool(
        &self,
        from: &mut impl Read,
        temp: &mut NamedTempFile,
    ) -> Result<(), SpoolError> {
        let mut keep = KeepFree::of(temp.as_file(), IMAGE)
            .map_err(|e| SpoolError::Store(Error::store(&self.root)(e)))?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(SpoolError::Read(e)),
            };
            // The file's own error repeats its path.
            keep.write(n as u64)
                .and_then(|()| temp.as_file_mut().write_all(&buffer[..n]))
                .map_err(|e| SpoolError::Store(Error::store(&self.root)(e)))?;
        }
    }

    /// A file in `tmp`, removed on drop. It is locked, so that nobody takes it
    /// for one that a crash left behind.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, Error> {
        let directory = self.root.join("tmp");
        // Whoever cleans up has the other kind of lock.
        let _lock = self.lock_shared()?;
        self.temporary_locked().map_err(Error::store(directory))
    }

    fn temporary_locked(&self) -> io::Result<NamedTempFile> {
        let file = NamedTempFile::new_in(self.root.join("tmp"))?;
        lock::share(file.as_file())?;
        Ok(file)
    }

    /// Puts a file in its place. The store's lock is held.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut file = self.temporary_locked()?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(Error::store(path))?;
        sync_directory(path)
    }

    /// Removes what crashes left in `tmp`. The store's lock is held.
    pub(super) fn sweep(&self) -> Result<u64, Error> {
        let directory = self.root.join("tmp");
        let mut bytes = 0;
        for name in list(&directory)? {
            let path = directory.join(name);
            bytes += remove_if_idle(&path)?;
        }
        Ok(bytes)
    }
}

/// Removes a file that nobody has locked, and tells what it took on disk.
pub fn remove_if_idle(path: &Path) -> Result<u64, Error> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file.map_err(Error::store(path))?,
    };
    if !lock::try_own(&file).map_err(Error::store(path))? {
        return Ok(0);
    }
    let bytes = file.metadata().map(|m| disk_size(&m)).unwrap_or(0);
    remove(path)?;
    Ok(bytes)
}

/// What a file takes on disk, in bytes.
pub fn disk_size(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.blocks() * 512
}
