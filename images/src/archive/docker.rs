//! Archives of `docker save`, and of `podman save` unless told otherwise.

use serde::Deserialize;

use super::{Files, Loaded, opener};
use crate::progress::Progress;
use crate::store::{Job, NewImage};
use crate::{Error, Reference, Store};

/// The most images in one archive.
const MAX_IMAGES: usize = 1000;

/// One of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

pub fn load(store: &Store, files: &Files, progress: Progress) -> Result<Vec<Loaded>, Error> {
    let items: Vec<Item> = serde_json::from_slice(&files.document("manifest.json")?)
        .map_err(|e| Error::document("the archive's manifest.json", e))?;
    if items.len() > MAX_IMAGES {
        return Err(files.error(&format!("an archive of more than {MAX_IMAGES} images")));
    }
    let mut loaded = Vec::new();
    for item in items {
        let config = files.document(&item.config)?;
        let parsed = crate::store::parse_config(&config)?;
        let names = item
            .repo_tags
            .unwrap_or_default()
            .iter()
            .map(|tag| tag.parse())
            .collect::<Result<Vec<Reference>, _>>()?;
        let layers = item.layers.unwrap_or_default().into_iter();
        let layers = layers
            .zip(&parsed.rootfs.diff_ids)
            .map(|(name, diff_id)| Job {
                diff_id: *diff_id,
                // Named by nobody: the diff ID is what counts.
                blob: None,
                open: opener(files, name),
            });
        let image = NewImage {
            config: &config,
            layers: layers.collect(),
            names: &names,
        };
        let id = store.add(image, progress)?;
        loaded.push(Loaded { id, names });
    }
    Ok(loaded)
}
