//! `podman run`, with storage of its own: the user's images and containers are not
//! touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::super::error::{Context, Error, Result};
use super::super::process;
use super::super::work::{PROGRAM, Work};
use super::{Network, Size, Target};

/// The image's name.
const IMAGE: &str = "bench";
/// The network's, which is as the default one, but has addresses of its own: the
/// default's are the user's containers'.
const NETWORK: &str = "bench";
/// The default without root, with this machine's loopback, which is otherwise closed.
const ROOTLESS: &str = "slirp4netns:allow_host_loopback=true";

/// A container for each run.
pub struct Podman {
    program: PathBuf,
    directory: PathBuf,
    /// Whether its network has been made.
    network: bool,
}

impl Podman {
    /// With the workload as its image.
    ///
    /// # Errors
    /// When there is no podman, or it does not work here.
    pub fn new(work: &Work) -> Result<Self> {
        let program = super::need("podman")?;
        let directory = work.path("podman");
        let temporary = directory.join("tmp");
        fs::create_dir_all(&temporary).context(|| temporary.display().to_string())?;
        let podman = Podman {
            program,
            directory,
            network: false,
        };
        let tar = work.tar();
        podman
            .output(&["import", "--quiet", &tar.to_string_lossy(), IMAGE])
            .map_err(|e| Error::Failed(format!("{e}: leave the target out with --targets")))?;
        Ok(podman)
    }

    /// What a command of podman's prints.
    fn output(&self, args: &[&str]) -> Result<String> {
        let output = self.podman().args(args).output();
        let output = output.context(|| "podman".into())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or("it said nothing");
        Err(Error::Failed(format!(
            "podman {}: {}",
            args[0],
            crate::output::one_line(last)
        )))
    }

    fn podman(&self) -> Command {
        let mut command = Command::new(&self.program);
        let path = |name| self.directory.join(name);
        command.arg("--root").arg(path("root"));
        command.arg("--runroot").arg(path("run"));
        command.arg("--tmpdir").arg(path("libpod"));
        command.arg("--network-config-dir").arg(path("networks"));
        // Neither systemd nor its journal is everywhere.
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]);
        command.env("TMPDIR", path("tmp"));
        command
    }
}

impl Target for Podman {
    fn about(&self) -> String {
        let who = if super::is_root() { "" } else { ", rootless" };
        format!(
            "podman run{who}, with its own defaults, without a network unless the suite is about it"
        )
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("podman".to_owned(), super::version(&self.program))])
    }

    fn command(&mut self, args: &[&str], size: Size) -> Result<Command> {
        let mut command = self.podman();
        command.args(["run", "--rm", "--network"]);
        command.arg(match size.network {
            true if super::is_root() => NETWORK,
            true => ROOTLESS,
            false => "none",
        });
        command.args([IMAGE, PROGRAM]).args(args);
        Ok(command)
    }

    fn network(&mut self) -> Result<Network> {
        if !super::is_root() {
            return Ok(Network::user("slirp4netns, with this machine's loopback"));
        }
        if !self.network {
            // From here on it is taken away again.
            self.network = true;
            self.output(&["network", "create", NETWORK])?;
        }
        let text = self.output(&["network", "inspect", NETWORK])?;
        let networks: Value = serde_json::from_str(&text).unwrap_or_default();
        let gateway = networks[0]["subnets"][0]["gateway"].as_str();
        let gateway = gateway
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::Failed("podman network inspect: it names no gateway".into()))?;
        Ok(Network {
            listen: gateway,
            host: gateway,
            about: "a bridge of podman's with default options",
        })
    }

    fn clean(&mut self) {
        process::tidy(
            self.podman()
                .args(["rm", "--force", "--all", "--time", "0"]),
        );
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if self.network {
            process::tidy(self.podman().args(["network", "rm", "--force", NETWORK]));
        }
    }
}
