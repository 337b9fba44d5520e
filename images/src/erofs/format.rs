//! The on-disk format: constants, the superblock, inodes, extended attributes.

use super::tree::{Attributes, Xattr};

/// Bytes in a block, and its logarithm.
pub const BLOCK: u64 = 1 << BLOCK_BITS;
pub const BLOCK_BITS: u8 = 12;
/// Where the superblock stands, in bytes.
pub const SUPER_OFFSET: usize = 1024;
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum.
pub const COMPAT_SB_CHKSUM: u32 = 1;
/// There are chunk-based files.
pub const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Inodes are numbered in units of this many bytes from the metadata's start.
pub const SLOT: u64 = 32;
/// Bytes of an extended inode.
pub const INODE_SIZE: u64 = 64;
/// Bytes of a directory entry without its name.
pub const DIRENT_SIZE: u64 = 12;
/// A chunk without data.
pub const NULL_ADDR: u32 = u32::MAX;

pub const FLAT_PLAIN: u16 = 0;
pub const FLAT_INLINE: u16 = 2;
pub const CHUNK_BASED: u16 = 4;

pub const S_IFIFO: u16 = 0o010000;
pub const S_IFCHR: u16 = 0o020000;
pub const S_IFDIR: u16 = 0o040000;
pub const S_IFBLK: u16 = 0o060000;
pub const S_IFREG: u16 = 0o100000;
pub const S_IFLNK: u16 = 0o120000;
pub const S_IFMT: u16 = 0o170000;

/// What a directory entry says about the type.
pub fn file_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// An extended inode without its extended attributes.
#[derive(Debug, Default)]
pub struct RawInode {
    pub layout: u16,
    pub xattr_count: u16,
    pub mode: u16,
    pub size: u64,
    /// First block, device number, or the form of the chunks.
    pub union: u32,
    pub ino: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub mtime_nsec: u32,
    pub nlink: u32,
}

impl RawInode {
    pub fn to_bytes(&self) -> [u8; INODE_SIZE as usize] {
        let mut out = [0; INODE_SIZE as usize];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        // Bit 0: the extended form.
        put(0, &(1 | self.layout << 1).to_le_bytes());
        put(2, &self.xattr_count.to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.union.to_le_bytes());
        put(20, &self.ino.to_le_bytes());
        put(24, &self.uid.to_le_bytes());
        put(28, &self.gid.to_le_bytes());
        put(32, &self.mtime.to_le_bytes());
        put(40, &self.mtime_nsec.to_le_bytes());
        put(44, &self.nlink.to_le_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8; INODE_SIZE as usize]) -> Option<Self> {
        let format = u16_at(bytes, 0);
        (format & 1 == 1).then(|| RawInode {
            layout: format >> 1 & 7,
            xattr_count: u16_at(bytes, 2),
            mode: u16_at(bytes, 4),
            size: u64_at(bytes, 8),
            union: u32_at(bytes, 16),
            ino: u32_at(bytes, 20),
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            mtime: u64_at(bytes, 32).cast_signed(),
            mtime_nsec: u32_at(bytes, 40),
            nlink: u32_at(bytes, 44),
        })
    }
}

/// The superblock, as far as it is used.
#[derive(Debug)]
pub struct Superblock {
    pub root_nid: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub meta_block: u32,
    pub uuid: [u8; 16],
}

impl Superblock {
    /// The first block, with its checksum.
    pub fn to_block(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        let sb = &mut block[SUPER_OFFSET..];
        let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT_SB_CHKSUM.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root_nid.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.meta_block.to_le_bytes());
        put(48, &self.uuid);
        put(80, &INCOMPAT_CHUNKED_FILE.to_le_bytes());
        let checksum = crc32c(sb);
        sb[4..8].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    pub fn from_block(block: &[u8]) -> Option<Self> {
        let sb = block.get(SUPER_OFFSET..BLOCK as usize)?;
        let mut unsummed = sb.to_vec();
        unsummed[4..8].fill(0);
        if u32_at(sb, 0) != MAGIC || sb[12] != BLOCK_BITS || u32_at(sb, 4) != crc32c(&unsummed) {
            return None;
        }
        Some(Superblock {
            root_nid: u16_at(sb, 14),
            inodes: u64_at(sb, 16),
            blocks: u32_at(sb, 36),
            meta_block: u32_at(sb, 40),
            uuid: std::array::from_fn(|i| sb[48 + i]),
        })
    }
}

