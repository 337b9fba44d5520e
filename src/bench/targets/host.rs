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
    image: bool,
}

/// An image's programs need its root as theirs, and devices and processes in it,
/// which go with the last of them.
const IN_ROOT: &str =
    r#"mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@""#;

impl Host {
    /// With the root file system as its directory.
    pub fn new(work: &Work) -> Self {
        Host {
            root: work.tree(),
            image: work.is_image(),
        }
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
        if self.image {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private"]);
            command.args(["/bin/sh", "-c", IN_ROOT]).arg(&self.root);
            command.arg(PROGRAM).args(args);
            return Ok(command);
        }
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
