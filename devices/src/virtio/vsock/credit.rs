//! Credit of one connection (virtio 1.2 §5.10.6.3): each side sends only what
//! the other has room for.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::packet::Header;

/// The largest receive buffer of a connection, in bytes: what the guest may have
/// under way to a host program that does not read. As large as Linux's own.
pub const BUF_ALLOC: u32 = 256 * 1024;
/// The smallest, which every connection has.
pub const MIN_ALLOC: u32 = 8 * 1024;
/// What all connections together may have beyond that: a guest that opens all it
/// can and has nothing read would otherwise hold hundreds of megabytes.
pub const POOL: u32 = 8 << 20;
/// A connection gets at most this part of what is left, so that there is
/// something for the next.
const SHARE: u32 = 16;

/// What connections share for their receive buffers.
#[derive(Debug, Clone)]
pub struct Pool(Arc<AtomicU32>);

impl Default for Pool {
    fn default() -> Self {
        Pool(Arc::new(AtomicU32::new(POOL)))
    }
}

impl Pool {
    /// A buffer for a new connection: the largest while there are few, smaller
    /// ones when there are many.
    pub fn grant(&self) -> Grant {
        // One thread takes; others at most give back.
        let left = self.0.load(Ordering::Relaxed);
        let extra = (left / SHARE).min(BUF_ALLOC - MIN_ALLOC);
        self.0.fetch_sub(extra, Ordering::Relaxed);
        Grant {
            pool: self.clone(),
            extra,
        }
    }
}

/// A connection's receive buffer. What is beyond the smallest goes back with it.
#[derive(Debug)]
pub struct Grant {
    pool: Pool,
    extra: u32,
}

impl Grant {
    /// How large it may be.
    pub fn bytes(&self) -> u32 {
        MIN_ALLOC + self.extra
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.pool.0.fetch_add(self.extra, Ordering::Relaxed);
    }
}

/// Both sides' counters.
#[derive(Debug)]
pub struct Credit {
    /// Our receive buffer.
    alloc: u32,
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
    /// That of a new connection with a receive buffer of `alloc` bytes.
    pub fn new(alloc: u32) -> Self {
        Credit {
            alloc,
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            sent: Wrapping(0),
            peer_alloc: 0,
            peer_forwarded: Wrapping(0),
            asked: false,
        }
    }

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

    /// The guest should be told of its credit: its idea of the room is behind by
    /// a good part of it.
    pub fn should_announce(&self) -> bool {
        (self.forwarded - self.announced).0 >= self.alloc / 4
    }

    /// Writes our side into a header that goes out.
    pub fn announce(&mut self, header: &mut Header) {
        self.announced = self.forwarded;
        header.buf_alloc = self.alloc.into();
        header.fwd_cnt = self.forwarded.0.into();
    }
}

#[cfg(test)]
mod tests {
    use super::super::muxer::MAX_STREAMS;
    use super::*;

    #[test]
    fn all_buffers_together_are_bounded_and_come_back() {
        let pool = Pool::default();
        assert_eq!(pool.grant().bytes(), BUF_ALLOC);
        let grants: Vec<Grant> = (0..MAX_STREAMS).map(|_| pool.grant()).collect();
        let sum: u32 = grants.iter().map(Grant::bytes).sum();
        assert!(sum <= 16 << 20, "{sum}");
        assert!(grants.iter().all(|grant| grant.bytes() >= MIN_ALLOC));
        let whole = grants.iter().filter(|grant| grant.bytes() == BUF_ALLOC);
        assert!(whole.count() >= 16);
        drop(grants);
        assert_eq!(pool.0.load(Ordering::Relaxed), POOL);
    }
}
