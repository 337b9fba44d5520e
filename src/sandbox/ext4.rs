//! Disks with an empty ext4 on them, as sparse files. `mkfs.ext4` makes them:
//! nobody knows the format better.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;
use vmm::config::ByteSize;

/// The smallest disk: what ext4 with a journal needs, and room for files.
pub const MIN_SIZE: ByteSize = ByteSize(16 << 20);
/// The largest disk: what ext4 with blocks of 4 KiB and a sparse file on another
/// ext4 can be, less one block.
pub const MAX_SIZE: ByteSize = ByteSize(15 << 40);
/// Where the program is on systems that keep it out of a user's `PATH`.
const PLACES: [&str; 3] = [
    "/usr/sbin/mkfs.ext4",
    "/sbin/mkfs.ext4",
    "/usr/local/sbin/mkfs.ext4",
];
/// How it is to be made: for root, without reserved blocks, and with everything
/// that can wait left to the guest's kernel. No time is lost on blocks to
/// discard, since a sparse file has none.
const OPTIONS: [&str; 5] = [
    "-qF",
    "-m",
    "0",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
];

/// Why there is no disk.
#[derive(Debug, Error)]
pub enum Ext4Error {
    /// It would not hold anything.
    #[error("a disk of {0} is too small: give {MIN_SIZE} to {MAX_SIZE}")]
    Small(ByteSize),
    /// No file could be as large.
    #[error("a disk of {0} is too large: give {MIN_SIZE} to {MAX_SIZE}")]
    Large(ByteSize),
    /// The file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such program.
    #[error("mkfs.ext4 cannot be started: {0}: install e2fsprogs")]
    Missing(#[source] io::Error),
    /// It failed.
    #[error("mkfs.ext4 cannot format {path}: {why}")]
    Failed {
        /// The disk.
        path: PathBuf,
        /// What it said.
        why: String,
    },
}

/// Checks the size of a disk.
///
/// # Errors
/// What sizes there are.
pub fn check(size: ByteSize) -> Result<(), Ext4Error> {
    match size {
        _ if size < MIN_SIZE => Err(Ext4Error::Small(size)),
        _ if size > MAX_SIZE => Err(Ext4Error::Large(size)),
        _ => Ok(()),
    }
}

/// Makes a disk of `size`, which must not be there yet.
///
/// # Errors
/// What the program or the file system says; there is no file then.
pub fn make(path: &Path, size: ByteSize) -> Result<(), Ext4Error> {
    check(size)?;
    let failed = |source| Ext4Error::File {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    let result = file
        .set_len(size.bytes())
        .map_err(failed)
        .and_then(|()| format(path));
    if result.is_err() {
        // An unformatted file would be taken for a disk.
        let _ = fs::remove_file(path);
    }
    result
}

fn format(path: &Path) -> Result<(), Ext4Error> {
    let program = PLACES.iter().map(Path::new).find(|place| place.exists());
    let output = Command::new(program.unwrap_or(Path::new("mkfs.ext4")))
        .args(OPTIONS)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(Ext4Error::Missing)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            // The first line is the program's version.
            let line = text.lines().filter(|line| !line.is_empty()).nth(1);
            Err(Ext4Error::Failed {
                path: path.to_owned(),
                why: line.unwrap_or("it does not say why").trim().to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_disk_is_sparse_and_ext4() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        make(&path, ByteSize(1 << 30)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 16 << 20, "{}", metadata.blocks());
        // The magic number of the superblock.
        assert_eq!(fs::read(&path).unwrap()[1080..1082], [0x53, 0xef]);
        assert!(make(&path, ByteSize(1 << 30)).is_err());
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        assert!(matches!(
            make(&path, ByteSize(1 << 20)),
            Err(Ext4Error::Small(_))
        ));
        assert!(matches!(
            make(&path, ByteSize(100 << 40)),
            Err(Ext4Error::Large(_))
        ));
        assert!(check(MIN_SIZE).is_ok() && check(MAX_SIZE).is_ok());
        assert!(make(&dir.path().join("no/disk"), ByteSize(1 << 30)).is_err());
        assert!(!path.exists());
    }
}
