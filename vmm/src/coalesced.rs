//! KVM's ring of coalesced writes (KVM API §4.116, `KVM_CAP_COALESCED_PIO`).
//!
//! A write to a port in a registered zone does not leave the kernel: KVM notes
//! it in this ring and the guest goes on. The ring belongs to the VM; whoever
//! empties it must be alone, hence the lock.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::VcpuFd;

const PAGE: usize = 4096;
const ENTRIES: u32 =
    ((PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// The ring, mapped.
pub(crate) struct CoalescedRing {
    page: NonNull<kvm_coalesced_mmio_ring>,
    consumer: Mutex<()>,
}

// SAFETY: the page is shared memory; its consumer side is behind a lock, the
// producer is the kernel, and the indexes are only accessed atomically.
unsafe impl Send for CoalescedRing {}
// SAFETY: as above.
unsafe impl Sync for CoalescedRing {}

impl CoalescedRing {
    /// Maps the VM's ring through any of its vCPUs.
    ///
    /// # Errors
    /// When the mapping fails.
    pub(crate) fn map(vcpu: &VcpuFd) -> std::io::Result<Self> {
        let offset = KVM_COALESCED_MMIO_PAGE_OFFSET as usize * PAGE;
        // SAFETY: a fresh shared mapping of the page that KVM has at this offset
        // of every vCPU; nothing else is touched.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or_else(std::io::Error::last_os_error)?;
        Ok(CoalescedRing {
            page,
            consumer: Mutex::new(()),
        })
    }

    /// True when something waits in the ring. Cheap: two loads.
    pub(crate) fn is_pending(&self) -> bool {
        self.first().load(Ordering::Relaxed) != self.last().load(Ordering::Acquire)
    }

    /// Hands the bytes in the ring, oldest first, to `take` and empties it.
    /// Callers are kept apart for the whole of it, so the order holds.
    pub(crate) fn drain(&self, take: impl FnOnce(&mut dyn Iterator<Item = u8>)) {
        let _alone = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last().load(Ordering::Acquire) % ENTRIES;
        let mut first = self.first().load(Ordering::Relaxed) % ENTRIES;
        let mut bytes = std::iter::from_fn(|| {
            if first == last {
                return None;
            }
            // SAFETY: `first` is below the number of entries in the page, and the
            // kernel does not write entries between `first` and `last`.
            let entry = unsafe {
                let entries =
                    (&raw const (*self.page.as_ptr()).coalesced_mmio).cast::<kvm_coalesced_mmio>();
                entries.add(first as usize).read()
            };
            first = (first + 1) % ENTRIES;
            Some(entry.data[0])
        });
        take(&mut bytes);
        bytes.for_each(drop);
        self.first().store(last, Ordering::Release);
    }

    fn first(&self) -> &AtomicU32 {
        // SAFETY: the field lies in the live mapping, is aligned, and is accessed
        // as an atomic by everyone in this process.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page.as_ptr()).first) }
    }

    fn last(&self) -> &AtomicU32 {
        // SAFETY: as for `first`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page.as_ptr()).last) }
    }
}

impl Drop for CoalescedRing {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this size and nobody has a
        // reference into it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}
