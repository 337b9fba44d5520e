//! What a thread that has been taken over can do: each attempt is made in a
//! process that is confined, by a thread of each role, and must end the process
//! or fail. Prints a table. Not run by the usual harness: each attempt forks, and
//! that needs a process of one thread.

#[path = "common/attempts.rs"]
mod attempts;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;

use attempts::{ATTEMPTS, Argument, Attempt, End};
use confine::{Access, Entry, Mode, Plan, Role};

macro_rules! call {
    ($($argument:expr),+ $(,)?) => {{
        // SAFETY: what the call would do to memory, it would do to a process that
        // ends behind it.
        unsafe { libc::syscall($($argument),+) }
    }};
}

const NOBODY: *const libc::c_void = ptr::null();

/// What a thread writes before its attempt.
const BEGUN: u8 = b'!';

/// Makes the call.
fn make(attempt: &Attempt) -> i64 {
    let mut arguments = [0; 6];
    for (slot, argument) in arguments.iter_mut().zip(attempt.arguments) {
        *slot = match *argument {
            Argument::Value(value) => value,
            Argument::Path(path) => path.as_ptr() as i64,
            Argument::Other => libc::getppid_now(),
        };
    }
    let [a, b, c, d, e, f] = arguments;
    call!(attempt.number, a, b, c, d, e, f)
}

/// What is more than one call, and the result of the last.
type Sequence = (&'static str, fn() -> i64);

const SEQUENCES: &[Sequence] = &[
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

/// What is in the buffer would be written by the child as well.
fn flush() {
    let _ = std::io::stdout().flush();
}

/// Makes the attempt in a thread of this role, in a process of its own.
fn attempt(role: Role, attempt: impl Fn() -> i64 + Send + 'static) -> End {
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

/// What a share's worker can do with a file or a directory that is open: makes the
/// attempt in a process of its own, which exits with what comes of it.
fn in_a_worker(
    open: (std::os::fd::RawFd, Access),
    entries: Vec<Entry>,
    attempt: impl FnOnce() -> i32 + Send + 'static,
) -> Option<i32> {
    flush();
    // SAFETY: this process has one thread.
    let status = match unsafe { ::libc::fork() } {
        -1 => quit("cannot fork"),
        0 => {
            let plan = Plan {
                mode: Mode::On,
                late: vec![Role::FileSystem],
                directories: vec![open],
                entries,
                ..Plan::default()
            };
            let confined = confine::enter(&plan).unwrap_or_else(|e| quit(&e.to_string()));
            let Some(spawner) = confined.spawner else {
                quit("nothing was confined")
            };
            let job = Box::new(move || {
                call!(libc::SYS_exit_group, attempt());
            });
            let thread = spawner.spawn(Role::FileSystem, "hostile".into(), None, job);
            let _ = thread.map(std::thread::JoinHandle::join);
            std::process::exit(255)
        }
        child => {
            let mut status = 0;
            // SAFETY: the status is live.
            unsafe { ::libc::waitpid(child, &mut status, 0) };
            status
        }
    };
    ::libc::WIFEXITED(status).then(|| ::libc::WEXITSTATUS(status))
}

/// Opens a path from a descriptor on: 0, or the error.
fn open_at(fd: i32, path: &CStr, flags: i32) -> i32 {
    match call!(libc::SYS_openat, fd, path.as_ptr(), flags, 0o600) {
        -1 => std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(255),
        _ => 0,
    }
}

/// A directory for a test, empty.
fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("attack-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap_or_else(|e| quit(&e.to_string()));
    directory
}

fn open_path(path: &Path) -> File {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    opened.unwrap_or_else(|e| quit(&e.to_string()))
}

/// Makes a file below a directory that is open: 0, or the error.
fn file_below(access: Access) -> Option<i32> {
    let directory = directory();
    let opened = open_path(&directory);
    let fd = opened.as_raw_fd();
    let flags = libc::O_CREAT | libc::O_WRONLY;
    let end = in_a_worker((fd, access), Vec::new(), move || open_at(fd, c"x", flags));
    let _ = std::fs::remove_dir_all(&directory);
    end
}

/// Tries to get from a single file that is open to the one beside it, and then to
/// open the file itself, which works for what it may: which try went wrong.
fn beside_a_file(access: Access) -> Option<i32> {
    let directory = directory();
    for name in ["file", "secret"] {
        let written = std::fs::write(directory.join(name), name);
        written.unwrap_or_else(|e| quit(&e.to_string()));
    }
    let opened = open_path(&directory.join("file"));
    let fd = opened.as_raw_fd();
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let own = text(Path::new(&format!("/proc/self/fd/{fd}")));
    let above = text(Path::new(&format!("/proc/self/fd/{fd}/../secret")));
    let [whole, secret] = [text(&directory), text(&directory.join("secret"))];
    let attempts = move || {
        let refused = [
            (fd, c"secret"),
            (fd, c".."),
            (fd, c"../secret"),
            (libc::AT_FDCWD, &above),
            (libc::AT_FDCWD, &secret),
            (libc::AT_FDCWD, &whole),
        ];
        for (n, (from, path)) in (1..).zip(refused) {
            // Landlock alone would leave descriptors that can neither read nor write.
            if open_at(from, path, libc::O_RDONLY) == 0 {
                return n;
            }
        }
        let open = |flags| open_at(libc::AT_FDCWD, &own, flags) == 0;
        match (open(libc::O_RDONLY), open(libc::O_RDWR), access) {
            (true, false, Access::Read) | (true, true, Access::Write) => 0,
            _ => 255,
        }
    };
    let entries = vec![Entry::read("/proc/self/fd")];
    let end = in_a_worker((fd, access), entries, attempts);
    let _ = std::fs::remove_dir_all(&directory);
    end
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
    let single = ATTEMPTS.iter().map(|attempt| attempt.name);
    let names = single.chain(SEQUENCES.iter().map(|(name, _)| *name));
    for (n, name) in names.enumerate() {
        print!("{name:30}");
        for role in Role::ALL {
            let end = attempt(role, move || match ATTEMPTS.get(n) {
                Some(attempt) => make(attempt),
                None => SEQUENCES[n - ATTEMPTS.len()].1(),
            });
            print!("{:>12}", end.text());
            if !end.is_fine(name, role) {
                bad.push(format!("{name} in {role:?}: {end:?}"));
            }
        }
        println!();
    }
    for (access, fine) in [
        (Access::Read, &[libc::EROFS, libc::EACCES][..]),
        (Access::Write, &[0]),
    ] {
        let what = format!("a file below a directory for {access:?}");
        let beside = format!("beside a single file for {access:?}");
        for (what, end, fine) in [
            (what, file_below(access), fine),
            (beside, beside_a_file(access), &[0]),
        ] {
            println!("{what}: {end:?}");
            if !end.is_some_and(|end| fine.contains(&end)) {
                bad.push(format!("{what}: {end:?}"));
            }
        }
    }
    println!(
        "{} attempts, in {} roles each: {}",
        ATTEMPTS.len() + SEQUENCES.len(),
        Role::ALL.len(),
        match bad.is_empty() {
            true => "as it should be".to_owned(),
            false => format!("WRONG: {}", bad.join("; ")),
        }
    );
    ExitCode::from(u8::from(!bad.is_empty()))
}
