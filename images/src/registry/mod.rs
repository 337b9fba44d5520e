//! Images from registries (OCI distribution specification, "Pull").
//!
//! Blobs come several at once; the conversion of a layer reads along while its
//! blob arrives. What came before an interruption is kept and continued. There
//! are threads and no async runtime: a pull has few connections, and each one's
//! bytes end in blocking writes to files.

mod auth;
mod client;
mod download;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use crate::oci::{self, Descriptor, Index, MAX_DOCUMENT, MAX_LAYERS, Manifest};
use crate::progress::{Event, Progress};
use crate::store::{Job, NewImage, parse_config};
use crate::{Digest, Error, Platform, Reference, Store};
#[cfg(feature = "fuzzing")]
pub(crate) use auth::challenge;
use client::Client;
use download::Download;

/// Blobs that are downloaded at once, as Docker does.
const DOWNLOADS: usize = 3;
/// The most indexes within one another.
const MAX_DEPTH: usize = 3;

/// What [`Store::pull`] got.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image's ID.
    pub id: Digest,
    /// The digest of what the name stands for in the registry: a manifest or an
    /// index.
    pub digest: Digest,
    /// The store had all of it under this name.
    pub up_to_date: bool,
}

impl Store {
    /// Gets an image from its registry. Credentials are those of `docker login`
    /// and `podman login`; registries on the loopback interface may speak plain
    /// HTTP. `platform` is this machine's unless given.
    ///
    /// # Errors
    /// [`Error`]. What was downloaded stays for the next attempt.
    pub fn pull(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        progress: Progress,
    ) -> Result<Pulled, Error> {
        let client = Client::new(name)?;
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let top = match (name.digest(), name.tag()) {
            (Some(digest), _) => client.manifest(&digest.to_string())?,
            (None, tag) => client.manifest(tag.unwrap_or("latest"))?,
        };
        let digest = Digest::of(&top);
        check("the manifest", name.digest(), digest)?;
        let manifest = choose(&client, name, top, &wanted)?;
        let descriptor = manifest
            .config
            .as_ref()
            .ok_or_else(|| Error::document("the manifest", "it is not one of an image"))?;
        let config = match self.raw_config(descriptor.digest) {
            Ok(config) if Digest::of(&config) == descriptor.digest => config,
            _ => client.document(descriptor)?,
        };
        check("the config", Some(descriptor.digest), Digest::of(&config))?;
        let found = parse_config(&config)?.platform();
        if platform.is_some() && !found.satisfies(&wanted) {
            return Err(Error::Platform {
                name: name.familiar(),
                wanted: wanted.to_string(),
                found: vec![found.to_string()],
            });
        }
        let mut names = vec![name.with_digest(digest)];
        if name.digest().is_none() {
            names.push(name.clone());
        }
        let up_to_date = names.iter().all(|name| {
            let known = self.resolve(&name.to_string());
            known.is_ok_and(|image| image.id == descriptor.digest)
        });
        let get = || self.get(&client, &manifest.layers, &config, &names, progress);
        let id = match get() {
            // A part that was there before may be what is damaged.
            Err(Error::Digest { expected, .. }) if client.resumed(expected) => get(),
            result => result,
        }?;
        Ok(Pulled {
            id,
            digest,
            up_to_date,
        })
    }

    /// Gets the layers, and puts the image into the store.
    fn get(
        &self,
        client: &Client,
        layers: &[Descriptor],
        config: &[u8],
        names: &[Reference],
        progress: Progress,
    ) -> Result<Digest, Error> {
        let diff_ids = parse_config(config)?.rootfs.diff_ids;
        if layers.len() != diff_ids.len() || layers.len() > MAX_LAYERS {
            let why = format!("{} layers, the config {}", layers.len(), diff_ids.len());
            return Err(Error::document("the manifest has", why));
        }
        // The same blob may stand for several layers, as that of no files does.
        let mut downloads: BTreeMap<Digest, Arc<Download>> = BTreeMap::new();
        for (index, layer) in layers.iter().enumerate() {
            downloads
                .entry(layer.digest)
                .or_insert_with(|| Arc::new(Download::new(self, layer, index)));
        }
        let of_layer: Vec<_> = layers.iter().map(|l| &downloads[&l.digest]).collect();
        let mut queue = Vec::new();
        let mut chain = None;
        for (download, diff_id) in of_layer.iter().zip(&diff_ids) {
            let id = diff_id.chain(chain);
            chain = Some(id);
            let queued = queue.iter().any(|other| Arc::ptr_eq(other, download));
            if !queued && !self.has_layer(*diff_id, id)? {
                queue.push(Arc::clone(download));
            }
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        let result = thread::scope(|scope| {
            for _ in 0..DOWNLOADS.min(queue.len()) {
                scope.spawn(|| {
                    while let Some(download) =
                        queue.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        download.run(client, progress);
                    }
                });
            }
            let jobs = of_layer.iter().zip(layers).zip(&diff_ids);
            let jobs = jobs.map(|((download, layer), diff_id)| Job {
                diff_id: *diff_id,
                blob: Some(layer.digest),
                open: Box::new(move || {
                    // When someone removed the layer since it was there.
                    download.run(client, progress);
                    Download::open(download)
                }),
            });
            let image = NewImage {
                config,
                layers: jobs.collect(),
                names,
            };
            let converted = |event: Event| {
                if let Event::Converted { layer } = event {
                    of_layer[layer].discard();
                }
                progress(event);
            };
            let result = self.add(image, &converted);
            if result.is_err() {
                downloads.values().for_each(|download| download.cancel());
            }
            result
        });
        match result {
            // The download's own error says more than that of its reader.
            Err(Error::Digest { expected, .. }) if downloads.contains_key(&expected) => {
                downloads[&expected].discard();
                result
            }
            Err(e) => Err(downloads.values().find_map(|d| d.take_error()).unwrap_or(e)),
            result => result,
        }
    }
}

/// The manifest for the platform.
fn choose(
    client: &Client,
    name: &Reference,
    top: Vec<u8>,
    wanted: &Platform,
) -> Result<Manifest, Error> {
    let mut bytes = top;
    for _ in 0..MAX_DEPTH {
        if !oci::is_index(&bytes)? {
            return oci::parse_manifest(&bytes);
        }
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|e| Error::document("the index", e))?;
        let chosen = oci::choose(&index, wanted).ok_or_else(|| Error::Platform {
            name: name.familiar(),
            wanted: wanted.to_string(),
            found: oci::platforms(&index),
        })?;
        if chosen.size > MAX_DOCUMENT {
            let why = format!("longer than {MAX_DOCUMENT} bytes");
            return Err(Error::document("the manifest", why));
        }
        bytes = client.manifest(&chosen.digest.to_string())?;
        check("the manifest", Some(chosen.digest), Digest::of(&bytes))?;
    }
    Err(Error::document("the index", "too many in one another"))
}

fn check(what: &str, expected: Option<Digest>, found: Digest) -> Result<(), Error> {
    match expected {
        Some(expected) if expected != found => Err(Error::Digest {
            what: what.to_owned(),
            expected,
            found,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
