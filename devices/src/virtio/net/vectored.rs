//! Packets straight between a descriptor and guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

use crate::virtio::GuestBuffer;

/// The most pieces of guest memory in one transfer: the kernel's `UIO_MAXIOV`,
/// less one for what spills over.
pub const MAX_PIECES: usize = 1023;

/// Reads once, into `buffer` and then into `spill`.
///
/// # Errors
/// Those of `readv(2)`; `EINVAL` when the buffer has more than [`MAX_PIECES`].
pub fn read(fd: BorrowedFd<'_>, buffer: &GuestBuffer<'_>, spill: &mut [u8]) -> io::Result<usize> {
    let mut vectors = vectors(buffer)?;
    vectors.push(libc::iovec {
        iov_base: spill.as_mut_ptr().cast(),
        iov_len: spill.len(),
    });
    retry(|| {
        // SAFETY: each vector is a live piece of guest memory, kept mapped by the
        // borrow in `buffer` and only ever accessed as volatile memory, or it is
        // `spill`, borrowed for writing; the count is that of the list.
        unsafe {
            libc::readv(
                fd.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
            )
        }
    })
}

/// Writes the whole of `buffer` once.
///
/// # Errors
/// Those of `writev(2)`; `EINVAL` when the buffer has more than [`MAX_PIECES`].
pub fn write(fd: BorrowedFd<'_>, buffer: &GuestBuffer<'_>) -> io::Result<usize> {
    let vectors = vectors(buffer)?;
    retry(|| {
        // SAFETY: each vector is a live piece of guest memory, kept mapped by the
        // borrow in `buffer`; the kernel only reads; the count is that of the list.
        unsafe {
            libc::writev(
                fd.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
            )
        }
    })
}

fn vectors(buffer: &GuestBuffer<'_>) -> io::Result<Vec<libc::iovec>> {
    let pieces = buffer.pieces();
    if pieces.len() > MAX_PIECES {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut vectors = Vec::with_capacity(pieces.len() + 1);
    vectors.extend(pieces.map(vector));
    Ok(vectors)
}

/// The pointer stays good for as long as guest memory is mapped, which the
/// slice's lifetime stands for; guest memory is mapped at a fixed place.
fn vector(piece: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: piece.ptr_guard_mut().as_ptr().cast(),
        iov_len: piece.len(),
    }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(n) = usize::try_from(call()) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

    use super::*;

    #[test]
    fn packets_go_through_scattered_memory_and_spill_over() {
        let mem = crate::GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let buffer = |pieces: &[(u64, usize)]| {
            let mut buffer = GuestBuffer::new();
            for &(addr, len) in pieces {
                buffer.push(mem.get_slice(GuestAddress(addr), len).unwrap());
            }
            buffer
        };
        let (near, far) = UnixDatagram::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        mem.write_slice(b"one packet", GuestAddress(0x100)).unwrap();
        let sent = write(near.as_fd(), &buffer(&[(0x104, 6), (0x100, 4)])).unwrap();
        assert_eq!(sent, 10);

        let mut spill = [0; 8];
        let into = buffer(&[(0x201, 3), (0x300, 2)]);
        assert_eq!(read(far.as_fd(), &into, &mut spill).unwrap(), 10);
        let mut got = [0; 3];
        mem.read_slice(&mut got, GuestAddress(0x201)).unwrap();
        assert_eq!((&got, &spill), (b"pac", b"tone \0\0\0"));
        let e = read(far.as_fd(), &into, &mut spill).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);

        let many: Vec<_> = (0..=MAX_PIECES as u64).map(|n| (n * 16, 1)).collect();
        write(near.as_fd(), &buffer(&many[..MAX_PIECES])).unwrap();
        assert_eq!(
            read(far.as_fd(), &buffer(&many[1..]), &mut spill).unwrap(),
            MAX_PIECES
        );
        let e = write(near.as_fd(), &buffer(&many)).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
    }
}
