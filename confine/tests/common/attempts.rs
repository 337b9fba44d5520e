//! What a thread that has been taken over would like to do: system calls as data,
//! for the process that plays such a thread (`attack.rs`) and for the threads of a
//! drupe that runs (`tests/e2e/taken_over.rs`).

use std::ffi::CStr;

use confine::Role;

use Argument::{Other, Path, Value};

/// An argument of a system call.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    /// A number, or a pointer to nowhere.
    Value(i64),
    /// A pointer to a string.
    Path(&'static CStr),
    /// The number of a process that is none of its business.
    Other,
}

/// A call that a hostile thread would like to make.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// For the table.
    pub name: &'static str,
    /// Of the system call.
    pub number: i64,
    /// Its arguments; the rest are 0.
    pub arguments: &'static [Argument],
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process is ended for it.
    Killed,
    /// The call failed, with this error.
    Refused(i32),
    /// The call was made.
    Succeeded,
    /// The test itself did not work.
    Broken,
}

impl End {
    /// As it stands in the table.
    pub fn text(self) -> String {
        match self {
            End::Killed => "killed".to_owned(),
            End::Refused(errno) => format!("refused {errno}"),
            End::Succeeded => "ALLOWED".to_owned(),
            End::Broken => "BROKEN".to_owned(),
        }
    }

    /// Whether a thread of this role may end this way with it.
    pub fn is_fine(self, name: &str, role: Role) -> bool {
        let expected = ALLOWED.contains(&(name, role));
        match self {
            End::Killed => !expected && !HARMLESS.contains(&name),
            End::Refused(_) => !expected,
            End::Succeeded => expected,
            End::Broken => false,
        }
    }
}

/// Those who may make an attempt succeed, and why.
const ALLOWED: &[(&str, Role)] = &[
    // vsock's streams, and the agent.
    ("socket(AF_UNIX)", Role::EventLoop),
    ("socket(AF_UNIX)", Role::Control),
    // What the guest opens.
    ("socket(AF_INET)", Role::Network),
    ("socket(AF_INET)", Role::Spawner),
];

/// What the C library tries of its own accord: refused or allowed, it ends no
/// thread, whatever the filters of who started it say.
const HARMLESS: &[&str] = &["open /etc/passwd", "clone3"];

