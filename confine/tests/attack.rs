//! What a thread that has been taken over can do: each attempt is made in a
//! process that is confined, by a thread of each role, and must end the process
//! or fail. Prints a table. Not run by the usual harness: each attempt forks, and
//! that needs a process of one thread.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::process::ExitCode;
use std::ptr;

use confine::{Mode, Plan, Role};

/// A call that a hostile thread would like to make; its result as the C library
/// gives it.
type Attempt = (&'static str, fn() -> i64);

macro_rules! call {
    ($($argument:expr),+ $(,)?) => {{
        // SAFETY: what the call would do to memory, it would do to a process that
        // ends behind it.
        unsafe { libc::syscall($($argument),+) }
    }};
}

fn path(path: &CStr) -> *const libc::c_char {
    path.as_ptr()
}

const NOBODY: *const libc::c_void = ptr::null();

/// What a thread writes before its attempt.
const BEGUN: u8 = b'!';

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

const ATTEMPTS: &[Attempt] = &[
    ("open /etc/passwd", || {
        call!(libc::SYS_openat, libc::AT_FDCWD, path(c"/etc/passwd"), 0)
    }),
    ("open ../../../etc/passwd", || {
        call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path(c"../../../../../../../../etc/passwd"),
            0
        )
    }),
    ("open /proc/1/environ", || {
        call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path(c"/proc/1/environ"),
            0
        )
    }),
    ("open /proc/self/mem", || {
        call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path(c"/proc/self/mem"),
            libc::O_RDWR
        )
    }),
    ("open /dev/kvm", || {
        call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path(c"/dev/kvm"),
            libc::O_RDWR
        )
    }),
    ("create a file in /", || {
        call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path(c"/x"),
            libc::O_CREAT | libc::O_WRONLY,
            0o600
        )
    }),
    ("mknod a disk in /", || {
        call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            path(c"/sda"),
            libc::S_IFBLK | 0o600,
            0x800
        )
    }),
    ("unlink /etc/passwd", || {
        call!(libc::SYS_unlinkat, libc::AT_FDCWD, path(c"/etc/passwd"), 0)
    }),
    ("open_by_handle_at", || {
        call!(libc::SYS_open_by_handle_at, libc::AT_FDCWD, NOBODY, 0)
    }),
    ("socket(AF_INET)", || {
        call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)
    }),
    ("socket(AF_UNIX)", || {
        call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)
    }),
    ("socket(AF_NETLINK)", || {
        call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)
    }),
    ("socket(AF_PACKET)", || {
        call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0)
    }),
    ("socket(AF_VSOCK)", || {
        call!(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0)
    }),
    ("kill(1, 0)", || call!(libc::SYS_kill, 1, 0)),
    ("tgkill(parent)", || {
        call!(
            libc::SYS_tgkill,
            libc::getppid_now(),
            libc::getppid_now(),
            0
        )
    }),
    ("ptrace(parent)", || {
        call!(
            libc::SYS_ptrace,
            libc::PTRACE_SEIZE,
            libc::getppid_now(),
            0,
            0
        )
    }),
    ("process_vm_readv(parent)", || {
        call!(
            libc::SYS_process_vm_readv,
            libc::getppid_now(),
            NOBODY,
            0,
            NOBODY,
            0,
            0
        )
    }),
    ("pidfd_open(parent)", || {
        call!(libc::SYS_pidfd_open, libc::getppid_now(), 0)
    }),
    ("execve /bin/sh", || {
        call!(libc::SYS_execve, path(c"/bin/sh"), NOBODY, NOBODY)
    }),
    ("fork", || call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone into a user namespace", || {
        call!(
            libc::SYS_clone,
            libc::CLONE_NEWUSER | libc::SIGCHLD,
            0,
            0,
            0,
            0
        )
    }),
    ("clone3", || call!(libc::SYS_clone3, NOBODY, 0)),
    ("unshare(CLONE_NEWUSER)", || {
        call!(libc::SYS_unshare, libc::CLONE_NEWUSER)
    }),
    ("setns", || call!(libc::SYS_setns, 0, 0)),
    ("mount", || {
        call!(
            libc::SYS_mount,
            path(c"proc"),
            path(c"/"),
            path(c"proc"),
            0,
            NOBODY
        )
    }),
    ("umount2", || {
        call!(libc::SYS_umount2, path(c"/"), libc::MNT_DETACH)
    }),
    ("pivot_root", || {
        call!(libc::SYS_pivot_root, path(c"."), path(c"."))
    }),
    ("chroot", || call!(libc::SYS_chroot, path(c"/"))),
    ("mmap(PROT_EXEC)", || {
        call!(
            libc::SYS_mmap,
            NOBODY,
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0
        )
    }),
    ("memfd_create", || {
        call!(libc::SYS_memfd_create, path(c"x"), 0)
    }),
    ("init_module", || {
        call!(libc::SYS_init_module, NOBODY, 0, path(c""))
    }),
    ("finit_module", || {
        call!(libc::SYS_finit_module, 0, path(c""), 0)
    }),
    ("kexec_load", || {
        call!(libc::SYS_kexec_load, 0, 0, NOBODY, 0)
    }),
    ("bpf", || call!(libc::SYS_bpf, 0, NOBODY, 0)),
    ("perf_event_open", || {
        call!(libc::SYS_perf_event_open, NOBODY, 0, -1, -1, 0)
    }),
    ("userfaultfd", || call!(libc::SYS_userfaultfd, 0)),
    ("io_uring_setup", || {
        call!(libc::SYS_io_uring_setup, 1, NOBODY)
    }),
    ("add_key", || {
        call!(libc::SYS_add_key, NOBODY, NOBODY, NOBODY, 0, 0)
    }),
    ("setuid(0)", || call!(libc::SYS_setuid, 0)),
    ("personality", || call!(libc::SYS_personality, 0x0040_0000)),
    ("reboot", || call!(libc::SYS_reboot, 0, 0, 0, 0)),
    ("sethostname", || {
        call!(libc::SYS_sethostname, path(c"x"), 1)
    }),
    ("clock_settime", || {
        call!(libc::SYS_clock_settime, 0, NOBODY)
    }),
    ("ioctl(TIOCSTI)", || {
        call!(libc::SYS_ioctl, 0, libc::TIOCSTI, path(c"x"))
    }),
    ("iopl", || call!(libc::SYS_iopl, 3)),
    ("handle SIGSYS", || {
        // The report can be taken away by those who may; the end cannot.
        call!(libc::SYS_rt_sigaction, libc::SIGSYS, NOBODY, NOBODY, 8);
        call!(libc::SYS_reboot, 0, 0, 0, 0)
    }),
    ("block SIGSYS", || {
        let all = u64::MAX;
        call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            &raw const all,
            NOBODY,
            8
        );
        call!(libc::SYS_reboot, 0, 0, 0, 0)
    }),
];

