//! The store: a directory that several processes may use at once.
//!
//! ```text
//! lock                 held, exclusively by those who change what follows
//! names.json           names of images, and the format's version
//! images/HEX.json      an image: its layers' files; when this is there, all is
//! configs/HEX.json     its config, byte for byte; HEX is its digest and the ID
//! layers/HEX.erofs     a layer; HEX is its diff ID or its chain ID
//! holds/NAME           a symbolic link to the ID of the image that a sandbox uses
//! partial/HEX          a blob of a registry that is not complete, or not used yet
//! tmp/                 what is being written, locked by whoever does it
//! ```
//!
//! Files are written to `tmp`, synced, and renamed to where they belong, an
//! image's record last: a crash leaves all of it or nothing. A layer's file is
//! locked (shared) by whoever means to make use of it before a record says so;
//! it is removed only when nobody has such a lock.

mod commit;
mod files;
mod layers;
mod lock;
mod names;
mod remove;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, ImageConfig, Reference};
pub(crate) use commit::{NewImage, parse_config};
pub(crate) use files::SpoolError;
pub(crate) use layers::Job;
pub(crate) use lock::own as own_lock;
use names::Names;
pub use remove::{DiskUsage, Pruned, Removed};

/// The store's format.
const VERSION: u32 = 1;

/// A store of images.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its config.
    pub id: Digest,
    /// Its names, with tags.
    pub names: Vec<Reference>,
    /// Its names with the digests of manifests that lead to it.
    pub digests: Vec<Reference>,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers' disk images, the lowest first. Each is an EROFS file system
    /// as overlayfs wants a lower directory; none is changed once it is there.
    pub layers: Vec<PathBuf>,
    /// What the layers take on disk, in bytes; some may belong to other images,
    /// too.
    pub size: u64,
    /// When it was put into the store, in seconds since 1970.
    pub stored: u64,
}

/// `images/HEX.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    layers: Vec<Digest>,
    size: u64,
    stored: u64,
}

