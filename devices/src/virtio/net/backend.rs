//! What is at the other end of a card's wire.

use std::io;
use std::os::fd::RawFd;

use super::features;
use crate::virtio::GuestBuffer;

/// Size of the header before each packet, `virtio_net_hdr` with `num_buffers`
/// (virtio 1.2 §5.1.6): always this long with `VIRTIO_F_VERSION_1`.
pub const HEADER_SIZE: usize = 12;

/// The largest frame, by §5.1.6.3.1: 64 KiB of IP, and Ethernet's header.
pub const MAX_FRAME: usize = 65550;

/// Which unfinished packets the guest takes: those whose checksum is missing, and
/// those larger than the MTU that the guest cuts up itself if it must.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Partial checksums.
    pub csum: bool,
    /// TCP segmentation over IPv4.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// TCP segmentation of packets with ECN bits.
    pub ecn: bool,
}

impl Offload {
    /// No unfinished packets.
    pub const NONE: Offload = Offload {
        csum: false,
        tso4: false,
        tso6: false,
        ecn: false,
    };

    /// Everything that this device can offer.
    pub const ALL: Offload = Offload {
        csum: true,
        tso4: true,
        tso6: true,
        ecn: true,
    };

    /// What follows from the features that the driver accepted. Segmentation
    /// depends on checksums and ECN on segmentation (§5.1.3.1): without what it
    /// depends on, a feature has no effect.
    pub fn accepted(accepted: u64) -> Self {
        let csum = accepted & features::GUEST_CSUM != 0;
        let tso4 = csum && accepted & features::GUEST_TSO4 != 0;
        let tso6 = csum && accepted & features::GUEST_TSO6 != 0;
        Offload {
            csum,
            tso4,
            tso6,
            ecn: (tso4 || tso6) && accepted & features::GUEST_ECN != 0,
        }
    }
}

/// Something that packets come from and go to: a TAP, a user-mode network stack,
/// a test. Each packet is one frame behind a header of [`HEADER_SIZE`] bytes
/// (`virtio_net_hdr_v1`, little-endian); the device fills `num_buffers` in.
///
/// Calls come one at a time, on the event loop or a vCPU thread, and never block.
pub trait PacketBackend: Send {
    /// The descriptor that becomes readable when a packet can be read, and
    /// writable when one can be written again. It is watched edge-triggered, for
    /// the whole life of the back end, and must stay the same.
    fn fd(&self) -> RawFd;

    /// The name that messages call it by.
    fn name(&self) -> &str;

    /// True when headers have a meaning in both directions: checksums left out
    /// and segmentation. Constant. If false, the guest is offered no offload, and
    /// headers of packets for it must be zero.
    fn has_offloads(&self) -> bool;

    /// The driver is ready: whatever the back end needs only for one that is runs
    /// from now on. Called at each activation, before anything is agreed on.
    ///
    /// # Errors
    /// When it cannot be had; there are then no packets.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Which unfinished packets may come out of [`Self::read_packet`] from now on:
    /// none at first. Called when that changes, at an activation or at a reset.
    ///
    /// # Errors
    /// When the back end could not follow; it then goes on as before.
    fn set_offload(&mut self, offload: Offload) -> io::Result<()>;

    /// The driver is gone, and with it whatever is under way: a back end that keeps
    /// connections for it ends them. Called at each reset.
    fn reset(&mut self) {}

    /// Reads one packet, header first: into `buffer`, and what does not fit there
    /// into `spill`. Returns the size of all. `buffer` may have up to
    /// [`super::MAX_PIECES`] pieces, or none.
    ///
    /// # Errors
    /// `WouldBlock` when there is none: [`Self::fd`] then becomes readable with
    /// the next. `EBADFD` when the back end is gone for good. After any other
    /// error the device goes on at the next event.
    fn read_packet(&mut self, buffer: &GuestBuffer<'_>, spill: &mut [u8]) -> io::Result<usize>;

    /// Writes one packet, header first, whole or not at all. `buffer` has at most
    /// [`super::MAX_PIECES`] pieces and is longer than a header; the guest may
    /// change it meanwhile.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room: [`Self::fd`] then becomes writable when
    /// there is, and the packet is offered again. `EBADFD` when the back end is
    /// gone for good. After any other error the packet is dropped.
    fn write_packet(&mut self, buffer: &GuestBuffer<'_>) -> io::Result<()>;
}
