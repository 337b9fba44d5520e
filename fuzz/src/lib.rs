//! What the fuzz targets share. Each target plays a hostile guest (or a hostile
//! file) and fails when the monitor panics, hangs, writes where it must not, or
//! does not work for the next driver after a reset.

mod agent;
mod blk;
mod cgroup;
mod config;
mod dir;
mod fs;
mod input;
mod interpreter;
mod layer;
mod loader;
mod net;
mod oci;
mod platform;
mod rng;
mod sandbox;
mod tar;
mod unpack;
mod usernet;
mod vsock;

pub use agent::agent;
pub use blk::blk;
pub use config::config;
pub use fs::fs;
pub use input::Input;
pub use interpreter::{Guest, Subject, op};
pub use layer::layer;
pub use loader::loader;
pub use net::net;
pub use oci::oci;
pub use platform::platform;
pub use rng::rng;
pub use unpack::unpack;
pub use usernet::usernet;
pub use vsock::vsock;
