//! Where workloads run: one module for each target. A target makes a command of
//! what the workload is to do; the command's output and status are the workload's,
//! and what it has left behind when it was killed is the target's to take away.

mod bundle;
mod container;
mod host;
mod nested;
mod podman;
mod qemu;
mod seccomp;
mod veth;
mod vm;

use std::collections::BTreeMap;
use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use super::error::{Error, Result};
use super::process::Ended;
use super::work::Work;

/// The name of a target on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// A process.
    Host,
    /// A container of crun's or runc's.
    Container,
    /// `drupe run`.
    Vm,
    /// A container of crun's in `drupe run`.
    #[value(name = "vm+container")]
    VmContainer,
    /// QEMU's microvm.
    Qemu,
    /// `podman run`.
    Podman,
}

impl Name {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Name::Host => "host",
            Name::Container => "container",
            Name::Vm => "vm",
            Name::VmContainer => "vm+container",
            Name::Qemu => "qemu",
            Name::Podman => "podman",
        }
    }
}

/// How large a machine is; what has no machine of its own takes what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Its root file system is on a disk, where it would be in memory.
    pub disk: bool,
    /// It reaches this machine as [`Target::network`] says.
    pub network: bool,
}

impl Size {
    /// What `drupe run` gives when nothing is said, without a network.
    pub const DEFAULT: Size = Size {
        cpus: 1,
        memory_mib: 512,
        disk: false,
        network: false,
    };
}

/// The way from a target to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address of this machine to listen on.
    pub listen: Ipv4Addr,
    /// What that is called inside.
    pub host: Ipv4Addr,
    /// What it is made of, in a line.
    pub about: &'static str,
}

impl Network {
    /// By a network in user space, as drupe, QEMU and slirp4netns have it: its
    /// gateway stands for this machine.
    const fn user(about: &'static str) -> Self {
        Network {
            listen: Ipv4Addr::LOCALHOST,
            host: Ipv4Addr::new(10, 0, 2, 2),
            about,
        }
    }
}

/// Where workloads run.
pub trait Target {
    /// What it is made of here, in a line.
    fn about(&self) -> String;

    /// The versions of its programs, by their names.
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// What runs the workload with these arguments, beside others that run.
    ///
    /// # Errors
    /// When its files cannot be written.
    fn command(&mut self, args: &[&str], size: Size) -> Result<Command>;

    /// Makes the network of those that run with [`Size::network`], which stays for
    /// as long as the target does.
    ///
    /// # Errors
    /// Why there is none.
    fn network(&mut self) -> Result<Network>;

    /// The run that ended so, if it ended well.
    ///
    /// # Errors
    /// When it did not.
    fn ended(&self, ended: Ended) -> Result<Ended> {
        ended.success()
    }

    /// Takes away what runs have left that were killed.
    fn clean(&mut self) {}
}

/// Makes a target ready.
///
/// # Errors
/// Why it is left out, with the remedy.
pub fn make(name: Name, work: &Work) -> Result<Box<dyn Target>> {
    Ok(match name {
        Name::Host => Box::new(host::Host::new(work)),
        Name::Container => Box::new(container::Container::new(work)?),
        Name::Vm => Box::new(vm::Vm::new(work)?),
        Name::VmContainer => Box::new(nested::Nested::new(work)?),
        Name::Qemu => Box::new(qemu::Qemu::new(work)?),
        Name::Podman => Box::new(podman::Podman::new(work)?),
    })
}

/// A program, where programs are looked for.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // An ordinary user's has these not always.
    let further = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(further)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// # Errors
/// That there is none, and where it comes from.
fn need(name: &str) -> Result<PathBuf> {
    find(name).ok_or_else(|| {
        Error::Failed(format!(
            "{name} is not installed: install the package {name}, or leave the target out with --targets"
        ))
    })
}

/// The first line that a program prints about its version.
pub fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    crate::output::one_line(text.lines().next().unwrap_or("unknown"))
}

/// Whether this process may do everything.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
