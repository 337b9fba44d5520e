//! Guest memory: one mapping, or one memfd mapped in pieces, round the gap for
//! devices.
//!
//! By default it is this process's alone, and comes in huge pages where the host
//! makes them of whatever is free (`/sys/kernel/mm/transparent_hugepage/enabled`,
//! `madvise` or `always`). Each page that a guest touches for the first time is an
//! exit, a page to clear and an entry in its nested page tables; a booting Linux
//! touches some six thousand of 4 KiB, or twenty of 2 MiB. The host's shared
//! memory, a memfd's, has no huge pages unless its administrator changed that
//! (`shmem_enabled`), so a memfd is for memory that others shall map, and for the
//! pool of huge pages.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use devices::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, FileOffset, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap,
    MmapRegion,
};

use crate::arch;
use crate::config::{ByteSize, VmConfig};
use crate::error::{Error, KvmStep};

/// Of a huge page, in bytes: what a mapping has to be aligned to.
const HUGE_PAGE: usize = 2 << 20;
/// The least that is kept free in front of guest memory, in bytes. Whatever is
/// mapped next comes right in front of it: a thread's stack of 2 MiB would then be
/// a huge page, cleared for the sake of its last bytes. And who runs past the
/// front of guest memory is stopped.
const GUARD: usize = 64 << 10;
/// What guest memory is called in `/proc/PID/maps`.
const NAME: &std::ffi::CStr = c"guest-memory";

/// What guest memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryBacking {
    /// Memory of this process, in huge pages where the host has them free.
    Private,
    /// A memfd.
    Shared,
    /// A memfd of the host's pool of huge pages.
    HugePages,
}

impl From<&VmConfig> for MemoryBacking {
    fn from(config: &VmConfig) -> Self {
        match (config.hugepages, config.shared_memory) {
            (true, _) => MemoryBacking::HugePages,
            (false, true) => MemoryBacking::Shared,
            (false, false) => MemoryBacking::Private,
        }
    }
}

/// Allocates `size` bytes. Pages come when they are touched, so that a large
/// VM costs nothing it does not use; those of the host's pool of huge pages are
/// reserved at once.
///
/// # Errors
/// When the host has not the memory, or not in huge pages.
pub(crate) fn allocate(size: ByteSize, backing: MemoryBacking) -> Result<GuestMemory, Error> {
    let fail = |source: io::Error| match backing {
        MemoryBacking::HugePages => Error::HugePages { size, source },
        _ => Error::Memory { size, source },
    };
    let pieces = arch::memory_regions(size.bytes());
    let mappings = match backing {
        MemoryBacking::Private => anonymous(&pieces),
        MemoryBacking::Shared => shared(&pieces, false),
        MemoryBacking::HugePages => shared(&pieces, true),
    };
    let mut regions = Vec::new();
    for ((base, _), mapping) in pieces.iter().zip(mappings.map_err(fail)?) {
        let region = GuestRegionMmap::new(mapping, *base)
            .ok_or_else(|| fail(io::Error::other("a region wraps around")))?;
        regions.push(region);
    }
    GuestMemory::from_regions(regions).map_err(|e| fail(io::Error::other(e)))
}

/// Maps the pieces, one behind the other, from memory of this process alone. It
/// stays mapped for as long as the process lives: see [`release`].
fn anonymous(pieces: &[(vm_memory::GuestAddress, usize)]) -> io::Result<Vec<MmapRegion>> {
    const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
    const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let len: usize = pieces.iter().map(|(_, len)| len).sum();
    // SAFETY: a new mapping at an address that the kernel chooses, of which nobody
    // knows yet; what is in front of the first huge page behind the guard stays out
    // of reach, and what is behind the last byte is given back. The rest changes
    // nobody's memory either.
    let start = unsafe {
        let size = GUARD + len + HUGE_PAGE;
        let none = libc::PROT_NONE;
        let whole = libc::mmap(std::ptr::null_mut(), size, none, FLAGS, -1, 0);
        if whole == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let front = (whole as usize + GUARD).next_multiple_of(HUGE_PAGE) - whole as usize;
        let start = whole.byte_add(front);
        if libc::mprotect(start, len, PROTECTION) != 0 {
            let error = io::Error::last_os_error();
            libc::munmap(whole, size);
            return Err(error);
        }
        libc::munmap(start.byte_add(len), size - front - len);
        // A host without huge pages, or without names for mappings, will do. A
        // core dump of drupe is not to hold the secrets of its guest.
        libc::madvise(start, len, libc::MADV_HUGEPAGE);
        libc::madvise(start, len, libc::MADV_DONTDUMP);
        let name = NAME.as_ptr();
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME,
            start,
            len,
            name,
        );
        start
    };
    let mut offset = 0;
    let mut mappings = Vec::new();
    for (_, len) in pieces {
        // SAFETY: the piece lies inside the mapping that was just made, which is
        // never unmapped.
        let mapping = unsafe {
            MmapRegion::build_raw(start.byte_add(offset).cast(), *len, PROTECTION, FLAGS)
        };
        mappings.push(mapping.map_err(io::Error::other)?);
        offset += len;
    }
    Ok(mappings)
}

