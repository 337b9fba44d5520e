//! Capabilities, `no_new_privs` and limits.

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::Failed;

/// What a worker of a share does as root: own, read and write files of any user,
/// as that user.
const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// True for a process that may make namespaces without a user namespace.
pub fn is_privileged() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Closes everything but the standard streams: what this process got from who
/// started it and did not ask for. To be called before it has opened anything.
pub fn close_inherited() {
    const FIRST: u32 = 3;
    // SAFETY: plain system call; nobody here owns a descriptor yet.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, 0) } == 0 {
        return;
    }
    // Before Linux 5.9.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<libc::c_int> = numbers.filter(|fd| *fd >= FIRST as libc::c_int).collect();
    for fd in numbers {
        // SAFETY: as above. That of the directory is closed already.
        unsafe { libc::close(fd) };
    }
}

/// What the process cannot have more of. A core dump would put the guest's
/// memory into a file.
pub fn limit() -> Result<(), Failed> {
    for resource in [Resource::Core, Resource::Msgqueue, Resource::Memlock] {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(resource, none).map_err(|e| Failed::new("set a resource limit", e))?;
    }
    Ok(())
}

/// No program that this process starts has more privileges than it.
pub fn no_new_privileges() -> Result<(), Failed> {
    set_no_new_privs(true).map_err(|e| Failed::new("set no_new_privs", e))
}

/// Takes every capability out of the set that bounds what can be regained, as
/// far as this process may.
pub fn drop_bounding_set() {
    for capability in CapabilitySet::all().iter() {
        // Without CAP_SETPCAP it fails; then nothing is regained because of
        // no_new_privs.
        if remove_capability_from_bounding_set(capability).is_err() {
            return;
        }
    }
}

/// Leaves this thread without any capability.
pub fn drop_capabilities() -> Result<(), Failed> {
    keep(CapabilitySet::empty())
}

/// Leaves this thread what a share's worker needs.
pub fn keep_file_capabilities() -> Result<(), Failed> {
    keep(FILES)
}

fn keep(kept: CapabilitySet) -> Result<(), Failed> {
    let failed = |e| Failed::new("drop capabilities", e);
    let now = capabilities(None).map_err(failed)?;
    // It fails before Linux 4.3, where there is no such set.
    let _ = clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed)
}

/// The kernel has filters that can raise a signal.
pub fn has_seccomp() -> Result<(), Failed> {
    const GET_ACTION_AVAIL: libc::c_long = 2;
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the operation reads one u32, which is live.
    match unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) } {
        0 => Ok(()),
        _ => Err(Failed::last("use system call filters")),
    }
}
