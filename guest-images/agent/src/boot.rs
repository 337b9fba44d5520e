//! From the kernel's first program to an agent that can be asked.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::Mode;

use crate::error::{Context, Result};
use crate::mounts::{FileSystem, RESTRICTED};

/// The modules that the initramfs carries, in the order to load them.
const MODULES: &str = "/modules";
/// Its list: one file name a line.
const ORDER: &str = "order";
/// `MODULE_INIT_COMPRESSED_FILE`, from `linux/module.h`: the kernel unpacks it.
const COMPRESSED: i32 = 4;

/// The agent's own directory: mount points that no workload sees.
pub const RUN: &str = "/run";
/// The agent's view of the sandbox's root.
pub const ROOT: &str = "/run/root";
/// Where the layers are mounted while the root is put together.
pub const LAYERS: &str = "/run/layers";
/// Where the writable layer is mounted meanwhile.
pub const SCRATCH: &str = "/run/scratch";
/// Where a share or a volume is mounted meanwhile.
pub const STAGE: &str = "/run/stage";
/// The cgroup hierarchy.
pub const CGROUP: &str = "/run/cgroup";

/// Mounts what the agent itself works with, and loads the modules.
///
/// # Errors
/// A kernel without one of these file systems.
pub fn prepare() -> Result<()> {
    // Modes are meant as they are given.
    rustix::process::umask(Mode::empty());
    for path in [
        "/proc", "/sys", "/dev", RUN, ROOT, LAYERS, SCRATCH, STAGE, CGROUP,
    ] {
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.context(|| format!("make {path}"))?,
        }
    }
    FileSystem::new("proc")
        .attributes(RESTRICTED)
        .mount_on("/proc")?;
    FileSystem::new("sysfs")
        .attributes(RESTRICTED)
        .mount_on("/sys")?;
    FileSystem::new("devtmpfs").mount_on("/dev")?;
    load_modules(Path::new(MODULES));
    Ok(())
}

/// Loads what the list names. A module that cannot be loaded is reported: what
/// it was for will fail and say so, or is not needed.
fn load_modules(directory: &Path) {
    let Ok(order) = fs::read_to_string(directory.join(ORDER)) else {
        return;
    };
    for name in order.lines().filter(|name| !name.is_empty()) {
        let path = directory.join(name);
        if let Err(e) = load(&path) {
            eprintln!("drupe agent: module {name}: {e}");
        }
        // The initramfs is guest memory.
        let _ = fs::remove_file(&path);
    }
}

fn load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = match path.extension().is_some_and(|end| end == "ko") {
        true => 0,
        false => COMPRESSED,
    };
    match rustix::system::finit_module(&file, c"", flags) {
        // It is there: built in, or loaded as another name.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}