/// The parent, asked before there is a filter.
mod libc {
    pub use ::libc::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    static PARENT: AtomicI64 = AtomicI64::new(0);

    pub fn remember_parent() {
        // SAFETY: plain system call.
        PARENT.store(unsafe { ::libc::getppid() }.into(), Ordering::Relaxed);
    }

    pub fn getppid_now() -> i64 {
        PARENT.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Refused(i32),
    Succeeded,
    /// The test itself did not work.
    Broken,
}

/// What is in the buffer would be written by the child as well.
fn flush() {
    let _ = std::io::stdout().flush();
}

/// Makes the attempt in a thread of this role, in a process of its own.
fn attempt(role: Role, attempt: fn() -> i64) -> End {
    let (mut answer, told) = std::io::pipe().unwrap_or_else(|e| quit(&e.to_string()));
    flush();
    // SAFETY: this process has one thread.
    match unsafe { ::libc::fork() } {
        -1 => quit("cannot fork"),
        0 => {
            drop(answer);
            // SAFETY: the child's own copy, used by one thread.
            let mut told =
                unsafe { File::from_raw_fd(std::os::fd::OwnedFd::from(told).into_raw_fd()) };
            // The report of the filter is expected.
            if std::env::var_os("ATTACK_LOUD").is_none() {
                silence();
            }
            libc::remember_parent();
            let plan = Plan {
                mode: Mode::On,
                late: vec![role],
                ..Plan::default()
            };
            let confined = confine::enter(&plan).unwrap_or_else(|e| quit(&e.to_string()));
            let Some(spawner) = confined.spawner else {
                quit("nothing was confined")
            };
            let job = move || {
                // The thread is what it should be, and goes to the bad from here.
                let _ = told.write_all(&[BEGUN]);
                let result = attempt();
                let errno = std::io::Error::last_os_error().raw_os_error();
                let code = match (result, errno) {
                    (-1, Some(errno)) => errno,
                    _ => 0,
                };
                let _ = told.write_all(&code.to_le_bytes());
            };
            let thread = match role {
                Role::Disk | Role::FileSystem | Role::Network | Role::Log => {
                    spawner.spawn(role, "hostile".into(), None, Box::new(job))
                }
                _ => confine::spawn(role, "hostile".into(), None, Box::new(job)),
            };
            let joined = thread.map(|thread| thread.join());
            std::process::exit(i32::from(!matches!(joined, Ok(Ok(())))))
        }
        child => {
            drop(told);
            let mut bytes = Vec::new();
            let _ = answer.read_to_end(&mut bytes);
            let mut status = 0;
            // SAFETY: the status is live.
            unsafe { ::libc::waitpid(child, &mut status, 0) };
            let killed = ::libc::WIFSIGNALED(status) && ::libc::WTERMSIG(status) == ::libc::SIGSYS;
            let Some((&BEGUN, code)) = bytes.split_first() else {
                return End::Broken;
            };
            match <[u8; 4]>::try_from(code) {
                Ok(code) if i32::from_le_bytes(code) == 0 => End::Succeeded,
                Ok(code) => End::Refused(i32::from_le_bytes(code)),
                Err(_) if killed => End::Killed,
                Err(_) => End::Broken,
            }
        }
    }
}

fn silence() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        // SAFETY: both are open.
        unsafe { ::libc::dup2(null.into_raw_fd(), ::libc::STDERR_FILENO) };
    }
}

