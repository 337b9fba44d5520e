//! Puts a kernel and its initrd into guest memory: bzImage and ELF, after the
//! Linux boot protocol (Documentation/arch/x86/boot.rst) or PVH.
//!
//! `linux-loader` does the copying. What it leaves out is done here first: a
//! file is looked at before anything is loaded, so that each way in which it can
//! be wrong has a message of its own.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use devices::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult, PvhBootCapability};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, ReadVolatile, VolatileMemoryError, VolatileSlice,
};

use super::{Entry, layout, params};
use crate::config::{BootProtocol, ByteSize, VmConfig};
use crate::error::Error;

/// Where the setup header stands in a bzImage and in the zero page.
const SETUP_HEADER: u64 = 0x1f1;
const HDRS: u32 = u32::from_le_bytes(*b"HdrS");
/// First protocol version with `xloadflags` (kernel 3.8).
const VERSION_WITH_XLOADFLAGS: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
/// Distance of the 64-bit entry from a bzImage's load address.
const ENTRY_64: u64 = 0x200;
/// `initrd_addr_max` where the kernel gives none: 2 GiB, what a 64-bit ELF
/// kernel can map early.
const INITRD_MAX: u64 = 0x7fff_ffff;
const PAGE: u64 = 4096;
/// The most `PT_NOTE` segments of a kernel, and bytes in each: real ones have one
/// or two of some hundred bytes, and `linux-loader` reads them note by note.
const MAX_NOTE_SEGMENTS: usize = 16;
const MAX_NOTES_SIZE: u64 = 64 << 10;

/// The initrd in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initrd {
    pub address: GuestAddress,
    pub size: u64,
}

/// Loads the kernel, the initrd and the boot parameters.
///
/// # Errors
/// When a file cannot be read, is no kernel, or does not fit into memory.
pub(crate) fn load(mem: &GuestMemory, config: &VmConfig) -> Result<Entry, Error> {
    let path = config.kernel.as_path();
    let file = open("kernel", path)?;
    let bad = |why: String| Error::Kernel {
        path: path.to_owned(),
        why,
    };
    let len = file
        .metadata()
        .map_err(|e| file_error("kernel", path, e))?
        .len();
    let image = Image::recognize(&file, len).map_err(&bad)?;
    let low_end = low_memory_end(mem);
    let mut whole = WholeReads(&file);

    let (loaded, entry) = match &image {
        Image::BzImage(header) => {
            if config.boot_protocol == BootProtocol::Pvh {
                return Err(bad(
                    "a bzImage has no PVH entry: give the vmlinux, or --boot-protocol linux".into(),
                ));
            }
            // Saturated, it is more than any guest's memory.
            let needed = header
                .pref_address
                .max(layout::HIGH_MEMORY.raw_value())
                .saturating_add(header.init_size.into());
            need_memory(needed, low_end).map_err(&bad)?;
            let loaded = BzImage::load(mem, Some(layout::HIGH_MEMORY), &mut whole, None)
                .map_err(|e| bad(format!("cannot be loaded: {e}")))?;
            let entry = Entry {
                address: loaded.kernel_load.unchecked_add(ENTRY_64),
                protocol: BootProtocol::Linux,
            };
            // The image is unpacked to `pref_address` or higher.
            let kernel_end = loaded.kernel_end.max(needed);
            (
                KernelLoaderResult {
                    kernel_end,
                    ..loaded
                },
                entry,
            )
        }
        Image::Elf { end } => {
            need_memory(*end, low_end).map_err(&bad)?;
            let loaded = Elf::load(mem, None, &mut whole, Some(layout::HIGH_MEMORY))
                .map_err(|e| bad(format!("cannot be loaded: {e}")))?;
            let pvh = match loaded.pvh_boot_cap {
                PvhBootCapability::PvhEntryPresent(address) => Some(address),
                _ => None,
            };
            let entry = match (config.boot_protocol, pvh) {
                (BootProtocol::Auto | BootProtocol::Pvh, Some(address)) => Entry {
                    address,
                    protocol: BootProtocol::Pvh,
                },
                (BootProtocol::Pvh, None) => {
                    return Err(bad(
                        "has no PVH note: build it with CONFIG_PVH, or give --boot-protocol linux"
                            .into(),
                    ));
                }
                (BootProtocol::Auto | BootProtocol::Linux, _) => Entry {
                    address: loaded.kernel_load,
                    protocol: BootProtocol::Linux,
                },
            };
            // `linux-loader` leaves out segments without bytes in the file.
            let kernel_end = loaded.kernel_end.max(*end);
            (
                KernelLoaderResult {
                    kernel_end,
                    ..loaded
                },
                entry,
            )
        }
    };

    let initrd = match &config.initrd {
        Some(path) => Some(load_initrd(mem, path, &loaded, low_end)?),
        None => None,
    };
    params::write_command_line(mem, &config.append)?;
    match entry.protocol {
        BootProtocol::Pvh => params::write_pvh_info(mem, initrd)?,
        _ => params::write_zero_page(mem, loaded.setup_header, config.append.len(), initrd)?,
    }
    Ok(entry)
}

