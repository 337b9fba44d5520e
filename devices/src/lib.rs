//! What a drupe guest sees: the virtio devices, their transports, the serial
//! console and the power controls.
//!
//! Nothing in this crate knows KVM. A device gets guest memory, its queues and
//! a small interrupt trait, so every device can be driven in a test or a fuzzer
//! by the fake driver in [`testing`], without root and without `/dev/kvm`.
//!
//! ```text
//!  vCPU exit ─→ bus::Bus ─→ virtio::mmio::MmioTransport ─→ virtio::VirtioDevice
//!  queue kick (eventfd) ─→ event loop or the device's worker ─→ VirtQueue ─→ back end
//! ```

pub mod bus;
pub mod power;
pub mod rate_limit;
pub mod rate_log;
pub mod serial;
pub mod size;
pub mod spec;
pub mod sys_io;
pub mod threads;
pub mod virtio;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// Guest memory as every device sees it: cheap to clone, never resized.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
