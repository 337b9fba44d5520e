//! The other side of a device: a driver that does what the standard says, or
//! anything else, for tests and fuzz targets. Needs neither KVM nor root.

#[allow(
    clippy::expect_used,
    reason = "a test without its parts should stop at once"
)]
mod driver;

pub use driver::{CountingIrq, Desc, Driver, DriverQueue, RING_SIZE};
