//! Takes from a process what it does not need, before it begins to serve
//! somebody who may be hostile. Knows nothing of virtual machines.
//!
//! [`fork`] is for one that is to have a PID namespace, and so has to be born in
//! it. [`enter`] is for the process, while it has one thread: the other namespaces,
//! an empty root, Landlock, no capabilities, `no_new_privs`, limits. [`enter_role`]
//! is for each thread, as the first thing it does: the system calls of its
//! [`Role`], which stand in `filters.rs`. Threads that start later come from a
//! [`Spawner`], since a thread never gets more than the one that started it.

mod filters;
mod fork;
mod landlock;
mod namespaces;
mod process;
mod report;
mod root;
mod seccomp;
mod spawner;
mod trap;

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use fork::{Birth, Child, Forked, fork};
pub use process::close_inherited;
pub use report::{Layer, Report, State};
pub use root::{Access, Entry};
pub use spawner::{Job, Spawner, spawn};

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs a guest's processor.
    Vcpu,
    /// Waits for events and serves devices.
    EventLoop,
    /// Reads and writes an open disk.
    Disk,
    /// Serves a directory of the host.
    FileSystem,
    /// Opens sockets for a guest.
    Network,
    /// Writes a guest's console.
    Console,
    /// Writes messages.
    Log,
    /// Serves clients, and keeps the files of a sandbox.
    Control,
    /// Starts threads of the other roles.
    Spawner,
}

impl Role {
    /// Those whose threads start late, from a [`Spawner`].
    pub(crate) const LATE: [Role; 4] = [Role::Disk, Role::FileSystem, Role::Network, Role::Log];

    /// All of them.
    pub const ALL: [Role; 9] = [
        Role::Vcpu,
        Role::EventLoop,
        Role::Disk,
        Role::FileSystem,
        Role::Network,
        Role::Console,
        Role::Log,
        Role::Control,
        Role::Spawner,
    ];
}

/// How much is asked for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Every layer, or nothing at all runs.
    Strict,
    /// Every layer that the host allows.
    #[default]
    On,
    /// None: for debugging.
    Off,
}

impl Mode {
    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Strict => "strict",
            Mode::On => "on",
            Mode::Off => "off",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strict" => Ok(Mode::Strict),
            "on" => Ok(Mode::On),
            "off" => Ok(Mode::Off),
            other => Err(format!("'{other}' is none of strict, on, off")),
        }
    }
}

/// A step that did not work.
#[derive(Debug, Clone, Error)]
#[error("cannot {what}: {why}")]
pub struct Failed {
    what: &'static str,
    why: String,
}

impl Failed {
    pub(crate) fn new(what: &'static str, why: impl fmt::Display) -> Self {
        Failed {
            what,
            why: why.to_string(),
        }
    }

    /// With the error of the C library's last call.
    pub(crate) fn last(what: &'static str) -> Self {
        Failed::new(what, io::Error::last_os_error())
    }
}

/// Why the process is not confined.
#[derive(Debug, Error)]
pub enum Error {
    /// A layer is missing, and all were asked for.
    #[error("--confine=strict: no {layer}: {why}: see 'drupe doctor', or use --confine=on")]
    Missing {
        /// The first that is.
        layer: &'static str,
        /// Why.
        why: String,
    },
    /// What never fails on a host that this program runs on.
    #[error("the process cannot be confined: {0}; --confine=off goes without")]
    Failed(#[from] Failed),
}

/// What the process goes on to need.
#[derive(Debug, Default)]
pub struct Plan {
    /// How much is asked for.
    pub mode: Mode,
    /// What of the host's files it may reach by name.
    pub entries: Vec<Entry>,
    /// Links in the empty root: where, and to what.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories that it has open, and names below which it will go on to use; and
    /// single files that it will go on to open by their descriptors. Each descriptor
    /// gets a mount of its own, from which no `..` leads out, and through which
    /// nothing is changed if it is to be read. Of a file, the mount has nothing else.
    pub directories: Vec<(RawFd, Access)>,
    /// The roles of threads that start later, beside [`Role::Log`]. With
    /// [`Role::Network`] these open sockets on the host's network.
    pub late: Vec<Role>,
    /// What it was born into, if it is a child of [`fork`].
    pub birth: Option<Birth>,
    /// Its [`Role::FileSystem`] threads give files to other users, as root.
    pub owners: bool,
    /// Called when a thread is about to be ended for its system call: must be safe
    /// in a signal handler.
    pub cleanup: Option<fn()>,
}

impl Plan {
    /// Threads of it go on to use the host's network.
    pub(crate) fn network(&self) -> bool {
        self.late.contains(&Role::Network)
    }
}

/// A process that is confined.
#[derive(Debug)]
pub struct Confined {
    /// What it is confined by.
    pub report: Report,
    /// Starts its threads; none when it was not to be confined.
    pub spawner: Option<Spawner>,
}

/// Confines this process. To be called while it has one thread; what it has
/// open stays open. Roles are entered afterwards, by each thread for itself.
///
/// # Errors
/// A layer that is missing in [`Mode::Strict`], or a step that never fails.
pub fn enter(plan: &Plan) -> Result<Confined, Error> {
    if plan.mode == Mode::Off {
        return Ok(Confined {
            report: Report::off(),
            spawner: None,
        });
    }
    trap::install(plan.cleanup.unwrap_or(|| ()))?;
    let mut report = Report::default();
    report.note(Layer::Limits, process::limit());
    let privileged = namespaces::enter(plan, &mut report);
    report.note(Layer::NoNewPrivileges, process::no_new_privileges());
    let network = || namespaces::leave_network();
    if !plan.network() {
        report.note(Layer::Network, network());
    }
    process::drop_bounding_set();
    let spawner = Spawner::start(plan.late.clone(), plan.owners && privileged)?;
    if plan.network() {
        report.note(Layer::Network, network());
    }
    report.note(Layer::Capabilities, process::drop_capabilities());
    report.note(Layer::Seccomp, process::has_seccomp());
    if plan.mode == Mode::Strict
        && let Some((layer, why)) = report.first_missing()
    {
        return Err(Error::Missing {
            layer: layer.name(),
            why: why.to_owned(),
        });
    }
    Ok(Confined {
        report,
        spawner: Some(spawner),
    })
}

/// Makes this thread, called `name` in messages, one of `role`: from here on it
/// makes no other system calls, nor do threads that it starts.
///
/// # Errors
/// When the kernel has no filters.
pub fn enter_role(role: Role, name: &str) -> Result<(), Failed> {
    trap::remember_name(name);
    if role != Role::FileSystem {
        process::drop_capabilities()?;
    }
    seccomp::Filter::of(role)?.apply()
}
