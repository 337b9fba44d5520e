//! What the fuzz targets share. Each target plays a hostile guest (or a hostile
//! file) and fails when the monitor panics, hangs, writes where it must not, or
//! does not work for the next driver after a reset.

mod blk;
mod config;
mod fs;
mod input;
mod interpreter;
mod loader;
mod net;
mod rng;
mod usernet;
mod vsock;

pub use blk::blk;
pub use config::config;
pub use fs::fs;
pub use input::Input;
pub use interpreter::{Guest, Subject, op};
pub use loader::loader;
pub use net::net;
pub use rng::rng;
pub use usernet::usernet;
pub use vsock::vsock;
