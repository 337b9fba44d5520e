//! GNU tar's formats of sparse files: the old one, and 0.0, 0.1 and 1.0 in PAX
//! headers (GNU tar manual, "Storing Sparse Files").

use std::io::Read;

use super::header::{BLOCK, Header, numeric};
use super::pax::{Extensions, decimal};
use super::{Entry, TarError, TarReader};

/// The most pieces of one sparse file: 16 bytes of memory each.
const MAX_SEGMENTS: usize = 1 << 18;
/// The longest number in a map of format 1.0, with its newline.
const MAX_NUMBER: usize = 24;

/// A piece of a sparse file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How long, in bytes.
    pub len: u64,
}

impl<R: Read> TarReader<R> {
    /// Fills in `entry.sparse` and the real size, when the file is sparse.
    pub(super) fn read_sparse_map(
        &mut self,
        header: &Header,
        extensions: &Extensions,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        let records = &extensions.sparse;
        let stored_before = self.data_left;
        let (map, size) = if header.type_flag() == b'S' {
            let map = self.old_map(header, &entry.path)?;
            (map, super::number(header.sparse_size()))
        } else if records.major == Some(1) && records.minor == Some(0) {
            (self.map_before_data(&entry.path)?, records.size)
        } else if let Some(map) = &records.map {
            (map.clone(), records.size)
        } else {
            return Ok(());
        };
        let bad = |what: &str| TarError::malformed(&entry.path, what);
        let size = size.ok_or_else(|| bad("a sparse map without a size"))?;
        let stored = if header.type_flag() == b'S' {
            stored_before
        } else {
            self.data_left
        };
        let map = checked(map, size, stored).ok_or_else(|| bad("a bad sparse map"))?;
        entry.size = size;
        entry.sparse = Some(map);
        Ok(())
    }

    /// Pieces in the header and in blocks behind it, which are not counted in
    /// the entry's size.
    fn old_map(&mut self, header: &Header, path: &[u8]) -> Result<Vec<Segment>, TarError> {
        let bad = || TarError::malformed(path, "a bad sparse map");
        let mut map = Vec::new();
        let mut add = |fields: &[u8]| -> Option<()> {
            for field in fields.chunks_exact(24) {
                if field[0] == 0 {
                    break;
                }
                map.push(Segment {
                    offset: numeric(&field[..12])?.try_into().ok()?,
                    len: numeric(&field[12..])?.try_into().ok()?,
                });
            }
            (map.len() <= MAX_SEGMENTS).then_some(())
        };
        add(header.sparse_map()).ok_or_else(bad)?;
        let mut more = header.sparse_map_goes_on();
        while more {
            let block = self.read_block()?.ok_or(TarError::Truncated)?;
            // One without a piece says nothing, and could go on without end.
            if block[0] == 0 {
                return Err(bad());
            }
            add(&block[..504]).ok_or_else(bad)?;
            more = block[504] != 0;
        }
        Ok(map)
    }

    /// Format 1.0: lines of decimal numbers at the start of the data, filled up
    /// to a whole block.
    fn map_before_data(&mut self, path: &[u8]) -> Result<Vec<Segment>, TarError> {
        let bad = || TarError::malformed(path, "a bad sparse map");
        let mut lines = Lines {
            reader: self,
            block: [0; BLOCK],
            at: BLOCK,
        };
        let count = lines.number()?.ok_or_else(bad)?;
        if count > MAX_SEGMENTS as u64 {
            return Err(TarError::malformed(
                path,
                format!("a sparse map of more than {MAX_SEGMENTS} pieces"),
            ));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            map.push(Segment {
                offset: lines.number()?.ok_or_else(bad)?,
                len: lines.number()?.ok_or_else(bad)?,
            });
        }
        Ok(map)
    }
}

struct Lines<'a, R> {
    reader: &'a mut TarReader<R>,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<Option<u64>, TarError> {
        let mut digits = Vec::with_capacity(MAX_NUMBER);
        loop {
            if self.at == BLOCK {
                if self.reader.data_left < BLOCK as u64 {
                    return Ok(None);
                }
                self.block = self.reader.read_block()?.ok_or(TarError::Truncated)?;
                self.reader.data_left -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' if digits.is_empty() => return Ok(None),
                b'\n' => return Ok(decimal(&digits)),
                byte if digits.len() < MAX_NUMBER => digits.push(byte),
                _ => return Ok(None),
            }
        }
    }
}

/// The pieces that hold something, when they are in order, within the file, and
/// as long as what is stored.
fn checked(map: Vec<Segment>, size: u64, stored: u64) -> Option<Vec<Segment>> {
    let mut end = 0;
    let mut sum: u64 = 0;
    if map.len() > MAX_SEGMENTS || size > i64::MAX as u64 {
        return None;
    }
    for segment in &map {
        if segment.offset < end {
            return None;
        }
        end = segment.offset.checked_add(segment.len)?;
        sum = sum.checked_add(segment.len)?;
    }
    if end > size || sum != stored {
        return None;
    }
    Some(map.into_iter().filter(|s| s.len > 0).collect())
}
