//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::layer::LayerError;
use crate::{Digest, ReferenceError};

/// What went wrong.
#[derive(Debug, Error)]
pub enum Error {
    /// The store's files.
    #[error("the image store, {path}: {}", store_advice(source))]
    Store {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store was made by a later version.
    #[error(
        "the image store {path} has format {found}: use the drupe that made it, or another DRUPE_HOME"
    )]
    Version {
        /// The store.
        path: PathBuf,
        /// The format that it has.
        found: u32,
    },
    /// A file of the store does not make sense.
    #[error("the image store, {path}: damaged: remove the image and get it again")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// No such image.
    #[error("no image '{0}': get it with 'drupe pull' or 'drupe load', or see 'drupe images'")]
    Unknown(String),
    /// Several images' IDs begin so.
    #[error("'{0}' is the beginning of several images' IDs: give more digits")]
    Ambiguous(String),
    /// This is no name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A name that must have no digest has one.
    #[error("'{0}' has a digest, which cannot be chosen: give a name with a tag")]
    DigestAsName(String),
    /// Sandboxes use the image.
    #[error("image '{name}' is used by {}: remove them first, or use --force", holders.join(", "))]
    InUse {
        /// The image.
        name: String,
        /// The sandboxes.
        holders: Vec<String>,
    },
    /// Several names lead to the image.
    #[error("image '{id}' has several names ({}): remove those, or use --force", names.join(", "))]
    SeveralNames {
        /// The image.
        id: String,
        /// Its names.
        names: Vec<String>,
    },
    /// This is no name for what holds an image.
    #[error("'{0}' cannot be the name of a user of images: use letters, digits, '_', '.' and '-'")]
    Holder(String),
    /// A layer cannot be used.
    #[error("layer {digest}: {source}")]
    Layer {
        /// The layer's diff ID.
        digest: Digest,
        /// Why.
        source: LayerError,
    },
    /// Something is not what its digest says.
    #[error(
        "{what} has the digest {found} in place of {expected}: it is damaged or not the right one; get it again"
    )]
    Digest {
        /// What.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A document of an image does not make sense.
    #[error("{what}: {why}")]
    Document {
        /// Which one.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The archive cannot be read.
    #[error("{path}: {source}")]
    Archive {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is none that is known.
    #[error("{path}: {why}")]
    ArchiveFormat {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No image for the platform.
    #[error("{name} has no image for {wanted}; there is {}", found.join(", "))]
    Platform {
        /// The image.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The registry does not have the image, or does not tell.
    #[error(
        "{name}: {registry} does not have it, or only for those who log in: check the name, or use 'docker login' or 'podman login'"
    )]
    NotInRegistry {
        /// The image.
        name: String,
        /// The registry.
        registry: String,
    },
    /// The registry wants other credentials.
    #[error("{registry} refuses access to {name}: use 'docker login' or 'podman login'")]
    Denied {
        /// The image.
        name: String,
        /// The registry.
        registry: String,
    },
    /// The registry cannot be reached, or does not do what registries do.
    #[error("{registry}: {why}")]
    Registry {
        /// The registry.
        registry: String,
        /// What went wrong.
        why: String,
    },
    /// The credentials cannot be found out.
    #[error("credentials for {registry}: {why}: repair ~/.docker/config.json, or log in again")]
    Credentials {
        /// The registry.
        registry: String,
        /// What went wrong.
        why: String,
    },
    /// An instruction of `import --change`.
    #[error(
        "--change '{0}': give one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR with its value"
    )]
    Change(String),
}

impl Error {
    pub(crate) fn store(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Store { path, source }
    }

    pub(crate) fn document(what: impl ToString, why: impl ToString) -> Error {
        Error::Document {
            what: what.to_string(),
            why: why.to_string(),
        }
    }
}

fn store_advice(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{source}: make room, as with 'drupe image prune', or set DRUPE_HOME")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{source}: make it yours and writable, or set DRUPE_HOME")
        }
        _ => source.to_string(),
    }
}
