//! OCI layouts (OCI image specification, "Image Layout").

use super::{Files, Loaded, opener};
use crate::oci::{Descriptor, Index, MAX_DOCUMENT, Manifest};
use crate::progress::Progress;
use crate::store::{Job, NewImage};
use crate::{Digest, Error, Platform, Reference, Store};

/// The most images in one layout, and the most indexes within one another.
const MAX_IMAGES: usize = 1000;
const MAX_DEPTH: usize = 4;

pub fn load(
    store: &Store,
    files: &Files,
    platform: Option<&Platform>,
    progress: Progress,
) -> Result<Vec<Loaded>, Error> {
    let index: Index = parse("index.json", &files.document("index.json")?)?;
    if index.manifests.len() > MAX_IMAGES {
        return Err(files.error(&format!("a layout of more than {MAX_IMAGES} images")));
    }
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    // One image for several platforms may stand at the top, without an index of
    // its own.
    let named = |d: &Descriptor| name_of(d).is_some();
    let several = index.manifests.len() > 1 && !index.manifests.iter().any(named);
    let mut loaded = Vec::new();
    let mut left_out = Vec::new();
    for descriptor in &index.manifests {
        let other = descriptor
            .platform
            .as_ref()
            .filter(|p| !p.satisfies(&wanted));
        match other {
            Some(other) if several || platform.is_some() => left_out.push(other.to_string()),
            _ => {
                let names: Vec<Reference> = name_of(descriptor).into_iter().collect();
                let manifest = manifest(files, descriptor, &wanted, 0)?;
                let id = add(store, files, &manifest, &names, progress)?;
                loaded.push(Loaded { id, names });
            }
        }
    }
    if loaded.is_empty() && !left_out.is_empty() {
        return Err(Error::Platform {
            name: "the layout".into(),
            wanted: wanted.to_string(),
            found: left_out,
        });
    }
    Ok(loaded)
}

/// The complete name that an annotation gives. A tag alone names no image.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key| descriptor.annotations.get(key);
    annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name"))
        .filter(|name| name.contains(['/', ':']))
        .and_then(|name| name.parse().ok())
        .filter(|name: &Reference| name.digest().is_none())
}

fn manifest(
    files: &Files,
    descriptor: &Descriptor,
    wanted: &Platform,
    depth: usize,
) -> Result<Manifest, Error> {
    let bytes = blob(files, descriptor, "a manifest")?;
    if !crate::oci::is_index(&bytes)? {
        return crate::oci::parse_manifest(&bytes);
    }
    let index: Index = parse("an index", &bytes)?;
    let chosen = crate::oci::choose(&index, wanted).ok_or_else(|| Error::Platform {
        name: "the layout".into(),
        wanted: wanted.to_string(),
        found: crate::oci::platforms(&index),
    })?;
    if depth == MAX_DEPTH {
        return Err(files.error("a layout with indexes too deep in one another"));
    }
    manifest(files, chosen, wanted, depth + 1)
}

fn add(
    store: &Store,
    files: &Files,
    manifest: &Manifest,
    names: &[Reference],
    progress: Progress,
) -> Result<Digest, Error> {
    let config = manifest
        .config
        .as_ref()
        .ok_or_else(|| files.error("a layout of something that is no image"))?;
    let config = blob(files, config, "an image's config")?;
    let parsed = crate::store::parse_config(&config)?;
    if manifest.layers.len() != parsed.rootfs.diff_ids.len() {
        return Err(files.error("a layout whose manifest and config have different layers"));
    }
    let layers = manifest.layers.iter().zip(&parsed.rootfs.diff_ids);
    let layers = layers.map(|(layer, diff_id)| Job {
        diff_id: *diff_id,
        blob: Some(layer.digest),
        open: opener(files, blob_name(layer.digest)),
    });
    let image = NewImage {
        config: &config,
        layers: layers.collect(),
        names,
    };
    store.add(image, progress)
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a document by its digest.
fn blob(files: &Files, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, Error> {
    if descriptor.size > MAX_DOCUMENT {
        return Err(files.error(&format!("{what} of more than {MAX_DOCUMENT} bytes")));
    }
    let bytes = files.document(&blob_name(descriptor.digest))?;
    let found = Digest::of(&bytes);
    if found != descriptor.digest {
        return Err(Error::Digest {
            what: what.to_owned(),
            expected: descriptor.digest,
            found,
        });
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::document(what, e))
}
