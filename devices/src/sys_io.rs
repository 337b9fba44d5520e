//! The system calls behind disk I/O, file I/O and the workers that wait for
//! kicks: every `unsafe` block of the block device is here. Each function retries
//! `EINTR`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use libc::{c_int, iovec, off_t};

use crate::virtio::GuestBuffer;

/// The most pieces that the kernel takes in one call (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// Fills `into` from `file` at byte `offset`, in as many calls as it takes.
///
/// # Errors
/// The kernel's; `UnexpectedEof` when the file ends first. Part of the buffer
/// may have been filled.
pub fn read_at(file: &File, into: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
    all(into, io::ErrorKind::UnexpectedEof, |into| {
        transfer_from(file, into, offset)
    })
}

/// Writes all of `from` to `file` at byte `offset`, in as many calls as it takes.
///
/// # Errors
/// The kernel's. Part of the buffer may have been written.
pub fn write_at(file: &File, from: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
    all(from, io::ErrorKind::WriteZero, |from| {
        transfer_to(file, from, offset, false)
    })
}

/// Reads as [`read_at`], but only up to the end of the file; how many bytes.
///
/// # Errors
/// The kernel's, when there is one before the first byte.
pub fn read_some_at(file: &File, into: GuestBuffer<'_>, offset: u64) -> io::Result<usize> {
    some(transfer_from(file, into, offset))
}

/// Writes as [`write_at`], but returns how many bytes could be written; to the
/// end of the file, wherever that is at each call, when `append`.
///
/// # Errors
/// The kernel's, when there is one before the first byte.
pub fn write_some_at(
    file: &File,
    from: GuestBuffer<'_>,
    offset: u64,
    append: bool,
) -> io::Result<usize> {
    some(transfer_to(file, from, offset, append))
}

/// How many bytes were moved before the end, or before the error.
type Moved = (usize, io::Result<()>);

fn all(
    buffer: GuestBuffer<'_>,
    stuck: io::ErrorKind,
    call: impl FnOnce(GuestBuffer<'_>) -> Moved,
) -> io::Result<()> {
    let len = buffer.len();
    match call(buffer) {
        (moved, Ok(())) if moved < len => Err(stuck.into()),
        (_, result) => result,
    }
}

fn some((moved, result): Moved) -> io::Result<usize> {
    match result {
        Err(e) if moved == 0 => Err(e),
        _ => Ok(moved),
    }
}

fn transfer_from(file: &File, into: GuestBuffer<'_>, offset: u64) -> Moved {
    transfer(into, offset, |iov, at| {
        // SAFETY: `iov` describes live guest memory, writable for its whole
        // length (see `transfer`); the kernel writes nowhere else.
        unsafe { libc::preadv(file.as_raw_fd(), iov.as_ptr(), iov.len() as c_int, at) }
    })
}

fn transfer_to(file: &File, from: GuestBuffer<'_>, offset: u64, append: bool) -> Moved {
    let flags = if append { libc::RWF_APPEND } else { 0 };
    transfer(from, offset, |iov, at| {
        let (fd, count) = (file.as_raw_fd(), iov.len() as c_int);
        // SAFETY: `iov` describes live guest memory (see `transfer`), which the
        // kernel only reads.
        unsafe {
            match flags {
                0 => libc::pwritev(fd, iov.as_ptr(), count, at),
                _ => libc::pwritev2(fd, iov.as_ptr(), count, at, flags),
            }
        }
    })
}

/// Runs `call` on the pieces of `buffer` until all of it has been moved or a call
/// moves nothing.
///
/// The iovecs that `call` gets point into guest memory that is mapped, readable
/// and writable, for as long as the call lasts. The guest may change the bytes
/// meanwhile: to the kernel that is like any thread of this process writing to a
/// buffer in flight, and no Rust reference to the bytes exists.
fn transfer(
    mut buffer: GuestBuffer<'_>,
    offset: u64,
    call: impl Fn(&[iovec], off_t) -> isize,
) -> Moved {
    let mut total = 0;
    while !buffer.is_empty() {
        let at = offset.checked_add(total as u64);
        let Some(at) = at.and_then(|at| off_t::try_from(at).ok()) else {
            return (total, Err(io::ErrorKind::InvalidInput.into()));
        };
        let moved = {
            let pieces = buffer.pieces().take(IOV_MAX);
            // The guards keep the mapping alive until the call is over.
            let guards: Vec<_> = pieces.map(|p| p.ptr_guard_mut()).collect();
            let iov: Vec<iovec> = guards
                .iter()
                .map(|g| iovec {
                    iov_base: g.as_ptr().cast(),
                    iov_len: g.len(),
                })
                .collect();
            call(&iov, at)
        };
        match usize::try_from(moved) {
            Ok(0) => break,
            Ok(n) => {
                buffer.advance(n);
                total += n;
            }
            Err(_) => {
                if let Err(e) = retry_if_interrupted() {
                    return (total, Err(e));
                }
            }
        }
    }
    (total, Ok(()))
}

/// `fallocate(2)` with the given mode.
///
/// # Errors
/// The kernel's.
pub fn fallocate(file: &File, mode: c_int, offset: u64, len: u64) -> io::Result<()> {
    let offset = off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes no pointer.
    retry(|| unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// Takes the whole file's lock, exclusive or shared, for as long as this open
/// file description lives; false when another one holds a lock in conflict.
///
/// Open file description locks rather than `flock`: QEMU takes the same kind, so
/// that the two keep each other's VMs off a disk as well.
///
/// # Errors
/// The kernel's, such as a file system without locks.
pub fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        // Zero: to the end, wherever that is.
        l_len: 0,
        // Must be zero for this kind of lock.
        l_pid: 0,
    };
    // SAFETY: the pointer is to a live, whole `flock`, which the kernel reads.
    let locked = retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) });
    match locked {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        other => other.map(|()| true),
    }
}

