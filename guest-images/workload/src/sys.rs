//! System calls, by their numbers; and what a program without a library needs to
//! start. All of the program's `unsafe` is here.

use core::ffi::CStr;
use core::ptr;

pub use syscalls::Errno;
use syscalls::{Sysno, syscall};

/// What a system call says.
pub type Result<T> = core::result::Result<T, Errno>;

/// Flags of `open(2)` and `unshare(2)`.
pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
/// To be written anew.
pub const O_CREATE: usize = 0o1 | 0o100 | 0o1000;
pub const NEW_USER: usize = 0x1000_0000;
pub const NEW_MOUNTS: usize = 0x0002_0000;

/// The same, read and written past the page cache.
pub const O_DIRECT_CREATE: usize = 0o2 | 0o100 | 0o1000 | 0o40000;

/// A system call: its arguments are numbers, and pointers to what stays where it is
/// until the call is over.
macro_rules! call {
    ($number:ident $(, $arg:expr)*) => {{
        // SAFETY: every pointer among the arguments is that of a slice, a string
        // or a value that is borrowed for the call, with its own length.
        unsafe { syscall!(Sysno::$number $(, $arg)*) }
    }};
}

/// The two ends of a pipe.
pub struct Pipe {
    pub read: i32,
    pub write: i32,
}

/// `open(2)`.
pub fn open(path: &CStr, flags: usize) -> Result<i32> {
    call!(open, path.as_ptr(), flags, 0o644).map(|file| file as i32)
}

/// `close(2)`, of what is open.
pub fn close(file: i32) {
    let _ = call!(close, file);
}

/// `read(2)`.
pub fn read(file: i32, buffer: &mut [u8]) -> Result<usize> {
    call!(read, file, buffer.as_mut_ptr(), buffer.len())
}

/// `write(2)`.
pub fn write(file: i32, bytes: &[u8]) -> Result<usize> {
    call!(write, file, bytes.as_ptr(), bytes.len())
}

/// `pread(2)`.
pub fn read_at(file: i32, buffer: &mut [u8], at: u64) -> Result<usize> {
    call!(pread64, file, buffer.as_mut_ptr(), buffer.len(), at)
}

/// `pwrite(2)`.
pub fn write_at(file: i32, bytes: &[u8], at: u64) -> Result<usize> {
    call!(pwrite64, file, bytes.as_ptr(), bytes.len(), at)
}

/// `fsync(2)`.
pub fn sync(file: i32) -> Result<()> {
    call!(fsync, file).map(drop)
}

/// A connection to this address (IPv4, in the network's order) and port that sends
/// each byte at once.
pub fn connect(address: [u8; 4], port: u16) -> Result<i32> {
    // `AF_INET` and `SOCK_STREAM`; `struct sockaddr_in`, padded.
    let socket = call!(socket, 2, 1, 0)? as i32;
    let mut name = [0_u8; 16];
    name[..2].copy_from_slice(&2_u16.to_ne_bytes());
    name[2..4].copy_from_slice(&port.to_be_bytes());
    name[4..8].copy_from_slice(&address);
    let result = call!(connect, socket, name.as_ptr(), name.len()).and_then(|_| {
        // `IPPROTO_TCP` and `TCP_NODELAY`.
        let on = 1_i32;
        call!(setsockopt, socket, 6, 1, &raw const on, size_of_val(&on))
    });
    match result {
        Ok(_) => Ok(socket),
        Err(error) => {
            close(socket);
            Err(error)
        }
    }
}

/// Says on a connection that nothing more will be sent (`SHUT_WR`).
pub fn end_sending(socket: i32) -> Result<()> {
    call!(shutdown, socket, 1).map(drop)
}

/// `pipe(2)`.
pub fn pipe() -> Result<Pipe> {
    let mut ends = [0_i32; 2];
    call!(pipe, ends.as_mut_ptr())?;
    Ok(Pipe {
        read: ends[0],
        write: ends[1],
    })
}

