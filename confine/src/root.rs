//! A root directory with nothing in it but what the process goes on to need.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::{Failed, Plan};

/// Where the new root is put until it is the root: there on every host, and not
/// needed any more.
const PLACE: &str = "/proc";
/// What the new root may hold, in bytes: directories and links.
const SIZE: &str = "256k";

/// What may be done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Also write it, and below a directory make and remove files.
    Write,
}

/// A file or a directory of the host's that stays where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its absolute path.
    pub path: PathBuf,
    /// For what.
    pub access: Access,
    /// It may be missing.
    pub optional: bool,
}

impl Entry {
    /// One that is written.
    pub fn write(path: impl Into<PathBuf>) -> Self {
        Entry {
            path: path.into(),
            access: Access::Write,
            optional: false,
        }
    }

    /// One that is read.
    pub fn read(path: impl Into<PathBuf>) -> Self {
        Entry {
            access: Access::Read,
            ..Entry::write(path)
        }
    }

    /// The same, where it exists.
    pub fn if_there(self) -> Self {
        Entry {
            optional: true,
            ..self
        }
    }
}

/// A part of the host's files, open.
#[derive(Debug)]
pub struct Part {
    /// By which rules are made.
    pub fd: OwnedFd,
    /// For what.
    pub access: Access,
}

/// Opens the entries as they stand, for rules where there are no mounts.
pub fn hold(plan: &Plan) -> Vec<Part> {
    let open = |entry: &Entry| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = openat(CWD, &entry.path, flags, Mode::empty()).ok()?;
        Some(Part {
            fd,
            access: entry.access,
        })
    };
    plan.entries.iter().filter_map(open).collect()
}

/// Makes the new root, and enters it: in a mount namespace of one's own.
pub fn enter(plan: &Plan) -> Result<Vec<Part>, Failed> {
    let failed = |what| move |e: Errno| Failed::new(what, e);
    // What the host mounts and unmounts later still happens here, so that nothing
    // is kept busy; what happens here stays here.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(failed("leave the host's mounts"))?;
    // One that has been removed is left behind.
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let mut parts = Vec::new();
    for entry in &plan.entries {
        // Before anything is mounted.
        if below(&entry.path).map_or(true, |path| path.as_os_str().is_empty()) {
            let why = format!(
                "{} is the host's root, or has '..' in it: give a directory of its own",
                entry.path.display()
            );
            return Err(Failed::new("take a file along", why));
        }
        match clone(CWD, &entry.path, entry.access) {
            Ok(fd) => parts.push((entry, fd)),
            Err(Errno::NOENT) if entry.optional => {}
            Err(e) => {
                let why = format!("{}: {e}", entry.path.display());
                return Err(Failed::new("take a file along", why));
            }
        }
    }
    for (fd, access) in &plan.directories {
        isolate(*fd, *access)?;
    }
    let new = tmpfs().map_err(failed("make an empty root"))?;
    move_mount(
        &new,
        "",
        CWD,
        PLACE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(failed("mount an empty root"))?;
    for (entry, fd) in &parts {
        place(&new, entry, fd).map_err(failed("fill the empty root"))?;
    }
    for (at, target) in &plan.links {
        link(&new, at, target).map_err(failed("fill the empty root"))?;
    }
    make_directories(&new, &cwd).map_err(failed("fill the empty root"))?;
    set_attributes(new.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)
        .map_err(failed("make the empty root read-only"))?;
    fchdir(&new).map_err(failed("enter the empty root"))?;
    pivot_root(".", ".").map_err(failed("enter the empty root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the host's root"))?;
    chdir("/").map_err(failed("enter the empty root"))?;
    chdir(&cwd).map_err(failed("go back to the working directory"))?;
    Ok(parts
        .into_iter()
        .map(|(entry, fd)| Part {
            fd,
            access: entry.access,
        })
        .collect())
}

/// A mount of its own, in no place yet, of what is at a path.
fn clone(dir: BorrowedFd<'_>, path: &Path, access: Access) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let fd = open_tree(dir, path, flags)?;
    harden(&fd, access)?;
    Ok(fd)
}

/// No mount gives programs privileges, or devices away; and what is to be read
/// cannot be written to through it.
fn harden(mount: &OwnedFd, access: Access) -> Result<(), Errno> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if access == Access::Read {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    set_attributes(mount.as_fd(), attributes, true)
}

/// Puts a mount of its own behind a descriptor of a directory or a single file: what
/// is above it, or beside it, cannot be reached through it any more.
fn isolate(fd: RawFd, access: Access) -> Result<(), Failed> {
    let link = format!("/proc/self/fd/{fd}");
    let failed = |e: Errno| Failed::new("take along what is open", e);
    let path = rustix::fs::readlink(&link, Vec::new()).map_err(failed)?;
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let new = open_tree(CWD, path, flags).map_err(failed)?;
    harden(&new, access).map_err(failed)?;
    // SAFETY: whoever made the plan has the descriptor open until this is over.
    let old = unsafe { BorrowedFd::borrow_raw(fd) };
    let key = |fd: BorrowedFd<'_>| fstat(fd).map(|s| (s.st_dev, s.st_ino));
    if key(old).map_err(failed)? != key(new.as_fd()).map_err(failed)? {
        return Err(Failed::new(
            "take along what is open",
            format!("{} has been moved or replaced just now", path.display()),
        ));
    }
    // SAFETY: plain system call; the number stays with its owner, and what it
    // stands for is the same directory.
    match unsafe { libc::dup3(new.as_raw_fd(), fd, libc::O_CLOEXEC) } {
        -1 => Err(Failed::last("take along what is open")),
        _ => Ok(()),
    }
}

/// An empty file system in memory.
fn tmpfs() -> Result<OwnedFd, Errno> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "size", SIZE)?;
    fsconfig_set_string(&fs, "mode", "0755")?;
    fsconfig_create(&fs)?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// Mounts a part in the new root, where it was in the old one.
