//! Reads images that the writer made: names and attributes, for layers above
//! them. A damaged image gives an error.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::{
    BLOCK, DIRENT_SIZE, FLAT_INLINE, FLAT_PLAIN, INODE_SIZE, RawInode, S_IFCHR, S_IFDIR, S_IFLNK,
    S_IFMT, S_IFREG, SLOT, Superblock, parse_xattrs, u16_at, u64_at,
};
use super::tree::Attributes;
use crate::tar::Timestamp;

/// The largest directory that is read, in bytes: 2 million entries of the
/// longest names.
const MAX_DIRECTORY: u64 = 1 << 30;

/// An image.
pub struct Image {
    file: File,
    superblock: Superblock,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeType {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// What hides a name of the layers below: a character device 0/0.
    Whiteout,
    /// Anything else.
    Other,
}

/// An inode.
#[derive(Debug)]
pub struct Inode {
    /// What it is.
    pub kind: NodeType,
    /// What belongs to it.
    pub attributes: Attributes,
    pub(super) raw: RawInode,
    /// Where its inline data would be.
    pub(super) tail_at: u64,
}

impl Inode {
    /// Whether a directory hides those of the layers below.
    pub fn is_opaque(&self) -> bool {
        self.attributes
            .xattrs
            .iter()
            .any(|(name, value)| **name == *crate::layer::OPAQUE_XATTR && **value == *b"y")
    }
}

impl Image {
    /// Opens an image.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut block = vec![0; BLOCK as usize];
        file.read_exact_at(&mut block, 0)?;
        let superblock = Superblock::from_block(&block).ok_or_else(damaged)?;
        Ok(Image { file, superblock })
    }

    /// The root.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn root(&self) -> io::Result<Inode> {
        self.inode(u64::from(self.superblock.root_nid))
    }

    #[cfg(test)]
    pub(super) fn root_number(&self) -> u64 {
        u64::from(self.superblock.root_nid)
    }

    #[cfg(test)]
    pub(super) fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(data, at)
    }

    /// The names in a directory, with their inodes' numbers.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn names(&self, directory: &Inode) -> io::Result<HashMap<Box<[u8]>, u64>> {
        let data = self.directory_data(directory)?;
        let mut names = HashMap::new();
        for block in data.chunks(BLOCK as usize) {
            for (name, number) in block_entries(block)? {
                names.insert(name.into(), number);
            }
        }
        Ok(names)
    }

    /// The inode of a number.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn inode(&self, nid: u64) -> io::Result<Inode> {
        let start = u64::from(self.superblock.meta_block) * BLOCK;
        // Far enough from the largest number that what stands behind it counts.
        let at = nid
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(start))
            .filter(|at| *at < i64::MAX as u64)
            .ok_or_else(damaged)?;
        let mut bytes = [0; INODE_SIZE as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        let raw = RawInode::from_bytes(&bytes).ok_or_else(damaged)?;
        let xattrs_size = match raw.xattr_count {
            0 => 0,
            count => 12 + (usize::from(count) - 1) * 4,
        };
        let mut xattrs = vec![0; xattrs_size];
        self.file.read_exact_at(&mut xattrs, at + INODE_SIZE)?;
        let xattrs = match xattrs_size {
            0 => Vec::new(),
            _ => parse_xattrs(&xattrs).ok_or_else(damaged)?,
        };
        let kind = match raw.mode & S_IFMT {
            S_IFDIR => NodeType::Directory,
            S_IFREG => NodeType::File,
            S_IFLNK => NodeType::Symlink,
            S_IFCHR if raw.union == 0 => NodeType::Whiteout,
            _ => NodeType::Other,
        };
        Ok(Inode {
            kind,
            attributes: Attributes {
                mode: raw.mode & 0o7777,
                uid: raw.uid,
                gid: raw.gid,
                mtime: Timestamp {
                    seconds: raw.mtime,
                    nanoseconds: raw.mtime_nsec,
                },
                xattrs,
            },
            raw,
            tail_at: at + INODE_SIZE + xattrs_size as u64,
        })
    }

    fn directory_data(&self, inode: &Inode) -> io::Result<Vec<u8>> {
        let raw = &inode.raw;
        if raw.size > MAX_DIRECTORY {
            return Err(damaged());
        }
        let tail = match raw.layout {
            FLAT_PLAIN => 0,
            FLAT_INLINE => raw.size % BLOCK,
            _ => return Err(damaged()),
        };
        let mut data = vec![0; raw.size as usize];
        let (blocks, rest) = data.split_at_mut((raw.size - tail) as usize);
        self.file
            .read_exact_at(blocks, u64::from(raw.union) * BLOCK)?;
        self.file.read_exact_at(rest, inode.tail_at)?;
        Ok(data)
    }
}

/// The names of one block of a directory with their inodes' numbers.
fn block_entries(block: &[u8]) -> io::Result<Vec<(&[u8], u64)>> {
    let dirent = DIRENT_SIZE as usize;
    let first = block.get(..dirent).ok_or_else(damaged)?;
    let count = usize::from(u16_at(first, 8)) / dirent;
    if count == 0 || count * dirent > block.len() {
        return Err(damaged());
    }
    let mut entries = Vec::with_capacity(count);
    for i in 0..count {
        let entry = &block[i * dirent..];
        let start = usize::from(u16_at(entry, 8));
        let end = if i + 1 < count {
            usize::from(u16_at(entry, dirent + 8))
        } else {
            block.len()
        };
        let name = block.get(start..end).ok_or_else(damaged)?;
        // Zeroes fill up the last one's block.
        let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        entries.push((&name[..len], u64_at(entry, 0)));
    }
    Ok(entries)
}

fn damaged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "damaged disk image: remove the image and get it again",
    )
}
