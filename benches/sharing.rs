//! What a second sandbox of an image costs: on the disk, in the host's page
//! cache, and in memory of its own, each before and after it has read the whole
//! image.
//!
//! Runs where a KVM can run Linux (`make bench` sees to it). Bytes, not times.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common;

use common::{disk_bytes, mib, output, verdict};

const IMAGE: &str = "sharing";
/// A file that fills most of the image, in bytes.
const FILE: usize = 64 << 20;
/// What a sandbox's state may take on the disk, in bytes.
const BUDGET_DISK: u64 = 1 << 20;

fn main() -> io::Result<()> {
    let Some(stage) = common::stage() else {
        println!("sharing: left out: `make bench` prepares it and says where it can run");
        return Ok(());
    };
    let bench = Bench {
        program: stage.join("bin/drupe"),
        home: stage.join("sharing-home"),
        kernels: stage.join("kernels"),
    };
    let tar = image(&stage)?;
    output(bench.command(&["import"]).arg(&tar).arg(IMAGE))?;
    fs::remove_file(&tar)?;
    let store = disk_bytes(&bench.home)?;
    println!("sharing: the image takes {:.1} MiB on the disk", mib(store));

    let mut before = store;
    let mut kept = true;
    for name in ["first", "second"] {
        bench.start(name)?;
        let disk = disk_bytes(&bench.home)?;
        let idle = bench.memory(name)?;
        output(&mut bench.command(&["exec", name, "cat", "/data"]))?;
        let read = bench.memory(name)?;
        let added = disk.saturating_sub(before);
        println!(
            "sharing: the {name} sandbox adds {:.2} MiB on the disk; it has {idle}, and {read} after it has read the whole image",
            mib(added)
        );
        kept &= added < BUDGET_DISK && idle.layers == 0 && read.layers == 0;
        kept &= idle.rest() < FILE as u64;
        before = disk;
    }
    println!(
        "sharing: no copy of the image on the disk or in the monitor's memory: {}",
        verdict(kept)
    );
    for name in ["first", "second"] {
        output(&mut bench.command(&["rm", "-f", name]))?;
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    home: PathBuf,
    kernels: PathBuf,
}

/// What a monitor has in memory, in bytes: the proportional set sizes of
/// `/proc/PID/smaps`.
struct Memory {
    guest: u64,
    layers: u64,
    other: u64,
}

impl Memory {
    fn rest(&self) -> u64 {
        self.guest + self.other
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} MiB of guest memory, {:.1} MiB of layers mapped and {:.1} MiB of other memory",
            mib(self.guest),
            mib(self.layers),
            mib(self.other)
        )
    }
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command.env("DRUPE_HOME", &self.home);
        command.env("DRUPE_KERNELS", &self.kernels);
        command
    }

    fn start(&self, name: &str) -> io::Result<()> {
        let args = ["run", "-d", "--network", "none", "--name", name];
        let sleep = [IMAGE, "sleep", "1000000"];
        output(self.command(&args).args(sleep)).map(drop)
    }

    fn memory(&self, name: &str) -> io::Result<Memory> {
        let text = output(&mut self.command(&["inspect", name]))?;
        let parsed: serde_json::Value = serde_json::from_str(&text)?;
        let pid = &parsed[0]["State"]["Pid"];
        let pid = pid.as_u64().ok_or_else(|| io::Error::other(text.clone()))?;
        let mut memory = Memory {
            guest: 0,
            layers: 0,
            other: 0,
        };
        let mut mapping = String::new();
        for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if let Some(kib) = line.strip_prefix("Pss:") {
                let kib = kib.trim().trim_end_matches(" kB").parse::<u64>();
                let part = match &mapping {
                    head if common::is_guest_memory(head) => &mut memory.guest,
                    name if name.contains("/layers/") => &mut memory.layers,
                    _ => &mut memory.other,
                };
                *part += kib.unwrap_or(0) * 1024;
            } else if first.contains('-') && !first.ends_with(':') {
                mapping = line.to_owned();
            }
        }
        Ok(memory)
    }
}

fn image(stage: &Path) -> io::Result<PathBuf> {
    let root = stage.join("sharing-root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(stage.join("bin/busybox"), root.join("bin/busybox"))?;
    for applet in ["cat", "sleep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    // No two blocks alike, and none empty.
    let mut block = 0u64;
    let bytes: Vec<u8> = (0..FILE / 8)
        .flat_map(|_| {
            block = block
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            block.to_le_bytes()
        })
        .collect();
    fs::write(root.join("data"), bytes)?;
    let tar = stage.join("sharing.tar");
    let mut command = Command::new("tar");
    command.args(["--owner=0", "--group=0", "-cf"]).arg(&tar);
    output(command.arg("-C").arg(&root).arg("."))?;
    fs::remove_dir_all(&root)?;
    Ok(tar)
}
