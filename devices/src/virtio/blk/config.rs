//! Feature bits (virtio 1.2 §5.2.3) and the configuration space (§5.2.4).

/// The most data segments in one request: `VIRTIO_BLK_F_SEG_MAX`.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The disk refuses writes: `VIRTIO_BLK_F_RO`.
pub const F_RO: u64 = 1 << 5;
/// The logical block size is told: `VIRTIO_BLK_F_BLK_SIZE`.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// Flushes are understood: `VIRTIO_BLK_F_FLUSH`.
pub const F_FLUSH: u64 = 1 << 9;
/// More than one queue: `VIRTIO_BLK_F_MQ`.
pub const F_MQ: u64 = 1 << 12;
/// Discards are understood: `VIRTIO_BLK_F_DISCARD`.
pub const F_DISCARD: u64 = 1 << 13;
/// Writing of zeroes is understood: `VIRTIO_BLK_F_WRITE_ZEROES`.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Entries of each queue. With indirect descriptors Linux keeps this many
/// requests in flight.
pub const QUEUE_SIZE: u16 = 256;
/// A request's header and status take two descriptors; the data may have the
/// rest of a chain that fills the queue (§2.7.5.3.1).
pub const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// The most that one segment of a discard covers: 2 GiB. Frees space quickly
/// and still bounds how long one request can keep a worker.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// The most segments of one discard: 512 bytes of them.
pub const MAX_DISCARD_SEGMENTS: u32 = 32;
/// The most that one request fills with zeroes: 64 MiB, since the host may have
/// to write them out one by one.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 17;
/// The most segments of one such request.
pub const MAX_WRITE_ZEROES_SEGMENTS: u32 = 1;

/// Up to and with `unused1` behind `write_zeroes_may_unmap`.
const CONFIG_SIZE: usize = 60;

/// `struct virtio_blk_config`, those fields that this device gives a value; the
/// rest reads as zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlkConfig {
    /// Size of the disk in sectors of 512 bytes.
    pub capacity: u64,
    /// Logical block size in bytes.
    pub blk_size: u32,
    /// Number of queues.
    pub num_queues: u16,
    /// What a discard frees space in, in sectors; zero without discards.
    pub discard_sector_alignment: u32,
}

impl BlkConfig {
    /// The bytes that the driver sees.
    pub fn to_bytes(self) -> [u8; CONFIG_SIZE] {
        let mut bytes = [0; CONFIG_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.capacity.to_le_bytes());
        // 8: size_max, 16: geometry, without their features.
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &self.blk_size.to_le_bytes());
        // 24: topology, 32: writeback, without their features.
        put(34, &self.num_queues.to_le_bytes());
        if self.discard_sector_alignment != 0 {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
            put(44, &self.discard_sector_alignment.to_le_bytes());
            put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
            put(52, &MAX_WRITE_ZEROES_SEGMENTS.to_le_bytes());
            // write_zeroes_may_unmap.
            put(56, &[1]);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_blk::virtio_blk_config as Layout;

    #[test]
    fn the_layout_is_the_standards() {
        let bytes = BlkConfig {
            capacity: 0x1122_3344_5566,
            blk_size: 4096,
            num_queues: 3,
            discard_sector_alignment: 8,
        }
        .to_bytes();
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(bytes[..8], 0x1122_3344_5566u64.to_le_bytes());
        for (at, value) in [
            (std::mem::offset_of!(Layout, seg_max), SEG_MAX),
            (std::mem::offset_of!(Layout, blk_size), 4096),
            (
                std::mem::offset_of!(Layout, max_discard_sectors),
                MAX_DISCARD_SECTORS,
            ),
            (std::mem::offset_of!(Layout, max_discard_seg), 32),
            (std::mem::offset_of!(Layout, discard_sector_alignment), 8),
            (
                std::mem::offset_of!(Layout, max_write_zeroes_sectors),
                MAX_WRITE_ZEROES_SECTORS,
            ),
            (std::mem::offset_of!(Layout, max_write_zeroes_seg), 1),
        ] {
            assert_eq!(u32_at(at), value, "at {at}");
        }
        assert_eq!(bytes[std::mem::offset_of!(Layout, num_queues)], 3);
        let unmap = std::mem::offset_of!(Layout, write_zeroes_may_unmap);
        assert_eq!((bytes[unmap], unmap + 4), (1, CONFIG_SIZE));
    }
}
