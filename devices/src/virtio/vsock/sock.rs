//! Unix sockets with what the standard library leaves out: a connect that never
//! waits, a socket that is private from its first moment, and sends without
//! SIGPIPE.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use vm_memory::VolatileSlice;

/// Connections that may wait to be accepted.
const BACKLOG: libc::c_int = 128;
/// Whoever may connect may talk to the guest: the owner alone.
const MODE: libc::mode_t = 0o600;

/// Connects without ever waiting.
///
/// # Errors
/// `ConnectionRefused` when nobody listens, `WouldBlock` when too many wait for
/// the listener already, or whatever else the kernel says.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket()?;
    let (address, len) = address(path)?;
    retry(|| {
        // SAFETY: the address and its length are those of a live `sockaddr_un`.
        let r = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
        r as isize
    })?;
    Ok(socket.into())
}

/// A listening socket that does not block, with mode 0600.
///
/// # Errors
/// What the kernel says, `AddrInUse` when the path exists.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket()?;
    let (address, len) = address(path)?;
    // The file gets the mode of its socket, so there is no moment in which it
    // has another.
    // SAFETY: plain system call on a descriptor that lives.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), MODE) } as isize)?;
    // SAFETY: the address and its length are those of a live `sockaddr_un`.
    let r = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    check(r as isize)?;
    // SAFETY: plain system call on a descriptor that lives.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } as isize)?;
    Ok(socket.into())
}

/// Sends what the socket takes at once.
///
/// # Errors
/// `WouldBlock` when it takes nothing, `BrokenPipe` when nobody will read it.
pub fn send(stream: &UnixStream, data: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of a live slice.
    unsafe { send_raw(stream, data.as_ptr(), data.len()) }
}

/// As [`send`], straight from guest memory.
///
/// # Errors
/// Those of [`send`].
pub fn send_guest(stream: &UnixStream, data: &VolatileSlice) -> io::Result<usize> {
    let guard = data.ptr_guard();
    // SAFETY: a slice of guest memory stays mapped as long as it lives; that the
    // guest may change it meanwhile does not matter to the kernel, which copies.
    unsafe { send_raw(stream, guard.as_ptr(), guard.len()) }
}

/// Looks at what has arrived without taking it.
///
/// # Errors
/// `WouldBlock` when nothing has.
pub fn peek(stream: &UnixStream, buf: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    retry(|| {
        // SAFETY: pointer and length are those of a live, writable slice.
        unsafe {
            libc::recv(
                stream.as_raw_fd(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                flags,
            )
        }
    })
}

/// # Safety
/// `data` must be readable for `len` bytes.
unsafe fn send_raw(stream: &UnixStream, data: *const u8, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the caller vouches for the memory.
    retry(|| unsafe { libc::send(stream.as_raw_fd(), data.cast(), len, flags) })
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    check(fd as isize)?;
    // SAFETY: the descriptor is new and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeroes is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = path.as_os_str().as_bytes();
    // An empty path or a leading NUL would mean another kind of address.
    if path.is_empty() || path.contains(&0) || path.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let len = offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
    Ok((address, len as libc::socklen_t))
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match check(call()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
