//! What went through a card.

use serde::{Deserialize, Serialize};

/// Counts since the card was made; "received" is from the guest's side. Bytes
/// are those of whole frames, without the virtio header.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetCounters {
    /// Packets handed to the guest.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets dropped on the way to the guest: larger than its buffers, left
    /// over from before a reset, or while the link was down.
    pub rx_dropped: u64,
    /// Times that the card stopped because the guest had too few buffers.
    pub rx_stalls: u64,
    /// Reads from the back end that failed.
    pub rx_errors: u64,
    /// Packets taken from the guest and sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that the back end refused, or while the link was down.
    pub tx_dropped: u64,
    /// Chains that are no packet: too short or too long.
    pub tx_malformed: u64,
}

/// How much may be done at one event before the other devices have their turn:
/// the figures of the kernel's own vhost-net.
#[derive(Debug)]
pub(super) struct Budget {
    packets: usize,
    bytes: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Budget {
            packets: 256,
            bytes: 512 * 1024,
        }
    }

    pub(super) fn left(&self) -> bool {
        self.packets > 0 && self.bytes > 0
    }

    /// One packet of `bytes`, or one step that moved none.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
