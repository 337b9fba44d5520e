//! Writes an image: data as they come, metadata behind them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use thiserror::Error;

use super::INLINE_MAX;
use super::format::{
    BLOCK, FLAT_INLINE, FLAT_PLAIN, NULL_ADDR, RawInode, Superblock, encode_device, file_type,
    put_xattrs,
};
use super::layout::{Entry, Layout, Packing, Spot, entries, fits_inline};
use super::output::{Aside, Output};
use super::tree::{Content, FileData, NodeId, Place, Tree};
use crate::erofs::format::xattrs_size;
use crate::tar::Segment;

/// The most blocks of an image, holes of the file included: 4 TiB, which is
/// within what file systems that may hold it can do.
const MAX_BLOCKS: u64 = 1 << 30;
/// The most entries in a sparse file's block map, of 4 bytes each.
const MAX_CHUNKS: u64 = 1 << 16;

/// Why an image could not be written.
#[derive(Debug, Error)]
pub enum ErofsError {
    /// Writing, or reading what is to be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It would be too large.
    #[error("larger than a disk image may be ({} GiB)", (MAX_BLOCKS * BLOCK) >> 30)]
    TooLarge,
    /// An inode with more extended attributes than it can have.
    #[error("more than 256 KiB of extended attributes at one file")]
    TooManyXattrs,
}

/// An image that is being written.
pub struct ImageWriter {
    out: Output,
    aside: Aside,
}

impl ImageWriter {
    /// Writes to `image`, an empty file; `aside` is another one, for the time
    /// being.
    pub fn new(image: File, aside: File) -> Self {
        ImageWriter {
            // The superblock comes last.
            out: Output::new(image, BLOCK),
            aside: Aside::new(aside),
        }
    }

    /// Writes the data of a file or of a symbolic link, whose inode will have
    /// extended attributes of this many bytes.
    ///
    /// # Errors
    /// [`ErofsError`]; also when `from` ends early.
    pub fn write_file(
        &mut self,
        from: &mut impl Read,
        size: u64,
        xattrs: &[super::tree::Xattr],
    ) -> Result<FileData, ErofsError> {
        if size == 0 {
            return Ok(FileData::EMPTY);
        }
        if size <= INLINE_MAX && fits_inline(xattrs_size(xattrs), size) {
            let place = Place::Inline(self.aside.copy_from(from, size)?);
            return Ok(FileData { size, place });
        }
        let first = self.begin(size)?;
        self.out.copy_from(from, size)?;
        let place = Place::Blocks(first);
        Ok(FileData { size, place })
    }

    /// Writes the data of a file with holes. `from` has the bytes of the
    /// segments, which are in order, not empty, and within `size`.
    ///
    /// # Errors
    /// [`ErofsError`]; also when `from` ends early.
    pub fn write_sparse(
        &mut self,
        from: &mut impl Read,
        size: u64,
        segments: &[Segment],
    ) -> Result<FileData, ErofsError> {
        if size == 0 {
            return Ok(FileData::EMPTY);
        }
        let mut bits = 0;
        while size.div_ceil(BLOCK << bits) > MAX_CHUNKS {
            bits += 1;
            if BLOCK << bits > MAX_BLOCKS * BLOCK {
                return Err(ErofsError::TooLarge);
            }
        }
        let chunk = BLOCK << bits;
        let mut blocks = vec![NULL_ADDR; size.div_ceil(chunk) as usize];
        for segment in segments {
            let (mut at, end) = (segment.offset, segment.offset + segment.len);
            while at < end {
                let index = (at / chunk) as usize;
                let within = at % chunk;
                let part = (chunk - within).min(end - at);
                if blocks[index] == NULL_ADDR {
                    blocks[index] = self.begin(chunk.min(size - index as u64 * chunk))?;
                }
                let start = u64::from(blocks[index]) * BLOCK;
                self.out.advance_to(start + within)?;
                self.out.copy_from(from, part)?;
                // What the chunk has behind its last piece is a hole of the file.
                at += part;
                let next = segments_next(segments, at);
                if next.is_none_or(|next| next / chunk > index as u64) {
                    let len = chunk.min(size - index as u64 * chunk);
                    self.out.advance_to(start + len)?;
                }
            }
        }
        let blocks = blocks.into();
        let place = Place::Chunks { bits, blocks };
        Ok(FileData { size, place })
    }

    /// Starts a block for `size` bytes.
    fn begin(&mut self, size: u64) -> Result<u32, ErofsError> {
        let at = self.out.position().next_multiple_of(BLOCK);
        let end = at.checked_add(size).ok_or(ErofsError::TooLarge)?;
        if end > MAX_BLOCKS * BLOCK {
            return Err(ErofsError::TooLarge);
        }
        self.out.advance_to(at)?;
        Ok((at / BLOCK) as u32)
    }

