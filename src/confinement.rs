//! What drupe's processes that have a machine are confined to: which files, and
//! which thread in which role. The layers are those of the crate `confine`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

use confine::{Access, Birth, Confined, Entry, Job, Mode, Plan, Report, Role, Spawner};
use devices::threads::{self, Threads};
use thiserror::Error;
use vmm::Machine;
use vmm::config::{NetConfig, VmConfig};

use crate::{logging, terminal};

/// Where the host says who resolves names.
const RESOLVERS: &str = "/etc/resolv.conf";

static SPAWNER: OnceLock<Spawner> = OnceLock::new();

/// Why a machine is not run.
#[derive(Debug, Error)]
pub enum ConfinementError {
    /// A layer.
    #[error(transparent)]
    Confine(#[from] confine::Error),
    /// A step of it.
    #[error(transparent)]
    Failed(#[from] confine::Failed),
    /// The working directory.
    #[error("the directory of the sandbox is out of reach: {0}")]
    Directory(#[source] io::Error),
    /// The process that keeps it.
    #[error("the sandbox's keeper is out of reach: {0}")]
    Keeper(#[source] io::Error),
    /// A share.
    #[error("a share cannot be confined: {0}")]
    Share(#[source] io::Error),
}

/// Confines this process, which has one thread, and a machine that does not run
/// yet. `entries` are files that it needs beside those that the machine does, and
/// `birth` the namespaces that it was born into.
///
/// # Errors
/// What does not work; with [`Mode::Strict`], the first layer that is missing.
pub fn enter(
    mode: Mode,
    config: &VmConfig,
    machine: &Machine,
    entries: Vec<Entry>,
    birth: Option<Birth>,
) -> Result<Report, ConfinementError> {
    let mut plan = plan(config, entries);
    plan.mode = mode;
    plan.birth = birth;
    if let Some(vsock) = &config.vsock
        && mode != Mode::Off
    {
        tell_of_what_stays(&vsock.path);
    }
    let directories = machine.directories().into_iter();
    let directories = directories.map(|directory| match directory.readonly {
        true => (directory.fd, Access::Read),
        false => (directory.fd, Access::Write),
    });
    plan.directories = directories.collect();
    let Confined { report, spawner } = confine::enter(&plan)?;
    if let Some(spawner) = spawner {
        machine
            .directories_replaced()
            .map_err(ConfinementError::Share)?;
        // There is one machine in a process.
        let _ = SPAWNER.set(spawner);
        threads::set(Box::new(InRoles));
        for (layer, state) in report.layers() {
            if let confine::State::Missing(why) = state {
                log::info!("confinement: no {}: {why}", layer.name());
            }
        }
    }
    logging::start_thread_when_needed();
    Ok(report)
}

/// Makes this thread one that serves clients, if the process is confined.
///
/// # Errors
/// The kernel's.
pub fn enter_control() -> Result<(), ConfinementError> {
    match SPAWNER.get() {
        Some(_) => Ok(confine::enter_role(Role::Control, "control")?),
        None => Ok(()),
    }
}

/// Starts the thread that writes messages.
///
/// # Errors
/// When the host refuses a thread.
pub fn spawn_log(stack: usize, write: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let name = "log".to_owned();
    match SPAWNER.get() {
        Some(spawner) => spawner.spawn(Role::Log, name, Some(stack), Box::new(write)),
        None => Builder::new().name(name).stack_size(stack).spawn(write),
    }
    .map(drop)
}

/// What a machine goes on to need of the host once everything is open.
fn plan(config: &VmConfig, entries: Vec<Entry>) -> Plan {
    let mut plan = Plan {
        entries,
        owners: !config.shares.is_empty(),
        cleanup: Some(terminal::restore),
        ..Plan::default()
    };
    if let Some(vsock) = &config.vsock {
        // Programs of the host make sockets there when they like.
        let directory = directory_of(&vsock.path);
        // A second mount of it could not be removed.
        if !is_among(&plan.entries, &directory) {
            plan.entries.push(Entry::write(directory));
        }
    }
    if !config.shares.is_empty() {
        plan.late.push(Role::FileSystem);
        // A file that was looked up is opened, and its attributes are changed, by
        // its descriptor's name.
        plan.entries.push(Entry::read("/proc/self/fd"));
    }
    if !config.disks.is_empty() {
        plan.late.push(Role::Disk);
    }
    for net in &config.nets {
        if let NetConfig::User(user) = net {
            plan.late.push(Role::Network);
            if user.user.dns.is_empty() {
                resolvers(&mut plan);
            }
        }
    }
    plan
}

/// Whether a directory is one of the entries, by whatever path.
fn is_among(entries: &[Entry], directory: &Path) -> bool {
    // To follow links takes a call for each part of each path.
    if entries.iter().any(|entry| entry.path == *directory) {
        return true;
    }
    let real = |path: &Path| fs::canonicalize(path).ok();
    let wanted = real(directory);
    entries.iter().any(|entry| real(&entry.path) == wanted)
}

/// Warns when a socket cannot be removed at the end: confined, root may do no more
/// in a directory of somebody else than anybody may.
fn tell_of_what_stays(socket: &Path) {
    let directory = directory_of(socket);
    let root = rustix::process::geteuid().is_root();
    let Ok(metadata) = fs::metadata(&directory) else {
        return;
    };
    if root && !root_may_write(metadata.uid(), metadata.gid(), metadata.mode()) {
        log::warn!(
            "--vsock {}: the socket will stay behind: its directory belongs to user {}, and drupe gives up root's power over it: give a directory of root's, or run drupe as that user; the next VM at this path replaces the socket",
            socket.display(),
            metadata.uid()
        );
    }
}

/// Whether root without capabilities may add to and remove from a directory.
fn root_may_write(uid: u32, gid: u32, mode: u32) -> bool {
    let shift = match (uid, gid) {
        (0, _) => 6,
        (_, 0) => 3,
        _ => 0,
    };
    (mode >> shift) & 0o3 == 0o3
}

/// The path of a file that is to be found again in an empty root: without `..`,
/// which would lead through directories that are not there.
pub fn plain(path: &Path) -> PathBuf {
    if !path.components().any(|part| part == Component::ParentDir) {
        return path.to_owned();
    }
    let directory = fs::canonicalize(directory_of(path));
    match (directory, path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        // What is wrong with it is told by who uses it.
        _ => path.to_owned(),
    }
}

/// The directory of a file, as an absolute path.
fn directory_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    directory.to_owned()
}

/// The host's list of resolvers. A program that keeps it writes another file when
/// the host moves to another network, so its directory is taken along, unless
/// that is the one that has everything.
fn resolvers(plan: &mut Plan) {
    let Ok(file) = fs::canonicalize(RESOLVERS) else {
        return;
    };
    match file.parent() {
        Some(directory) if directory != Path::new("/etc") => {
            plan.entries.push(Entry::read(directory).if_there());
            plan.links.push((RESOLVERS.into(), file));
        }
        _ => plan.entries.push(Entry::read(RESOLVERS).if_there()),
    }
}

/// Threads of a machine, each in its role.
struct InRoles;

fn role(role: threads::Role) -> Role {
    match role {
        threads::Role::Vcpu => Role::Vcpu,
        threads::Role::EventLoop => Role::EventLoop,
        threads::Role::Disk => Role::Disk,
        threads::Role::FileSystem => Role::FileSystem,
        threads::Role::Network => Role::Network,
        threads::Role::Console => Role::Console,
    }
}

impl Threads for InRoles {
    fn spawn(
        &self,
        role: threads::Role,
        name: String,
        stack: Option<usize>,
        job: Job,
    ) -> io::Result<JoinHandle<()>> {
        let role = self::role(role);
        match (role, SPAWNER.get()) {
            // Those that start late, from a thread that may not.
            (Role::Disk | Role::FileSystem | Role::Network, Some(spawner)) => {
                spawner.spawn(role, name, stack, job)
            }
            _ => confine::spawn(role, name, stack, job),
        }
    }

    fn enter(&self, role: threads::Role) -> io::Result<()> {
        confine::enter_role(self::role(role), "event loop").map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_may_do_in_a_directory_is_known_before() {
        for (uid, gid, mode, may) in [
            (0, 0, 0o40755, true),
            (0, 0, 0o40555, false),
            (1000, 1000, 0o40755, false),
            (1000, 0, 0o40775, true),
            (1000, 0, 0o40757, false),
            (1000, 1000, 0o41777, true),
        ] {
            assert_eq!(root_may_write(uid, gid, mode), may, "{uid} {gid} {mode:o}");
        }
    }

    #[test]
    fn a_directory_is_known_by_each_of_its_paths() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let entries = [Entry::write("/nonexistent"), Entry::write(&real)];
        assert!(is_among(&entries, &real));
        assert!(is_among(&entries, &link));
        assert!(!is_among(&entries, dir.path()));
        assert!(!is_among(&[], &real));
    }

    #[test]
    fn a_path_leads_through_no_directory_that_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(plain(&dir.path().join("sub/../s")), real.join("s"));
        for same in ["v.sock", "/a/b.sock", "/nonexistent/../v.sock"] {
            assert_eq!(plain(Path::new(same)), Path::new(same));
        }
    }
}
