//! A guest without an operating system that plays the hostile driver of every
//! virtio device it finds. The guest itself is `guest/`; `build.rs` compiles it.
//!
//! What it does is said on its kernel command line (`guest/main.rs`), what it saw
//! it writes to the serial port, a line for each case:
//!
//! ```text
//! case blk0 q0 descriptor-loop: needs-reset, good
//! done: 312 cases, 0 wrong
//! ```

/// The guest: an ELF kernel for the 64-bit Linux boot protocol. It wants
/// [`MEMORY`] and its commands as `drupe boot --append`.
pub const KERNEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest"));

/// The guest's memory, for `drupe boot --memory`: it knows where it ends.
pub const MEMORY: &str = "32M";

/// Each byte of the first sector of each disk, by which the guest sees that an
/// honest read works.
pub const DISK_BYTE: u8 = 0xa5;