/// Nanoseconds of the monotonic clock, by a system call: without a library there
/// is no vDSO. It is read around what is timed only, not in between.
pub fn now() -> u64 {
    let mut time = [0_u64; 2];
    let _ = call!(clock_gettime, 1, time.as_mut_ptr());
    time[0] * 1_000_000_000 + time[1]
}

/// `getpid(2)`.
pub fn getpid() -> usize {
    call!(getpid).unwrap_or(0)
}

/// `fork(2)`: 0 in the child. There is one thread, so all stays as it is.
pub fn fork() -> Result<usize> {
    call!(fork)
}

/// Waits for a child's end: its status, or 128 and its signal.
pub fn wait() -> Result<i32> {
    let mut status = 0_i32;
    call!(wait4, -1_isize, &raw mut status, 0, 0)?;
    Ok(match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    })
}

/// `execve(2)` without an environment; returns when it fails.
pub fn exec(path: &CStr, args: &[&CStr]) -> Errno {
    let mut pointers = [ptr::null(); 8];
    // The last stays null.
    for (pointer, arg) in pointers[..7].iter_mut().zip(args) {
        *pointer = arg.as_ptr();
    }
    let environment = [ptr::null::<u8>()];
    match call!(
        execve,
        path.as_ptr(),
        pointers.as_ptr(),
        environment.as_ptr()
    ) {
        Err(error) => error,
        Ok(_) => Errno::ENOEXEC,
    }
}

/// `exit_group(2)`.
pub fn exit(status: i32) -> ! {
    loop {
        let _ = call!(exit_group, status);
    }
}

/// Waits until somebody ends it.
pub fn pause() -> ! {
    loop {
        let _ = call!(pause);
    }
}

/// Leaves this process and its children one processor of those that it has.
pub fn stay_on_one_cpu() -> Result<()> {
    let mut set = [0_u64; 128];
    call!(sched_getaffinity, 0, size_of_val(&set), set.as_mut_ptr())?;
    let mut found = false;
    for word in &mut set {
        *word = if found {
            0
        } else {
            *word & word.wrapping_neg()
        };
        found |= *word != 0;
    }
    call!(sched_setaffinity, 0, size_of_val(&set), set.as_ptr()).map(drop)
}

/// Memory of its own, in small pages; given back at the end.
pub struct Memory {
    start: *mut u8,
    len: usize,
}

impl Memory {
    /// As many bytes, none of which is there before it is touched.
    pub fn new(len: usize) -> Result<Self> {
        // Readable and writable; private and anonymous.
        let start = call!(mmap, 0, len, 0x1 | 0x2, 0x2 | 0x20, -1_isize, 0)?;
        // Not in huge pages. A kernel that knows none says so.
        let _ = call!(madvise, start, len, 15);
        Ok(Memory {
            start: start as *mut u8,
            len,
        })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the kernel has just mapped as many bytes there, zeroes, for this
        // value alone, which is borrowed as long as the slice.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = call!(munmap, self.start, self.len);
    }
}

/// Mounts a file system of the kernel's own.
pub fn mount(kind: &CStr, target: &CStr) -> Result<()> {
    call!(mount, kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, 0).map(drop)
}

/// `unshare(2)`.
pub fn unshare(flags: usize) -> Result<()> {
    call!(unshare, flags).map(drop)
}

/// A node of a block device, for its owner.
pub fn make_node(path: &CStr, major: u64, minor: u64) -> Result<()> {
    let device = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    call!(mknod, path.as_ptr(), 0o060_600, device).map(drop)
}

/// `chdir(2)`.
pub fn change_directory(path: &CStr) -> Result<()> {
    call!(chdir, path.as_ptr()).map(drop)
}

/// `unlink(2)`.
pub fn unlink(path: &CStr) {
    let _ = call!(unlink, path.as_ptr());
}

/// The last of the kernel's messages (`SYSLOG_ACTION_READ_ALL`).
pub fn read_kernel_log() -> Result<()> {
    let mut buffer = [0_u8; 512];
    call!(syslog, 3, buffer.as_mut_ptr(), buffer.len()).map(drop)
}

