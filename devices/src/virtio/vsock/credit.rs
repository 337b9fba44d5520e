//! Credit of one connection (virtio 1.2 §5.10.6.3): each side sends only what
//! the other has room for.

use std::num::Wrapping;

use super::packet::Header;

/// Receive buffer of each connection, in bytes: what the guest may have under
/// way to a host program that does not read. As large as Linux's own.
pub const BUF_ALLOC: u32 = 256 * 1024;
/// Once the guest's idea of the room is behind by this much, it is told.
const ANNOUNCE: u32 = BUF_ALLOC / 4;

/// Both sides' counters.
#[derive(Debug, Default)]
pub struct Credit {
    /// Bytes that left our receive buffer.
    forwarded: Wrapping<u32>,
    /// What the guest was told of `forwarded`.
    announced: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
    /// The guest was asked for credit and has not given any.
    asked: bool,
}

impl Credit {
    /// Takes over what a packet of the guest says.
    pub fn update(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc.into();
        self.peer_forwarded = Wrapping(header.fwd_cnt.into());
        if self.room() > 0 {
            self.asked = false;
        }
    }

    /// How many bytes the guest has room for. A guest whose counters make no
    /// sense has none.
    pub fn room(&self) -> usize {
        let under_way = self.sent - self.peer_forwarded;
        self.peer_alloc.saturating_sub(under_way.0) as usize
    }

    /// `n` bytes went to the guest.
    pub fn sent(&mut self, n: usize) {
        self.sent += n as u32;
    }

    /// `n` bytes left the receive buffer.
    pub fn forwarded(&mut self, n: usize) {
        self.forwarded += n as u32;
    }

    /// The guest should be asked for credit.
    pub fn should_ask(&self) -> bool {
        !self.asked && self.room() == 0
    }

    /// The guest has been asked.
    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// The guest should be told of its credit.
    pub fn should_announce(&self) -> bool {
        (self.forwarded - self.announced).0 >= ANNOUNCE
    }

    /// Writes our side into a header that goes out.
    pub fn announce(&mut self, header: &mut Header) {
        self.announced = self.forwarded;
        header.buf_alloc = BUF_ALLOC.into();
        header.fwd_cnt = self.forwarded.0.into();
    }
}
