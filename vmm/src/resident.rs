//! Keeps what a VM's process has in memory small: gives back what only the start
//! needed of the program's own pages, and has one heap for all threads.
//!
//! A VM may stand for weeks, and hundreds of them on one host; its monitor then
//! runs a few loops. By then the kernel has mapped most of the program and its
//! libraries, 16 pages around each that was touched.

use std::ffi::{c_int, c_void};
use std::slice;

/// Has the C library take all memory from one heap, from here on. By default each
/// thread that allocates has a heap of its own, of which it touches some pages; a
/// monitor has a dozen threads, and each of them allocates a little when it starts.
/// Small pieces come from a store of the thread's own either way.
pub fn one_heap() {
    // SAFETY: a setting of the C library's, without memory of ours. It fails for
    // values that are not known, and then things stay as they are.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Unmaps the pages of the program and its libraries that nobody can write to.
/// Those that are still needed come back from the page cache when they are.
pub fn give_back() {
    advise(libc::MADV_DONTNEED);
}

/// Gives the kernel this advice on every read-only segment of the process.
fn advise(mut advice: c_int) {
    // SAFETY: the callback is good for the call, and `advice` outlives it.
    unsafe { libc::dl_iterate_phdr(Some(advise_object), (&raw mut advice).cast()) };
}

/// Advises on one object's segments: a callback of `dl_iterate_phdr(3)`.
unsafe extern "C" fn advise_object(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    advice: *mut c_void,
) -> c_int {
    // SAFETY: the loader's record and `advise`'s integer, both for this call.
    let (object, advice) = unsafe { (&*object, *advice.cast::<c_int>()) };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader says where the object's headers are, and how many.
    let headers =
        unsafe { slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        // Whole pages: the first and the last may be a neighbour's, too.
        let start = (object.dlpi_addr + header.p_vaddr).next_multiple_of(page);
        let end = (object.dlpi_addr + header.p_vaddr + header.p_memsz) / page * page;
        if end > start {
            // SAFETY: a private mapping of a file which nothing could write to
            // since it was mapped: what is read there later is what was there
            // before. Where it fails, the pages stay.
            unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, advice) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// KiB resident of the program's code.
    fn code() -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap();
        let mut lines = smaps.lines();
        let of_code =
            |line: &str| line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap());
        lines.find(|line| of_code(line)).unwrap();
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn pages_go_and_come_back() {
        let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
        let text = include_bytes!("resident.rs");
        let before = sum(text);
        advise(libc::MADV_POPULATE_READ);
        let all = code();
        give_back();
        let left = code();
        assert!(left < all * 3 / 4, "{left} KiB of {all}");
        assert_eq!(sum(text), before);
    }
}