/// Maps the pieces from a memfd.
fn shared(
    pieces: &[(vm_memory::GuestAddress, usize)],
    hugepages: bool,
) -> io::Result<Vec<MmapRegion>> {
    let file = memfd(hugepages)?;
    file.set_len(pieces.iter().map(|(_, len)| *len as u64).sum())?;
    // With huge pages the reservation at mmap is what tells that there are enough.
    let reserve = if hugepages { 0 } else { libc::MAP_NORESERVE };
    let mut offset = 0;
    let mut mappings = Vec::new();
    for (_, len) in pieces {
        let mapping = MmapRegionBuilder::<()>::new(*len)
            .with_file_offset(FileOffset::new(file.try_clone()?, offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | reserve)
            .build()
            .map_err(io::Error::other)?;
        offset += *len as u64;
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// Gives the pages of a VM that has ended back to the host; the memory reads as
/// zeroes then. What is shared goes with its last mapping instead.
pub(crate) fn release(mem: &GuestMemory) {
    for region in mem.iter().filter(|region| region.file_offset().is_none()) {
        if let Ok(at) = mem.get_host_address(region.start_addr()) {
            // SAFETY: the whole of one mapping that stays mapped; whoever reads it
            // now finds zeroes.
            unsafe { libc::madvise(at.cast(), region.len() as usize, libc::MADV_DONTNEED) };
        }
    }
}

/// Tells KVM about the regions.
pub(crate) fn register(vm: &VmFd, mem: &GuestMemory) -> Result<(), Error> {
    for (slot, region) in mem.iter().enumerate() {
        let host = mem
            .get_host_address(region.start_addr())
            .map_err(Error::BootData)?;
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the mapping covers the whole region and lives in `mem`, of which
        // the machine keeps a clone until its vCPUs have ended.
        unsafe { vm.set_user_memory_region(region) }.map_err(|e| Error::kvm(KvmStep::Memory, e))?;
    }
    Ok(())
}

fn memfd(hugepages: bool) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | if hugepages { libc::MFD_HUGETLB } else { 0 };
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn memory_beyond_four_gigabytes_is_there_and_the_gap_is_not() {
        for backing in [MemoryBacking::Private, MemoryBacking::Shared] {
            let mem = allocate(ByteSize(6 << 30), backing).unwrap();
            assert_eq!(mem.num_regions(), 2);
            for at in [0, (3 << 30) - 8, 1 << 32, (7u64 << 30) - 8] {
                mem.write_obj(at, GuestAddress(at)).unwrap();
            }
            assert_eq!(mem.read_obj::<u64>(GuestAddress(1 << 32)).unwrap(), 1 << 32);
            for at in [(3 << 30) - 4, 3 << 30, (1 << 32) - 8, 7u64 << 30] {
                assert!(mem.write_obj(at, GuestAddress(at)).is_err(), "{at:#x}");
            }
        }
    }

    /// The flags of the mapping that holds `address`, from `/proc/self/smaps`.
    fn flags(address: usize) -> String {
        let mut inside = false;
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            if let Some((start, end)) = range {
                let parse = |text| usize::from_str_radix(text, 16).unwrap();
                inside = (parse(start)..parse(end)).contains(&address);
            } else if inside && line.starts_with("VmFlags:") {
                return line.to_owned();
            }
        }
        panic!("nothing is mapped at {address:#x}");
    }

    #[test]
    fn nothing_is_reached_in_front_of_private_memory() {
        let mem = allocate(ByteSize(4 << 20), MemoryBacking::Private).unwrap();
        let at = mem.get_host_address(GuestAddress(0)).unwrap() as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let guard = |line: &&str| line.split([' ', '-']).nth(1) == Some(&format!("{at:x}"));
        let line = maps.lines().find(guard).unwrap();
        assert!(line.contains(" ---p "), "{line}");
        let start = usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        assert!(at - start >= GUARD, "{line}");
    }

    #[test]
    fn private_memory_can_be_huge_pages_and_is_not_dumped() {
        let mem = allocate(ByteSize(9 << 20), MemoryBacking::Private).unwrap();
        let at = mem.get_host_address(GuestAddress(0)).unwrap() as usize;
        assert_eq!(at % HUGE_PAGE, 0);
        let flags = flags(at);
        assert!(flags.contains(" dd"), "{flags}");
        assert!(flags.contains(" hg"), "{flags}");
    }

    #[test]
    fn released_memory_is_empty() {
        let mem = allocate(ByteSize(4 << 20), MemoryBacking::Private).unwrap();
        mem.write_obj(7u64, GuestAddress(0x1000)).unwrap();
        release(&mem);
        assert_eq!(mem.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 0);
    }
}
