//! The socket device (virtio 1.2 §5.10): stream sockets between the guest and
//! Unix sockets of the host, by the protocol that Firecracker and Cloud
//! Hypervisor speak.
//!
//! * Host to guest: a program connects to the device's Unix socket and sends
//!   `CONNECT <port>\n`. When the guest accepts, it gets `OK <host_port>\n`, and
//!   from there on the stream is the guest's; when the guest refuses, the socket
//!   is closed.
//! * Guest to host: a connection to CID 2, port P, goes to whoever listens on
//!   `<path>_P`, and is refused when nobody does.
//!
//! ```text
//!  TX queue ─→ Muxer::packet_from_guest ─→ Connection ─→ Unix socket
//!  RX queue ←─ Muxer::packet_for_guest  ←─ Connection ←─ Unix socket ←─ epoll set,
//!                                         the event loop's one source
//! ```
//!
//! Nothing of this outlives a reset or a snapshot but the CID and the path: the
//! standard has connections end there.

use std::io;
use std::path::PathBuf;

use event_manager::EventSet;
use thiserror::Error;

use super::{
    Activation, DeviceType, EventSource, Violation, VirtQueue, VirtioDevice, read_config_bytes,
};
use crate::spec::SpecError;

mod connection;
mod credit;
mod handshake;
mod listener;
mod muxer;
mod packet;
mod poll;
mod sock;
mod spec;
#[cfg(test)]
mod tests;

use muxer::Muxer;
#[cfg(any(test, feature = "testing"))]
pub use muxer::{MAX_RESETS, MAX_STREAMS};
use packet::{HEADER_SIZE, Header};
pub use spec::{MAX_CID, MAX_PATH, MIN_CID, VsockSpec};

/// `VIRTIO_VSOCK_F_STREAM` (§5.10.3).
const F_STREAM: u64 = 1 << 0;

/// Receive, transmit, event (§5.10.2). The event queue tells of migrations,
/// of which there are none: its buffers stay with the device.
const QUEUE_SIZES: &[u16] = &[256, 256, 16];

/// Packets each way before the event loop looks at other devices.
const BATCH: usize = 128;

/// Why the device cannot be made.
#[derive(Debug, Error)]
pub enum VsockError {
    /// The description is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Somebody listens there.
    #[error("vsock: {} is in use by another VM; give this one a path of its own", path.display())]
    InUse {
        /// The device's Unix socket.
        path: PathBuf,
    },
    /// A file that is not ours to replace.
    #[error(
        "vsock: {} exists and is not a socket; remove it or choose another path", path.display()
    )]
    NotASocket {
        /// The device's Unix socket.
        path: PathBuf,
    },
    /// The socket cannot be made there.
    #[error(
        "vsock: cannot listen on {}: {source}; its directory must exist and be writable",
        path.display()
    )]
    Bind {
        /// The device's Unix socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No descriptors to wait for sockets with.
    #[error("vsock: cannot watch sockets: {0}; raise the limit on open files (ulimit -n)")]
    Poll(#[source] io::Error),
}

/// The device.
pub struct Vsock {
    cid: u64,
    muxer: Muxer,
    active: Option<Activation>,
}

impl Vsock {
    /// Makes the device and its Unix socket, with mode 0600. Host programs may
    /// connect from now on; they wait until the guest has a driver. The socket's
    /// file is removed when the device is dropped.
    ///
    /// # Errors
    /// When the description is wrong, the path is somebody else's, or the
    /// kernel refuses.
    pub fn open(spec: &VsockSpec) -> Result<Self, VsockError> {
        spec.validate()?;
        Ok(Vsock {
            cid: spec.cid,
            muxer: Muxer::open(spec)?,
            active: None,
        })
    }

    /// Does what is due when this much time has passed.
    #[cfg(any(test, feature = "testing"))]
    pub fn expire(&mut self, time: std::time::Duration) {
        self.muxer.expire(std::time::Instant::now() + time);
        self.run();
    }

    /// Streams, ready connections and resets that wait.
    #[cfg(any(test, feature = "testing"))]
    pub fn sizes(&self) -> (usize, usize, usize) {
        self.muxer.sizes()
    }

    /// The most bytes that one stream holds for its host.
    #[cfg(any(test, feature = "testing"))]
    pub fn most_held(&self) -> usize {
        self.muxer.most_held()
    }

    /// Moves packets both ways, as far as there are packets, buffers and turns.
    fn run(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        if let Err(violation) = exchange(active, &mut self.muxer) {
            self.muxer.stop();
            if let Some(active) = self.active.take() {
                active.fail("vsock", &violation);
            }
        }
    }
}

fn exchange(active: &mut Activation, muxer: &mut Muxer) -> Result<(), Violation> {
    let Activation { mem, queues, .. } = active;
    let [rx, tx, ..] = &mut queues[..] else {
        return Ok(());
    };
    let sent_more = from_guest(mem, tx, muxer)?;
    let took_more = to_guest(mem, rx, muxer)?;
    // Come back after the other devices had their turn.
    if sent_more && muxer.takes_packets() {
        let _ = tx.kick().write(1);
    }
    if took_more {
        let _ = rx.kick().write(1);
    }
    Ok(())
}

/// Takes packets from the TX queue; true when there may be more.
fn from_guest(
    mem: &crate::GuestMemory,
    tx: &mut VirtQueue,
    muxer: &mut Muxer,
) -> Result<bool, Violation> {
    let mut more = true;
    for _ in 0..BATCH {
        // When the guest does not take its resets, its packets wait: whatever
        // makes room for resets comes back here.
        if !muxer.takes_packets() {
            break;
        }
        let Some(mut chain) = tx.pop(mem)? else {
            if tx.enable_kicks(mem)? {
                continue;
            }
            more = false;
            break;
        };
        let Ok(header) = chain.readable.read_obj::<Header>() else {
            return Err(Violation::Protocol("a packet shorter than its header"));
        };
        muxer.packet_from_guest(&header, chain.readable);
        tx.push(mem, chain.head, 0)?;
    }
    tx.notify(mem)?;
    Ok(more)
}

/// Fills buffers of the RX queue; true when there may be more to fill.
fn to_guest(
    mem: &crate::GuestMemory,
    rx: &mut VirtQueue,
    muxer: &mut Muxer,
) -> Result<bool, Violation> {
    for _ in 0..BATCH {
        if !muxer.has_packets() {
            break;
        }
        let Some(chain) = rx.pop(mem)? else {
            // Only now does a new buffer matter.
            if rx.enable_kicks(mem)? {
                continue;
            }
            rx.notify(mem)?;
            return Ok(false);
        };
        if chain.writable.len() <= HEADER_SIZE {
            return Err(Violation::Protocol("a buffer without room for data"));
        }
        match muxer.packet_for_guest(chain.writable) {
            Some(len) => rx.push(mem, chain.head, len as u32)?,
            None => rx.undo_pop(),
        }
    }
    rx.disable_kicks(mem)?;
    rx.notify(mem)?;
    Ok(muxer.has_packets())
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
        self.muxer.start();
        self.run();
    }

    fn reset(&mut self) {
        self.active = None;
        self.muxer.stop();
    }

    fn event_sources(&self) -> Vec<EventSource> {
        // Never ready while the device is not active.
        vec![EventSource {
            fd: self.muxer.fd(),
            token: 0,
            events: EventSet::IN,
        }]
    }

    fn handle_kick(&mut self, _queue: u16) {
        self.run();
    }

    fn handle_event(&mut self, _token: u16, _events: EventSet) {
        if self.active.is_some() {
            self.muxer.handle_events();
            self.run();
        }
    }
}
