//! A child that is the first process of a PID namespace: the only way into one.

use std::fs;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions, getegid, geteuid, kill_process, waitpid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::{Failed, Mode, namespaces, process};

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
pub struct Child(Pid);

impl Child {
    /// Its number, as this process and the host know it.
    pub fn id(&self) -> u32 {
        self.0.as_raw_pid().unsigned_abs()
    }

    /// Sends it a signal; one that has ended does not get it.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.0, signal);
    }

    /// Waits until it is gone, with its memory and all that it had open: with which
    /// status, unless it was a signal.
    pub fn wait(self) -> Option<i32> {
        match retry_on_intr(|| waitpid(Some(self.0), WaitOptions::empty())) {
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
/// namespace, in which they are who they were.
///
/// # Errors
/// When this process has more than one thread, or the host refuses a process.
pub fn fork(mode: Mode) -> Result<Forked, Failed> {
    let failed = |why: std::io::Error| Failed::new("start a process", why);
    // Only this thread is in the child, and what others had locked would stay so.
    if fs::read_dir("/proc/self/task").map_err(failed)?.count() != 1 {
        return Err(Failed::new("start a process", "there are threads"));
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let wanted = match mode {
        Mode::Off => None,
        Mode::On | Mode::Strict => Some(namespaces_for_child()),
    };
    let (pid, user) = match wanted {
        Some(Ok(flags)) => match clone(flags) {
            Ok(Some(child)) => return Ok(Forked::Parent(Child(child))),
            Ok(None) => {
                let user = flags & libc::CLONE_NEWUSER != 0;
                let user = user.then(|| namespaces::map_user(uid, gid));
                return Ok(Forked::Child(Birth { pid: Ok(()), user }));
            }
            Err(e) => (Err(namespaces::refused(e)), None),
        },
        Some(Err(e)) => (Err(e), None),
        None => (Ok(()), None),
    };
    match clone(0) {
        Ok(Some(child)) => Ok(Forked::Parent(Child(child))),
        Ok(None) => Ok(Forked::Child(Birth { pid, user })),
        Err(e) => Err(Failed::new("start a process", e)),
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

/// As `fork(2)`, with namespaces; `None` in the child.
fn clone(namespaces: libc::c_int) -> Result<Option<Pid>, Errno> {
    let flags = namespaces | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack it is a fork: the child has a copy
    // of everything, and as there was one thread, nothing in it is locked by
    // another. glibc's fork would do no more for it than to run handlers, of which
    // there are none, and to note the new thread's number, which nothing here
    // relies on.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(result) {
        Ok(0) => Ok(None),
        Ok(child) if child > 0 => Ok(Pid::from_raw(child)),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}
