//! The network card (virtio 1.2 §5.1): one pair of queues, and a back end that
//! packets come from and go to.
//!
//! ```text
//!  back end's fd readable ─→ rx: back end ─→ guest's buffers ─→ interrupt
//!  kick of queue 1        ─→ tx: guest's buffers ─→ back end
//!  kick of queue 0        ─→ rx again, if it waited for buffers
//! ```
//!
//! Nothing spins: the back end's descriptor is watched edge-triggered, and each
//! half that stops knows which event starts it again: `rx` the next packet or,
//! out of buffers, the kick that it asked for; `tx` a kick or, if the back end
//! had no room, its descriptor; and either, when its limit is used up, the timer.
//! After a fixed amount of work a half kicks itself, so that the other devices on
//! the loop have their turn.
//!
//! There is no control queue: nothing on offer needs one.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use event_manager::EventSet;
use virtio_bindings::virtio_net::VIRTIO_NET_S_LINK_UP;
use vmm_sys_util::timerfd::TimerFd;

use super::{
    Activation, DeviceLimits, DeviceType, EventSource, Violation, VirtioDevice, read_config_bytes,
    report_start,
};
use crate::rate_limit::{Limiter, LimiterState};

mod backend;
mod counters;
pub mod features;
mod mac;
mod rx;
mod spec;
mod tap;
#[cfg(test)]
mod tests;
mod tun_sys;
mod tx;
mod vectored;

pub use backend::{HEADER_SIZE, MAX_FRAME, Offload, PacketBackend};
pub use counters::NetCounters;
pub use mac::{MacAddr, MacError};
pub use spec::{MAX_TAP_NAME, MIN_MTU, NetLimits, NetSpec};
pub use tap::{Tap, TapError};
pub use vectored::MAX_PIECES;

const RX_QUEUE: u16 = 0;
const TX_QUEUE: u16 = 1;
const QUEUE_SIZES: &[u16] = &[256, 256];

/// Token of the back end's descriptor.
const BACKEND: u16 = 0;
/// Token of the timer.
const TIMER: u16 = 1;

/// Size of `struct virtio_net_config` (§5.1.4) up to the MTU.
const CONFIG_SIZE: usize = 12;

/// What a half waits for after a run.
enum Next {
    /// An event that will come by itself.
    Wait,
    /// Its turn: there is more to do.
    Again,
    /// Its limit, for this long.
    Later(Duration),
    /// Nothing: the back end is gone for good.
    Gone,
}

/// True when the back end does not exist any more, as a TAP that was deleted.
fn gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

/// The device.
pub struct Net<B> {
    backend: B,
    mac: MacAddr,
    mtu: u16,
    /// What the host wants of the link.
    link_wanted: bool,
    backend_gone: bool,
    offload: Offload,
    active: Option<Activation>,
    rx: rx::Rx,
    tx: tx::Tx,
    rx_limit: Limiter,
    tx_limit: Limiter,
    /// Goes off when the first half that waits for its limit may go on.
    timer: TimerFd,
    /// When that is.
    due: Option<Instant>,
    counters: NetCounters,
}

impl Net<Tap> {
    /// The card that `spec` describes, number `index` of the VM's cards.
    ///
    /// # Errors
    /// When the description is wrong or its TAP cannot be used.
    pub fn open(spec: &NetSpec, index: usize) -> Result<Self, TapError> {
        spec.validate()?;
        let tap = Tap::open(&spec.tap)?;
        let mac = spec
            .mac
            .unwrap_or_else(|| MacAddr::derived(&spec.tap, index));
        let mtu = spec.mtu.unwrap_or_else(|| tap.mtu());
        if mtu > tap.mtu() {
            log::warn!(
                "net: the guest's MTU of {mtu} is more than the {} of {tap}: \
                 larger packets may get lost; `ip link set {tap} mtu {mtu}`",
                tap.mtu(),
                tap = spec.tap
            );
        }
        let card = Net::new(tap, mac, mtu).map_err(|source| TapError::Call {
            tap: spec.tap.clone(),
            what: "make a timer for it",
            source,
        })?;
        Ok(card.limited(&spec.limits))
    }
}

