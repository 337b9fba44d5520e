//! A store of OCI images, each layer of which is an EROFS disk image.
//!
//! [`Store`] is the way in. Images come from registries ([`Store::pull`]),
//! archives ([`Store::load`]) and root file systems ([`Store::import`]); each
//! layer is converted once, and belongs to every image that has it. A sandbox
//! [`hold`](Store::hold)s its image, so that its layers stay.
//!
//! What comes in is hostile: sizes and counts have limits, digests are verified,
//! and nothing of a layer is ever unpacked on the host.
#![forbid(unsafe_code)]

mod archive;
mod compress;
mod digest;
mod erofs;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod import;
mod layer;
mod oci;
mod progress;
mod reference;
mod registry;
pub mod space;
mod store;
pub mod tar;
#[cfg(test)]
mod testing;
mod time;

pub use archive::{Input, Loaded};
pub use digest::{Digest, DigestError};
pub use error::Error;
pub use import::Import;
pub use oci::{ContainerConfig, History, ImageConfig, Platform, RootFs};
pub use progress::{Event, Progress};
pub use reference::{Reference, ReferenceError};
pub use registry::Pulled;
pub use store::{DiskUsage, Image, Pruned, Removed, Store};
pub use time::parse_rfc3339;
