//! Named volumes: each a disk with an ext4 that outlives the sandboxes which
//! mount it. `volumes/NAME/` in drupe's directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vmm::config::ByteSize;

use super::ext4::{self, Ext4Error};
use super::id::Id;
use super::lock::{self, FileLock, Kind};
use super::time::Time;
use super::{events, files, names};

/// How large a volume may grow unless it is said: the file takes no more than
/// what was written to it.
pub const DEFAULT_SIZE: ByteSize = ByteSize(16 << 30);
/// The disk in the volume's directory.
const DISK: &str = "disk.ext4";
/// Its description.
const DESCRIPTION: &str = "volume.json";

/// What can go wrong with a volume.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// Nothing has this name.
    #[error("no such volume: {0}: 'drupe volume ls' lists them")]
    Unknown(String),
    /// What was given is no name.
    #[error(
        "'{0}' is no name of a volume: begin with a letter or a digit, go on with those, '_', '.' or '-', 2 to 128 in all"
    )]
    BadName(String),
    /// A machine has it.
    #[error(
        "volume {0} is in use by a running sandbox: a disk has one kernel at a time that writes to it"
    )]
    Busy(String),
    /// Sandboxes want it.
    #[error("volume {name} is in use by sandbox {sandbox}: remove that first")]
    Used {
        /// The volume.
        name: String,
        /// One of them.
        sandbox: String,
    },
    /// Its disk cannot be made.
    #[error("volume {name}: {source}")]
    Disk {
        /// The volume.
        name: String,
        /// Why.
        source: Ext4Error,
    },
    /// Its files.
    #[error("volume: cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Description {
    /// When it was made.
    pub created: Time,
    /// What people attach to it.
    pub labels: BTreeMap<String, String>,
    /// How large it may grow.
    pub size: ByteSize,
    /// It was made for one sandbox, and has no name of its own.
    pub anonymous: bool,
}

/// The volumes.
#[derive(Debug)]
pub struct Volumes {
    home: PathBuf,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    directory: PathBuf,
}

impl Volumes {
    /// Those in drupe's directory.
    pub fn new(home: &Path) -> Self {
        Volumes {
            home: home.to_owned(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.home.join("volumes")
    }

    fn at(&self, name: &str) -> Volume {
        Volume {
            name: name.to_owned(),
            directory: self.directory().join(name),
        }
    }

    /// Makes a volume, or finds the one that has this name already: true when it
    /// is new.
    ///
    /// # Errors
    /// No name, or what keeps its disk from being made; nothing is left then.
    pub fn create(
        &self,
        name: &str,
        size: ByteSize,
        labels: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<(Volume, bool), VolumeError> {
        names::check(name).map_err(|_| VolumeError::BadName(name.to_owned()))?;
        let volume = self.at(name);
        if volume.directory.is_dir() {
            return Ok((volume, false));
        }
        let id = Id::random().map_err(|e| io_error("name", &volume.directory, e))?;
        let new = files::unfinished(&self.directory(), id.as_str());
        files::private_dir(&new).map_err(|e| io_error("make", &new, e))?;
        let description = Description {
            created: Time::now(),
            labels,
            size,
            anonymous,
        };
        let finished = (|| {
            let text = serde_json::to_vec(&description).map_err(io::Error::from);
            let path = new.join(DESCRIPTION);
            text.and_then(|text| files::write_atomically(&path, &text))
                .map_err(|e| io_error("write", &path, e))?;
            ext4::make(&new.join(DISK), size).map_err(|source| VolumeError::Disk {
                name: name.to_owned(),
                source,
            })?;
            match fs::rename(&new, &volume.directory) {
                Ok(()) => Ok(true),
                // Another drupe was faster.
                Err(_) if volume.directory.is_dir() => Ok(false),
                Err(e) => Err(io_error("make", &volume.directory, e)),
            }
        })();
        if !matches!(finished, Ok(true)) {
            // What stays of it is nobody's volume.
            let _ = fs::remove_dir_all(&new);
        }
        let created = finished?;
        if created {
            events::volume(&self.home, name, "create");
        }
        Ok((volume, created))
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`VolumeError::Unknown`].
    pub fn find(&self, name: &str) -> Result<Volume, VolumeError> {
        let volume = self.at(name);
        match names::check(name).is_ok() && volume.directory.is_dir() {
            true => Ok(volume),
            false => Err(VolumeError::Unknown(name.to_owned())),
        }
    }

    /// All volumes by name. What a crash has left of others is removed.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let directory = self.directory();
        let entries = match fs::read_dir(&directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| io_error("list", &directory, e))?,
        };
        files::sweep(&directory);
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| names::check(name).is_ok()).collect();
        names.sort();
        Ok(names.iter().map(|name| self.at(name)).collect())
    }

