//! What is mounted over the root: shares of the host, volumes, guest memory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use protocol::{DiskMount, Mount, MountSource};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::archive::{self, Owner};
use crate::disks::Disks;
use crate::error::{Context, Error, Result, describe};
use crate::mounts::{self, FileSystem, READ_ONLY, RESTRICTED, Staged};
use crate::resolve::{Leaf, Root, type_of};
use crate::sys;

/// Is in a volume as long as it is being populated: a volume that has it was
/// never used, and is populated anew.
const POPULATING: &str = ".drupe-populating";
/// What `mkfs.ext4` leaves in an empty file system.
const LOST_AND_FOUND: &str = "lost+found";
/// Permissions of a tmpfs when none are given, as Docker has them.
const TMPFS_MODE: u32 = 0o1777;
/// Permission bits, with set-user-ID and its like.
const MAX_MODE: u32 = 0o7777;

/// Mounts it at its target, which is made where it is missing.
///
/// # Errors
/// A tag or a serial that the guest has not, or what the kernel says.
pub fn mount(root: &Root, mount: &Mount, disks: &Disks) -> Result<()> {
    let attributes = match mount.read_only {
        true => READ_ONLY,
        false => MountAttrFlags::empty(),
    };
    match &mount.source {
        MountSource::Share { tag, file: None } => {
            let share = share(tag)?.attributes(attributes).mount()?;
            place(root, &mount.target, Leaf::Directory, &share)
        }
        MountSource::Share {
            tag,
            file: Some(file),
        } => {
            let whole = share(tag)?.mount()?;
            let file = single(&whole, file, attributes)?;
            let leaf = match type_at(&file)? {
                FileType::Directory => Leaf::Directory,
                _ => Leaf::File,
            };
            place(root, &mount.target, leaf, &file)
        }
        MountSource::Disk(disk) => mount_disk(root, mount, disk, disks),
        MountSource::Tmpfs { size, top } => {
            let mode = top.mode.unwrap_or(TMPFS_MODE) & MAX_MODE;
            // Zero is no limit but the kernel's: half of the memory for none.
            let mut tmpfs = match size {
                Some(size) => FileSystem::tmpfs(*size, mode),
                None => FileSystem::new("tmpfs").option("mode", format!("{mode:o}")),
            };
            for (name, id) in [("uid", top.uid), ("gid", top.gid)] {
                if let Some(id) = id {
                    tmpfs = tmpfs.option(name, id.to_string());
                }
            }
            let mut restricted = RESTRICTED;
            restricted.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !top.exec);
            restricted.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !top.suid);
            restricted.set(MountAttrFlags::MOUNT_ATTR_NODEV, !top.dev);
            let tmpfs = tmpfs
                .attributes(restricted)
                .attributes(attributes)
                .mount()?;
            place(root, &mount.target, Leaf::Directory, &tmpfs)
        }
    }
}

fn place(root: &Root, target: &Path, leaf: Leaf, mount: &OwnedFd) -> Result<()> {
    let target = root.make(target, leaf).context(|| "make it".into())?;
    mounts::attach(mount, target).context(|| "mount it".into())
}

fn share(tag: &str) -> Result<FileSystem<'static>> {
    match tag.is_empty() || tag.contains('\0') {
        true => Err(Error::request("a share needs a tag")),
        false => Ok(FileSystem::new("virtiofs").option("source", tag)),
    }
}

/// One file of a share as a mount of its own. The rest of the share stays
/// mounted nowhere.
fn single(share: &OwnedFd, file: &str, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let staged = Staged::new(share)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mount = rustix::fs::openat2(&staged, file, flags, Mode::empty(), resolve)
        .and_then(|file| mounts::clone(file, attributes));
    mount.context(|| format!("{file} of the share"))
}

fn mount_disk(root: &Root, mount: &Mount, disk: &DiskMount, disks: &Disks) -> Result<()> {
    let device = disks.device(&disk.serial)?;
    let ext4 = || FileSystem::new("ext4").option("source", device.as_str());
    // For a read-only mount a writable file system as well if the disk allows
    // it: its journal may have to be played back.
    let volume = match ext4().mount() {
        Err(_) if mount.read_only => ext4().read_only(true).mount()?,
        volume => volume?,
    };
    let target = root
        .make(&mount.target, Leaf::Directory)
        .context(|| "make it".into())?;
    if disk.populate {
        populate(root, &mount.target, &volume)?;
    }
    if mount.read_only {
        sys::mount_setattr(volume.as_fd(), READ_ONLY, false)
            .context(|| "make it read-only".into())?;
    }
    mounts::attach(&volume, target).context(|| "mount it".into())
}

/// Copies what the image has at `source` to a volume that was never used.
fn populate(root: &Root, source: &Path, volume: &OwnedFd) -> Result<()> {
    let kernel = |e: Errno| Error::request(format!("populate the volume: {}", describe(e)));
    let top = Root::from(volume.try_clone().context(|| "open the volume".into())?);
    let names = names_in(&top).map_err(kernel)?;
    if names.iter().any(|name| name == POPULATING) {
        for name in names.iter().filter(|name| *name != POPULATING) {
            archive::remove_all(&top, Path::new(name)).map_err(kernel)?;
        }
    } else if names.iter().any(|name| name != LOST_AND_FOUND) {
        return Ok(());
    } else {
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(&top, POPULATING, mode).map_err(kernel)?;
    }
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(kernel)?;
    thread::scope(|threads| {
        let packing =
            threads.spawn(|| archive::pack(root, source, true, ".".as_ref(), File::from(to)));
        let options = archive::Unpack {
            owner: Owner::Archive,
            top: true,
        };
        let unpacked = archive::unpack(&top, Path::new("/"), File::from(from), options);
        // When unpacking stops, packing does: the pipe has no reader.
        let packed = packing
            .join()
            .unwrap_or_else(|_| Err(Error::request("packing failed")));
        unpacked.and(packed)
    })?;
    // The volume counts as used when all of it is on the disk.
    let done = || {
        rustix::fs::syncfs(volume_file(&top)?)?;
        rustix::fs::unlinkat(&top, POPULATING, AtFlags::REMOVEDIR)
    };
    done().map_err(kernel)
}

fn volume_file(top: &Root) -> std::result::Result<OwnedFd, Errno> {
    top.get(
        Path::new("/"),
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
}

fn names_in(top: &Root) -> std::result::Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(volume_file(top)?)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn type_at(fd: &OwnedFd) -> Result<FileType> {
    rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)
        .map(|stat| type_of(&stat))
        .context(|| "look at it".into())
}