/// The logical block size of a block device in bytes (`BLKSSZGET`).
///
/// # Errors
/// The kernel's.
pub fn logical_block_size(file: &File) -> io::Result<u32> {
    let mut size: c_int = 0;
    // SAFETY: the kernel writes one int, to a live one.
    retry(|| unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut size) })?;
    u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether a block device refuses writes (`BLKROGET`): to open it for writing
/// may succeed all the same.
///
/// # Errors
/// The kernel's.
pub fn is_read_only(file: &File) -> io::Result<bool> {
    /// `_IO(0x12, 94)`, from `linux/fs.h`.
    const BLKROGET: libc::Ioctl = 0x125e;
    let mut readonly: c_int = 0;
    // SAFETY: the kernel writes one int, to a live one.
    retry(|| unsafe { libc::ioctl(file.as_raw_fd(), BLKROGET, &mut readonly) })?;
    Ok(readonly != 0)
}

/// Discards a range of a block device, in bytes (`BLKDISCARD`).
///
/// # Errors
/// The kernel's: `EINVAL` when the range is not made of whole logical blocks.
pub fn discard_blocks(file: &File, offset: u64, len: u64) -> io::Result<()> {
    /// `_IO(0x12, 119)`, from `linux/fs.h`.
    const BLKDISCARD: libc::Ioctl = 0x1277;
    let range = [offset, len];
    // SAFETY: the kernel reads two u64 from a live array of two.
    retry(|| unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

/// Waits until at least one of `fds` is readable; which of them are.
///
/// # Errors
/// The kernel's.
pub fn wait_readable<const N: usize>(fds: [RawFd; N]) -> io::Result<[bool; N]> {
    wait_readable_for(fds, None)
}

/// As [`wait_readable`], but no longer than `time`, if one is given; after an
/// interruption it begins again.
///
/// # Errors
/// The kernel's.
pub fn wait_readable_for<const N: usize>(
    fds: [RawFd; N],
    time: Option<Duration>,
) -> io::Result<[bool; N]> {
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let count = N as libc::nfds_t;
    // SAFETY: the pointer and the length are those of a live, writable array; the
    // time lives as long, or is none; the signal mask stays as it is.
    retry(|| unsafe { libc::ppoll(polled.as_mut_ptr(), count, time, std::ptr::null()) })?;
    Ok(polled.map(|p| p.revents != 0))
}

fn retry(call: impl FnMut() -> c_int) -> io::Result<()> {
    let mut call = call;
    while call() < 0 {
        retry_if_interrupted()?;
    }
    Ok(())
}

/// The last call's error, unless it was only interrupted.
fn retry_if_interrupted() -> io::Result<()> {
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::Interrupted => Ok(()),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

    #[test]
    fn more_pieces_than_one_call_takes_are_all_moved() {
        let mem = crate::GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mut buffer = GuestBuffer::new();
        let pieces = IOV_MAX as u64 * 2 + 7;
        for i in 0..pieces {
            let at = GuestAddress(i * 8);
            mem.write_slice(&(i as u32).to_le_bytes()[..3], at).unwrap();
            buffer.push(mem.get_slice(at, 3).unwrap());
        }
        let mut file = tempfile::tempfile().unwrap();
        write_at(&file, buffer.clone(), 5).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, 5 + pieces * 3);
        for i in 0..pieces as usize {
            assert_eq!(bytes[5 + i * 3..][..3], (i as u32).to_le_bytes()[..3]);
        }

        let turned: Vec<u8> = bytes.iter().map(|b| !b).collect();
        file.rewind().unwrap();
        file.write_all(&turned).unwrap();
        read_at(&file, buffer.clone(), 5).unwrap();
        let mut three = [0; 3];
        mem.read_slice(&mut three, GuestAddress((pieces - 1) * 8))
            .unwrap();
        assert_eq!(three, turned[turned.len() - 3..]);
        let e = read_at(&file, buffer.clone(), 6).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        assert!(write_at(&file, buffer, u64::MAX).is_err());
    }

    #[test]
    fn locks_conflict_between_open_files_of_one_process() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(file.path())
                .unwrap()
        };
        let (a, b, c) = (open(), open(), open());
        assert!(try_lock(&a, false).unwrap() && try_lock(&b, false).unwrap());
        assert!(!try_lock(&c, true).unwrap());
        drop((a, b));
        assert!(try_lock(&c, true).unwrap());
        assert!(!try_lock(&open(), false).unwrap());
    }
}