fn quit(why: &str) -> ! {
    eprintln!("attack: {why}");
    std::process::exit(2)
}

fn main() -> ExitCode {
    let mut bad = Vec::new();
    print!("{:30}", "");
    for role in Role::ALL {
        print!("{:>12}", format!("{role:?}"));
    }
    println!();
    for (name, call) in ATTEMPTS {
        print!("{name:30}");
        for role in Role::ALL {
            let end = attempt(role, *call);
            let text = match end {
                End::Killed => "killed".to_owned(),
                End::Refused(errno) => format!("refused {errno}"),
                End::Succeeded => "ALLOWED".to_owned(),
                End::Broken => "BROKEN".to_owned(),
            };
            print!("{text:>12}");
            let expected = ALLOWED.contains(&(*name, role));
            let fine = match end {
                End::Killed => !expected && !HARMLESS.contains(name),
                End::Refused(_) => !expected,
                End::Succeeded => expected,
                End::Broken => false,
            };
            if !fine {
                bad.push(format!("{name} in {role:?}: {end:?}"));
            }
        }
        println!();
    }
    println!(
        "{} attempts, in {} roles each: {}",
        ATTEMPTS.len(),
        Role::ALL.len(),
        match bad.is_empty() {
            true => "as it should be".to_owned(),
            false => format!("WRONG: {}", bad.join("; ")),
        }
    );
    ExitCode::from(u8::from(!bad.is_empty()))
}
