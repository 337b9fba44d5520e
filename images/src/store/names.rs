//! `names.json`: which image each name stands for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Store, VERSION, files};
use crate::{Digest, Error, Reference};

/// The names of all images.
#[derive(Debug, Serialize, Deserialize)]
pub struct Names {
    version: u32,
    names: BTreeMap<String, Digest>,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            version: VERSION,
            names: BTreeMap::new(),
        }
    }
}

impl Names {
    /// The image of a complete name.
    pub fn get(&self, name: &str) -> Option<Digest> {
        self.names.get(name).copied()
    }

    /// The names of an image.
    pub fn of(&self, id: Digest) -> impl Iterator<Item = Reference> {
        self.names
            .iter()
            .filter(move |(_, image)| **image == id)
            .filter_map(|(name, _)| name.parse().ok())
    }

    /// Gives a name to an image, taking it from any other.
    pub fn set(&mut self, name: &Reference, id: Digest) {
        self.names.insert(name.to_string(), id);
    }

    /// Takes all names of an image away.
    pub fn forget(&mut self, id: Digest) {
        self.names.retain(|_, image| *image != id);
    }

    /// Takes a name away.
    pub fn remove(&mut self, name: &str) {
        self.names.remove(name);
    }
}

impl Store {
    pub(super) fn names(&self) -> Result<Names, Error> {
        let path = self.names_path();
        let bytes = files::read(&path)?;
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        match serde_json::from_slice::<Version>(&bytes) {
            Ok(Version { version }) if version != VERSION => Err(Error::Version {
                path: self.root.clone(),
                found: version,
            }),
            _ => serde_json::from_slice(&bytes).map_err(|_| Error::Damaged { path }),
        }
    }

    pub(super) fn write_names(&self, names: &Names) -> Result<(), Error> {
        let path = self.names_path();
        let bytes = serde_json::to_vec(names).map_err(|e| Error::document("names.json", e))?;
        self.write(&path, &bytes)
    }

    /// Gives an image another name, taking it from any other image.
    ///
    /// # Errors
    /// When there is no such image, the name is none or has a digest, or the
    /// store cannot be written.
    pub fn tag(&self, image: &str, name: &Reference) -> Result<(), Error> {
        if name.digest().is_some() {
            return Err(Error::DigestAsName(name.familiar()));
        }
        let _lock = self.lock()?;
        let mut names = self.names()?;
        let (id, _) = self.find(&names, image)?;
        names.set(name, id);
        self.write_names(&names)
    }
}
