//! Virtio 1.2: the device trait, the queues and the transports.
//!
//! A device implements [`VirtioDevice`] and knows no transport; a transport
//! ([`mmio`]) turns the guest's register accesses into calls of that trait and
//! knows no device. What they share is [`VirtQueue`] and [`VirtioInterrupt`].

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use event_manager::EventSet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::GuestMemory;
use crate::rate_limit::IoLimits;
use crate::rate_log::RateLog;

pub mod blk;
mod buffer;
pub mod fs;
pub mod mmio;
pub mod net;
mod queue;
pub mod rng;
mod stop;
mod subscriber;
mod throttle;
pub mod vsock;

pub use buffer::GuestBuffer;
pub use queue::{Chain, MAX_CHAIN_DESCRIPTORS, QueueSetup, VirtQueue};
pub use subscriber::DeviceSubscriber;

/// Feature bits that belong to the ring and the transport (virtio 1.2 §6), as
/// masks. The transport offers them for every device.
pub mod ring_features {
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`: must be accepted, there is no legacy interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// What the transport adds to a device's own features.
    pub const OFFERED: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// Device IDs (virtio 1.2 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceType {
    /// Network card, §5.1.
    Net = 1,
    /// Block device, §5.2.
    Block = 2,
    /// Entropy source, §5.4.
    Rng = 4,
    /// Socket device, §5.10.
    Vsock = 19,
    /// File system device, §5.11.
    Fs = 26,
}

/// The driver broke the rules of the standard. The device that sees one stops
/// and asks for a reset ([`Activation::fail`]); the VM goes on.
#[derive(Debug, Error)]
pub enum Violation {
    /// A ring or its index is not usable.
    #[error("queue {queue}: {source}")]
    Ring {
        /// Which queue.
        queue: u16,
        /// What virtio-queue found.
        source: virtio_queue::Error,
    },
    /// A descriptor chain that the standard forbids.
    #[error("queue {queue}, descriptor {head}: {why}")]
    Chain {
        /// Which queue.
        queue: u16,
        /// The head of the chain.
        head: u16,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The device's own protocol was broken in a way that has no error reply.
    #[error("{0}")]
    Protocol(&'static str),
}

/// How a device tells the driver that something happened. Lock-free: called
/// from the event loop, from workers and from vCPU threads.
pub trait VirtioInterrupt: Send + Sync {
    /// Buffers of queue `index` were used (virtio 1.2 §2.7.7).
    fn queue_used(&self, index: u16);
    /// The configuration space changed: raises the generation, then interrupts.
    fn config_changed(&self);
    /// Sets `DEVICE_NEEDS_RESET` (§2.1.2) and tells the driver so.
    fn needs_reset(&self);
}

/// An interrupt line as the platform gives it to a transport. Edge: each call
/// is one interrupt.
pub trait IrqLine: Send + Sync {
    /// Raises the line once.
    fn trigger(&self);
}

/// All that a device needs to run, handed over at `DRIVER_OK`.
pub struct Activation {
    /// Guest memory.
    pub mem: GuestMemory,
    /// One per entry of [`VirtioDevice::queue_sizes`], in order; those that the
    /// driver did not set up are there too and yield nothing.
    pub queues: Vec<VirtQueue>,
    /// The features that the driver accepted: a subset of what was offered.
    pub features: u64,
    /// The way back to the driver.
    pub interrupt: Arc<dyn VirtioInterrupt>,
}

impl Activation {
    /// True when the driver accepted every bit of `mask`.
    pub fn has(&self, mask: u64) -> bool {
        self.features & mask == mask
    }

    /// The driver broke a rule: stops this use of the device and asks the
    /// driver to reset it. `device` names the device in the log.
    pub fn fail(self, device: &str, violation: &Violation) {
        report_violation(device, violation);
        self.interrupt.needs_reset();
    }
}

/// Writes a driver's violation to the log, within the limit on such messages.
pub fn report_violation(device: &str, violation: &Violation) {
    static LOG: RateLog = RateLog::new();
    if LOG.allow() {
        log::warn!(
            "{device}: the guest's driver broke the protocol: {violation}; the device waits for a reset"
        );
    }
}

/// Writes to the log that something which a driver's start of a device needs of the
/// host is not to be had. A driver can start it as often as it likes, so this is
/// limited.
pub fn report_start(device: &str, what: &str, error: &io::Error) {
    static LOG: RateLog = RateLog::new();
    if LOG.allow() {
        log::error!("{device}: cannot {what}: {error}");
    }
}

/// A descriptor that the event loop watches for a device, for the device's
/// whole life, active or not. A source that can be ready while the device is
/// not active is watched edge-triggered, or the loop would spin.
#[derive(Debug, Clone, Copy)]
pub struct EventSource {
    /// The descriptor, owned by the device.
    pub fd: RawFd,
    /// What [`VirtioDevice::handle_event`] is called with.
    pub token: u16,
    /// What to watch for.
    pub events: EventSet,
}

/// Limits to set on a device while it works: each takes those of its kind, and
/// where there are none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeviceLimits {
    /// For disks, each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<IoLimits>,
    /// For shares, each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<IoLimits>,
    /// For network cards, each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<net::NetLimits>,
}

/// A directory, or a single file, that a device has open for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDirectory {
    /// Its descriptor.
    pub fd: RawFd,
    /// Nothing is changed of it, or below it.
    pub readonly: bool,
}

/// A virtio device, whatever the transport.
///
/// Calls come from vCPU threads (features, configuration, `activate`, `reset`)
/// and from the event loop (`handle_*`), one at a time: the device stands behind
/// a lock, held for the length of the call. None may block on the guest or on
/// the network. Legal order: `activate` and `reset` alternate, beginning with
/// `activate`; `reset` may also come first or twice and then does nothing;
/// `handle_*` may come at any time, also when the device is not active.
pub trait VirtioDevice: Send {
    /// Which device this is.
    fn device_type(&self) -> DeviceType;

    /// Device-specific features on offer, constant; ring features are the
    /// transport's business.
    fn features(&self) -> u64;

    /// The largest size of each queue: powers of two, constant.
    fn queue_sizes(&self) -> &[u16];

    /// The driver reads `data.len()` bytes of the configuration space at
    /// `offset`. What lies past the end reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes to the configuration space. Ignored where the device
    /// has nothing writable there.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver set `DRIVER_OK`. The device starts at once: buffers may be
    /// available already.
    fn activate(&mut self, activation: Activation);

    /// The driver resets the device. On return nothing of the device touches
    /// the queues or guest memory any more; workers have ended.
    fn reset(&mut self);

    /// False when the device waits for its queues' kicks itself, in workers.
    fn kicks_on_event_loop(&self) -> bool {
        true
    }

    /// Descriptors of the back end, apart from the kicks.
    fn event_sources(&self) -> Vec<EventSource> {
        Vec::new()
    }

    /// Directories that are open for good, below which the device goes on to use
    /// names, and single files that it goes on to open by their descriptors. Whoever
    /// confines the process may put another descriptor of the same one in the place
    /// of each, before the VM runs.
    fn directories(&self) -> Vec<OpenDirectory> {
        Vec::new()
    }

    /// That has been done.
    ///
    /// # Errors
    /// The host's.
    fn directories_replaced(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// From now on these limits hold; may come at any time, from any thread.
    fn set_limits(&mut self, limits: &DeviceLimits) {
        let _ = limits;
    }

    /// The driver kicked queue `queue` (event loop only).
    fn handle_kick(&mut self, queue: u16) {
        let _ = queue;
    }

    /// The source with this token is ready (event loop only).
    fn handle_event(&mut self, token: u16, events: EventSet) {
        let _ = (token, events);
    }
}

/// A device shared by its transport and the event loop.
pub type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// Copies the part of `config` at `offset` into `data`; what lies past the end
/// reads as zero. For [`VirtioDevice::read_config`].
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    if let Some(tail) = usize::try_from(offset).ok().and_then(|o| config.get(o..)) {
        let n = tail.len().min(data.len());
        data[..n].copy_from_slice(&tail[..n]);
    }
}