/// The store's lock, until it is dropped.
struct Locked(#[allow(dead_code)] File);

impl Store {
    /// Opens the store in this directory, which is made when there is none.
    ///
    /// # Errors
    /// When it cannot be made or read, or is of a later version.
    pub fn open(root: &Path) -> Result<Self, Error> {
        // Paths of layers go to other processes.
        let store = Store {
            root: std::path::absolute(root).map_err(Error::store(root))?,
        };
        if !store.names_path().exists() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            for directory in ["images", "configs", "layers", "holds", "partial", "tmp"] {
                let path = store.root.join(directory);
                builder.create(&path).map_err(Error::store(&path))?;
            }
            let _lock = store.lock()?;
            if !store.names_path().exists() {
                store.write_names(&Names::default())?;
            }
        }
        Ok(store)
    }

    /// The image of a name, an ID, or the beginning of an ID.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Ambiguous`], or when it cannot be read.
    pub fn resolve(&self, text: &str) -> Result<Image, Error> {
        let _lock = self.lock_shared()?;
        let names = self.names()?;
        let (id, _) = self.find(&names, text)?;
        self.image(id, &names)
    }

    /// All images, the latest first.
    ///
    /// # Errors
    /// When the store cannot be read. What is damaged is left out with a warning.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let _lock = self.lock_shared()?;
        let names = self.names()?;
        let mut images = Vec::new();
        for id in self.ids()? {
            match self.image(id, &names) {
                Ok(image) => images.push(image),
                Err(e) => log::warn!("image {id}: {e}: left out"),
            }
        }
        images.sort_by_key(|image| std::cmp::Reverse((image.stored, image.id)));
        Ok(images)
    }

    /// An image's config, as it was made.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn raw_config(&self, id: Digest) -> Result<Vec<u8>, Error> {
        let path = self.config_path(id);
        files::read(&path)
    }

    /// The ID that `text` leads to, and the name that did, if it was one.
    fn find(&self, names: &Names, text: &str) -> Result<(Digest, Option<String>), Error> {
        if let Ok(candidates) = Reference::candidates(text) {
            for candidate in candidates {
                // With a tag and a digest, the digest decides.
                let keys = match candidate.digest() {
                    Some(digest) => candidate.with_digest(digest).to_string(),
                    None => candidate.to_string(),
                };
                // One of an image that has gone stands for none.
                if let Some(id) = names.get(&keys)
                    && self.record_path(id).exists()
                {
                    return Ok((id, Some(keys)));
                }
            }
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let unknown = || Error::Unknown(text.chars().take(300).collect());
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let mut ids = self
            .ids()?
            .into_iter()
            .filter(|id| id.hex().starts_with(prefix));
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok((id, None)),
            (Some(_), Some(_)) => Err(Error::Ambiguous(text.to_owned())),
            (None, _) => Err(unknown()),
        }
    }

    /// Reads an image. The lock is held.
    fn image(&self, id: Digest, names: &Names) -> Result<Image, Error> {
        let record = self.record(id)?;
        let path = self.config_path(id);
        let config =
            serde_json::from_slice(&files::read(&path)?).map_err(|_| Error::Damaged { path })?;
        let (digests, tagged) = names
            .of(id)
            .partition(|reference| reference.digest().is_some());
        Ok(Image {
            id,
            names: tagged,
            digests,
            config,
            layers: record
                .layers
                .iter()
                .map(|key| self.layer_path(*key))
                .collect(),
            size: record.size,
            stored: record.stored,
        })
    }

    fn record(&self, id: Digest) -> Result<Record, Error> {
        let path = self.record_path(id);
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Unknown(id.to_string())),
            _ => {
                let bytes = files::read(&path)?;
                serde_json::from_slice(&bytes).map_err(|_| Error::Damaged { path })
            }
        }
    }

    /// All images' IDs.
    fn ids(&self) -> Result<Vec<Digest>, Error> {
        self.digests_in("images", ".json")
    }

    /// The digests that files in a directory are named after.
    fn digests_in(&self, directory: &str, suffix: &str) -> Result<Vec<Digest>, Error> {
        let names = files::list(&self.root.join(directory))?;
        let digest = |name: String| Digest::from_hex(name.strip_suffix(suffix)?);
        Ok(names.into_iter().filter_map(digest).collect())
    }

    /// The image that each holder has.
    fn holds(&self) -> Result<BTreeMap<String, Digest>, Error> {
        let directory = self.root.join("holds");
        let mut holds = BTreeMap::new();
        for holder in files::list(&directory)? {
            let path = directory.join(&holder);
            let target = match fs::read_link(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                target => target.map_err(Error::store(&path))?,
            };
            let id = target.to_str().and_then(Digest::from_hex);
            holds.insert(holder, id.ok_or(Error::Damaged { path })?);
        }
        Ok(holds)
    }

    fn lock(&self) -> Result<Locked, Error> {
        let path = self.root.join("lock");
        let lock = lock::open(&path).and_then(|file| lock::own(&file).map(|()| file));
        Ok(Locked(lock.map_err(Error::store(path))?))
    }

    fn lock_shared(&self) -> Result<Locked, Error> {
        let path = self.root.join("lock");
        let lock = lock::open(&path).and_then(|file| lock::share(&file).map(|()| file));
        Ok(Locked(lock.map_err(Error::store(path))?))
    }

    fn names_path(&self) -> PathBuf {
        self.root.join("names.json")
    }

    fn record_path(&self, id: Digest) -> PathBuf {
        self.root.join("images").join(id.hex() + ".json")
    }

    fn config_path(&self, id: Digest) -> PathBuf {
        self.root.join("configs").join(id.hex() + ".json")
    }

    fn layer_path(&self, key: Digest) -> PathBuf {
        self.root.join("layers").join(key.hex() + ".erofs")
    }

    /// Where a blob of a registry is kept until it is converted.
    pub(crate) fn partial_path(&self, blob: Digest) -> PathBuf {
        self.root.join("partial").join(blob.hex())
    }

    fn hold_path(&self, holder: &str) -> Result<PathBuf, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if !(1..=128).contains(&holder.len())
            || holder.starts_with('.')
            || !holder.bytes().all(plain)
        {
            return Err(Error::Holder(holder.chars().take(200).collect()));
        }
        Ok(self.root.join("holds").join(holder))
    }
}

#[cfg(test)]
mod tests;