    /// Removes a volume that no machine has.
    ///
    /// # Errors
    /// [`VolumeError::Busy`], or the files'.
    pub fn remove(&self, volume: &Volume) -> Result<(), VolumeError> {
        let _lock = volume.lock(false)?;
        let gone = files::unfinished(&self.directory(), &format!("gone-{}", volume.name));
        // Of an earlier one of this name, whose removal did not come to its end: it
        // would be in the way for ever.
        let _ = fs::remove_dir_all(&gone);
        fs::rename(&volume.directory, &gone)
            .map_err(|e| io_error("remove", &volume.directory, e))?;
        fs::remove_dir_all(&gone).map_err(|e| io_error("remove", &gone, e))?;
        events::volume(&self.home, &volume.name, "destroy");
        Ok(())
    }
}

impl Volume {
    /// Its disk.
    pub fn disk(&self) -> PathBuf {
        self.directory.join(DISK)
    }

    /// What it is.
    ///
    /// # Errors
    /// When the file cannot be read or makes no sense.
    pub fn description(&self) -> Result<Description, VolumeError> {
        let path = self.directory.join(DESCRIPTION);
        let bytes = files::read(&path);
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(|e| io_error("read", &path, e))
    }

    /// Bytes on the host's disk.
    pub fn used(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.disk()).map_or(0, |m| m.blocks() * 512)
    }

    /// Takes it for a machine: alone, or with others that only read.
    ///
    /// # Errors
    /// [`VolumeError::Busy`], [`VolumeError::Unknown`], or the lock's.
    pub fn lock(&self, read_only: bool) -> Result<FileLock, VolumeError> {
        let path = self.directory.join("lock");
        let kind = match read_only {
            true => Kind::Shared,
            false => Kind::Exclusive,
        };
        match FileLock::try_take(&path, kind) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(VolumeError::Busy(self.name.clone())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(VolumeError::Unknown(self.name.clone()))
            }
            Err(e) => Err(io_error("lock", &path, e)),
        }
    }

    /// A machine has it.
    pub fn is_busy(&self) -> bool {
        lock::is_held(&self.directory.join("lock")).unwrap_or(false)
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> VolumeError {
    VolumeError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ByteSize = ByteSize(64 << 20);

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(dir.path());
        (dir, volumes)
    }

    #[test]
    fn a_volume_is_made_once_and_found() {
        let (_dir, volumes) = volumes();
        assert!(volumes.list().unwrap().is_empty());
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let (volume, new) = volumes.create("data", SIZE, labels.clone(), false).unwrap();
        assert!(new);
        let (again, new) = volumes
            .create("data", SIZE, BTreeMap::new(), false)
            .unwrap();
        assert!(!new && again == volume);
        let description = volume.description().unwrap();
        assert_eq!((description.labels, description.size), (labels, SIZE));
        assert!(volume.used() > 0 && volume.used() < SIZE.bytes());
        assert_eq!(volumes.list().unwrap(), [volumes.find("data").unwrap()]);
        volumes.remove(&volume).unwrap();
        assert!(matches!(volumes.find("data"), Err(VolumeError::Unknown(_))));
        assert!(matches!(volume.lock(false), Err(VolumeError::Unknown(_))));
    }

    #[test]
    fn a_removal_that_was_cut_off_is_not_in_the_way() {
        let (_dir, volumes) = volumes();
        let create = || volumes.create("data", SIZE, BTreeMap::new(), false);
        let (volume, _) = create().unwrap();
        // As a kill between the two steps leaves it.
        fs::rename(&volume.directory, volumes.directory().join(".gone-data")).unwrap();
        let (volume, new) = create().unwrap();
        assert!(new);
        volumes.remove(&volume).unwrap();
        assert_eq!(fs::read_dir(volumes.directory()).unwrap().count(), 0);
    }

    #[test]
    fn one_machine_writes_or_many_read() {
        let (_dir, volumes) = volumes();
        let (volume, _) = volumes
            .create("data", SIZE, BTreeMap::new(), false)
            .unwrap();
        let writer = volume.lock(false).unwrap();
        assert!(volume.is_busy());
        for read_only in [true, false] {
            assert!(matches!(volume.lock(read_only), Err(VolumeError::Busy(_))));
        }
        assert!(matches!(volumes.remove(&volume), Err(VolumeError::Busy(_))));
        drop(writer);
        let readers = [volume.lock(true).unwrap(), volume.lock(true).unwrap()];
        assert!(volume.lock(false).is_err());
        drop(readers);
        volumes.remove(&volume).unwrap();
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let (dir, volumes) = volumes();
        assert!(
            volumes
                .create("data", ByteSize(1), BTreeMap::new(), false)
                .is_err()
        );
        assert!(
            volumes
                .create("../x", SIZE, BTreeMap::new(), false)
                .is_err()
        );
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
    }

    #[test]
    fn of_many_who_make_it_one_did() {
        let (dir, volumes) = volumes();
        let made = std::thread::scope(|scope| {
            let make = || {
                volumes
                    .create("same", SIZE, BTreeMap::new(), false)
                    .unwrap()
                    .1
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|new| *new)
                .count()
        });
        assert_eq!(made, 1);
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 1);
    }
}
