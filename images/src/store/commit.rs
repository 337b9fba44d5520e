//! New images, and those who use them.

use std::io;
use std::os::unix::fs::symlink;
use std::time::{SystemTime, UNIX_EPOCH};

use super::layers::Held;
use super::{Image, Job, Record, Store, files};
use crate::oci::{MAX_DOCUMENT, MAX_LAYERS};
use crate::progress::{Event, Progress};
use crate::{Digest, Error, ImageConfig, Reference};

/// An image that is to be put into the store.
pub(crate) struct NewImage<'a> {
    /// Its config, byte for byte.
    pub config: &'a [u8],
    /// Its layers, the lowest first.
    pub layers: Vec<Job<'a>>,
    /// The names that it gets, with tags or digests.
    pub names: &'a [Reference],
}

/// What a config says, with what it must say checked.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<ImageConfig, Error> {
    let bad = |why: String| Error::document("the image's config", why);
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(bad(format!("longer than {MAX_DOCUMENT} bytes")));
    }
    let config: ImageConfig = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    if config.rootfs.diff_ids.len() > MAX_LAYERS {
        return Err(bad(format!("more than {MAX_LAYERS} layers")));
    }
    Ok(config)
}

impl Store {
    /// Puts an image into the store. Until the end nothing shows of it; layers
    /// that were converted before an interruption are found again.
    pub(crate) fn add(&self, image: NewImage, progress: Progress) -> Result<Digest, Error> {
        let config = parse_config(image.config)?;
        let wanted = config.rootfs.diff_ids.len();
        if image.layers.len() != wanted {
            let why = format!(
                "{wanted} layers in the config, {} given",
                image.layers.len()
            );
            return Err(Error::document("the image's manifest", why));
        }
        {
            let _lock = self.lock()?;
            self.sweep()?;
        }
        progress(Event::Layers { count: wanted });
        let layers = self.ensure_layers(image.layers, progress)?;
        let id = Digest::of(image.config);
        let _lock = self.lock()?;
        let mut names = self.names()?;
        if !self.record_path(id).exists() {
            // Those that an earlier one left behind are not the new one's.
            names.forget(id);
        }
        self.write(&self.config_path(id), image.config)?;
        self.write_record(id, &layers)?;
        for name in image.names {
            names.set(name, id);
        }
        if !image.names.is_empty() {
            self.write_names(&names)?;
        }
        Ok(id)
    }

    fn write_record(&self, id: Digest, layers: &[Held]) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let record = Record {
            layers: layers.iter().map(|layer| layer.key).collect(),
            size: layers.iter().map(|layer| layer.size).sum(),
            stored: now.map_or(0, |t| t.as_secs()),
        };
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::document("a record", e))?;
        self.write(&self.record_path(id), &bytes)
    }

    /// The image of a name or an ID, held for `holder`, a sandbox's ID: image and
    /// layers stay until [`release`](Self::release), over the end of this process
    /// and a restart of the host. A holder has one image; another call takes the
    /// first one's place.
    ///
    /// It is not synced, since that would take longer than all else that a
    /// sandbox waits for: when the host's power fails within seconds, the hold
    /// may be gone, and never half of it. Hold again when a sandbox starts again.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), when the holder's name is none, or when the
    /// store cannot be written.
    pub fn hold(&self, image: &str, holder: &str) -> Result<Image, Error> {
        let path = self.hold_path(holder)?;
        let _lock = self.lock()?;
        let names = self.names()?;
        let (id, _) = self.find(&names, image)?;
        let image = self.image(id, &names)?;
        // A link is made at once, with all that it says.
        match symlink(id.hex(), &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                files::remove(&path)?;
                symlink(id.hex(), &path)
            }
            result => result,
        }
        .map_err(Error::store(&path))?;
        Ok(image)
    }

    /// Ends a hold. It is no error when there is none.
    ///
    /// # Errors
    /// When the holder's name is none, or the store cannot be written.
    pub fn release(&self, holder: &str) -> Result<(), Error> {
        let path = self.hold_path(holder)?;
        let _lock = self.lock()?;
        files::remove(&path)
    }

    /// Who holds an image: each holder with the image's ID.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn holders(&self) -> Result<Vec<(String, Digest)>, Error> {
        let _lock = self.lock_shared()?;
        Ok(self.holds()?.into_iter().collect())
    }
}
