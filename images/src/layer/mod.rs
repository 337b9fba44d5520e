//! A layer's tar becomes a disk image that overlayfs takes as it is.
//!
//! What a layer says about the layers below it (OCI image specification, "Image
//! Layer Filesystem Changeset") is said to overlayfs: a whiteout is a character
//! device 0/0, an opaque directory has an extended attribute. Nothing is
//! unpacked: names lead nowhere but into a tree in memory, and data go straight
//! into the image.
//!
//! Two things depend on the layers below. A directory that the layer only has
//! because something stands in it keeps the attributes that it has there. And a
//! whiteout that hides nothing is left out, as overlayfs would list it in a
//! directory that it does not merge. [`Layer::needs_lower`] tells.

mod build;
mod lower;
mod path;

use std::fs::File;
use std::io::{self, Read};

use thiserror::Error;

use crate::erofs::{self, ErofsError, ImageWriter};
use crate::tar::{TarError, TarReader};
use build::Builder;

/// What makes a directory opaque, with the value `y`.
pub const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// The most bytes of one layer's tar: a few times the largest images there are,
/// and what a small compressed file may become before it is given up.
const MAX_LAYER: u64 = 256 << 30;
/// The most memory for names, attributes and block maps of one layer, in bytes:
/// some 1.7 million files.
const MAX_METADATA: u64 = 512 << 20;
/// What one inode or name takes of it at least.
const METADATA_PER_ENTRY: u64 = 256;

/// Why a layer cannot become a disk image.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The archive.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ErofsError),
    /// A lower layer's image.
    #[error("a layer below it: {0}")]
    Lower(#[source] io::Error),
    /// An entry that no file system could hold.
    #[error("the tar entry '{name}' {what}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More than a layer may have.
    #[error("more than {0} in one layer")]
    Limit(String),
}

impl LayerError {
    /// The failure to read or write behind it, if it is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            LayerError::Tar(TarError::Read(e)) | LayerError::Image(ErofsError::Io(e)) => Some(e),
            _ => None,
        }
    }
}

/// A layer whose data are in its image; the metadata are still to come.
pub struct Layer {
    builder: Builder,
    writer: ImageWriter,
}

impl Layer {
    /// Reads a whole tar. `image` and `aside` are empty files; the second one is
    /// for the time being.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn read(tar: impl Read, image: File, aside: File) -> Result<Self, LayerError> {
        let mut tar = TarReader::new(tar);
        let mut layer = Layer {
            builder: Builder::new(),
            writer: ImageWriter::new(image, aside),
        };
        while let Some(entry) = tar.next_entry()? {
            let stored = match &entry.sparse {
                Some(segments) => segments.iter().map(|s| s.len).sum(),
                None => entry.size,
            };
            if tar.position().saturating_add(stored) > MAX_LAYER {
                return Err(LayerError::Limit(format!("{} GiB", MAX_LAYER >> 30)));
            }
            layer.builder.add(entry, &mut tar, &mut layer.writer)?;
        }
        // Whoever takes the digest wants to see everything.
        let left = MAX_LAYER.saturating_sub(tar.position());
        let mut rest = tar.into_inner().take(left + 1);
        if io::copy(&mut rest, &mut io::sink()).map_err(TarError::Read)? > left {
            return Err(LayerError::Limit(format!("{} GiB", MAX_LAYER >> 30)));
        }
        Ok(layer)
    }

    /// Whether [`finish`](Self::finish) looks at the layers below.
    pub fn needs_lower(&self) -> bool {
        self.builder.needs_lower()
    }

    /// Writes the metadata, and gives the image back, complete, though not yet
    /// synced. `lower` are the images of the layers below, the highest first.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn finish(self, lower: &[erofs::Image], uuid: [u8; 16]) -> Result<File, LayerError> {
        let tree = self.builder.finish(lower)?;
        Ok(self.writer.finish(&tree, uuid)?)
    }
}

#[cfg(test)]
mod tests;