    /// Writes the metadata and the superblock. The file is complete then, though
    /// not yet synced.
    ///
    /// # Errors
    /// [`ErofsError`].
    pub fn finish(mut self, tree: &Tree, uuid: [u8; 16]) -> Result<File, ErofsError> {
        self.aside.close()?;
        let layout = Layout::new(tree).map_err(|_| ErofsError::TooManyXattrs)?;
        let inode_blocks = layout.inodes_size.div_ceil(BLOCK);
        let meta_block = self.begin((inode_blocks + layout.directory_blocks) * BLOCK)?;
        let mut metadata = Metadata {
            tree,
            layout: &layout,
            directories: u64::from(meta_block) + inode_blocks,
            aside: &self.aside,
        };
        let start = u64::from(meta_block) * BLOCK;
        let mut bytes = Vec::new();
        for id in &layout.order {
            let spot = &layout.spots[id.index()];
            bytes.clear();
            metadata.inode(*id, spot, &mut bytes)?;
            self.out.advance_to(start + spot.offset)?;
            self.out.write(&bytes)?;
        }
        self.out.advance_to(metadata.directories * BLOCK)?;
        for id in &layout.order {
            if let Content::Directory(_) = tree.node(*id).content {
                let spot = &layout.spots[id.index()];
                let mut data = metadata.directory(*id, spot);
                if spot.directory_inline {
                    data.truncate(data.len() / BLOCK as usize * BLOCK as usize);
                }
                data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
                self.out.write(&data)?;
            }
        }
        let end = self.out.position().next_multiple_of(BLOCK);
        self.out.advance_to(end)?;
        let file = self.out.finish()?;
        let superblock = Superblock {
            root_nid: layout.spots[Tree::ROOT.index()].nid() as u16,
            inodes: layout.order.len() as u64,
            blocks: (end / BLOCK) as u32,
            meta_block,
            uuid,
        };
        file.write_all_at(&superblock.to_block(), 0)?;
        Ok(file)
    }
}

/// Where the next piece of data at or behind `at` begins.
fn segments_next(segments: &[Segment], at: u64) -> Option<u64> {
    let next = segments.partition_point(|s| s.offset + s.len <= at);
    segments.get(next).map(|s| s.offset.max(at))
}

struct Metadata<'a> {
    tree: &'a Tree,
    layout: &'a Layout,
    /// The first block of directories.
    directories: u64,
    aside: &'a Aside,
}

impl Metadata<'_> {
    /// An inode with all that stands behind it.
    fn inode(&mut self, id: NodeId, spot: &Spot, out: &mut Vec<u8>) -> Result<(), ErofsError> {
        let node = self.tree.node(id);
        let attributes = &node.attributes;
        let (layout, union, size) = match &node.content {
            Content::Directory(_) if spot.directory_inline => {
                (FLAT_INLINE, self.directory_block(spot), spot.directory_size)
            }
            Content::Directory(_) => (FLAT_PLAIN, self.directory_block(spot), spot.directory_size),
            Content::File(data) | Content::Symlink(_, data) => {
                let (layout, union) = data.union();
                (layout, union, data.size)
            }
            Content::CharDevice(device) | Content::BlockDevice(device) => {
                (FLAT_PLAIN, encode_device(device.major, device.minor), 0)
            }
            Content::Fifo => (FLAT_PLAIN, 0, 0),
        };
        let inode = RawInode {
            layout,
            xattr_count: spot.xattr_count,
            mode: node.mode(),
            size,
            union,
            // For 32-bit programs; the number is the place otherwise.
            ino: id.index() as u32 + 1,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime.seconds,
            mtime_nsec: attributes.mtime.nanoseconds,
            nlink: spot.links,
        };
        out.extend(inode.to_bytes());
        put_xattrs(attributes, out);
        match &node.content {
            Content::Directory(_) if spot.directory_inline => {
                let data = self.directory(id, spot);
                out.extend(&data[data.len() / BLOCK as usize * BLOCK as usize..]);
            }
            Content::File(data) | Content::Symlink(_, data) => match &data.place {
                Place::Inline(at) => self.aside.read(*at, data.size as usize, out)?,
                Place::Chunks { blocks, .. } => {
                    out.extend(blocks.iter().flat_map(|block| block.to_le_bytes()));
                }
                Place::Blocks(_) => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn directory_block(&self, spot: &Spot) -> u32 {
        (self.directories + spot.directory_block) as u32
    }

    /// A directory's data.
    fn directory(&self, id: NodeId, spot: &Spot) -> Vec<u8> {
        let Content::Directory(children) = &self.tree.node(id).content else {
            return Vec::new();
        };
        let mut out = Vec::with_capacity(spot.directory_size as usize);
        let mut block = Vec::new();
        let mut packing = Packing::default();
        for (name, entry) in entries(children) {
            if packing.add(name) {
                put_block(&block, &mut out);
                out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
                block.clear();
            }
            let target = match entry {
                Entry::This => id.index(),
                Entry::Parent => spot.parent as usize,
                Entry::Child(child) => child.index(),
            };
            let kind = match entry {
                Entry::Child(child) => file_type(self.tree.node(child).mode()),
                _ => file_type(super::format::S_IFDIR),
            };
            block.push((name, self.layout.spots[target].nid(), kind));
        }
        put_block(&block, &mut out);
        out
    }
}

/// One block of entries: first their numbers, then their names.
fn put_block(block: &[(&[u8], u64, u8)], out: &mut Vec<u8>) {
    let mut name_at = block.len() * super::format::DIRENT_SIZE as usize;
    for (name, nid, kind) in block {
        out.extend(nid.to_le_bytes());
        out.extend((name_at as u16).to_le_bytes());
        out.extend([*kind, 0]);
        name_at += name.len();
    }
    for (name, ..) in block {
        out.extend(*name);
    }
}