/// `init_module(2)` without parameters.
pub fn init_module(image: &[u8]) -> Result<()> {
    call!(init_module, image.as_ptr(), image.len(), c"".as_ptr()).map(drop)
}

/// A ring of one entry.
pub fn io_uring() -> Result<()> {
    // `struct io_uring_params`.
    let mut params = [0_u32; 30];
    let ring = call!(io_uring_setup, 1, params.as_mut_ptr())?;
    close(ring as i32);
    Ok(())
}

/// A map of one number (`BPF_MAP_CREATE` of `BPF_MAP_TYPE_ARRAY`).
pub fn bpf() -> Result<()> {
    let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let map = call!(bpf, 0, attributes.as_ptr(), size_of_val(&attributes))?;
    close(map as i32);
    Ok(())
}

/// An event of the kernel's side of this process: context switches
/// (`PERF_TYPE_SOFTWARE`, `PERF_COUNT_SW_CONTEXT_SWITCHES`), which needs no
/// hardware.
pub fn perf() -> Result<()> {
    // `struct perf_event_attr` of its first version.
    let attributes = [1 | (64_u64 << 32), 3, 0, 0, 0, 0, 0, 0];
    let event = call!(
        perf_event_open,
        attributes.as_ptr(),
        0,
        -1_isize,
        -1_isize,
        0
    )?;
    close(event as i32);
    Ok(())
}

/// Switches the machine off by a reset, which ends one that may not reboot.
pub fn power_off() -> ! {
    let _ = call!(reboot, 0xfee1_dead_u32, 672_274_793_u32, 0x0123_4567, 0);
    pause()
}

/// The start of a program, and what the compiler takes for granted.
#[cfg(freestanding)]
mod start {
    use core::arch::{asm, naked_asm};
    use core::ffi::{CStr, c_char};

    /// The most arguments that are looked at.
    const MAX_ARGS: usize = 16;

    /// Where the kernel begins: the number of the arguments, and they themselves,
    /// are on the stack.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    unsafe extern "C" fn _start() -> ! {
        naked_asm!(
            "xor ebp, ebp",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {main}",
            "ud2",
            main = sym main
        )
    }

    unsafe extern "C" fn main(stack: *const usize) -> ! {
        let mut args = [c""; MAX_ARGS];
        // SAFETY: the kernel has put the number there (System V ABI, x86-64, 3.4.1).
        let count = unsafe { *stack }.min(MAX_ARGS);
        for (n, arg) in args[..count].iter_mut().enumerate() {
            // SAFETY: behind the number are as many pointers to terminated
            // strings, which stay for as long as the process does.
            *arg = unsafe { CStr::from_ptr(*stack.add(1 + n) as *const c_char) };
        }
        super::exit(crate::run(&args[..count]))
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        super::exit(101)
    }

    // The functions of a C library that the compiler calls. Each caller promises
    // what C says of them.

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
        // SAFETY: as of `memcpy(3)`: both have n bytes.
        unsafe {
            asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags))
        };
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= n {
            // SAFETY: what is read has not been written before.
            return unsafe { memcpy(to, from, n) };
        }
        // SAFETY: as of `memmove(3)`; from the end, as they overlap.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rdi") to.add(n).sub(1) => _, inout("rsi") from.add(n).sub(1) => _, options(nostack))
        };
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
        // SAFETY: as of `memset(3)`: it has n bytes.
        unsafe {
            asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") byte as u8, options(nostack, preserves_flags))
        };
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
        for at in 0..n {
            // SAFETY: as of `memcmp(3)`: both have n bytes.
            let (a, b) = unsafe { (*a.add(at), *b.add(at)) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
        // SAFETY: the same.
        unsafe { memcmp(a, b, n) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut rest = usize::MAX;
        // SAFETY: as of `strlen(3)`: a zero comes. Not a loop, of which the
        // compiler could make a call of this.
        unsafe {
            asm!("repne scasb", inout("rcx") rest, inout("rdi") text => _, in("al") 0_u8, options(nostack, readonly))
        };
        usize::MAX - rest - 1
    }
}
