//! What reads hostile bytes, as a fuzz target sees it: plain functions.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use serde::Deserialize;

use crate::erofs::{Image, NodeType};
use crate::layer::{Layer, LayerError};
use crate::oci::{self, Index};
use crate::registry::challenge;
use crate::{Digest, ImageConfig, Platform, Reference, parse_rfc3339};

/// How many inodes of an image are looked at: a damaged one may be a loop.
const MAX_INODES: usize = 10_000;

/// Converts a layer's tar to a disk image over those of the layers below, the
/// highest first.
///
/// # Errors
/// Those of the conversion, as they are shown.
pub fn convert(tar: &[u8], lower: &[&[u8]]) -> Result<Vec<u8>, String> {
    let convert = || -> Result<Vec<u8>, LayerError> {
        let lower_io = LayerError::Lower;
        let mut files = Vec::new();
        for bytes in lower {
            files.push(file(bytes).map_err(lower_io)?);
        }
        let lower: Result<Vec<_>, _> = files.iter().map(|(_, path)| Image::open(path)).collect();
        let empty = || file(&[]).map(|(file, _)| file).map_err(lower_io);
        let layer = Layer::read(tar, empty()?, empty()?)?;
        let image = layer.finish(&lower.map_err(lower_io)?, [7; 16])?;
        let mut bytes = vec![0; image.metadata().map_err(lower_io)?.len() as usize];
        image.read_exact_at(&mut bytes, 0).map_err(lower_io)?;
        Ok(bytes)
    };
    convert().map_err(|e| e.to_string())
}

/// Reads all inodes and names of a disk image, and gives the number of names.
///
/// # Errors
/// When it is damaged.
///
/// # Panics
/// When a name is none: it would be believed.
#[allow(clippy::panic, reason = "a fuzz target fails by a panic")]
pub fn walk(image: &[u8]) -> io::Result<usize> {
    let (_file, path) = file(image)?;
    let image = Image::open(&path)?;
    let root = image.root()?;
    let mut count = 0;
    let mut queue = vec![root];
    let mut seen = HashSet::new();
    while let Some(inode) = queue.pop() {
        if inode.kind != NodeType::Directory {
            continue;
        }
        for (name, number) in image.names(&inode)? {
            assert!(!name.contains(&0), "a name with a NUL");
            count += 1;
            if ![&b"."[..], b".."].contains(&&*name)
                && seen.len() < MAX_INODES
                && seen.insert(number)
            {
                queue.push(image.inode(number)?);
            }
        }
    }
    Ok(count)
}

/// Reads a document or a word of a registry, chosen by `which`.
///
/// # Panics
/// When what was understood is not what is written for it.
#[allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a fuzz target fails by a panic"
)]
pub fn document(which: u8, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).ok();
    match (which % 8, text) {
        (0, _) => {
            if oci::is_index(bytes).is_ok_and(|is| is)
                && let Ok(index) = serde_json::from_slice::<Index>(bytes)
            {
                let wanted = Platform::host();
                if let Some(chosen) = oci::choose(&index, &wanted) {
                    assert!(
                        chosen
                            .platform
                            .as_ref()
                            .is_none_or(|p| p.satisfies(&wanted))
                    );
                }
                oci::platforms(&index);
            }
        }
        (1, _) => {
            let _ = oci::parse_manifest(bytes);
        }
        (2, _) => {
            if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
                let again = serde_json::to_vec(&config).expect("JSON can say it");
                let again =
                    ImageConfig::deserialize(&mut serde_json::Deserializer::from_slice(&again));
                assert_eq!(again.expect("JSON can be read back"), config);
                let _ = config.platform().to_string();
            }
        }
        (3, Some(text)) => {
            if let Ok(reference) = text.parse::<Reference>() {
                let again = reference.to_string().parse::<Reference>();
                assert_eq!(again.expect("a name"), reference);
                assert!(!reference.path().contains("..") && !reference.path().starts_with('/'));
                let _ = reference.familiar();
            }
            let _ = Reference::candidates(text);
        }
        (4, Some(text)) => {
            let _ = challenge(text.lines());
        }
        (5, Some(text)) => {
            if let Ok(digest) = text.parse::<Digest>() {
                assert_eq!(digest.to_string(), text);
            }
            let _ = text.parse::<Platform>();
            let _ = parse_rfc3339(text);
        }
        (6, Some(text)) => {
            let mut config = ImageConfig::default().config;
            text.lines().for_each(|line| drop(config.change(line)));
        }
        _ => {}
    }
}

/// A file in memory, and a path that leads to it.
fn file(bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let file = File::from(rustix::fs::memfd_create(c"fuzz", MemfdFlags::CLOEXEC)?);
    file.write_all_at(bytes, 0)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    Ok((file, path))
}
