//! QEMU's `microvm` with the kernel that drupe runs, and the workload in an
//! initramfs: without an image, an agent or a life cycle, it is a lower bound.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::super::error::{Context, Error, Result};
use super::super::process::Ended;
use super::super::work::{self, PROGRAM, Work};
use super::{Network, Size, Target};
use crate::{initramfs, kernels};

/// What the workload says last, before the status.
const STATUS: &str = "workload-status ";
/// Has the kernel set up its card (`nfsroot.rst`), as QEMU's network expects it.
const ADDRESS: &str = "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off";

/// A machine for each run.
pub struct Qemu {
    program: PathBuf,
    kernel: kernels::Kernel,
    initrd: PathBuf,
}

impl Qemu {
    /// With the workload as the initramfs.
    ///
    /// # Errors
    /// When there is no QEMU, or no kernel.
    pub fn new(work: &Work) -> Result<Self> {
        let program = super::find("qemu-system-x86_64").ok_or_else(|| {
            Error::Failed(
                "qemu-system-x86_64 is not installed: install the package qemu-system-x86".into(),
            )
        })?;
        let kernel = kernels::choose(None).map_err(|e| Error::Failed(e.to_string()))?;
        if kernel.modules().is_some() {
            return Err(Error::Failed(format!(
                "kernel {} needs modules to boot: get one that does not with 'drupe kernel build'",
                kernel.name
            )));
        }
        let initrd = work.path("initrd");
        let entries = work::entries()?;
        let files = entries.iter().map(|e| (e.path.as_str(), e.data.as_deref()));
        fs::write(&initrd, initramfs::of(files)).context(|| initrd.display().to_string())?;
        Ok(Qemu {
            program,
            kernel,
            initrd,
        })
    }
}

impl Target for Qemu {
    fn about(&self) -> String {
        format!(
            "QEMU microvm, kernel {}, the workload as its first process, console on a serial port",
            self.kernel.name
        )
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("qemu".to_owned(), super::version(&self.program)),
            ("guest kernel".to_owned(), self.kernel.version.clone()),
        ])
    }

    fn command(&mut self, args: &[&str], size: Size) -> Result<Command> {
        if size.disk {
            return Err(Error::Failed(
                "it has no disk here: its root is in memory".into(),
            ));
        }
        let network = match size.network {
            true => ADDRESS,
            false => "",
        };
        let append = format!(
            "console=ttyS0 quiet panic=-1 reboot=t {network} rdinit={PROGRAM} -- init {}",
            args.join(" ")
        );
        let mut command = Command::new(&self.program);
        command.args(["-M", "microvm,accel=kvm", "-cpu", "host"]);
        command.arg("-m").arg(format!("{}M", size.memory_mib));
        command.arg("-smp").arg(size.cpus.to_string());
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-serial", "stdio", "-no-reboot", "-append", &append]);
        if size.network {
            command.args(["-netdev", "user,id=net"]);
            command.args(["-device", "virtio-net-device,netdev=net"]);
        }
        command.arg("-kernel").arg(&self.kernel.path);
        command.arg("-initrd").arg(&self.initrd);
        Ok(command)
    }

    fn network(&mut self) -> Result<Network> {
        Ok(Network::user("QEMU's network in user space (libslirp)"))
    }

    fn ended(&self, ended: Ended) -> Result<Ended> {
        let ended = ended.success()?;
        let status = ended
            .output
            .lines()
            .find_map(|line| line.strip_prefix(STATUS));
        match status.map(str::trim) {
            Some("0") => Ok(ended),
            Some(status) => Err(Error::Failed(format!("the workload's status is {status}"))),
            None => Err(Error::Failed(format!(
                "the machine ended without the workload: {}",
                crate::output::one_line(ended.output.lines().last().unwrap_or("no output"))
            ))),
        }
    }
}
