//! Guest memory: one memfd, mapped in pieces round the gap for devices.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use devices::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, FileOffset, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap,
};

use crate::arch;
use crate::config::ByteSize;
use crate::error::{Error, KvmStep};

/// Allocates `size` bytes. Pages come when they are touched, so that a large
/// VM costs nothing it does not use; huge pages are taken from the host's pool.
///
/// # Errors
/// When the host has not the memory, or not in huge pages.
pub(crate) fn allocate(size: ByteSize, hugepages: bool) -> Result<GuestMemory, Error> {
    let fail = |source: io::Error| {
        if hugepages {
            Error::HugePages { size, source }
        } else {
            Error::Memory { size, source }
        }
    };
    let file = memfd(hugepages).map_err(fail)?;
    file.set_len(size.bytes()).map_err(fail)?;
    // With huge pages the reservation at mmap is what tells that there are enough.
    let reserve = if hugepages { 0 } else { libc::MAP_NORESERVE };
    let mut offset = 0;
    let mut regions = Vec::new();
    for (base, len) in arch::memory_regions(size.bytes()) {
        let file = file.try_clone().map_err(fail)?;
        let mapping = MmapRegionBuilder::<()>::new(len)
            .with_file_offset(FileOffset::new(file, offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | reserve)
            .build()
            .map_err(|e| fail(io::Error::other(e)))?;
        offset += len as u64;
        let region = GuestRegionMmap::new(mapping, base)
            .ok_or_else(|| fail(io::Error::other("a region wraps around")))?;
        regions.push(region);
    }
    GuestMemory::from_regions(regions).map_err(|e| fail(io::Error::other(e)))
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
    let fd = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), flags) };
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
        let mem = allocate(ByteSize(6 << 30), false).unwrap();
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
