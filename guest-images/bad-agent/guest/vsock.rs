//! Sockets between the guest and its host, without any crate.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

const AF_VSOCK: i32 = 40;
const SOCK_STREAM: i32 = 1;
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;

/// `struct sockaddr_vm`.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

const LEN: u32 = size_of::<Address>() as u32;

unsafe extern "C" {
    safe fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn bind(fd: i32, address: *const Address, len: u32) -> i32;
    safe fn listen(fd: i32, backlog: i32) -> i32;
    fn accept(fd: i32, address: *mut Address, len: *mut u32) -> i32;
    #[link_name = "connect"]
    fn connect_to(fd: i32, address: *const Address, len: u32) -> i32;
}

fn new() -> File {
    let fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    assert!(fd >= 0, "no vsock");
    // SAFETY: the kernel has just opened it for this caller.
    unsafe { File::from_raw_fd(fd) }
}

fn address(cid: u32, port: u32) -> Address {
    Address {
        family: AF_VSOCK as u16,
        reserved: 0,
        port,
        cid,
        zero: [0; 4],
    }
}

pub fn listen_on(port: u32) -> File {
    let file = new();
    let address = address(ANY, port);
    // SAFETY: the pointer and the length are those of a live address.
    assert_eq!(
        unsafe { bind(file.as_raw_fd(), &raw const address, LEN) },
        0
    );
    assert_eq!(listen(file.as_raw_fd(), 128), 0);
    file
}

pub fn next(listener: &File) -> File {
    // SAFETY: no address is wanted.
    let fd = unsafe {
        accept(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert!(fd >= 0, "accept");
    // SAFETY: the kernel has just opened it for this caller.
    unsafe { File::from_raw_fd(fd) }
}

pub fn connect(port: u32) -> Option<File> {
    let file = new();
    let address = address(HOST, port);
    // SAFETY: the pointer and the length are those of a live address.
    let done = unsafe { connect_to(file.as_raw_fd(), &raw const address, LEN) };
    (done == 0).then_some(file)
}
