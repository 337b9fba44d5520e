//! A child that is the first process of a PID namespace: the only way into one.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions, getegid, geteuid, kill_process, waitpid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::{Failed, Mode, namespaces, process};

/// `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Who goes on after [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// The process that there was, with its child.
    Parent(Child),
    /// The new one.
    Child(Birth),
}

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    in_group: bool,
}

impl Child {
    /// Its number, as this process and the host know it.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// It was born in the control group that it was to be born in.
    pub fn is_in_group(&self) -> bool {
        self.in_group
    }

    /// Sends it a signal; one that has ended does not get it.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Waits until it is gone, with its memory and all that it had open: with which
    /// status, unless it was a signal.
    pub fn wait(self) -> Option<i32> {
        match retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty())) {
            Ok(Some((_, status))) => status.exit_status(),
            _ => None,
        }
    }
}

/// What a child was born into, for its [`Plan`](crate::Plan).
#[derive(Debug, Clone)]
pub struct Birth {
    pub(crate) pid: Result<(), Failed>,
    /// An ordinary user has a PID namespace only together with a user namespace.
    pub(crate) user: Option<Result<(), Failed>>,
}

/// Starts a child that goes on from here and has everything that this process has
/// open. Unless nothing is to be confined it is the first process of a PID
/// namespace, where the host allows that; for an ordinary user, in a user
/// namespace, in which they are who they were. Where the kernel can do that it is
/// born in the control group (version 2) whose directory `group` is: to be moved
/// there later costs a wait for all processors.
///
/// # Errors
/// When this process has more than one thread, or the host refuses a process.
pub fn fork(mode: Mode, group: Option<BorrowedFd<'_>>) -> Result<Forked, Failed> {
    let failed = |why: std::io::Error| Failed::new("start a process", why);
    // Only this thread is in the child, and what others had locked would stay so.
    if fs::read_dir("/proc/self/task").map_err(failed)?.count() != 1 {
        return Err(Failed::new("start a process", "there are threads"));
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let (mut flags, mut pid) = (0, Ok(()));
    if mode != Mode::Off {
        match namespaces_for_child() {
            Ok(wanted) => flags = wanted,
            Err(e) => pid = Err(e),
        }
    }
    let mut born = start(flags, group);
    if let Err(e) = born
        && flags != 0
    {
        (flags, pid) = (0, Err(namespaces::refused(e)));
        born = start(flags, group);
    }
    match born.map_err(|e| Failed::new("start a process", e))? {
        (Some(pid), in_group) => Ok(Forked::Parent(Child { pid, in_group })),
        (None, _) => {
            let user = flags & libc::CLONE_NEWUSER != 0;
            let user = user.then(|| namespaces::map_user(uid, gid));
            Ok(Forked::Child(Birth { pid, user }))
        }
    }
}

/// Those that make a PID namespace for this user.
fn namespaces_for_child() -> Result<libc::c_int, Failed> {
    if process::is_privileged() {
        return Ok(libc::CLONE_NEWPID);
    }
    // In a user namespace they would be worth nothing on the host, and whoever
    // gave them to this program wants it to use them.
    match capabilities(None) {
        Ok(sets) if sets.effective != CapabilitySet::empty() => Err(Failed::new(
            "enter a namespace",
            "this program was given some of root's capabilities and not CAP_SYS_ADMIN: \
             run it without any, or as root",
        )),
        _ => Ok(libc::CLONE_NEWPID | libc::CLONE_NEWUSER),
    }
}

/// Starts a child in these namespaces, in a control group where that can be, and
/// says whether it could; none in the child.
fn start(
    namespaces: libc::c_int,
    group: Option<BorrowedFd<'_>>,
) -> Result<(Option<Pid>, bool), Errno> {
    if let Some(group) = group
        && let Ok(child) = clone_into(namespaces, group)
    {
        return Ok((child, true));
    }
    // SAFETY: without CLONE_VM and with no stack it is a fork: the child has a copy
    // of everything, and as there was one thread, nothing in it is locked by
    // another. glibc's fork would do no more for it than to run handlers, of which
    // there are none, and to note the new thread's number, which nothing here
    // relies on.
    let result = unsafe {
        let flags = namespaces | libc::SIGCHLD;
        libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0)
    };
    Ok((child(result)?, false))
}

/// As [`start`]; fails before Linux 5.7, and where there is a filter of `clone3`.
fn clone_into(namespaces: libc::c_int, group: BorrowedFd<'_>) -> Result<Option<Pid>, Errno> {
    // SAFETY: all zeroes are valid arguments.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces as u64 | CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    // SAFETY: a fork as above; the arguments are live, and of the size that is said.
    child(unsafe {
        let size = size_of::<libc::clone_args>();
        libc::syscall(libc::SYS_clone3, &raw const arguments, size)
    })
}

fn child(result: libc::c_long) -> Result<Option<Pid>, Errno> {
    match i32::try_from(result) {
        Ok(pid) if pid >= 0 => Ok(Pid::from_raw(pid)),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}
