//! Mounting, by descriptors: where something is mounted has been resolved
//! before, and nobody can put a link there meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::boot::STAGE;
use crate::error::{Context, Error, Result, describe};
use crate::sys;

/// Bytes of what the kernel says about a mount that failed.
const MAX_LOG: usize = 512;

/// `nosuid`, `nodev` and `noexec`.
pub const RESTRICTED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// Read-only.
pub const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// A file system, not yet mounted anywhere.
pub struct FileSystem<'a> {
    kind: &'a str,
    /// Names, and values where they have one.
    options: Vec<(&'a str, Option<String>)>,
    attributes: MountAttrFlags,
}

impl<'a> FileSystem<'a> {
    /// Of this type, as `tmpfs`.
    pub fn new(kind: &'a str) -> Self {
        FileSystem {
            kind,
            options: Vec::new(),
            attributes: MountAttrFlags::empty(),
        }
    }

    /// Guest memory, `size` bytes at most.
    pub fn tmpfs(size: u64, mode: u32) -> Self {
        Self::new("tmpfs")
            .option("size", size.to_string())
            .option("mode", format!("{mode:o}"))
    }

    /// An option, or the `source`.
    pub fn option(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.options.push((name, Some(value.into())));
        self
    }

    /// An option without a value.
    pub fn flag(mut self, name: &'a str) -> Self {
        self.options.push((name, None));
        self
    }

    /// Attributes of the mount.
    pub fn attributes(mut self, attributes: MountAttrFlags) -> Self {
        self.attributes |= attributes;
        self
    }

    /// Neither it nor its mount can be written to.
    pub fn read_only(self, yes: bool) -> Self {
        match yes {
            true => self.flag("ro").attributes(READ_ONLY),
            false => self,
        }
    }

    /// The mount, not attached anywhere.
    ///
    /// # Errors
    /// What the kernel says, with its own words where it has some.
    pub fn mount(&self) -> Result<OwnedFd> {
        let what = || {
            let source = self.options.iter().find(|(name, _)| *name == "source");
            match source {
                Some((_, Some(source))) => format!("{} on {source}", self.kind),
                _ => self.kind.to_owned(),
            }
        };
        let context = rustix::mount::fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .context(|| format!("mount {}", what()))?;
        self.configure(&context)
            .map_err(|e| failed(&what(), e, &context))
    }

    fn configure(&self, context: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
        for (name, value) in &self.options {
            match value {
                Some(value) => {
                    rustix::mount::fsconfig_set_string(context, *name, value.as_str())?;
                }
                None => rustix::mount::fsconfig_set_flag(context, *name)?,
            }
        }
        rustix::mount::fsconfig_create(context)?;
        rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)
    }

    /// Mounts it at `target`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount_at(&self, target: impl AsFd) -> Result<()> {
        let mount = self.mount()?;
        attach(&mount, target).context(|| format!("mount {}", self.kind))
    }

    /// Mounts it at a path of the agent's own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount_on(&self, path: &str) -> Result<()> {
        let mount = self.mount()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", CWD, path, flags)
            .context(|| format!("mount {} on {path}", self.kind))
    }
}

/// Attaches a mount where `target` is.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: &OwnedFd, target: impl AsFd) -> std::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// What is at `source`, a file or a directory, as a mount of its own, attached
/// nowhere.
///
/// # Errors
/// The kernel's.
pub fn clone(source: impl AsFd, attributes: MountAttrFlags) -> std::result::Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(source, "", flags)?;
    if !attributes.is_empty() {
        sys::mount_setattr(mount.as_fd(), attributes, false)?;
    }
    Ok(mount)
}

/// A mount that is attached where only the agent sees it, until this is dropped:
/// a part of a mount can be cloned from an attached one only. What was cloned
/// stays. Its descriptor is that of the mount's top directory.
pub struct Staged(OwnedFd);

impl Staged {
    /// Attaches it. One at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(mount: &OwnedFd) -> Result<Self> {
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            attach(mount, rustix::fs::open(STAGE, flags, Mode::empty())?)?;
            rustix::fs::open(STAGE, flags, Mode::empty())
        };
        open().map(Staged).context(|| format!("mount on {STAGE}"))
    }
}

impl AsFd for Staged {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        detach(Path::new(STAGE));
    }
}

/// Takes away what is mounted at a path of the agent's own, and all below it.
/// What is in use goes when it is not any longer.
pub fn detach(path: &Path) {
    // Not mounted is as good.
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
}

/// The error, with what the kernel left in the context's log.
fn failed(what: &str, errno: Errno, context: &OwnedFd) -> Error {
    let mut log = [0; MAX_LOG];
    let said = match rustix::io::read(context, &mut log[..]) {
        // "e " for an error, "w " for a warning, and the name of the type.
        Ok(n) => String::from_utf8_lossy(&log[..n])
            .trim()
            .trim_start_matches("e ")
            .to_owned(),
        Err(_) => String::new(),
    };
    match said.is_empty() {
        true => Error::System {
            what: format!("mount {what}"),
            source: errno,
        },
        false => Error::request(format!("mount {what}: {} ({said})", describe(errno))),
    }
}