fn place(root: &OwnedFd, entry: &Entry, part: &OwnedFd) -> Result<(), Errno> {
    let path = below(&entry.path)?;
    let is_dir = FileType::from_raw_mode(fstat(part)?.st_mode) == FileType::Directory;
    if is_dir {
        make_directories(root, &entry.path)?;
    } else {
        if let Some(parent) = entry.path.parent() {
            make_directories(root, parent)?;
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(root, path, flags, Mode::from_raw_mode(0o400))?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(part, "", root, path, flags)
}

/// Makes a link in the new root.
fn link(root: &OwnedFd, at: &Path, target: &Path) -> Result<(), Errno> {
    if let Some(parent) = at.parent() {
        make_directories(root, parent)?;
    }
    symlinkat(target, root, below(at)?)
}

/// Makes a directory in the new root, and those above it that are not there.
fn make_directories(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let path = below(path)?;
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let make = || match mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    };
    match (make(), path.parent()) {
        // Most of them have a parent in common.
        (Err(Errno::NOENT), Some(parent)) => {
            make_directories(root, &Path::new("/").join(parent))?;
            make()
        }
        (result, _) => result,
    }
}

/// An absolute path without `..`, relative to a root.
fn below(path: &Path) -> Result<&Path, Errno> {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match path.strip_prefix("/") {
        Ok(path) if plain => Ok(path),
        _ => Err(Errno::INVAL),
    }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user: u64,
}

/// Sets attributes of a mount, and of those below it.
fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    below: bool,
) -> Result<(), Errno> {
    let wanted = MountAttributes {
        set: attributes.bits().into(),
        clear: 0,
        propagation: 0,
        user: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string, and the structure has the size that
    // is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<MountAttributes>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(below(Path::new("/a/b")).unwrap(), Path::new("a/b"));
        for path in ["a", "/a/../b", "../a", ""] {
            assert!(below(Path::new(path)).is_err(), "{path}");
        }
    }
}
