//! podman, with everything of its own in one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// podman as it comes, save where its files are.
pub struct Podman {
    program: PathBuf,
    dir: PathBuf,
}

impl Podman {
    /// With its storage in a new directory.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn new(program: &Path, dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir.join("tmp"))?;
        Ok(Podman {
            program: program.to_owned(),
            dir: dir.to_owned(),
        })
    }

    /// It, with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.dir.join("root"));
        command.arg("--runroot").arg(self.dir.join("run"));
        command.arg("--tmpdir").arg(self.dir.join("libpod"));
        // Neither systemd nor its journal is everywhere.
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]);
        command.env("TMPDIR", self.dir.join("tmp"));
        command.args(args);
        command
    }
}
