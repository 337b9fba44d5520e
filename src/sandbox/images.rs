//! The images of drupe's directory, as far as sandboxes have to do with them.

use std::path::Path;

use images::{Error, Store};

use super::id::Id;

/// The store of images.
///
/// # Errors
/// When it cannot be made or read.
pub fn store(home: &Path) -> Result<Store, Error> {
    Store::open(&home.join("images"))
}

/// Lets go of the image that a sandbox held. What cannot be let go of takes room
/// on the disk, and no more.
pub fn release(home: &Path, id: &Id) {
    if let Err(e) = store(home).and_then(|store| store.release(id.as_str())) {
        log::warn!("{e}");
    }
}