/// CRC-32C without the final inversion, as the superblock has it.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc >> 1 ^ carry
        })
    })
}

/// Names of extended attributes are stored as a number for what they begin
/// with, and the rest.
const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

fn xattr_index(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        // The two for access control lists are whole names.
        (prefix.ends_with(b".") != rest.is_empty()).then_some((*index, rest))
    })
}

/// Whether the format has a place for an attribute of this name.
pub fn xattr_is_kept(name: &[u8]) -> bool {
    xattr_index(name).is_some_and(|(_, rest)| rest.len() <= usize::from(u8::MAX))
}

/// Bytes of the extended attributes behind an inode.
pub fn xattrs_size(xattrs: &[Xattr]) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    let entry = |(name, value): &Xattr| {
        let name = xattr_index(name).map_or(0, |(_, rest)| rest.len());
        (4 + name as u64 + value.len() as u64).next_multiple_of(4)
    };
    12 + xattrs.iter().map(entry).sum::<u64>()
}

/// What an inode says of that size, when it can be said.
pub fn xattr_count(size: u64) -> Option<u16> {
    match size {
        0 => Some(0),
        size => u16::try_from((size - 12) / 4 + 1).ok(),
    }
}

/// Appends the extended attributes to `out`.
pub fn put_xattrs(attributes: &Attributes, out: &mut Vec<u8>) {
    if attributes.xattrs.is_empty() {
        return;
    }
    out.extend([0; 12]);
    for (name, value) in &attributes.xattrs {
        let Some((index, rest)) = xattr_index(name) else {
            continue;
        };
        // Both fit: `xattr_is_kept` and the tree's check of values.
        out.extend([rest.len() as u8, index]);
        out.extend((value.len() as u16).to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Reads them back. `None` when they are damaged.
pub fn parse_xattrs(bytes: &[u8]) -> Option<Vec<Xattr>> {
    let mut rest = bytes.get(12..)?;
    let mut xattrs = Vec::new();
    while !rest.is_empty() {
        let (name_len, value_len) = (usize::from(*rest.first()?), u16_of(rest.get(2..4)?)?);
        let prefix = XATTR_PREFIXES
            .iter()
            .find(|(index, _)| *index == rest[1])?
            .1;
        let value_at = 4 + name_len;
        let end = value_at + usize::from(value_len);
        let name = [prefix, rest.get(4..value_at)?].concat();
        xattrs.push((name.into(), rest.get(value_at..end)?.into()));
        rest = rest.get(end.next_multiple_of(4)..)?;
    }
    Some(xattrs)
}

/// A device's numbers in one (the kernel's `new_encode_dev`).
pub fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

#[cfg(test)]
pub fn decode_device(device: u32) -> (u32, u32) {
    (
        device >> 8 & 0xfff,
        (device & 0xff) | (device >> 12 & 0xfff00),
    )
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_le_bytes)
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720, B.4: the published values are inverted at the end.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn xattrs_come_back() {
        let xattr = |name: &str, value: &[u8]| (name.as_bytes().into(), value.into());
        let xattrs = vec![
            xattr("user.x", b""),
            xattr("security.capability", b"\x01\0\0\x02"),
            xattr("system.posix_acl_default", b"\x02\0\0\0\x01"),
            xattr("trusted.overlay.opaque", b"y"),
        ];
        let attributes = Attributes {
            xattrs,
            ..Attributes::default()
        };
        let mut bytes = Vec::new();
        put_xattrs(&attributes, &mut bytes);
        assert_eq!(bytes.len() as u64, xattrs_size(&attributes.xattrs));
        assert_eq!(parse_xattrs(&bytes).unwrap(), attributes.xattrs);
        assert!(parse_xattrs(&bytes[..bytes.len() - 4]).is_none());
    }

    #[test]
    fn only_attributes_with_a_place_are_kept() {
        for name in [
            "user.a",
            "trusted.b",
            "security.c",
            "system.posix_acl_access",
        ] {
            assert!(xattr_is_kept(name.as_bytes()), "{name}");
        }
        for name in ["user.", "system.nfs4_acl", "system.posix_acl_access.x", "b"] {
            assert!(!xattr_is_kept(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(0, 0), (1, 3), (259, 70000), (0xfff, 0xfffff)] {
            assert_eq!(decode_device(encode_device(major, minor)), (major, minor));
        }
    }
}
