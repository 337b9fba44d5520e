//! The bytes behind one direction of a descriptor chain.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;

use vm_memory::{ByteValued, VolatileSlice};

/// A cursor over pieces of guest memory that were all checked to lie inside it.
/// Reading and writing consume it from the front.
///
/// The guest may change the bytes at any time: what was read must be checked
/// after the copy, and never read twice.
#[derive(Debug, Default, Clone)]
pub struct GuestBuffer<'m> {
    pieces: VecDeque<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> GuestBuffer<'m> {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: VolatileSlice<'m>) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces that are left, in order: for vectored I/O.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &VolatileSlice<'m>> {
        self.pieces.iter()
    }

    /// Takes the first `n` bytes off as a buffer of their own; all there is
    /// when there are fewer.
    pub fn split_to(&mut self, n: usize) -> GuestBuffer<'m> {
        let mut head = GuestBuffer::new();
        while head.len < n {
            let Some(piece) = self.pop_up_to(n - head.len) else {
                break;
            };
            head.push(piece);
        }
        head
    }

    /// Drops the first `n` bytes, or all.
    pub fn advance(&mut self, n: usize) {
        let mut left = n;
        while left > 0 {
            match self.pop_up_to(left) {
                Some(piece) => left -= piece.len(),
                None => break,
            }
        }
    }

    /// Reads a plain value.
    ///
    /// # Errors
    /// `UnexpectedEof` when fewer bytes are left; they are consumed.
    pub fn read_obj<T: ByteValued>(&mut self) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: `ByteValued` promises that every bit pattern, zeroes included, is a value.
        let bytes = unsafe { value.assume_init_mut() }.as_mut_slice();
        self.read_exact(bytes)?;
        // SAFETY: as above.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a plain value.
    ///
    /// # Errors
    /// `WriteZero` when it does not fit.
    pub fn write_obj<T: ByteValued>(&mut self, value: &T) -> io::Result<()> {
        self.write_all(value.as_slice())
    }

    fn pop_up_to(&mut self, n: usize) -> Option<VolatileSlice<'m>> {
        let front = self.pieces.pop_front()?;
        let take = front.len().min(n);
        let piece = if take == front.len() {
            front
        } else {
            // Both halves lie inside the piece, so neither call can fail.
            let (head, tail) = front.split_at(take).ok()?;
            self.pieces.push_front(tail);
            head
        };
        self.len -= take;
        Some(piece)
    }
}

impl Read for GuestBuffer<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let Some(piece) = self.pop_up_to(buf.len() - done) else {
                break;
            };
            done += piece.copy_to(&mut buf[done..]);
        }
        Ok(done)
    }
}

impl Write for GuestBuffer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let Some(piece) = self.pop_up_to(buf.len() - done) else {
                break;
            };
            piece.copy_from(&buf[done..]);
            done += piece.len();
        }
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

    fn memory() -> crate::GuestMemory {
        crate::GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap()
    }

    #[test]
    fn reads_writes_and_splits_across_pieces() {
        let mem = memory();
        let mut buffer = GuestBuffer::new();
        for (addr, len) in [(0, 3), (0x100, 0), (0x200, 5), (0x300, 4)] {
            buffer.push(mem.get_slice(GuestAddress(addr), len).unwrap());
        }
        assert_eq!(buffer.len(), 12);
        let mut write = buffer.clone();
        write.write_all(b"abcdefghijkl").unwrap();
        assert!(write.is_empty() && write.write(b"x").unwrap() == 0);
        let mut five = [0; 5];
        mem.read_slice(&mut five, GuestAddress(0x200)).unwrap();
        assert_eq!(&five, b"defgh");

        let mut head = buffer.split_to(4);
        assert_eq!((head.len(), buffer.len()), (4, 8));
        assert_eq!(
            head.read_obj::<u32>().unwrap(),
            u32::from_le_bytes(*b"abcd")
        );
        buffer.advance(2);
        let mut rest = String::new();
        buffer.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "ghijkl");
        assert_eq!(
            buffer.read_obj::<u8>().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(buffer.split_to(9).is_empty());
    }
}