/// All of them.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "open /etc/passwd",
        number: libc::SYS_openat,
        arguments: &[Value(libc::AT_FDCWD as i64), Path(c"/etc/passwd"), Value(0)],
    },
    Attempt {
        name: "open ../../../etc/passwd",
        number: libc::SYS_openat,
        arguments: &[
            Value(libc::AT_FDCWD as i64),
            Path(c"../../../../../../../../etc/passwd"),
            Value(0),
        ],
    },
    Attempt {
        name: "open /proc/1/environ",
        number: libc::SYS_openat,
        arguments: &[
            Value(libc::AT_FDCWD as i64),
            Path(c"/proc/1/environ"),
            Value(0),
        ],
    },
    Attempt {
        name: "open /proc/self/mem",
        number: libc::SYS_openat,
        arguments: &[
            Value(libc::AT_FDCWD as i64),
            Path(c"/proc/self/mem"),
            Value(libc::O_RDWR as i64),
        ],
    },
    Attempt {
        name: "open /dev/kvm",
        number: libc::SYS_openat,
        arguments: &[
            Value(libc::AT_FDCWD as i64),
            Path(c"/dev/kvm"),
            Value(libc::O_RDWR as i64),
        ],
    },
    Attempt {
        name: "create a file in /",
        number: libc::SYS_openat,
        arguments: &[
            Value(libc::AT_FDCWD as i64),
            Path(c"/x"),
            Value((libc::O_CREAT | libc::O_WRONLY) as i64),
            Value(0o600),
        ],
    },
    Attempt {
        name: "mknod a disk in /",
        number: libc::SYS_mknodat,
        arguments: &[
            Value(libc::AT_FDCWD as i64),
            Path(c"/sda"),
            Value((libc::S_IFBLK | 0o600) as i64),
            Value(0x800),
        ],
    },
    Attempt {
        name: "unlink /etc/passwd",
        number: libc::SYS_unlinkat,
        arguments: &[Value(libc::AT_FDCWD as i64), Path(c"/etc/passwd"), Value(0)],
    },
    Attempt {
        name: "open_by_handle_at",
        number: libc::SYS_open_by_handle_at,
        arguments: &[Value(libc::AT_FDCWD as i64), Value(0), Value(0)],
    },
    Attempt {
        name: "socket(AF_INET)",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_INET as i64),
            Value((libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as i64),
            Value(0),
        ],
    },
    Attempt {
        name: "socket(AF_INET, SOCK_RAW)",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_INET as i64),
            Value(libc::SOCK_RAW as i64),
            Value(libc::IPPROTO_ICMP as i64),
        ],
    },
    Attempt {
        name: "socket(AF_INET), of SCTP",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_INET as i64),
            Value((libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as i64),
            Value(libc::IPPROTO_SCTP as i64),
        ],
    },
    Attempt {
        name: "socket(AF_UNIX)",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_UNIX as i64),
            Value(libc::SOCK_STREAM as i64),
            Value(0),
        ],
    },
    Attempt {
        name: "socket(AF_NETLINK)",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_NETLINK as i64),
            Value(libc::SOCK_RAW as i64),
            Value(0),
        ],
    },
    Attempt {
        name: "socket(AF_PACKET)",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_PACKET as i64),
            Value(libc::SOCK_RAW as i64),
            Value(0),
        ],
    },
    Attempt {
        name: "socket(AF_VSOCK)",
        number: libc::SYS_socket,
        arguments: &[
            Value(libc::AF_VSOCK as i64),
            Value(libc::SOCK_STREAM as i64),
            Value(0),
        ],
    },
    Attempt {
        name: "kill(1, 0)",
        number: libc::SYS_kill,
        arguments: &[Value(1), Value(0)],
    },
    Attempt {
        name: "tgkill(parent)",
        number: libc::SYS_tgkill,
        arguments: &[Other, Other, Value(0)],
    },
    Attempt {
        name: "fcntl(F_SETOWN, parent)",
        number: libc::SYS_fcntl,
        arguments: &[Value(0), Value(libc::F_SETOWN as i64), Other],
    },
    Attempt {
        name: "fcntl(F_SETSIG)",
        number: libc::SYS_fcntl,
        arguments: &[
            Value(0),
            // F_SETSIG of linux/fcntl.h.
            Value(10),
            Value(libc::SIGKILL as i64),
        ],
    },
    Attempt {
        name: "ptrace(parent)",
        number: libc::SYS_ptrace,
        arguments: &[Value(libc::PTRACE_SEIZE as i64), Other, Value(0), Value(0)],
    },
    Attempt {
        name: "process_vm_readv(parent)",
        number: libc::SYS_process_vm_readv,
        arguments: &[Other, Value(0), Value(0), Value(0), Value(0), Value(0)],
    },
    Attempt {
        name: "pidfd_open(parent)",
        number: libc::SYS_pidfd_open,
        arguments: &[Other, Value(0)],
    },
    Attempt {
        name: "execve /bin/sh",
        number: libc::SYS_execve,
        arguments: &[Path(c"/bin/sh"), Value(0), Value(0)],
    },
    Attempt {
        name: "fork",
        number: libc::SYS_clone,
        arguments: &[
            Value(libc::SIGCHLD as i64),
            Value(0),
            Value(0),
            Value(0),
            Value(0),
        ],
    },
    Attempt {
        name: "clone into a user namespace",
        number: libc::SYS_clone,
        arguments: &[
            Value((libc::CLONE_NEWUSER | libc::SIGCHLD) as i64),
            Value(0),
            Value(0),
            Value(0),
            Value(0),
        ],
    },
    Attempt {
        name: "clone3",
        number: libc::SYS_clone3,
        arguments: &[Value(0), Value(0)],
    },
    Attempt {
        name: "unshare(CLONE_NEWUSER)",
        number: libc::SYS_unshare,
        arguments: &[Value(libc::CLONE_NEWUSER as i64)],
    },
    Attempt {
        name: "setns",
        number: libc::SYS_setns,
        arguments: &[Value(0), Value(0)],
    },
    Attempt {
        name: "mount",
        number: libc::SYS_mount,
        arguments: &[Path(c"proc"), Path(c"/"), Path(c"proc"), Value(0), Value(0)],
    },
    Attempt {
        name: "umount2",
        number: libc::SYS_umount2,
        arguments: &[Path(c"/"), Value(libc::MNT_DETACH as i64)],
    },
    Attempt {
        name: "pivot_root",
        number: libc::SYS_pivot_root,
        arguments: &[Path(c"."), Path(c".")],
    },
    Attempt {
        name: "chroot",
        number: libc::SYS_chroot,
        arguments: &[Path(c"/")],
    },
    Attempt {
        name: "mmap(PROT_EXEC)",
        number: libc::SYS_mmap,
        arguments: &[
            Value(0),
            Value(4096),
            Value((libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as i64),
            Value((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64),
            Value(-1),
            Value(0),
        ],
    },
    Attempt {
        name: "memfd_create",
        number: libc::SYS_memfd_create,
        arguments: &[Path(c"x"), Value(0)],
    },
    Attempt {
        name: "init_module",
        number: libc::SYS_init_module,
        arguments: &[Value(0), Value(0), Path(c"")],
    },
    Attempt {
        name: "finit_module",
        number: libc::SYS_finit_module,
        arguments: &[Value(0), Path(c""), Value(0)],
    },
    Attempt {
        name: "kexec_load",
        number: libc::SYS_kexec_load,
        arguments: &[Value(0), Value(0), Value(0), Value(0)],
    },
    Attempt {
        name: "bpf",
        number: libc::SYS_bpf,
        arguments: &[Value(0), Value(0), Value(0)],
    },
    Attempt {
        name: "perf_event_open",
        number: libc::SYS_perf_event_open,
        arguments: &[Value(0), Value(0), Value(-1), Value(-1), Value(0)],
    },
    Attempt {
        name: "userfaultfd",
        number: libc::SYS_userfaultfd,
        arguments: &[Value(0)],
    },
    Attempt {
        name: "io_uring_setup",
        number: libc::SYS_io_uring_setup,
        arguments: &[Value(1), Value(0)],
    },
    Attempt {
        name: "add_key",
        number: libc::SYS_add_key,
        arguments: &[Value(0), Value(0), Value(0), Value(0), Value(0)],
    },
    Attempt {
        name: "setuid(0)",
        number: libc::SYS_setuid,
        arguments: &[Value(0)],
    },
    Attempt {
        name: "personality",
        number: libc::SYS_personality,
        arguments: &[Value(0x0040_0000)],
    },
    Attempt {
        name: "reboot",
        number: libc::SYS_reboot,
        arguments: &[Value(0), Value(0), Value(0), Value(0)],
    },
    Attempt {
        name: "sethostname",
        number: libc::SYS_sethostname,
        arguments: &[Path(c"x"), Value(1)],
    },
    Attempt {
        name: "clock_settime",
        number: libc::SYS_clock_settime,
        arguments: &[Value(0), Value(0)],
    },
    Attempt {
        name: "ioctl(TIOCSTI)",
        number: libc::SYS_ioctl,
        arguments: &[Value(0), Value(libc::TIOCSTI as i64), Path(c"x")],
    },
    Attempt {
        name: "iopl",
        number: libc::SYS_iopl,
        arguments: &[Value(3)],
    },
];
