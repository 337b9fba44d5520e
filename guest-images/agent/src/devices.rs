//! `/dev` as a container expects it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::error::{Context, Result};
use crate::mounts::{self, FileSystem, RESTRICTED};

/// The size of `/dev` itself, in bytes: it holds nodes.
const DEV_SIZE: u64 = 64 << 10;
/// The group of terminals, `tty`, in every distribution.
const TTY_GROUP: u32 = 5;

/// Name, major and minor number; everybody may read and write them.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts `/dev` and what belongs below it; the file system of the terminals.
///
/// # Errors
/// The kernel's.
pub fn mount(target: impl AsFd, shm_size: u64, privileged: bool) -> Result<OwnedFd> {
    let dev = match privileged {
        // All that the kernel has, also later on.
        true => FileSystem::new("devtmpfs"),
        false => FileSystem::tmpfs(DEV_SIZE, 0o755),
    }
    .attributes(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME)
    .mount()?;
    mounts::attach(&dev, target).context(|| "mount /dev".into())?;
    if !privileged {
        for (name, major, minor) in NODES {
            let device = fs::makedev(major, minor);
            let mode = Mode::from_raw_mode(0o666);
            fs::mknodat(&dev, name, FileType::CharacterDevice, mode, device)
                .context(|| format!("make /dev/{name}"))?;
        }
    }
    for (name, target) in LINKS {
        let made = match fs::symlinkat(target, &dev, name) {
            // A real ptmx of devtmpfs leads to other terminals than the sandbox's.
            Err(Errno::EXIST) if name == "ptmx" => fs::unlinkat(&dev, name, fs::AtFlags::empty())
                .and_then(|()| fs::symlinkat(target, &dev, name)),
            Err(Errno::EXIST) => Ok(()),
            made => made,
        };
        made.context(|| format!("make /dev/{name}"))?;
    }
    let no_dev = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let terminals = FileSystem::new("devpts")
        .option("ptmxmode", "0666")
        .option("mode", "0620")
        .option("gid", TTY_GROUP.to_string())
        .attributes(no_dev)
        .mount()?;
    mounts::attach(&terminals, directory(&dev, "pts")?).context(|| "mount /dev/pts".into())?;
    FileSystem::tmpfs(shm_size, 0o1777)
        .attributes(RESTRICTED)
        .mount_at(directory(&dev, "shm")?)?;
    FileSystem::new("mqueue")
        .attributes(RESTRICTED)
        .mount_at(directory(&dev, "mqueue")?)?;
    Ok(terminals)
}

/// Makes sure that there is a file to mount the main process's terminal on.
pub fn make_console(root: &crate::resolve::Root) -> Result<()> {
    root.make("/dev/console".as_ref(), crate::resolve::Leaf::File)
        .map(drop)
        .context(|| "make /dev/console".into())
}

/// The agent's own `/dev/null`.
///
/// # Errors
/// The kernel's.
pub fn null() -> Result<OwnedFd> {
    fs::openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| "open /dev/null".into())
}

fn directory(dev: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let make = || {
        match fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(dev, name, flags, Mode::empty())
    };
    make().context(|| format!("make /dev/{name}"))
}
