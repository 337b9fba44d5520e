//! Sockets between the guest and its host (`vsock(7)`).

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on a port for connections from the host.
pub struct Listener(OwnedFd);

impl Listener {
    /// # Errors
    /// The kernel's: no vsock, or somebody has the port.
    pub fn new(port: u32) -> Result<Self, Errno> {
        let socket = socket()?;
        let address = address(libc::VMADDR_CID_ANY, port);
        // SAFETY: the pointer and the length are those of a live `sockaddr_vm`.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LEN) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        Ok(Listener(socket))
    }

    /// Waits for a connection of the host. Others are turned away: inside the
    /// guest a program could dial the loopback transport.
    ///
    /// # Errors
    /// The kernel's.
    pub fn accept(&self) -> Result<File, Errno> {
        loop {
            let mut from = address(0, 0);
            let mut len = LEN;
            // SAFETY: both pointers are to live values, and `len` is the size.
            let fd = unsafe {
                libc::accept4(
                    self.0.as_raw_fd(),
                    (&raw mut from).cast(),
                    &raw mut len,
                    libc::SOCK_CLOEXEC,
                )
            };
            check(fd)?;
            // SAFETY: the kernel has just opened it for this caller.
            let stream = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
            if len == LEN && from.svm_cid == libc::VMADDR_CID_HOST {
                return Ok(stream);
            }
        }
    }
}

/// Connects to a port of the host.
///
/// # Errors
/// The kernel's.
pub fn connect_host(port: u32) -> Result<File, Errno> {
    let socket = socket()?;
    let address = address(libc::VMADDR_CID_HOST, port);
    // SAFETY: the pointer and the length are those of a live `sockaddr_vm`.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), LEN) })?;
    Ok(File::from(socket))
}

const LEN: u32 = size_of::<libc::sockaddr_vm>() as u32;

fn socket() -> Result<OwnedFd, Errno> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel has just opened it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all zeroes is a valid `sockaddr_vm`: it is integers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn check(result: i32) -> Result<(), Errno> {
    match result {
        0.. => Ok(()),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}
