//! The file system device (virtio 1.2 §5.11): a directory or a file of the host,
//! for the guest to mount.
//!
//! The guest's kernel speaks FUSE, and this is the other end. A look-up makes a
//! node of a directory's entry: a descriptor that can neither read nor write
//! (`O_PATH`). All further requests name nodes, or a node and a name in it, so
//! there are no paths that a guest could lead astray; symbolic links are never
//! followed here. See `docs/share.md` for what a guest may rely on.

use std::io;
use std::sync::Arc;

use super::{
    Activation, DeviceLimits, DeviceType, OpenDirectory, VirtioDevice, read_config_bytes,
    report_start,
};
use crate::rate_limit::{Limiter, LimiterState};

mod abi;
mod data;
mod dir;
mod meta;
mod names;
mod owner;
mod server;
mod share;
mod spec;
mod tables;
mod worker;

#[cfg(test)]
mod tests;

pub use server::MAX_DATA;
pub use share::FsError;
pub use spec::{FsSpec, MAX_CACHE, TAG_SIZE};

use server::Server;
use share::Share;
use worker::Workers;

/// The queue for requests that need not wait for others.
const HIGH_PRIORITY: u16 = 0;

/// Entries of the two queues. A request of 1 MiB takes one for each page and a
/// few more, so the second has room for it even without indirect descriptors.
const QUEUE_SIZES: [u16; 2] = [128, 512];

/// Queues for requests, beside the one of high priority.
const REQUEST_QUEUES: u32 = 1;

/// `struct virtio_fs_config` (§5.11.4).
const CONFIG_SIZE: usize = TAG_SIZE + 4;

/// The device.
pub struct Fs {
    name: String,
    config: [u8; CONFIG_SIZE],
    server: Arc<Server>,
    limiter: Arc<Limiter>,
    workers: Option<Workers>,
    /// Kicks come by the event loop and are served there.
    #[cfg(any(test, feature = "testing"))]
    without_threads: bool,
}

impl Fs {
    /// Opens what `spec` describes, which must have passed [`FsSpec::validate`].
    /// `index` counts the VM's shares and names the device in the log and its
    /// threads: `fs0`, `fs0-q1-0`. The device never holds more than `files`
    /// descriptors for the guest; one that wants more gets `ENFILE`.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn open(spec: &FsSpec, index: usize, files: usize) -> Result<Self, FsError> {
        let mut config = [0; CONFIG_SIZE];
        let (tag, queues) = config.split_at_mut(TAG_SIZE);
        for (to, from) in tag.iter_mut().zip(spec.tag.bytes()) {
            *to = from;
        }
        queues.copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
        let limiter = Arc::new(Limiter::new(spec.limits.buckets()));
        Ok(Fs {
            name: format!("fs{index}"),
            config,
            server: Arc::new(Server::new(Share::open(spec)?, files, limiter.clone())),
            limiter,
            workers: None,
            #[cfg(any(test, feature = "testing"))]
            without_threads: false,
        })
    }

    /// From now on serves kicks on the event loop instead of in threads: for a
    /// fuzz target, which should do the same each time. Before the first start.
    #[cfg(any(test, feature = "testing"))]
    pub fn serve_on_event_loop(&mut self) {
        self.without_threads = true;
    }

    /// From now on refuses requests that take more space than this without data
    /// to fill it: a fuzz target would fill the disk. Before the first start.
    #[cfg(any(test, feature = "testing"))]
    pub fn limit_space(&mut self, bytes: u64) {
        if let Some(server) = Arc::get_mut(&mut self.server) {
            server.max_space = bytes;
        }
    }

    /// What is left to it of its limits, to save; a share that is restored goes on
    /// with that by [`Fs::restore_limits`].
    pub fn limits(&self) -> LimiterState {
        self.limiter.state()
    }

    /// Goes on with what was left when it was saved.
    pub fn restore_limits(&mut self, state: LimiterState) {
        self.limiter.set(state);
    }

    fn start(&mut self, activation: Activation) -> io::Result<()> {
        let server = self.server.clone();
        #[cfg(any(test, feature = "testing"))]
        if self.without_threads {
            self.workers = Some(Workers::without_threads(&self.name, activation, server)?);
            return Ok(());
        }
        self.workers = Some(Workers::spawn(&self.name, activation, server)?);
        Ok(())
    }
}

impl VirtioDevice for Fs {
    fn directories(&self) -> Vec<OpenDirectory> {
        self.server.share.directories()
    }

    fn directories_replaced(&mut self) -> io::Result<()> {
        // No worker has it before the driver is there.
        match Arc::get_mut(&mut self.server) {
            Some(server) => Ok(server.look_again()?),
            None => Ok(()),
        }
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    fn features(&self) -> u64 {
        // VIRTIO_FS_F_NOTIFICATION is for locks that the host keeps.
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        self.reset();
        let interrupt = activation.interrupt.clone();
        if let Err(e) = self.start(activation) {
            report_start(&self.name, "start its workers", &e);
            interrupt.needs_reset();
        }
    }

    fn reset(&mut self) {
        // Ends and joins the workers.
        self.workers = None;
        self.server.clear();
    }

    fn set_limits(&mut self, limits: &DeviceLimits) {
        if let Some(limits) = &limits.share {
            self.limiter.set(limits.buckets());
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn kicks_on_event_loop(&self) -> bool {
        false
    }

    #[cfg(any(test, feature = "testing"))]
    fn kicks_on_event_loop(&self) -> bool {
        self.without_threads
    }

    #[cfg(any(test, feature = "testing"))]
    fn handle_kick(&mut self, queue: u16) {
        if let Some(workers) = &self.workers {
            workers.kicked(queue);
        }
    }
}
