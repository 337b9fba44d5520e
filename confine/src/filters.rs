//! The system calls that each kind of thread may make: all of them, in one
//! place. What is not listed for a role ends the process, save what stands in
//! [`REFUSED`].
//!
//! A call stands here because something in that thread makes it; the comment
//! says what. Lists are shared where threads do the same work, never because it
//! is convenient.

use libc::{
    SYS_accept4, SYS_bind, SYS_brk, SYS_capget, SYS_capset, SYS_clock_gettime, SYS_clock_nanosleep,
    SYS_clone, SYS_clone3, SYS_close, SYS_connect, SYS_copy_file_range, SYS_dup, SYS_epoll_create1,
    SYS_epoll_ctl, SYS_epoll_pwait, SYS_eventfd2, SYS_exit, SYS_exit_group, SYS_fallocate,
    SYS_fchmod, SYS_fchmodat, SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_flock, SYS_fstat,
    SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_getcwd, SYS_getdents64, SYS_getegid,
    SYS_geteuid, SYS_getgid, SYS_getpeername, SYS_getpid, SYS_getrandom, SYS_getrlimit,
    SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_getuid, SYS_getxattr, SYS_ioctl, SYS_linkat,
    SYS_listen, SYS_listxattr, SYS_lseek, SYS_madvise, SYS_mkdirat, SYS_mknodat, SYS_mmap,
    SYS_mprotect, SYS_mremap, SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_pipe2,
    SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_prlimit64, SYS_pwrite64,
    SYS_pwritev, SYS_pwritev2, SYS_read, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmsg,
    SYS_removexattr, SYS_renameat, SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_sched_getaffinity,
    SYS_sched_yield, SYS_seccomp, SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_setfsgid,
    SYS_setfsuid, SYS_setsockopt, SYS_setxattr, SYS_shutdown, SYS_sigaltstack, SYS_socket,
    SYS_statx, SYS_symlinkat, SYS_syncfs, SYS_tgkill, SYS_timerfd_settime, SYS_umask, SYS_unlinkat,
    SYS_unshare, SYS_utimensat, SYS_write, SYS_writev,
};
#[cfg(target_arch = "x86_64")]
use libc::{
    SYS_epoll_wait, SYS_lstat, SYS_open, SYS_poll, SYS_readlink, SYS_rename, SYS_stat, SYS_unlink,
};

use crate::Role;

/// A condition on one argument of a call.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// Whatever the arguments are.
    Always,
    /// The argument (0 to 5) has this value.
    Is(u8, u64),
    /// All these arguments have these values.
    All(&'static [(u8, u64)]),
    /// None of these bits is set in the argument.
    Without(u8, u64),
    /// The argument is this process's identifier.
    OwnProcess(u8),
}

/// A call that is allowed.
pub type Allow = (i64, When);

const fn always(call: i64) -> Allow {
    (call, When::Always)
}

