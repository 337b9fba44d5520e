//! The kernel's calls for TAPs, one function each.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_int, c_ulong, c_void};

/// `struct ifreq`: a name, then a union of which each call uses one member.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    /// `name` is cut to what fits, with a zero behind it; callers have checked it.
    fn new(name: &str) -> Self {
        let mut request = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            value: [0; size_of::<libc::ifreq>() - libc::IFNAMSIZ],
        };
        let room = &mut request.name[..libc::IFNAMSIZ - 1];
        for (to, from) in room.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        request
    }

    fn int(&self) -> c_int {
        let [a, b, c, d, ..] = self.value;
        c_int::from_ne_bytes([a, b, c, d])
    }
}

/// A socket that interfaces can be asked through.
pub struct Interfaces(OwnedFd);

impl Interfaces {
    /// Opens it; any family of sockets will do, and this one is always there.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open and nothing else owns it.
        Ok(Interfaces(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The interface's number; `ENODEV` when there is none of that name.
    pub fn index(&self, name: &str) -> io::Result<c_int> {
        self.get(libc::SIOCGIFINDEX, name)
    }

    /// The interface's MTU in bytes.
    pub fn mtu(&self, name: &str) -> io::Result<c_int> {
        self.get(libc::SIOCGIFMTU, name)
    }

    fn get(&self, call: c_ulong, name: &str) -> io::Result<c_int> {
        let mut request = InterfaceRequest::new(name);
        pass(&self.0, call, (&raw mut request).cast())?;
        Ok(request.int())
    }
}

/// `TUNSETIFF`: makes `tun` the other end of the TAP `name`. With the right to,
/// the kernel makes a TAP of a name that does not exist.
pub fn attach(tun: &File, name: &str, flags: c_int) -> io::Result<()> {
    let mut request = InterfaceRequest::new(name);
    // The kernel takes the flags as 16 bits.
    request.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    pass(tun, libc::TUNSETIFF as c_ulong, (&raw mut request).cast())
}

/// `TUNSETVNETHDRSZ`: how long the header before each packet is.
pub fn set_header_size(tun: &File, size: c_int) -> io::Result<()> {
    let mut size = size;
    pass(
        tun,
        libc::TUNSETVNETHDRSZ as c_ulong,
        (&raw mut size).cast(),
    )
}

/// `TUNSETVNETLE`: the header is little-endian, whatever the host is.
pub fn set_little_endian(tun: &File) -> io::Result<()> {
    let mut yes: c_int = 1;
    pass(tun, libc::TUNSETVNETLE as c_ulong, (&raw mut yes).cast())
}

/// `TUNSETOFFLOAD`: which unfinished packets (`TUN_F_*`) may be read.
pub fn set_offload(tun: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: this call takes its argument by value.
    let result = unsafe {
        libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            c_ulong::from(flags),
        )
    };
    check(result)
}

/// One call with a pointer. `argument` must be what `call` expects: only the
/// functions above use it, with an `InterfaceRequest` for `SIOCGIF*` and
/// `TUNSETIFF` and a `c_int` for the others.
fn pass(fd: &impl AsRawFd, call: c_ulong, argument: *mut c_void) -> io::Result<()> {
    // SAFETY: `argument` points to a live value, borrowed for writing by the
    // caller, of the type and size that the kernel reads and writes for `call`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), call as _, argument) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
