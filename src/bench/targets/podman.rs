//! `podman run`, with storage of its own: the user's images and containers are not
//! touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::super::error::{Context, Error, Result};
use super::super::process;
use super::super::work::{PROGRAM, Work};
use super::{Size, Target};

/// The image's name.
const IMAGE: &str = "bench";

/// A container for each run.
pub struct Podman {
    program: PathBuf,
    directory: PathBuf,
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
        let podman = Podman { program, directory };
        let output = podman
            .podman()
            .args(["import", "--quiet"])
            .arg(work.tar())
            .arg(IMAGE)
            .output()
            .context(|| "podman".into())?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or("it said nothing");
            return Err(Error::Failed(format!(
                "podman import: {}: leave the target out with --targets",
                crate::output::one_line(last)
            )));
        }
        Ok(podman)
    }

    fn podman(&self) -> Command {
        let mut command = Command::new(&self.program);
        let path = |name| self.directory.join(name);
        command.arg("--root").arg(path("root"));
        command.arg("--runroot").arg(path("run"));
        command.arg("--tmpdir").arg(path("libpod"));
        // Neither systemd nor its journal is everywhere.
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]);
        command.env("TMPDIR", path("tmp"));
        command
    }
}

impl Target for Podman {
    fn about(&self) -> String {
        let who = if super::is_root() { "" } else { ", rootless" };
        format!("podman run{who}, without a network, with its own defaults")
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("podman".to_owned(), super::version(&self.program))])
    }

    fn command(&mut self, args: &[&str], _: Size) -> Result<Command> {
        let mut command = self.podman();
        command.args(["run", "--rm", "--network", "none", IMAGE, PROGRAM]);
        command.args(args);
        Ok(command)
    }

    fn clean(&mut self) {
        process::tidy(
            self.podman()
                .args(["rm", "--force", "--all", "--time", "0"]),
        );
    }
}
