//! A process of this machine's kernel.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use super::super::error::Result;
use super::super::work::{PROGRAM, Work};
use super::{Network, Size, Target};

/// The workload as it is, in its directory.
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// With the root file system as its directory.
    pub fn new(work: &Work) -> Self {
        Host { root: work.tree() }
    }
}

impl Target for Host {
    fn about(&self) -> String {
        format!(
            "a process of this machine, as {}",
            if super::is_root() {
                "root"
            } else {
                "an ordinary user"
            }
        )
    }

    fn command(&mut self, args: &[&str], _: Size) -> Result<Command> {
        let mut command = Command::new(self.root.join(&PROGRAM[1..]));
        command.args(args).current_dir(&self.root);
        Ok(command)
    }

    fn network(&mut self) -> Result<Network> {
        Ok(Network {
            listen: Ipv4Addr::LOCALHOST,
            host: Ipv4Addr::LOCALHOST,
            about: "the loopback interface",
        })
    }
}
