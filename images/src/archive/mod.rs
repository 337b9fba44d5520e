//! Images in files: archives of `docker save` and `podman save`, OCI layouts as a
//! directory or a tar.

mod docker;
mod files;
mod layout;

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::progress::Progress;
use crate::{Digest, Error, Platform, Reference, Store};
use files::Files;

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The image's ID.
    pub id: Digest,
    /// The names that it got.
    pub names: Vec<Reference>,
}

/// Where an archive comes from.
#[derive(Debug, Clone)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file or a directory.
    Path(PathBuf),
}

impl Input {
    /// What messages call it.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Input::Stdin => Path::new("standard input"),
            Input::Path(path) => path,
        }
    }
}

impl Store {
    /// Puts the images of an archive into the store: one of `docker save` or
    /// `podman save`, or an OCI layout as a directory or a tar; compressed or
    /// not. Of images for several platforms, the one for `platform`, else this
    /// machine's, is taken.
    ///
    /// # Errors
    /// [`Error`]. Images before the one that failed are in the store.
    pub fn load(
        &self,
        from: &Input,
        platform: Option<&Platform>,
        progress: Progress,
    ) -> Result<Vec<Loaded>, Error> {
        let files = Files::open(self, from)?;
        let loaded = if files.has("manifest.json") {
            docker::load(self, &files, progress)?
        } else if files.has("index.json") {
            layout::load(self, &files, platform, progress)?
        } else {
            return Err(files.error("neither of 'docker save' nor an OCI layout: there is no manifest.json and no index.json; 'drupe import' takes root file systems"));
        };
        if loaded.is_empty() {
            return Err(files.error("an archive without an image"));
        }
        Ok(loaded)
    }
}

/// Opens a file of an archive, as a job for the store.
fn opener<'a>(
    files: &'a Files,
    name: String,
) -> Box<dyn FnOnce() -> Result<Box<dyn Read + Send + 'a>, Error> + Send + 'a> {
    Box::new(move || files.read(&name))
}

#[cfg(test)]
mod tests;
