//! TAPs of the host's kernel (`tun.rst` of its documentation).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_uint};
use thiserror::Error;

use super::backend::{HEADER_SIZE, Offload, PacketBackend};
use super::spec::NetSpec;
use super::tun_sys::{self, Interfaces};
use super::vectored;
use crate::spec::SpecError;
use crate::virtio::GuestBuffer;

const TUN: &str = "/dev/net/tun";

/// Why a card has no TAP. Each message says what to do.
#[derive(Debug, Error)]
pub enum TapError {
    /// The description itself is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The driver is not there.
    #[error("net: {TUN} is missing: load the driver with `modprobe tun`")]
    NoDriver(#[source] io::Error),
    /// The driver may not be used.
    #[error("net: no permission to open {TUN}: give this user read and write access to it")]
    DriverPermission(#[source] io::Error),
    /// The driver cannot be opened for another reason.
    #[error(
        "net: cannot open {TUN}: {0}: raise the limit if it is one (ulimit -n), or see `drupe doctor`"
    )]
    Driver(#[source] io::Error),
    /// There is no such interface.
    #[error("net: no TAP named {0}: create it with `ip tuntap add {0} mode tap user $USER`")]
    Missing(String),
    /// There is an interface of that name, of another kind.
    #[error("net: {0} is a network interface, but not a TAP: `ip tuntap` lists those there are")]
    NotTap(String),
    /// It was made for several queues. One card would get a part of the packets
    /// only, as soon as another process takes a queue as well.
    #[error(
        "net: the TAP {0} was created with `multi_queue`, which a card cannot use yet: create it with `ip tuntap add {0} mode tap user $USER`"
    )]
    ManyQueues(String),
    /// Another process is at the other end.
    #[error("net: the TAP {0} is in use by another process: a TAP carries one machine")]
    Busy(String),
    /// The TAP belongs to someone else.
    #[error(
        "net: no permission to use the TAP {0}: its owner may, root may, so create it with `ip tuntap add {0} mode tap user $USER`"
    )]
    Permission(String),
    /// A call failed for another reason.
    #[error("net: the TAP {tap}: {what}: {source}: `drupe doctor` says what this host offers")]
    Call {
        /// Which TAP.
        tap: String,
        /// What did not work.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The far end of a TAP that exists. Closing it leaves the TAP in place.
#[derive(Debug)]
pub struct Tap {
    tun: File,
    name: String,
    mtu: u16,
    has_offloads: bool,
}

impl Tap {
    /// Takes the TAP called `name`, which must exist: none is ever created.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        NetSpec::new(name).validate()?;
        let failed = |what| {
            move |source| TapError::Call {
                tap: name.to_owned(),
                what,
                source,
            }
        };
        let interfaces = Interfaces::open().map_err(failed("cannot open a socket"))?;
        let index = interfaces.index(name).map_err(|e| index_error(name, e))?;
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(open_error)?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        tun_sys::attach(&tun, name, flags)
            .map_err(|e| attach_error(name, e, || has_queues(name)))?;
        // For root, attaching creates what is missing. If the TAP went away since
        // the first look, what was created now goes with `tun`.
        if interfaces.index(name).map_err(|e| index_error(name, e))? != index {
            return Err(TapError::Missing(name.to_owned()));
        }
        tun_sys::set_header_size(&tun, HEADER_SIZE as c_int)
            .map_err(failed("cannot set the size of the packet header"))?;
        if cfg!(target_endian = "big") {
            tun_sys::set_little_endian(&tun)
                .map_err(failed("cannot set the byte order of the packet header"))?;
        }
        let mtu = interfaces
            .mtu(name)
            .map_err(failed("cannot read its MTU"))?;
        // Tried now, since what is offered to the guest cannot be taken back.
        let has_offloads = tun_sys::set_offload(&tun, offload_flags(Offload::ALL)).is_ok();
        tun_sys::set_offload(&tun, 0).map_err(failed("cannot switch offloads off"))?;
        Ok(Tap {
            tun,
            name: name.to_owned(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            has_offloads,
        })
    }

    /// The TAP's own MTU in bytes, when it was opened.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }
}

impl PacketBackend for Tap {
    fn fd(&self) -> RawFd {
        self.tun.as_raw_fd()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        tun_sys::set_offload(&self.tun, offload_flags(offload))
    }

    fn read_packet(&mut self, buffer: &GuestBuffer<'_>, spill: &mut [u8]) -> io::Result<usize> {
        vectored::read(self.tun.as_fd(), buffer, spill)
    }

    /// A TAP takes every packet, unless someone limited its send buffer. The
    /// kernel checks the header against the packet.
    fn write_packet(&mut self, buffer: &GuestBuffer<'_>) -> io::Result<()> {
        vectored::write(self.tun.as_fd(), buffer).map(drop)
    }
}

fn offload_flags(offload: Offload) -> c_uint {
    [
        (offload.csum, libc::TUN_F_CSUM),
        (offload.tso4, libc::TUN_F_TSO4),
        (offload.tso6, libc::TUN_F_TSO6),
        (offload.ecn, libc::TUN_F_TSO_ECN),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

fn index_error(name: &str, error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::ENODEV) => TapError::Missing(name.to_owned()),
        _ => TapError::Call {
            tap: name.to_owned(),
            what: "cannot look it up",
            source: error,
        },
    }
}

fn open_error(error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(error),
        Some(libc::EACCES | libc::EPERM) => TapError::DriverPermission(error),
        _ => TapError::Driver(error),
    }
}