impl<B: PacketBackend> Net<B> {
    /// A card with any back end. The guest is told an `mtu` of [`MIN_MTU`] at
    /// least.
    ///
    /// # Errors
    /// When the host has no timer.
    pub fn new(backend: B, mac: MacAddr, mtu: u16) -> io::Result<Self> {
        Ok(Net {
            backend,
            mac,
            mtu: mtu.max(MIN_MTU),
            link_wanted: true,
            backend_gone: false,
            offload: Offload::NONE,
            active: None,
            rx: rx::Rx::default(),
            tx: tx::Tx::default(),
            rx_limit: Limiter::default(),
            tx_limit: Limiter::default(),
            timer: TimerFd::new()?,
            due: None,
            counters: NetCounters::default(),
        })
    }

    /// The same card with these limits.
    pub fn limited(self, limits: &NetLimits) -> Self {
        self.rx_limit.set(limits.rx());
        self.tx_limit.set(limits.tx());
        self
    }

    /// What is left to it of its limits, received and sent, to save; a card that is
    /// restored goes on with that by [`Net::restore_limits`].
    pub fn limits(&self) -> (LimiterState, LimiterState) {
        (self.rx_limit.state(), self.tx_limit.state())
    }

    /// Goes on with what was left when it was saved.
    pub fn restore_limits(&mut self, rx: LimiterState, tx: LimiterState) {
        self.rx_limit.set(rx);
        self.tx_limit.set(tx);
    }

    /// The card's MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The MTU that the guest is told, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What went through so far.
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// True when packets can pass: the link is wanted up and the back end is
    /// there.
    pub fn link_up(&self) -> bool {
        self.link_wanted && !self.backend_gone
    }

    /// Plugs the cable in or pulls it, and tells the driver. While it is out,
    /// packets of both directions are dropped. Outlives resets.
    pub fn set_link(&mut self, up: bool) {
        let before = self.link_up();
        self.link_wanted = up;
        if self.link_up() != before {
            self.link_changed();
        }
    }

    fn link_changed(&mut self) {
        if let Some(active) = &self.active
            && active.has(features::STATUS)
        {
            active.interrupt.config_changed();
        }
        // Up: the packets that waited. Down: drop them.
        self.receive();
        self.send();
    }

    fn receive(&mut self) {
        let link_up = self.link_up();
        let Some(active) = &mut self.active else {
            return;
        };
        if self.backend_gone {
            return;
        }
        let result = self.rx.run(
            active,
            &mut self.backend,
            link_up,
            &self.rx_limit,
            &mut self.counters,
        );
        self.after(RX_QUEUE, result);
    }

    fn send(&mut self) {
        let link_up = self.link_up();
        let Some(active) = &mut self.active else {
            return;
        };
        let result = self.tx.run(
            active,
            &mut self.backend,
            link_up,
            &self.tx_limit,
            &mut self.counters,
        );
        self.after(TX_QUEUE, result);
    }

    fn after(&mut self, queue: u16, result: Result<Next, Violation>) {
        match result {
            Ok(Next::Wait) => {}
            Ok(Next::Again) => {
                let queues = self.active.as_ref().map(|active| &active.queues);
                if let Some(queue) = queues.and_then(|q| q.get(usize::from(queue))) {
                    // Fails only when the counter is full: it comes anyway.
                    let _ = queue.kick().write(1);
                }
            }
            Ok(Next::Later(time)) => self.go_on_after(time),
            Ok(Next::Gone) => {
                if !self.backend_gone {
                    log::error!(
                        "net: {} is gone: the link of {} is down from now on",
                        self.backend.name(),
                        self.mac
                    );
                    let before = self.link_up();
                    self.backend_gone = true;
                    if before {
                        self.link_changed();
                    }
                }
            }
            Err(violation) => {
                self.stop();
                if let Some(active) = self.active.take() {
                    active.fail("net", &violation);
                }
            }
        }
    }

