//! A container of crun's or runc's, with nothing else in between.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::super::error::{Context, Error, Result};
use super::super::process;
use super::super::work::{PROGRAM, Work};
use super::veth::Veth;
use super::{Network, Size, Target, bundle, seccomp};

/// A container for each run.
pub struct Container {
    program: PathBuf,
    runtime: &'static str,
    root: PathBuf,
    bundles: PathBuf,
    /// Where the runtime keeps what it knows of its containers.
    state: PathBuf,
    seccomp: Option<Value>,
    user: Option<(u32, u32)>,
    veth: Option<Veth>,
    /// Those that have been made and not taken away.
    names: Vec<String>,
    made: u32,
}

impl Container {
    /// With the runtime that is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(work: &Work) -> Result<Self> {
        let found = ["crun", "runc"]
            .iter()
            .find_map(|name| Some((*name, super::find(name)?)));
        let (runtime, program) = found.ok_or_else(|| {
            Error::Failed(
                "neither crun nor runc is installed: install one of these packages, or leave the target out with --targets".into(),
            )
        })?;
        let user = (!super::is_root()).then(|| {
            use rustix::process::{getegid, geteuid};
            (geteuid().as_raw(), getegid().as_raw())
        });
        Ok(Container {
            program,
            runtime,
            root: work.tree(),
            bundles: work.path("bundles"),
            state: work.path("runtime"),
            seccomp: seccomp::filter(&bundle::capabilities()),
            user,
            veth: None,
            names: Vec::new(),
            made: 0,
        })
    }

    fn runtime(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state);
        command
    }
}

impl Target for Container {
    fn about(&self) -> String {
        format!(
            "{}{}, with docker's capabilities and masked paths, {}, in namespaces of its own (pid, network, ipc, uts, mount, {})",
            self.runtime,
            if self.user.is_some() {
                ", rootless"
            } else {
                ""
            },
            match self.seccomp {
                Some(_) => "its filter of system calls",
                None =>
                    "without a filter of system calls (install golang-github-containers-common)",
            },
            if self.user.is_some() {
                "user"
            } else {
                "cgroup"
            },
        )
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(self.runtime.to_owned(), super::version(&self.program))])
    }

    fn command(&mut self, args: &[&str], size: Size) -> Result<Command> {
        self.made += 1;
        let name = format!("drupe-bench-{}-{}", std::process::id(), self.made);
        let directory = self.bundles.join(&name);
        let args: Vec<_> = [PROGRAM].iter().chain(args).copied().collect();
        let namespace = match &self.veth {
            Some(veth) if size.network => Some(veth.namespace()),
            _ => None,
        };
        let network = match &namespace {
            Some(path) => bundle::Network::In(path),
            None => bundle::Network::Own,
        };
        let config = bundle::config(&self.root, &args, self.user, self.seccomp.as_ref(), network);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("config.json"), config.to_string()))
            .context(|| directory.display().to_string())?;
        let mut command = self.runtime();
        command.args(["run", "--bundle"]).arg(directory).arg(&name);
        self.names.push(name);
        Ok(command)
    }

    fn network(&mut self) -> Result<Network> {
        if self.user.is_some() {
            return Err(Error::Failed(
                "a container has no network without root: run as root".into(),
            ));
        }
        let veth = match &mut self.veth {
            Some(veth) => veth,
            none => none.insert(Veth::new()?),
        };
        Ok(Network {
            listen: veth.host(),
            host: veth.host(),
            about: "a pair of virtual Ethernet interfaces (veth), no bridge",
        })
    }

    fn clean(&mut self) {
        for name in std::mem::take(&mut self.names) {
            if self.state.join(&name).exists() {
                process::tidy(self.runtime().args(["delete", "--force", &name]));
            }
            remove_cgroups(&name);
            let _ = fs::remove_dir_all(self.bundles.join(&name));
        }
    }
}

/// Removes the control groups of a container whose runtime was killed before it
/// had noted that there is one. They are empty: whoever was in them is dead.
fn remove_cgroups(name: &str) {
    const ROOT: &str = "/sys/fs/cgroup";
    // Of version 2, and of each controller of version 1.
    let below = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let controllers = below.map(|entry| entry.path().join(name));
    for group in controllers.chain([PathBuf::from(ROOT).join(name)]) {
        if group.is_dir()
            && let Err(e) = fs::remove_dir(&group)
        {
            log::warn!("{}: {e}: remove it by hand", group.display());
        }
    }
}
