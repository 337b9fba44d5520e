//! Removing: names, images, and layers that nobody needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::names::Names;
use super::{Store, files};
use crate::{Digest, Error};

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, as people write it.
    Name(String),
    /// An image.
    Image(Digest),
}

/// What [`Store::prune`] did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// What was removed.
    pub removed: Vec<Removed>,
    /// What that took on disk, in bytes.
    pub bytes: u64,
}

/// What the store takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Images.
    pub images: usize,
    /// Images that sandboxes use.
    pub active: usize,
    /// Bytes of all layers, each counted once, and of downloads that were
    /// interrupted.
    pub size: u64,
    /// Bytes of those that no sandbox uses.
    pub reclaimable: u64,
}

impl Store {
    /// Takes a name from its image, and removes an image that has no other; or
    /// removes the image of an ID. With `force`, an image with several names is
    /// removed by its ID, and one that sandboxes use loses its names; it goes
    /// with [`prune`](Self::prune) when they have ended.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::InUse`], [`Error::SeveralNames`], or when the
    /// store cannot be written.
    pub fn remove(&self, text: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let _lock = self.lock()?;
        let mut names = self.names()?;
        let (id, name) = self.find(&names, text)?;
        // Its files are not read: a damaged image must go, too.
        let (digests, tagged): (Vec<_>, Vec<_>) =
            names.of(id).partition(|name| name.digest().is_some());
        let mut removed = Vec::new();
        if let Some(name) = &name {
            if tagged.iter().any(|n| n.to_string() != *name) {
                names.remove(name);
                self.write_names(&names)?;
                let familiar = name.parse::<crate::Reference>().map(|n| n.familiar());
                return Ok(vec![Removed::Name(
                    familiar.unwrap_or_else(|_| name.clone()),
                )]);
            }
        } else if tagged.len() > 1 && !force {
            return Err(Error::SeveralNames {
                id: id.short(),
                names: tagged.iter().map(|n| n.familiar()).collect(),
            });
        }
        let holders = self.holders_of(id)?;
        if !holders.is_empty() && !force {
            return Err(Error::InUse {
                name: text.to_owned(),
                holders,
            });
        }
        for name in tagged.iter().chain(&digests) {
            names.remove(&name.to_string());
            removed.push(Removed::Name(name.familiar()));
        }
        if !holders.is_empty() {
            self.write_names(&names)?;
            return Ok(removed);
        }
        // First what makes room: on a full disk, nothing could be written.
        self.remove_image(id)?;
        removed.push(Removed::Image(id));
        self.forget_names(&names)?;
        Ok(removed)
    }

    /// Removes images without a tag, or with `all` every one that no sandbox
    /// uses; layers that belong to no image; and what interruptions left behind.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, all: bool) -> Result<Pruned, Error> {
        let _lock = self.lock()?;
        let mut names = self.names()?;
        let mut pruned = Pruned::default();
        let held: BTreeSet<Digest> = self.holds()?.into_values().collect();
        for id in self.ids()? {
            let theirs: Vec<_> = names.of(id).collect();
            let tagged = theirs.iter().any(|name| name.digest().is_none());
            if held.contains(&id) || (tagged && !all) {
                continue;
            }
            for name in theirs {
                names.remove(&name.to_string());
                pruned.removed.push(Removed::Name(name.familiar()));
            }
            files::remove(&self.record_path(id))?;
            pruned.removed.push(Removed::Image(id));
        }
        let ids: BTreeSet<Digest> = self.ids()?.into_iter().collect();
        for id in self.digests_in("configs", ".json")? {
            if !ids.contains(&id) {
                files::remove(&self.config_path(id))?;
            }
        }
        let layers = self.digests_in("layers", ".erofs")?;
        pruned.bytes += self.collect(layers)?;
        pruned.bytes += self.sweep()?;
        let partial = self.root.join("partial");
        for name in files::list(&partial)? {
            pruned.bytes += files::remove_if_idle(&partial.join(name))?;
        }
        // Last: by now there is room for it.
        if !pruned.removed.is_empty() {
            self.forget_names(&names)?;
        }
        Ok(pruned)
    }

    /// What the store takes on disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let _lock = self.lock_shared()?;
        let ids = self.ids()?;
        let held: BTreeSet<Digest> = self.holds()?.into_values().collect();
        let active = ids.iter().filter(|id| held.contains(id));
        let mut usage = DiskUsage {
            images: ids.len(),
            active: active.count(),
            ..DiskUsage::default()
        };
        let mut used = BTreeSet::new();
        for id in &held {
            // A damaged one cannot be used.
            used.extend(self.record(*id).map(|r| r.layers).unwrap_or_default());
        }
        for key in self.digests_in("layers", ".erofs")? {
            let bytes = size_of(&self.layer_path(key));
            usage.size += bytes;
            if !used.contains(&key) {
                usage.reclaimable += bytes;
            }
        }
        let partial = self.root.join("partial");
        for name in files::list(&partial)? {
            let bytes = size_of(&partial.join(name));
            usage.size += bytes;
            usage.reclaimable += bytes;
        }
        Ok(usage)
    }

    /// Writes the names after images have gone. A disk that is full even now is no
    /// failure: a name that leads to no image is not found, and goes with the next
    /// ones that are written.
    fn forget_names(&self, names: &Names) -> Result<(), Error> {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self.write_names(names) {
            Err(Error::Store { source, .. })
                if matches!(source.kind(), StorageFull | QuotaExceeded) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn holders_of(&self, id: Digest) -> Result<Vec<String>, Error> {
        let holds = self.holds()?.into_iter();
        let theirs = holds.filter(|(_, image)| *image == id);
        Ok(theirs.map(|(holder, _)| holder).collect())
    }

    /// Removes an image that has no name any more. The lock is held.
    fn remove_image(&self, id: Digest) -> Result<(), Error> {
        let layers = self.record(id).map(|record| record.layers);
        // The record goes first: without it, the rest is nobody's.
        files::remove(&self.record_path(id))?;
        files::sync_directory(&self.record_path(id))?;
        files::remove(&self.config_path(id))?;
        self.collect(layers.unwrap_or_default())?;
        Ok(())
    }

    /// Removes those of these layers that no image has, nobody holds, and nobody
    /// is about to use. The lock is held.
    fn collect(&self, candidates: Vec<Digest>) -> Result<u64, Error> {
        let mut needed = BTreeSet::new();
        for id in self.ids()? {
            match self.record(id) {
                Ok(record) => needed.extend(record.layers),
                // Nothing can use such an image any more.
                Err(e) => log::warn!("image {id}: {e}"),
            }
        }
        let mut bytes = 0;
        for key in candidates {
            if !needed.contains(&key) {
                bytes += files::remove_if_idle(&self.layer_path(key))?;
            }
        }
        Ok(bytes)
    }
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| files::disk_size(&metadata))
}
