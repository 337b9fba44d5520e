//! The loader as a fuzz target sees it: files in, and what a kernel would find.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;

use devices::GuestMemory;
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::start_info::{hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress};

use super::layout;
use crate::config::{BootProtocol, VmConfig};
use crate::error::Error;

/// Guest memory: room for a small kernel, with pages that are seldom touched.
const MEMORY: usize = 16 << 20;
/// The command line that is loaded with each kernel.
pub const COMMAND_LINE: &str = "console=ttyS0 root=/dev/vda";

/// What the kernel finds by its boot protocol's own means.
#[derive(Debug)]
pub struct Loaded {
    /// How it is entered.
    pub protocol: BootProtocol,
    /// The command line.
    pub command_line: String,
    /// The initrd.
    pub initrd: Option<Vec<u8>>,
}

/// Loads a kernel and an initrd from files of these contents.
///
/// # Errors
/// Those of the loader.
///
/// # Panics
/// When the host has no memory for it, or the loader left a pointer that leads
/// nowhere.
#[allow(clippy::expect_used, reason = "a fuzz target fails by a panic")]
pub fn load(kernel: &[u8], initrd: Option<&[u8]>, protocol: BootProtocol) -> Result<Loaded, Error> {
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let (_kernel, path) = file(kernel).expect("a file");
    let initrd = initrd.map(|bytes| file(bytes).expect("a file"));
    let mut config = VmConfig::new(path);
    config.boot_protocol = protocol;
    config.append = COMMAND_LINE.to_owned();
    config.initrd = initrd.as_ref().map(|(_, path)| path.clone());
    let entry = super::load(&mem, &config)?;

    let (command_line, initrd) = match entry.protocol {
        BootProtocol::Pvh => {
            let info: hvm_start_info = mem.read_obj(layout::PVH_INFO).expect("start info");
            let initrd = (info.nr_modules > 0).then(|| {
                let at = GuestAddress(info.modlist_paddr);
                let module: hvm_modlist_entry = mem.read_obj(at).expect("a module");
                (module.paddr, module.size)
            });
            (info.cmdline_paddr, initrd)
        }
        _ => {
            let page: boot_params = mem.read_obj(layout::ZERO_PAGE).expect("zero page");
            let initrd = (page.hdr.ramdisk_image != 0)
                .then(|| (page.hdr.ramdisk_image.into(), page.hdr.ramdisk_size.into()));
            (page.hdr.cmd_line_ptr.into(), initrd)
        }
    };
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        mem.read_slice(&mut bytes, GuestAddress(at)).expect("bytes");
        bytes
    };
    let text = read(command_line, COMMAND_LINE.len() + 1);
    let text = text.split(|&b| b == 0).next().unwrap_or_default();
    Ok(Loaded {
        protocol: entry.protocol,
        command_line: String::from_utf8_lossy(text).into_owned(),
        initrd: initrd.map(|(at, size)| read(at, size as usize)),
    })
}

/// A file in memory, and a path that leads to it.
fn file(bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    Ok((file, path))
}
