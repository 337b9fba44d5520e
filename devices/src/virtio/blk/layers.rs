//! A read-only disk put together from files: a partition for each, in a
//! partition table that is on no host's disk.
//!
//! An image's layers reach the guest as one device in place of one each, since a
//! machine has few interrupt lines; and the files stay the ones that all sandboxes
//! share.

use std::io::{self, Write};
use std::path::PathBuf;

use super::SECTOR_SIZE;
use super::backend::DiskBackend;
use super::file::{DiskError, FileDisk};
use super::gpt::{self, Partition};
use crate::virtio::GuestBuffer;

/// The most files of one disk. As many layers as an image may have elsewhere, and
/// with the whole disk it fits the 256 minor numbers that Linux gives a disk.
pub const MAX_LAYERS: usize = 127;

/// Partitions begin and end at a multiple of this: what partition tools do, and
/// it costs nothing, since nobody stores the gaps.
const ALIGNMENT: u64 = 1 << 20;

/// What a guest may read of the end of a partition in one piece; a file is
/// padded with zeroes to whole ones.
const BLOCK_SIZE: u64 = 4096;

/// Zeroes given out in one piece.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Where the bytes of a part of the disk come from.
#[derive(Debug)]
enum Source {
    Table(Vec<u8>),
    File(FileDisk),
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Source::Table(bytes) => bytes.len() as u64,
            Source::File(file) => file.size(),
        }
    }
}

#[derive(Debug)]
struct Extent {
    /// Offset on the disk in bytes.
    start: u64,
    source: Source,
}

impl Extent {
    fn end(&self) -> u64 {
        self.start + self.source.len()
    }
}

/// The disk. What no extent covers reads as zeroes.
#[derive(Debug)]
pub struct LayerDisk {
    /// In the order of their offsets, none overlapping.
    extents: Vec<Extent>,
    size: u64,
}

impl LayerDisk {
    /// Opens the files and takes a shared lock on each; the first is partition 1.
    /// Of more than [`MAX_LAYERS`] the rest is not opened
    /// ([`super::DiskSpec::validate`] refuses them).
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(layers: &[PathBuf]) -> Result<Self, DiskError> {
        let mut extents = Vec::with_capacity(layers.len() + 2);
        let mut partitions = Vec::with_capacity(layers.len());
        let mut start = ALIGNMENT;
        for path in layers.iter().take(MAX_LAYERS) {
            let file = FileDisk::open(path, true)?;
            // A file is shorter than 2^63 bytes; that all of them together and
            // their padding are too is checked.
            let next = file
                .size()
                .checked_next_multiple_of(ALIGNMENT)
                .and_then(|len| start.checked_add(len))
                .filter(|next| i64::try_from(*next).is_ok())
                .ok_or_else(|| DiskError::Io {
                    path: path.clone(),
                    what: "find room for it on the disk of layers",
                    source: io::ErrorKind::FileTooLarge.into(),
                })?;
            partitions.push(Partition {
                start: start / SECTOR_SIZE,
                sectors: file.size().next_multiple_of(BLOCK_SIZE) / SECTOR_SIZE,
            });
            let source = Source::File(file);
            extents.push(Extent { start, source });
            start = next;
        }
        let size = (start + gpt::TAIL_SECTORS * SECTOR_SIZE).next_multiple_of(BLOCK_SIZE);
        let (head, tail) = gpt::table(&partitions, size / SECTOR_SIZE);
        let tail_start = size - tail.len() as u64;
        let table = |start, bytes| Extent {
            start,
            source: Source::Table(bytes),
        };
        extents.insert(0, table(0, head));
        extents.push(table(tail_start, tail));
        Ok(LayerDisk { extents, size })
    }
}

impl DiskBackend for LayerDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut into: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        let mut next = self.extents.partition_point(|e| e.end() <= offset);
        while !into.is_empty() {
            let extent = self.extents.get(next);
            let gap_end = extent.map_or(self.size, |e| e.start);
            if at < gap_end {
                let gap = into.split_to(bounded(gap_end - at));
                at += gap.len() as u64;
                write_zeroes(gap)?;
                continue;
            }
            // The device asks for nothing behind the end.
            let extent = extent.ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut part = into.split_to(bounded(extent.end() - at));
            let within = at - extent.start;
            at += part.len() as u64;
            match &extent.source {
                Source::File(file) => file.read_at(part, within)?,
                Source::Table(bytes) => {
                    part.write_all(&bytes[bounded(within)..][..part.len()])?;
                }
            }
            next += 1;
        }
        Ok(())
    }

    fn write_at(&self, _from: GuestBuffer<'_>, _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _may_unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

fn bounded(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn write_zeroes(mut into: GuestBuffer<'_>) -> io::Result<()> {
    while !into.is_empty() {
        let n = into.len().min(ZEROES.len());
        into.write_all(&ZEROES[..n])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