    /// Has the timer go off after `time`, unless it does so before anyway.
    fn go_on_after(&mut self, time: Duration) {
        let now = Instant::now();
        let due = now.checked_add(time).unwrap_or(now);
        if self.due.is_some_and(|before| before <= due) {
            return;
        }
        // No time at all would switch it off.
        let time = time.max(Duration::from_nanos(1));
        match self.timer.reset(time, None) {
            Ok(()) => self.due = Some(due),
            Err(e) => log::error!("net: cannot set its timer: {e}"),
        }
    }

    fn set_offload(&mut self, offload: Offload) {
        if offload == self.offload {
            return;
        }
        match self.backend.set_offload(offload) {
            Ok(()) => self.offload = offload,
            Err(e) if gone(&e) => {}
            Err(e) => {
                let device = format!("net: {}", self.backend.name());
                report_start(&device, "change its offloads", &e);
            }
        }
    }

    /// Forgets all that was for the driver. A next one may not take what waits in
    /// the back end, if this one took unfinished packets.
    fn stop(&mut self) {
        if self.rx.stop() {
            self.counters.rx_dropped += 1;
        }
        self.tx = tx::Tx::default();
        self.backend.reset();
        if self.offload != Offload::NONE {
            self.set_offload(Offload::NONE);
            self.rx.discard(&mut self.backend, &mut self.counters);
        }
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        let status = if self.link_up() {
            VIRTIO_NET_S_LINK_UP as u16
        } else {
            0
        };
        config[..6].copy_from_slice(&self.mac.bytes());
        config[6..8].copy_from_slice(&status.to_le_bytes());
        // max_virtqueue_pairs: has a meaning with VIRTIO_NET_F_MQ only.
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.to_le_bytes());
        config
    }
}

impl<B: PacketBackend> VirtioDevice for Net<B> {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        if self.backend.has_offloads() {
            features::ALWAYS | features::OFFLOADS
        } else {
            features::ALWAYS
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        if let Err(e) = self.backend.start() {
            let device = format!("net: {}", self.backend.name());
            report_start(&device, "start it", &e);
        }
        self.set_offload(Offload::accepted(activation.features));
        self.rx.start();
        self.active = Some(activation);
        self.receive();
        self.send();
    }

    fn reset(&mut self) {
        self.active = None;
        self.stop();
    }

    fn event_sources(&self) -> Vec<EventSource> {
        vec![
            EventSource {
                fd: self.backend.fd(),
                token: BACKEND,
                events: EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED,
            },
            // Each time that it is set is an edge of its own: nobody has to read it.
            EventSource {
                fd: self.timer.as_raw_fd(),
                token: TIMER,
                events: EventSet::IN | EventSet::EDGE_TRIGGERED,
            },
        ]
    }

    fn set_limits(&mut self, limits: &DeviceLimits) {
        let Some(limits) = &limits.net else { return };
        self.rx_limit.set(limits.rx());
        self.tx_limit.set(limits.tx());
        // On the event loop, whoever waits asks again.
        self.due = None;
        self.go_on_after(Duration::ZERO);
    }

    fn handle_kick(&mut self, queue: u16) {
        match queue {
            RX_QUEUE => self.receive(),
            TX_QUEUE => self.send(),
            _ => {}
        }
    }

    fn handle_event(&mut self, token: u16, _events: EventSet) {
        // Whatever the events are, errors among them: trying tells.
        if token == BACKEND {
            if self.tx.blocked {
                self.send();
            }
            self.receive();
        }
        if token == TIMER {
            self.due = None;
            self.send();
            self.receive();
        }
    }
}
