//! A control group for each sandbox's monitor. Its keeper, which is in no group of
//! its own, makes it before the monitor begins, and removes it behind the monitor's
//! end; what a keeper that was killed leaves, the next command does that comes by.
//!
//! What was made stands in `cgroups/ID` in drupe's directory, which outlives the
//! sandbox's own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmm::config::ByteSize;

use super::error::SandboxError;
use super::files;
use super::id::Id;
use super::spec::Spec;
use super::store::{Sandbox, Store};
use crate::cgroup::{DeviceLimit, Error, Group, Host, Limits, Shortage};

/// Threads of a monitor: its own are some ten, with five for each share, one for
/// each CPU and each disk, and one for each client that is attached.
const MAX_THREADS: u64 = 512;

/// What a monitor needs beside its guest's memory: itself, what the kernel keeps
/// for it, and page cache of its disks to work with.
const MONITOR_MEMORY: u64 = 128 << 20;
/// And for each so many bytes of that memory one: page tables, and KVM's.
const MEMORY_PER_TABLE: u64 = 128;

/// How it stands with a sandbox's group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// It has one.
    Group(Group),
    /// It has none, and why.
    None(String),
}

fn limits(spec: &Spec) -> Result<Limits, Error> {
    let mut devices = Vec::new();
    for wish in &spec.cgroup.devices {
        match DeviceLimit::new(&wish.path, wish.rates) {
            Ok(limit) => devices.push(limit),
            // It had one, and is gone.
            Err(_) if wish.rates.is_none() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Limits {
        memory: Some(memory(spec).bytes()),
        pids: Some(MAX_THREADS),
        cpu_quota: spec.cgroup.cpu_quota,
        cpu_period: spec.cgroup.cpu_period,
        cpu_shares: spec.cgroup.cpu_shares,
        blkio_weight: spec.cgroup.blkio_weight,
        devices,
    })
}

fn directory(home: &Path) -> PathBuf {
    home.join("cgroups")
}

fn path(home: &Path, id: &Id) -> PathBuf {
    directory(home).join(id.as_str())
}

/// What is known of a sandbox's group.
pub fn record(home: &Path, id: &Id) -> Option<Record> {
    let bytes = files::read(&path(home, id)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn refused(what: &str, error: &Error) -> SandboxError {
    SandboxError::Refused(format!("{what}: {error}"))
}

/// Makes the group of a sandbox that is about to start. Where that is not to be had,
/// it goes on without, unless it was asked for. The caller has the lock for the
/// sandbox's life.
///
/// # Errors
/// What was asked for and is not to be had.
pub fn make(sandbox: &Sandbox, spec: &Spec) -> Result<Option<Group>, SandboxError> {
    if spec.cgroup.disabled {
        return Ok(None);
    }
    let home = sandbox.store().home().to_owned();
    let made = limits(spec).and_then(|limits| make_with(&home, &sandbox.id, &limits));
    match made {
        Ok(group) => Ok(Some(group)),
        Err(e) => go_without(sandbox, spec, &e).map(|()| None),
    }
}

/// Puts a sandbox's monitor, the process `monitor`, there.
///
/// # Errors
/// As [`make`].
pub fn enter(
    sandbox: &Sandbox,
    spec: &Spec,
    group: &Group,
    monitor: u32,
) -> Result<(), SandboxError> {
    group.add(monitor).or_else(|e| {
        // Nobody is in it.
        let _ = group.remove();
        go_without(sandbox, spec, &crate::cgroup::advise(e))
    })
}

fn go_without(sandbox: &Sandbox, spec: &Spec, why: &Error) -> Result<(), SandboxError> {
    if spec.cgroup.needs_group() {
        return Err(SandboxError::Refused(format!(
            "cgroup: {why}: or do without what needs one: a part of a processor (--cpus 1.5, \
             --cpu-quota), --cpu-shares, --blkio-weight, --device-..."
        )));
    }
    log::info!("no cgroup: {why}");
    let record = Record::None(why.to_string());
    write(sandbox.store().home(), &sandbox.id, &record).map_err(|e| refused("cgroup", &e))
}

fn make_with(home: &Path, id: &Id, limits: &Limits) -> Result<Group, Error> {
    if let Some(Record::Group(old)) = record(home, id) {
        // Of an earlier start. When its process still ends, it is taken over.
        let _ = old.remove();
    }
    let host = Host::find()?;
    let group = Group::plan(&host, &format!("drupe-{id}"), limits)?;
    // Before it is there: whoever tidies up finds it.
    write(home, id, &Record::Group(group.clone()))?;
    group.make(&host, limits).map_err(crate::cgroup::advise)?;
    Ok(group)
}

fn write(home: &Path, id: &Id, record: &Record) -> Result<(), Error> {
    let path = path(home, id);
    let io = |e| Error::Io {
        what: "write",
        path: path.clone(),
        source: e,
    };
    files::private_dir(&directory(home)).map_err(io)?;
    let text = serde_json::to_vec(record).map_err(|e| io(e.into()))?;
    files::write_atomically(&path, &text).map_err(io)
}

/// Changes the group of a sandbox that runs.
///
/// # Errors
/// The host's, or that it has none and was asked for something.
pub fn update(sandbox: &Sandbox, spec: &Spec) -> Result<(), SandboxError> {
    match record(sandbox.store().home(), &sandbox.id) {
        Some(Record::Group(group)) => Host::find()
            .and_then(|host| group.set(&host, &limits(spec)?))
            .map_err(|e| refused("cgroup", &crate::cgroup::advise(e))),
        Some(Record::None(why)) if spec.cgroup.needs_group() => Err(SandboxError::Refused(
            format!("this sandbox has no cgroup: {why}"),
        )),
        None if spec.cgroup.needs_group() => Err(SandboxError::Refused(
            "this sandbox has no cgroup: it was started without".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Whose memory it was that the monitor of this sandbox was killed for, if it was.
pub fn shortage(home: &Path, id: &Id) -> Option<Shortage> {
    match record(home, id) {
        Some(Record::Group(group)) => group.shortage(),
        _ => None,
    }
}

/// The most memory that a sandbox of this description may take of the host.
pub fn memory(spec: &Spec) -> ByteSize {
    let guest = spec.machine.memory.bytes();
    ByteSize(guest + guest / MEMORY_PER_TABLE + MONITOR_MEMORY)
}

/// Removes the groups of sandboxes that do not run.
pub fn sweep(store: &Store) {
    let entries = match fs::read_dir(directory(store.home())) {
        Ok(entries) => entries,
        // There are none.
        Err(_) => return,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for id in names.filter_map(|name| name.parse::<Id>().ok()) {
        warn(sweep_one(store, &id));
    }
}

/// Removes the group of a sandbox that does not run, unless it is started again.
pub fn sweep_for(sandbox: &Sandbox) {
    warn(sweep_one(&sandbox.store(), &sandbox.id));
}

/// Removes the group of a sandbox whose monitor has ended, by who holds the lock for
/// its life.
pub fn discard(sandbox: &Sandbox) {
    warn(remove(sandbox.store().home(), &sandbox.id));
}

fn warn(removed: Result<(), SandboxError>) {
    if let Err(e) = removed {
        log::warn!("{e}");
    }
}

fn sweep_one(store: &Store, id: &Id) -> Result<(), SandboxError> {
    let _changes = match store.find(id.as_str()) {
        Ok(sandbox) => {
            // Whoever starts it has this lock, and its monitor the other one.
            let changes = sandbox.try_lock_changes()?;
            if changes.is_none() || sandbox.has_monitor()? {
                return Ok(());
            }
            changes
        }
        Err(SandboxError::Unknown(_)) => None,
        Err(e) => return Err(e),
    };
    remove(store.home(), id)
}

/// One that is still in use is left to the next who comes by.
fn remove(home: &Path, id: &Id) -> Result<(), SandboxError> {
    if let Some(Record::Group(group)) = record(home, id)
        && !group.remove().map_err(|e| refused("cgroup", &e))?
    {
        return Ok(());
    }
    let path = path(home, id);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SandboxError::io("remove", &path, e)),
        _ => Ok(()),
    }
}
