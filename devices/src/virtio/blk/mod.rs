//! The block device (virtio 1.2 §5.2).
//!
//! Each queue has a worker thread, which sleeps until the driver kicks and then
//! carries out requests one after another, straight between guest memory and the
//! [`DiskBackend`]. A flush needs no order between the queues: it covers all
//! writes whose system call has returned, and the guest sees a write's
//! completion only after that.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::throttle::Throttle;
use super::{Activation, DeviceLimits, DeviceType, VirtioDevice, read_config_bytes, report_start};
use crate::rate_limit::{Limiter, LimiterState};
use crate::rate_log::FailureLog;

mod backend;
mod config;
mod file;
mod gpt;
mod layers;
mod request;
mod spec;
mod worker;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;

pub use backend::DiskBackend;
pub use config::{
    BlkConfig, MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_WRITE_ZEROES_SECTORS,
    MAX_WRITE_ZEROES_SEGMENTS, QUEUE_SIZE, SEG_MAX,
};
pub use file::{DiskError, FileDisk};
pub use layers::{LayerDisk, MAX_LAYERS};
pub use request::{Status, request_type};
pub use spec::{DiskSpec, MAX_QUEUES, SERIAL_SIZE};

use super::stop::Stop;
use request::Requests;
use worker::Workers;

/// The unit of capacity and of request addresses in bytes, whatever the logical
/// block size (§5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// What a snapshot keeps of a disk: what the driver was told once and relies on,
/// so that a disk that differs can be refused at restore. The position in each
/// queue belongs to the queue; the accepted features to the transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BlkState {
    /// Size in sectors of 512 bytes.
    pub capacity: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Features on offer.
    pub features: u64,
    /// Number of queues.
    pub queues: u16,
    /// Serial number.
    pub serial: [u8; SERIAL_SIZE],
}

/// The device.
pub struct Blk {
    name: String,
    backend: Arc<dyn DiskBackend>,
    readonly: bool,
    limiter: Arc<Limiter>,
    state: BlkState,
    config: BlkConfig,
    queue_sizes: Vec<u16>,
    workers: Option<Workers>,
    failures: Arc<FailureLog>,
    /// Kicks come by the event loop and are served there.
    #[cfg(any(test, feature = "testing"))]
    without_threads: bool,
}

impl Blk {
    /// Opens and locks the disk that `spec` describes, which must have passed
    /// [`DiskSpec::validate`]. `index` counts the VM's disks and names the device
    /// in the log and its threads: `blk0`, `blk0-q0`.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(spec: &DiskSpec, index: usize) -> Result<Self, DiskError> {
        let backend: Arc<dyn DiskBackend> = if spec.layers.is_empty() {
            Arc::new(FileDisk::open(&spec.path, spec.readonly)?)
        } else {
            Arc::new(LayerDisk::open(&spec.layers)?)
        };
        Ok(Self::with_backend(backend, spec, index))
    }

    /// A disk over any back end; the path of `spec` is not opened.
    pub fn with_backend(backend: Arc<dyn DiskBackend>, spec: &DiskSpec, index: usize) -> Self {
        let queues = spec.queues.clamp(1, MAX_QUEUES);
        let readonly = spec.is_readonly();
        let discards = backend.discard_granularity().filter(|_| !readonly);
        let mut features = config::F_SEG_MAX | config::F_BLK_SIZE | config::F_FLUSH;
        if readonly {
            features |= config::F_RO;
        }
        if queues > 1 {
            features |= config::F_MQ;
        }
        if discards.is_some() {
            features |= config::F_DISCARD | config::F_WRITE_ZEROES;
        }
        let state = BlkState {
            capacity: backend.size() / SECTOR_SIZE,
            block_size: backend.block_size(),
            features,
            queues,
            serial: spec.serial(),
        };
        Blk {
            name: format!("blk{index}"),
            readonly,
            limiter: Arc::new(Limiter::new(spec.limits.buckets())),
            config: BlkConfig {
                capacity: state.capacity,
                blk_size: state.block_size,
                num_queues: queues,
                discard_sector_alignment: discards
                    .map_or(0, |bytes| (bytes / SECTOR_SIZE as u32).max(1)),
            },
            state,
            backend,
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            workers: None,
            failures: Arc::default(),
            #[cfg(any(test, feature = "testing"))]
            without_threads: false,
        }
    }

    /// The state to save.
    pub fn state(&self) -> &BlkState {
        &self.state
    }

    /// What is left to it of its limits, to save; a disk that is restored goes on
    /// with that by [`Blk::restore_limits`].
    pub fn limits(&self) -> LimiterState {
        self.limiter.state()
    }

    /// Goes on with what was left when it was saved.
    pub fn restore_limits(&mut self, state: LimiterState) {
        self.limiter.set(state);
    }

    /// From now on serves kicks on the event loop instead of in threads: for a
    /// fuzz target, which should do the same each time. Before the first start.
    #[cfg(any(test, feature = "testing"))]
    pub fn serve_on_event_loop(&mut self) {
        self.without_threads = true;
    }

    fn start(&mut self, activation: Activation) -> io::Result<()> {
        let requests = Requests {
            name: self.name.clone(),
            backend: self.backend.clone(),
            serial: self.state.serial,
            features: activation.features,
            readonly: self.readonly,
            throttle: Throttle::new(self.limiter.clone()),
            stop: Arc::new(Stop::new()?),
            failures: self.failures.clone(),
        };
        #[cfg(any(test, feature = "testing"))]
        if self.without_threads {
            self.workers = Some(Workers::without_threads(activation, requests));
            return Ok(());
        }
        self.workers = Some(Workers::spawn(activation, requests)?);
        Ok(())
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.state.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config.to_bytes(), offset, data);
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
    }

    fn set_limits(&mut self, limits: &DeviceLimits) {
        if let Some(limits) = &limits.disk {
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
        if let Some(workers) = &mut self.workers {
            workers.kicked(queue);
        }
    }
}
