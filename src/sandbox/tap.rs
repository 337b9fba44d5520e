//! TAPs of the host that are made for a sandbox and put on a bridge. Needs
//! `CAP_NET_ADMIN`.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_short, c_ulong, ifreq};

/// `SIOCBRADDIF` of linux/sockios.h.
const SIOCBRADDIF: c_ulong = 0x89a2;

/// Makes a TAP that stays until [`remove`], on a bridge, and switches it on.
///
/// # Errors
/// The system call's; no TAP is left then.
pub fn make(name: &str, bridge: &str) -> io::Result<()> {
    persist(&attach(open()?, name)?, true)?;
    let result = join(name, bridge);
    if result.is_err() {
        // The error that matters is the first one.
        let _ = remove(name);
    }
    result
}

/// Removes a TAP that [`make`] made.
///
/// # Errors
/// The system call's.
pub fn remove(name: &str) -> io::Result<()> {
    persist(&attach(open()?, name)?, false)
}

fn open() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open("/dev/net/tun")
}

/// Takes the TAP, and makes it when it is not there.
fn attach(tun: File, name: &str) -> io::Result<File> {
    let mut request = request(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as c_short;
    call(tun.as_raw_fd(), libc::TUNSETIFF as c_ulong, &mut request)?;
    Ok(tun)
}

fn persist(tun: &File, on: bool) -> io::Result<()> {
    // SAFETY: this request takes a number and no memory.
    let r = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, c_int::from(on)) };
    check(r)
}

fn join(name: &str, bridge: &str) -> io::Result<()> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut tap = request(name)?;
    call(socket.as_raw_fd(), libc::SIOCGIFINDEX as c_ulong, &mut tap)?;
    // SAFETY: SIOCGIFINDEX has filled in this member.
    let index = unsafe { tap.ifr_ifru.ifru_ifindex };
    let mut on_bridge = request(bridge)?;
    on_bridge.ifr_ifru.ifru_ifindex = index;
    call(socket.as_raw_fd(), SIOCBRADDIF, &mut on_bridge)?;
    let mut tap = request(name)?;
    call(socket.as_raw_fd(), libc::SIOCGIFFLAGS as c_ulong, &mut tap)?;
    // SAFETY: SIOCGIFFLAGS has filled in this member.
    let flags = unsafe { tap.ifr_ifru.ifru_flags };
    tap.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
    call(socket.as_raw_fd(), libc::SIOCSIFFLAGS as c_ulong, &mut tap)
}

/// A request about an interface.
fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn call(fd: RawFd, number: c_ulong, request: &mut ifreq) -> io::Result<()> {
    // SAFETY: each of these requests reads and writes one ifreq.
    check(unsafe { libc::ioctl(fd, number as _, request as *mut ifreq) })
}

fn check(result: c_int) -> io::Result<()> {
    match result < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}