/// What a kernel file is.
enum Image {
    BzImage(setup_header),
    /// With the physical address of the end of its last segment.
    Elf {
        end: u64,
    },
}

impl Image {
    /// Looks at the headers; the error is the rest of a message.
    fn recognize(file: &File, len: u64) -> Result<Self, String> {
        let mut start = [0; 512 + 128];
        let n = read_at_most(file, &mut start, 0).map_err(|e| format!("cannot be read: {e}"))?;
        let start = &start[..n];
        if start.starts_with(b"\x7fELF") {
            return Self::elf(file, len, start);
        }
        if start.get(0x202..0x206) == Some(&HDRS.to_le_bytes()) {
            return Self::bzimage(file, len);
        }
        Err(match start {
            [] => "is empty: fetch or build it again".to_owned(),
            [0x1f, 0x8b, ..] => compressed("gzip"),
            [0xfd, b'7', b'z', ..] => compressed("xz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => compressed("zstd"),
            _ => "is not a kernel: give a bzImage (vmlinuz) or an ELF vmlinux".to_owned(),
        })
    }

    fn bzimage(file: &File, len: u64) -> Result<Self, String> {
        let mut header = setup_header::default();
        file.read_exact_at(header.as_mut_slice(), SETUP_HEADER)
            .map_err(|_| truncated("setup header"))?;
        let (version, flags) = (header.version, header.xloadflags);
        if version < VERSION_WITH_XLOADFLAGS || flags & XLF_KERNEL_64 == 0 {
            return Err("is a 32-bit or very old kernel: x86-64 and 3.8 or later is needed".into());
        }
        let setup = (u64::from(match header.setup_sects {
            0 => 4,
            n => n,
        }) + 1)
            * 512;
        // `syssize` counts 16-byte paragraphs.
        let whole = setup + u64::from(header.syssize) * 16;
        if header.syssize == 0 || len < whole {
            return Err(truncated(&format!("{whole} bytes, it has {len}")));
        }
        Ok(Image::BzImage(header))
    }

    /// ELF-64 for x86-64 whose segments lie inside the file (ELF gABI, chapter 5).
    fn elf(file: &File, len: u64, start: &[u8]) -> Result<Self, String> {
        const PT_LOAD: u32 = 1;
        const PT_NOTE: u32 = 4;
        const EM_X86_64: u16 = 62;
        const PROGRAM_HEADER: usize = 56;
        let head: &[u8; 64] = start.first_chunk().ok_or_else(|| truncated("ELF header"))?;
        let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        if head[4] != 2 || head[5] != 1 || u16_at(18) != EM_X86_64 {
            return Err("is an ELF file for another machine: x86-64 is needed".into());
        }
        if u16_at(16) != 2 {
            return Err("is an ELF object, not a kernel: give the vmlinux itself".into());
        }
        let table_at = u64_at(head, 32);
        if usize::from(u16_at(54)) != PROGRAM_HEADER || u16_at(56) == 0 {
            return Err("has no ELF program headers".into());
        }
        let mut table = vec![0; usize::from(u16_at(56)) * PROGRAM_HEADER];
        file.read_exact_at(&mut table, table_at)
            .map_err(|_| truncated("program headers"))?;
        let mut end = 0;
        let mut notes = 0;
        for header in table.chunks_exact(PROGRAM_HEADER) {
            let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let (offset, physical) = (u64_at(header, 8), u64_at(header, 24));
            let (in_file, in_memory) = (u64_at(header, 32), u64_at(header, 40));
            if offset
                .checked_add(in_file)
                .is_none_or(|segment_end| segment_end > len)
            {
                return Err(truncated("a segment's bytes"));
            }
            if kind == PT_NOTE {
                notes += 1;
                if in_file > MAX_NOTES_SIZE || notes > MAX_NOTE_SEGMENTS {
                    return Err("has more notes than a kernel has: give the vmlinux itself".into());
                }
            }
            // A segment larger in the file than in memory breaks the rules, and is
            // loaded all the same.
            let size = in_memory.max(in_file);
            if kind == PT_LOAD && size > 0 {
                if physical < layout::HIGH_MEMORY.raw_value() {
                    return Err(format!(
                        "has a segment at {physical:#x}: a kernel lies above 1 MiB"
                    ));
                }
                let segment_end = physical.checked_add(size);
                end = segment_end
                    .ok_or("has a segment past the end of all memory")?
                    .max(end);
            }
        }
        if end == 0 {
            return Err("is an ELF file with nothing to load".into());
        }
        Ok(Image::Elf { end })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn truncated(what: &str) -> String {
    format!("is truncated (it should hold {what}): fetch or copy it again")
}

fn compressed(how: &str) -> String {
    format!("is a {how}-compressed file: decompress it first")
}

fn need_memory(bytes: u64, low_end: u64) -> Result<(), String> {
    if bytes > low_end {
        return Err(format!(
            "needs {} of guest memory to start: give more with --memory",
            ByteSize(bytes.checked_next_multiple_of(1 << 20).unwrap_or(bytes))
        ));
    }
    Ok(())
}

/// Places the initrd as high as the kernel allows, below the device gap.
fn load_initrd(
    mem: &GuestMemory,
    path: &Path,
    kernel: &KernelLoaderResult,
    low_end: u64,
) -> Result<Initrd, Error> {
    let mut file = open("initrd", path)?;
    let bad = |why: String| Error::Initrd {
        path: path.to_owned(),
        why,
    };
    let size = file
        .seek(SeekFrom::End(0))
        .and_then(|n| file.rewind().map(|()| n));
    let size = size.map_err(|e| file_error("initrd", path, e))?;
    if size == 0 {
        return Err(bad("is empty: make it again, or leave it out".into()));
    }
    let max = match kernel.setup_header.map(|h| h.initrd_addr_max) {
        Some(max) if max != 0 => u64::from(max),
        _ => INITRD_MAX,
    };
    let top = low_end.min(max + 1);
    let address = top.checked_sub(size).map(|a| a & !(PAGE - 1));
    let address = address.filter(|&a| a >= kernel.kernel_end).ok_or_else(|| {
        bad(format!(
            "does not fit into guest memory beside the kernel: it takes {size} bytes, there are {} left; give more with --memory",
            top.saturating_sub(kernel.kernel_end)
        ))
    })?;
    let mut whole = WholeReads(&file);
    mem.read_exact_volatile_from(GuestAddress(address), &mut whole, size as usize)
        .map_err(|e| bad(format!("cannot be read: {e}")))?;
    Ok(Initrd {
        address: GuestAddress(address),
        size,
    })
}

/// A file whose reads fill the buffer when the file has that much: a network's or
/// a FUSE file system may give less at once, and `vm-memory` takes that for the
/// end.
struct WholeReads<R>(R);

impl<R: Read> Read for WholeReads<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Seek> Seek for WholeReads<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl<R: ReadVolatile> ReadVolatile for WholeReads<R> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_volatile(&mut buf.offset(done)?) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(VolatileMemoryError::IOError(e)) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// End of the memory below the gap.
fn low_memory_end(mem: &GuestMemory) -> u64 {
    use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
    mem.iter()
        .next()
        .map_or(0, |region| region.start_addr().raw_value() + region.len())
}

fn open(what: &'static str, path: &Path) -> Result<File, Error> {
    // A pipe would otherwise be waited for, and a terminal become drupe's own.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| file_error(what, path, e))?;
    let kind = file.metadata().map_err(|e| file_error(what, path, e))?;
    if !kind.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(file_error(what, path, source));
    }
    Ok(file)
}

fn file_error(what: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn read_at_most(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
