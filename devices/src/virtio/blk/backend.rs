//! What a disk's contents are kept in.

use std::io;

use super::SECTOR_SIZE;
use crate::virtio::GuestBuffer;

/// A disk's contents. The device has checked every range: it lies inside
/// [`DiskBackend::size`], begins at a sector and is whole sectors long.
///
/// Calls come from the workers of all queues at once. Each blocks its queue
/// until it is done, errors are final (the guest sees `VIRTIO_BLK_S_IOERR`), and
/// what a call has written another call of any thread reads.
pub trait DiskBackend: Send + Sync {
    /// Size in bytes, constant. What lies past the last whole sector is not the
    /// guest's.
    fn size(&self) -> u64;

    /// Logical block size in bytes: a power of two, 512 or more, constant.
    fn block_size(&self) -> u32 {
        SECTOR_SIZE as u32
    }

    /// The unit in bytes in which [`DiskBackend::discard`] frees space, constant;
    /// none when this back end can neither discard nor write zeroes cheaply.
    fn discard_granularity(&self) -> Option<u32> {
        None
    }

    /// Fills `into` from byte `offset`.
    ///
    /// # Errors
    /// When not all of it could be read; part of `into` may have been filled.
    fn read_at(&self, into: GuestBuffer<'_>, offset: u64) -> io::Result<()>;

    /// Writes `from` at byte `offset`. It need not be durable before
    /// [`DiskBackend::flush`].
    ///
    /// # Errors
    /// When not all of it could be written.
    fn write_at(&self, from: GuestBuffer<'_>, offset: u64) -> io::Result<()>;

    /// Makes durable all that was written before the call, by whatever thread.
    ///
    /// # Errors
    /// When something of it may have been lost.
    fn flush(&self) -> io::Result<()>;

    /// The guest does not need these bytes any more: they may read as anything
    /// from now on. A hint, which may do nothing.
    ///
    /// # Errors
    /// The host's.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes these bytes read as zeroes; their space may be given up if
    /// `may_unmap`. `len` is bounded by the device
    /// ([`super::MAX_WRITE_ZEROES_SECTORS`]).
    ///
    /// # Errors
    /// The host's.
    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()>;
}