/// True for a TAP that was made for several queues.
fn has_queues(name: &str) -> bool {
    let flags = std::fs::read_to_string(format!("/sys/class/net/{name}/tun_flags"));
    let flags = flags.unwrap_or_default();
    let flags = flags.trim().trim_start_matches("0x");
    let many = libc::IFF_TAP | libc::IFF_MULTI_QUEUE;
    c_int::from_str_radix(flags, 16).is_ok_and(|flags| flags & many == many)
}

fn attach_error(name: &str, error: io::Error, has_queues: impl Fn() -> bool) -> TapError {
    let tap = name.to_owned();
    match error.raw_os_error() {
        Some(libc::EINVAL) if has_queues() => TapError::ManyQueues(tap),
        Some(libc::EINVAL) => TapError::NotTap(tap),
        Some(libc::EBUSY | libc::E2BIG) => TapError::Busy(tap),
        Some(libc::EPERM | libc::EACCES) => TapError::Permission(tap),
        _ => TapError::Call {
            tap,
            what: "cannot be taken",
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(code: c_int) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn errors_name_the_tap_and_say_what_to_do() {
        for (error, message) in [
            (
                index_error("tap7", os(libc::ENODEV)),
                "net: no TAP named tap7: create it with `ip tuntap add tap7 mode tap user $USER`",
            ),
            (
                attach_error("lo", os(libc::EINVAL), || false),
                "net: lo is a network interface, but not a TAP: `ip tuntap` lists those there are",
            ),
            (
                attach_error("tap7", os(libc::EBUSY), || true),
                "net: the TAP tap7 is in use by another process: a TAP carries one machine",
            ),
            (
                attach_error("tap7", os(libc::EPERM), || true),
                "net: no permission to use the TAP tap7: its owner may, root may, so create it with `ip tuntap add tap7 mode tap user $USER`",
            ),
            (
                attach_error("tap7", os(libc::ENOMEM), || true),
                "net: the TAP tap7: cannot be taken: Cannot allocate memory (os error 12): `drupe doctor` says what this host offers",
            ),
            (
                open_error(os(libc::ENOENT)),
                "net: /dev/net/tun is missing: load the driver with `modprobe tun`",
            ),
            (
                open_error(os(libc::EACCES)),
                "net: no permission to open /dev/net/tun: give this user read and write access to it",
            ),
            (
                open_error(os(libc::EMFILE)),
                "net: cannot open /dev/net/tun: Too many open files (os error 24): raise the limit if it is one (ulimit -n), or see `drupe doctor`",
            ),
        ] {
            assert_eq!(error.to_string(), message);
        }
        assert!(matches!(
            open_error(os(libc::ENODEV)),
            TapError::NoDriver(_)
        ));
    }

    #[test]
    fn a_tap_that_does_not_exist_is_not_created() {
        let error = Tap::open("drupe-none").unwrap_err();
        assert!(matches!(error, TapError::Missing(_)), "{error}");
        assert!(Interfaces::open().unwrap().index("drupe-none").is_err());
        // Nor is a name cut until it is that of another.
        let error = Tap::open("a-name-that-is-too-long").unwrap_err();
        assert!(matches!(error, TapError::Spec(_)), "{error}");
    }

    #[test]
    fn offloads_become_the_kernels_flags() {
        assert_eq!(offload_flags(Offload::NONE), 0);
        assert_eq!(offload_flags(Offload::ALL), 0b1111);
        let csum = Offload {
            csum: true,
            ..Offload::NONE
        };
        assert_eq!(offload_flags(csum), libc::TUN_F_CSUM);
    }

    /// Needs two TAPs:
    ///
    /// ```text
    /// ip tuntap add drupe-test mode tap && ip link set drupe-test mtu 1400 up
    /// ip tuntap add drupe-many mode tap multi_queue
    /// ```
    #[test]
    #[ignore = "needs /dev/net/tun and TAPs called drupe-test and drupe-many"]
    fn real_taps() {
        let error = Tap::open("drupe-many").unwrap_err();
        assert!(matches!(error, TapError::ManyQueues(_)), "{error}");
        let mut tap = Tap::open("drupe-test").unwrap();
        assert_eq!((tap.mtu(), tap.has_offloads()), (1400, true));
        tap.set_offload(Offload::ALL).unwrap();
        let error = Tap::open("drupe-test").unwrap_err();
        assert!(matches!(error, TapError::Busy(_)), "{error}");
        let error = Tap::open("lo").unwrap_err();
        assert!(matches!(error, TapError::NotTap(_)), "{error}");
        drop(tap);
        Tap::open("drupe-test").unwrap();
    }
}
