//! The system calls that rustix has no safe form of. Other `unsafe` is in
//! `vsock.rs` and `device_policy.rs`, and where a process splits: in `spawn.rs`
//! and `child.rs`.

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;

/// `CLONE_INTO_CGROUP`, from `linux/sched.h`: beyond the 32 bits of libc's.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct mount_attr`, from `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What [`clone3`] came back as.
pub enum Forked {
    /// In the new process.
    Child,
    /// In the caller, with the new process and a descriptor of it.
    Parent(Pid, OwnedFd),
}

/// Makes a copy of this process, in new namespaces of the kinds of `flags`
/// (`CLONE_NEW*`) and in the given cgroup.
///
/// # Safety
/// The copy has the calling thread alone, and locks that other threads held
/// stay locked: until it executes a program or exits it may make system calls
/// and touch memory, but not allocate or take a lock.
///
/// # Errors
/// The kernel's.
pub unsafe fn clone3(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid `clone_args`: integers, none of them set.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is whole, and `pidfd` lives. Without CLONE_VM and without a
    // stack this returns twice, as fork does; the caller keeps to the rest.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        0 => Ok(Forked::Child),
        _ => match Pid::from_raw(pid as i32).filter(|_| pid > 0) {
            // SAFETY: the kernel has just opened it for this caller.
            Some(pid) => Ok(Forked::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
            None => Err(last_error()),
        },
    }
}

/// Puts this process, which has one thread, into a cgroup namespace of its own.
///
/// # Errors
/// The kernel's.
pub fn unshare_cgroup() -> Result<(), Errno> {
    // SAFETY: takes no pointer, and descriptors stay shared with nobody.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into())
}

/// Changes the attributes of a mount, and of all below it if `recursive`.
///
/// # Errors
/// The kernel's.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr {
        attr_set: set.bits().into(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: an empty path and a whole `mount_attr`, which the kernel reads.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    })
}

/// Sends any signal, by number; 0 only asks whether one could be sent.
///
/// # Errors
/// The kernel's: `ESRCH` when the process has ended.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without siginfo the kernel fills it in itself.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            info,
            0,
        )
    })
}

/// Sends a signal to a process by its number.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: takes no pointer.
    unsafe { libc::kill(pid, signal) };
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    // SAFETY: takes no pointer. The caller owns nothing behind those numbers
    // that it uses again: it is called where a process has given up all but its
    // standard streams.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Makes the signals do what they do by default, and unblocks all of them, as a
/// program expects when it is executed.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: the default action runs no code of this process. The few
        // signals that cannot be changed answer with an error.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_signal_mask(&no_signals());
}

/// The empty set.
pub fn no_signals() -> libc::sigset_t {
    // SAFETY: all zeroes is the empty set on Linux, and `sigset_t` is integers.
    unsafe { std::mem::zeroed() }
}

/// Every signal.
pub fn all_signals() -> libc::sigset_t {
    let mut set = no_signals();
    // SAFETY: the pointer is to a live set.
    unsafe { libc::sigfillset(&mut set) };
    set
}

/// Sets which signals this thread blocks.
pub fn set_signal_mask(set: &libc::sigset_t) {
    // SAFETY: the pointer is to a live set; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, set, std::ptr::null_mut()) };
}

/// Waits for one of the signals, which must be blocked; its number.
pub fn wait_signal(set: &libc::sigset_t) -> i32 {
    // SAFETY: the pointer is to a live set; no details are asked for.
    unsafe { libc::sigwaitinfo(set, std::ptr::null_mut()) }
}

/// Pointers to strings, with the null at the end that `execve` wants.
pub struct Strings<'a> {
    pointers: Vec<*const c_char>,
    /// Keeps the strings.
    _strings: std::marker::PhantomData<&'a CStr>,
}

// SAFETY: it is a list of strings that others may read, too: shared references
// by another name.
unsafe impl Sync for Strings<'_> {}

impl<'a> Strings<'a> {
    /// Of these strings.
    pub fn new<S: AsRef<CStr>>(strings: &'a [S]) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ref().as_ptr()).collect();
        pointers.push(std::ptr::null());
        Strings {
            pointers,
            _strings: std::marker::PhantomData,
        }
    }
}

/// Executes a program; comes back only with why it could not.
pub fn execve(path: &CStr, args: &Strings<'_>, env: &Strings<'_>) -> Errno {
    // SAFETY: all three are terminated, and what they point to lives.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    last_error()
}

/// The error of a number; `EIO` when that is none.
pub fn errno(number: i32) -> Errno {
    match number {
        1..=4095 => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    }
}

fn check(result: i64) -> Result<(), Errno> {
    match result {
        0.. => Ok(()),
        _ => Err(last_error()),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Lets a socket use one network interface only (`SO_BINDTODEVICE`).
///
/// # Errors
/// The kernel's.
pub fn bind_to_device(socket: &OwnedFd, name: &str) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of a live string.
    check(
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BINDTODEVICE,
                name.as_ptr().cast(),
                name.len() as libc::socklen_t,
            )
        }
        .into(),
    )
}
