//! `drupe run`, by this very program, with a home of its own: neither the user's
//! images nor their sandboxes are touched.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::{ContainerConfig, Import, Input, Store};

use super::super::error::{Context, Error, Result};
use super::super::process;
use super::super::work::{PROGRAM, Work};
use super::{Network, Size, Target};
use crate::kernels;

/// The image's name.
const IMAGE: &str = "bench";

/// The disk of a root that is to be on one.
const DISK: &str = "1G";

/// drupe with a home in the run's directory.
pub struct Drupe {
    program: PathBuf,
    home: PathBuf,
    kernel: kernels::Kernel,
}

impl Drupe {
    /// With an image of this tar in its store.
    ///
    /// # Errors
    /// When there is no kernel, or no KVM.
    pub fn new(home: &Path, tar: &Path) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string());
        fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .map_err(|e| Error::Failed(format!("/dev/kvm: {e}: 'drupe doctor' tells more")))?;
        let kernel = kernels::choose(None).map_err(|e| failed(&e))?;
        let name = IMAGE.parse().map_err(|e| failed(&e))?;
        let store = Store::open(&home.join("images")).map_err(|e| failed(&e))?;
        let import = Import {
            from: &Input::Path(tar.to_owned()),
            name: Some(&name),
            config: ContainerConfig::default(),
            message: None,
            platform: None,
        };
        store.import(&import, &|_| {}).map_err(|e| failed(&e))?;
        Ok(Drupe {
            program: env::current_exe().context(|| "this program".into())?,
            home: home.to_owned(),
            kernel,
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("DRUPE_HOME", &self.home);
        command
    }

    /// A run of this command of the image, with these further options.
    pub fn run(&self, options: &[&str], size: Size, args: &[&str]) -> Command {
        let memory = format!("{}M", size.memory_mib);
        let cpus = size.cpus.to_string();
        let mut command = self.command(&["run", "--rm", "--network"]);
        command.arg(match size.network {
            true => "user,host-loopback",
            false => "none",
        });
        command.args(["--memory", &memory, "--cpus", &cpus]);
        command.arg("--kernel").arg(&self.kernel.path);
        if size.disk {
            command.args(["--disk-size", DISK]);
        }
        command.args(options).arg(IMAGE).args(args);
        command
    }

    /// What the guest's kernel is called.
    pub fn kernel(&self) -> &str {
        &self.kernel.name
    }

    /// Its version, and the kernel's.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let drupe = format!("drupe {}", env!("CARGO_PKG_VERSION"));
        BTreeMap::from([
            ("drupe".to_owned(), drupe),
            ("guest kernel".to_owned(), self.kernel.version.clone()),
        ])
    }

    /// Removes every sandbox, and its control group.
    pub fn clean(&self) {
        let sandboxes = fs::read_dir(self.home.join("sandboxes"));
        for entry in sandboxes.into_iter().flatten().flatten() {
            let id = entry.file_name();
            process::tidy(&mut self.command(&["rm", "--force", &id.to_string_lossy()]));
        }
        // What would have removed a sandbox's control group was killed with it.
        let groups = fs::read_dir(self.home.join("cgroups"));
        if groups.is_ok_and(|mut groups| groups.next().is_some()) {
            process::tidy(&mut self.command(&["ps"]));
        }
    }
}

/// A machine for each run.
pub struct Vm(Drupe);

impl Vm {
    /// With the workload as its image.
    ///
    /// # Errors
    /// As of [`Drupe::new`].
    pub fn new(work: &Work) -> Result<Self> {
        Ok(Vm(Drupe::new(&work.path("vm"), &work.tar())?))
    }
}

impl Target for Vm {
    fn about(&self) -> String {
        format!(
            "drupe run of an image of the workload, kernel {}, without a network unless the suite is about it",
            self.0.kernel()
        )
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.0.versions()
    }

    fn command(&mut self, args: &[&str], size: Size) -> Result<Command> {
        let args: Vec<_> = [PROGRAM].iter().chain(args).copied().collect();
        Ok(self.0.run(&[], size, &args))
    }

    fn network(&mut self) -> Result<Network> {
        Ok(Network::user(
            "drupe's default network, a TCP/IP stack in the monitor",
        ))
    }

    fn clean(&mut self) {
        self.0.clean();
    }
}