/// `linux/kvm.h`: what runs a guest, and what reads its registers for the
/// report of a crash.
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_TRANSLATE: u64 = 0xc018_ae85;
/// Raises a line of the interrupt controller.
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
/// `linux/fs.h`.
const BLKDISCARD: u64 = 0x1277;
const BLKZEROOUT: u64 = 0x127f;
/// What glibc and musl ask of `clone` for a thread: everything shared.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
/// What sockets are made as, by the user-mode network.
const STREAM: u64 = (libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64;
const DATAGRAM: u64 = (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64;
const INET: u64 = libc::AF_INET as u64;
const INET6: u64 = libc::AF_INET6 as u64;
const ICMP: u64 = libc::IPPROTO_ICMP as u64;
const ICMPV6: u64 = libc::IPPROTO_ICMPV6 as u64;
const EXECUTABLE: u64 = libc::PROT_EXEC as u64;

/// What a thread needs to live: memory without code in it, locks, time, signals
/// among the threads of this process, its own end, and words written to
/// descriptors that it has.
const EVERY_THREAD: &[Allow] = &[
    always(SYS_read),
    always(SYS_write),
    always(SYS_readv),
    always(SYS_writev),
    always(SYS_close),
    always(SYS_futex),
    (SYS_mmap, When::Without(2, EXECUTABLE)),
    (SYS_mprotect, When::Without(2, EXECUTABLE)),
    always(SYS_munmap),
    always(SYS_mremap),
    always(SYS_madvise),
    always(SYS_brk),
    always(SYS_sched_yield),
    always(SYS_clock_gettime),
    always(SYS_clock_nanosleep),
    always(SYS_nanosleep),
    always(SYS_restart_syscall),
    always(SYS_rt_sigprocmask),
    always(SYS_rt_sigreturn),
    // The handlers of faults give way to what ends the process.
    (SYS_rt_sigaction, When::Is(0, libc::SIGILL as u64)),
    (SYS_rt_sigaction, When::Is(0, libc::SIGTRAP as u64)),
    (SYS_rt_sigaction, When::Is(0, libc::SIGABRT as u64)),
    (SYS_rt_sigaction, When::Is(0, libc::SIGBUS as u64)),
    (SYS_rt_sigaction, When::Is(0, libc::SIGFPE as u64)),
    (SYS_rt_sigaction, When::Is(0, libc::SIGSEGV as u64)),
    always(SYS_sigaltstack),
    always(SYS_getpid),
    always(SYS_gettid),
    (SYS_tgkill, When::OwnProcess(0)),
    // Keys of hash maps.
    always(SYS_getrandom),
    #[cfg(target_arch = "x86_64")]
    always(SYS_poll),
    always(SYS_ppoll),
    // A terminal is put back as it was, even on the way to a bad end.
    (SYS_ioctl, When::Is(1, libc::TCGETS)),
    (SYS_ioctl, When::Is(1, libc::TCSETS)),
    (SYS_fcntl, When::Is(1, libc::F_GETFL as u64)),
    // Rust's check that a descriptor is open, in debug builds.
    (SYS_fcntl, When::Is(1, libc::F_GETFD as u64)),
    (SYS_fcntl, When::Is(1, libc::F_SETFL as u64)),
    always(SYS_exit),
    always(SYS_exit_group),
];

/// What a thread that starts makes before its own code runs: the C library's and
/// Rust's set-up.
const NEW_THREAD: &[Allow] = &[
    always(SYS_set_robust_list),
    always(SYS_rseq),
    always(SYS_sched_getaffinity),
    (SYS_prctl, When::Is(0, libc::PR_SET_NAME as u64)),
];

/// What starts one.
const START_THREADS: &[Allow] = &[(SYS_clone, When::Is(0, THREAD))];

/// What a thread of a spawner does to narrow down what it may do.
const ENTER_A_ROLE: &[Allow] = &[
    (SYS_prctl, When::Is(0, libc::PR_SET_NO_NEW_PRIVS as u64)),
    (
        SYS_seccomp,
        When::Is(0, libc::SECCOMP_SET_MODE_FILTER as u64),
    ),
    (SYS_prctl, When::Is(0, libc::PR_CAP_AMBIENT as u64)),
    always(SYS_capget),
    always(SYS_capset),
];

/// A vCPU: runs the guest; its register accesses reset and start devices.
const VCPU: &[Allow] = &[
    (SYS_ioctl, When::Is(1, KVM_RUN)),
    (SYS_ioctl, When::Is(1, KVM_GET_REGS)),
    (SYS_ioctl, When::Is(1, KVM_GET_SREGS)),
    (SYS_ioctl, When::Is(1, KVM_TRANSLATE)),
];

/// Starting and resetting devices, and their interrupts: by a vCPU, and by the
/// event loop.
const DEVICES: &[Allow] = &[
    (SYS_ioctl, When::Is(1, KVM_IRQ_LINE)),
    // What stops workers, and their copies.
    always(SYS_eventfd2),
    (SYS_fcntl, When::Is(1, libc::F_DUPFD_CLOEXEC as u64)),
    always(SYS_epoll_ctl),
    always(SYS_timerfd_settime),
    always(SYS_shutdown),
    // A vsock stream's last bytes.
    always(SYS_sendto),
    // A TAP's offloads, as the driver accepted them.
    (SYS_ioctl, When::Is(1, libc::TUNSETOFFLOAD)),
    (SYS_ioctl, When::Is(1, libc::TUNSETVNETHDRSZ)),
];

/// Waiting for descriptors.
const WAIT: &[Allow] = &[
    #[cfg(target_arch = "x86_64")]
    always(SYS_epoll_wait),
    always(SYS_epoll_pwait),
    always(SYS_epoll_ctl),
];

/// The event loop: packets of a TAP, vsock's Unix sockets, the console, signals
/// as data; and in the end the terminal as it was.
const EVENT_LOOP: &[Allow] = &[
    (SYS_socket, When::Is(0, libc::AF_UNIX as u64)),
    always(SYS_connect),
    always(SYS_accept4),
    always(SYS_recvfrom),
    always(SYS_getsockopt),
    always(SYS_getpeername),
    always(SYS_setsockopt),
    (SYS_ioctl, When::Is(1, libc::FIONBIO)),
    (SYS_ioctl, When::Is(1, libc::TCSETSW)),
    (SYS_ioctl, When::Is(1, libc::TIOCGPGRP)),
    // The vsock device's socket is removed if it is still that one.
    #[cfg(target_arch = "x86_64")]
    always(SYS_unlink),
    always(SYS_unlinkat),
    #[cfg(target_arch = "x86_64")]
    always(SYS_lstat),
    always(SYS_newfstatat),
    always(SYS_statx),
    always(SYS_fstat),
];

/// Data of files that are open.
const FILE_DATA: &[Allow] = &[
    always(SYS_pread64),
    always(SYS_pwrite64),
    always(SYS_preadv),
    always(SYS_pwritev),
    always(SYS_preadv2),
    always(SYS_pwritev2),
    always(SYS_fsync),
    always(SYS_fdatasync),
    always(SYS_fallocate),
    always(SYS_fstat),
];

/// A disk's worker.
const DISK: &[Allow] = &[
    (SYS_ioctl, When::Is(1, BLKDISCARD)),
    (SYS_ioctl, When::Is(1, BLKZEROOUT)),
];

/// A share's worker: names below a directory that is open.
const FILE_SYSTEM: &[Allow] = &[
    always(SYS_openat),
    always(SYS_statx),
    always(SYS_newfstatat),
    always(SYS_fstatfs),
    always(SYS_getdents64),
    always(SYS_lseek),
    always(SYS_readlinkat),
    always(SYS_mkdirat),
    always(SYS_mknodat),
    always(SYS_linkat),
    always(SYS_symlinkat),
    always(SYS_unlinkat),
    always(SYS_renameat),
    always(SYS_renameat2),
    always(SYS_fchmodat),
    always(SYS_fchownat),
    always(SYS_utimensat),
    always(SYS_getxattr),
    always(SYS_setxattr),
    always(SYS_listxattr),
    always(SYS_removexattr),
    always(SYS_ftruncate),
    always(SYS_copy_file_range),
    always(SYS_syncfs),
    (SYS_fcntl, When::Is(1, libc::F_DUPFD_CLOEXEC as u64)),
    // A umask of its own.
    (SYS_unshare, When::Is(0, libc::CLONE_FS as u64)),
    always(SYS_umask),
    // As root: whom a file is created for. See owner.rs of the device.
    always(SYS_setfsuid),
    always(SYS_setfsgid),
    always(SYS_geteuid),
    always(SYS_getegid),
    always(SYS_capget),
    always(SYS_capset),
];

/// The user-mode network: sockets for what the guest opens, and resolv.conf.
const NETWORK: &[Allow] = &[
    // TCP, UDP and echo: the kernel would load other protocols' modules for them.
    (SYS_socket, When::All(&[(0, INET), (1, STREAM), (2, 0)])),
    (SYS_socket, When::All(&[(0, INET6), (1, STREAM), (2, 0)])),
    (SYS_socket, When::All(&[(0, INET), (1, DATAGRAM), (2, 0)])),
    (SYS_socket, When::All(&[(0, INET6), (1, DATAGRAM), (2, 0)])),
    (
        SYS_socket,
        When::All(&[(0, INET), (1, DATAGRAM), (2, ICMP)]),
    ),
    (
        SYS_socket,
        When::All(&[(0, INET6), (1, DATAGRAM), (2, ICMPV6)]),
    ),
    always(SYS_connect),
    always(SYS_accept4),
    always(SYS_sendto),
    always(SYS_recvfrom),
    always(SYS_sendmsg),
    always(SYS_recvmsg),
    always(SYS_shutdown),
    always(SYS_getsockopt),
    always(SYS_setsockopt),
    always(SYS_getsockname),
    always(SYS_getpeername),
    always(SYS_bind),
    (SYS_fcntl, When::Is(1, libc::F_DUPFD_CLOEXEC as u64)),
    (SYS_fcntl, When::Is(1, libc::F_SETFD as u64)),
    (SYS_ioctl, When::Is(1, libc::FIONBIO)),
    always(SYS_epoll_create1),
    always(SYS_timerfd_settime),
    always(SYS_openat),
    always(SYS_statx),
    always(SYS_newfstatat),
    always(SYS_fstat),
    always(SYS_lseek),
];

/// The console's writer: a file that is begun anew when it is full.
const CONSOLE: &[Allow] = &[always(SYS_ftruncate), always(SYS_lseek), always(SYS_fstat)];

/// The messages' writer: the same with a file of messages.
const LOG: &[Allow] = &[always(SYS_ftruncate)];

/// A sandbox's monitor: clients and the agent on Unix sockets, and the files of
/// its sandbox.
const CONTROL: &[Allow] = &[
    (SYS_socket, When::Is(0, libc::AF_UNIX as u64)),
    always(SYS_bind),
    always(SYS_listen),
    always(SYS_connect),
    always(SYS_accept4),
    always(SYS_sendto),
    always(SYS_recvfrom),
    always(SYS_sendmsg),
    always(SYS_recvmsg),
    always(SYS_shutdown),
    always(SYS_getsockopt),
    always(SYS_setsockopt),
    always(SYS_getsockname),
    always(SYS_getpeername),
    always(SYS_pipe2),
    always(SYS_eventfd2),
    always(SYS_dup),
    // Copies, and locks of files. Not whatever there is: by F_SETOWN and F_SETSIG
    // a descriptor sends any process of this user any signal.
    (SYS_fcntl, When::Is(1, libc::F_DUPFD_CLOEXEC as u64)),
    (SYS_fcntl, When::Is(1, libc::F_SETFD as u64)),
    (SYS_fcntl, When::Is(1, libc::F_OFD_GETLK as u64)),
    (SYS_fcntl, When::Is(1, libc::F_OFD_SETLK as u64)),
    (SYS_fcntl, When::Is(1, libc::F_OFD_SETLKW as u64)),
    always(SYS_flock),
    (SYS_ioctl, When::Is(1, libc::FIONBIO)),
    always(SYS_rt_sigtimedwait),
    always(SYS_rt_sigaction),
    #[cfg(target_arch = "x86_64")]
    always(SYS_open),
    always(SYS_openat),
    #[cfg(target_arch = "x86_64")]
    always(SYS_stat),
    #[cfg(target_arch = "x86_64")]
    always(SYS_lstat),
    always(SYS_fstat),
    always(SYS_newfstatat),
    always(SYS_statx),
    always(SYS_lseek),
    always(SYS_getdents64),
    always(SYS_ftruncate),
    always(SYS_fchmod),
    always(SYS_fsync),
    always(SYS_fdatasync),
    always(SYS_pread64),
    always(SYS_pwrite64),
    #[cfg(target_arch = "x86_64")]
    always(SYS_readlink),
    always(SYS_readlinkat),
    #[cfg(target_arch = "x86_64")]
    always(SYS_rename),
    always(SYS_renameat),
    always(SYS_renameat2),
    #[cfg(target_arch = "x86_64")]
    always(SYS_unlink),
    always(SYS_unlinkat),
    always(SYS_getcwd),
    always(SYS_getuid),
    always(SYS_geteuid),
    always(SYS_getgid),
    always(SYS_getegid),
    always(SYS_epoll_ctl),
    always(SYS_timerfd_settime),
];

/// Calls that the C library makes without need, and lives without: where they are
/// in no list they fail with `ENOSYS` and end nothing. With `clone3` it could ask
/// for anything, as a filter does not see behind a pointer; it then takes `clone`.
/// By the others `malloc` wants to know the host's policy of overcommitment, and
/// Rust how many descriptors there may be.
pub const REFUSED: &[i64] = &[
    SYS_clone3,
    SYS_openat,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    SYS_getrlimit,
    SYS_prlimit64,
];

/// The lists of a role.
pub fn of(role: Role) -> Vec<&'static [Allow]> {
    match role {
        Role::Vcpu => vec![EVERY_THREAD, VCPU, DEVICES],
        Role::EventLoop => vec![EVERY_THREAD, WAIT, EVENT_LOOP, DEVICES],
        Role::Disk => vec![EVERY_THREAD, FILE_DATA, DISK],
        Role::FileSystem => vec![EVERY_THREAD, FILE_DATA, FILE_SYSTEM],
        Role::Network => vec![EVERY_THREAD, WAIT, NETWORK],
        Role::Console => vec![EVERY_THREAD, CONSOLE],
        Role::Log => vec![EVERY_THREAD, LOG],
        Role::Control => vec![EVERY_THREAD, NEW_THREAD, START_THREADS, CONTROL],
        Role::Spawner => spawner(&Role::LATE),
    }
}

/// The lists of a spawner of threads of these roles: its threads begin with what
/// it may do, and each gives up the rest.
pub fn spawner(late: &[Role]) -> Vec<&'static [Allow]> {
    let mut lists = vec![EVERY_THREAD, NEW_THREAD, START_THREADS, ENTER_A_ROLE];
    for role in late {
        lists.extend(of(*role));
    }
    lists
}
