//! Namespaces of the process's own.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

use crate::report::{Layer, Report};
use crate::{Failed, Plan, landlock, process, root};

/// Enters all but that of the network, the empty root among them, and sets up
/// Landlock; true when the process has privileges of the host's.
///
/// An ordinary user makes namespaces as root of a user namespace, in which only
/// that user exists. Root makes them first and a user namespace afterwards, unless
/// its threads go on to deal with other users' files.
pub fn enter(plan: &Plan, report: &mut Report) -> bool {
    let born_into = plan.birth.as_ref().and_then(|birth| birth.user.clone());
    // As root of that one it would be taken for the host's.
    let privileged = born_into.is_none() && process::is_privileged();
    // Before there is a root in which it is not.
    let own = own_proc();
    let mut without = None;
    if !privileged {
        let user = born_into.unwrap_or_else(|| enter_user(&own));
        // The others would be refused for reasons that are not theirs.
        without = user.as_ref().err().map(|_| {
            let why = "an ordinary user has none without a user namespace";
            Failed::new("enter a namespace", why)
        });
        report.note(Layer::User, user);
    }
    if let Some(birth) = &plan.birth {
        report.note(Layer::Pid, birth.pid.clone());
    }
    for (layer, flags) in [
        (Layer::Ipc, UnshareFlags::NEWIPC),
        (Layer::Uts, UnshareFlags::NEWUTS),
        (Layer::Cgroup, UnshareFlags::NEWCGROUP),
    ] {
        let entered = without.clone().map_or_else(|| unshare(flags), Err);
        report.note(layer, entered);
    }
    let held = root::hold(plan);
    let made = without
        .map_or_else(|| unshare(UnshareFlags::NEWNS), Err)
        .and_then(|()| root::enter(plan));
    if privileged {
        let user = match plan.owners {
            true => Err(Failed::new(
                "be root of a namespace",
                "a share that root serves has files of all the host's users; \
                 run drupe as an ordinary user",
            )),
            false => enter_user(&own),
        };
        report.note(Layer::User, user);
    }
    // Behind it, nothing below /proc can be written to.
    let rules = match &made {
        Ok(parts) => landlock::restrict(plan, parts),
        Err(_) => landlock::restrict(plan, &held),
    };
    report.note(Layer::Root, made.map(drop));
    report.note(Layer::Landlock, rules);
    privileged
}

/// A network namespace for this thread and those that it starts: without
/// interfaces.
pub fn leave_network() -> Result<(), Failed> {
    unshare(UnshareFlags::NEWNET)
}

fn unshare(flags: UnshareFlags) -> Result<(), Failed> {
    // SAFETY: descriptors stay shared: CLONE_FILES is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(refused)
}

/// Why there is no namespace.
pub fn refused(error: rustix::io::Errno) -> Failed {
    Failed::new("enter a namespace", explain(error))
}

fn explain(error: rustix::io::Errno) -> String {
    use rustix::io::Errno;
    match error {
        Errno::PERM | Errno::ACCESS => format!(
            "{error}: the host lets ordinary users have none \
             (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        ),
        Errno::NOSPC | Errno::USERS => {
            format!("{error}: there are as many as user.max_user_namespaces allows")
        }
        Errno::INVAL => format!("{error}: the kernel has none of this kind"),
        error => error.to_string(),
    }
}

/// `/proc/self`.
fn own_proc() -> Result<OwnedFd, Failed> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/proc/self", flags, Mode::empty()).map_err(|e| Failed::new("open /proc/self", e))
}

/// Whom a user namespace shows in the place of those that do not exist in it
/// (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;

/// Who the user or group `id` of the host is in the namespace: the same, save that
/// nobody has to be told from everybody else.
fn inside(id: u32) -> u32 {
    match id {
        NOBODY => NOBODY - 1,
        id => id,
    }
}

/// A user namespace in which this user is who they were, and nobody else is.
fn enter_user(own: &Result<OwnedFd, Failed>) -> Result<(), Failed> {
    let own = own.as_ref().map_err(Failed::clone)?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare(UnshareFlags::NEWUSER)?;
    map(own, uid, gid)
}

/// Makes this process, which is in a new user namespace, be who it was outside.
pub fn map_user(uid: u32, gid: u32) -> Result<(), Failed> {
    map(&own_proc()?, uid, gid)
}

fn map(own: &OwnedFd, uid: u32, gid: u32) -> Result<(), Failed> {
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} {uid} 1", inside(uid))),
        ("gid_map", format!("{} {gid} 1", inside(gid))),
    ] {
        openat(own, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|fd| File::from(fd).write_all(text.as_bytes()))
            .map_err(|e| Failed::new("map this user into a namespace", e))?;
    }
    Ok(())
}
