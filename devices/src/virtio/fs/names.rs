//! Names in directories: looking up, creating, removing, renaming.
//!
//! Each call names one entry of a directory that is open, so nothing between the
//! check and the use can lead elsewhere, whoever renames what meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, linkat, mkdirat, mknodat, openat, readlinkat,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::abi::{ATTR_SUBMOUNT, Args, Attr, Header, Out};
use super::server::{Answer, Done, OK, Server};
use super::share::PATH_FLAGS;
use super::tables::{Inode, Open};

/// What of a mode is permissions.
const PERMISSIONS: u32 = 0o7777;

impl Server {
    pub(super) fn lookup(&self, node: u64, mut args: Args<'_>) -> Answer {
        let (id, attr) = self.find(node, args.name()?)?;
        Ok(Out::default().entry(id, &attr, self.share.cache).into())
    }

    /// Looks up a name; the node's number, counted once more, and attributes.
    pub(super) fn find(&self, node: u64, name: &CStr) -> Result<(u64, Attr), Errno> {
        if let Some(file) = self.top(node) {
            if name != file.name.as_c_str() {
                return Err(Errno::NOENT);
            }
            return self.add(file.found()?, None);
        }
        let dir = self.directory(node)?;
        let fd = openat(&dir.fd, name, PATH_FLAGS, Mode::empty())?;
        self.add(Inode::new(fd)?, Some(&dir))
    }

    /// Makes an inode known to the guest.
    fn add(
        &self,
        (inode, st): (Inode, rustix::fs::Statx),
        parent: Option<&Inode>,
    ) -> Result<(u64, Attr), Errno> {
        let mut attr = self.attr(&st);
        let crosses = parent.is_some_and(|p| !p.key.same_mount(&inode.key));
        if crosses && inode.kind == FileType::Directory {
            attr.flags |= ATTR_SUBMOUNT;
        }
        Ok((self.nodes.add(inode)?, attr))
    }

    pub(super) fn directory(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        let inode = self.inode(node)?;
        match inode.kind {
            FileType::Directory => Ok(inode),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn forget(&self, node: u64, mut args: Args<'_>) -> Answer {
        if let Ok(count) = args.u64() {
            self.nodes.forget(node, count);
        }
        OK
    }

    pub(super) fn batch_forget(&self, mut args: Args<'_>) -> Answer {
        let count = args.u32().unwrap_or(0);
        let _ = args.pad();
        for _ in 0..count {
            let (Ok(node), Ok(lookups)) = (args.u64(), args.u64()) else {
                break;
            };
            self.nodes.forget(node, lookups);
        }
        OK
    }

    pub(super) fn readlink(&self, node: u64) -> Answer {
        let inode = self.inode(node)?;
        if inode.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = readlinkat(&inode.fd, c"", Vec::new())?;
        Ok(Done::Reply(target.into_bytes()))
    }

    pub(super) fn mkdir(&self, header: &Header, mut args: Args<'_>) -> Answer {
        let mode = Mode::from_raw_mode(args.u32()? & PERMISSIONS);
        args.pad()?;
        let name = args.name()?;
        let dir = self.directory(header.node)?;
        let acting = self.share.owners.act_as(header.uid, header.gid)?;
        mkdirat(&dir.fd, name, mode)?;
        drop(acting);
        self.entry(header.node, name)
    }

    pub(super) fn mknod(&self, header: &Header, mut args: Args<'_>) -> Answer {
        let (mode, rdev) = (args.u32()?, args.u32()?);
        args.pad()?;
        args.pad()?;
        let name = args.name()?;
        let kind = match FileType::from_raw_mode(mode) {
            // No type means a regular file, as in mknod(2).
            _ if mode & !PERMISSIONS == 0 => FileType::RegularFile,
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            // A whiteout, which opens no device.
            FileType::CharacterDevice if rdev == 0 => FileType::CharacterDevice,
            // A device's node would be one on the host as well.
            _ => return Err(Errno::PERM),
        };
        let dir = self.directory(header.node)?;
        let acting = self.share.owners.act_as(header.uid, header.gid)?;
        let permissions = Mode::from_raw_mode(mode & PERMISSIONS);
        mknodat(&dir.fd, name, kind, permissions, 0)?;
        drop(acting);
        self.entry(header.node, name)
    }

    pub(super) fn symlink(&self, header: &Header, mut args: Args<'_>) -> Answer {
        let name = args.name()?;
        // Anything: only the guest ever follows it.
        let target = args.string()?;
        let dir = self.directory(header.node)?;
        let acting = self.share.owners.act_as(header.uid, header.gid)?;
        symlinkat(target, &dir.fd, name)?;
        drop(acting);
        self.entry(header.node, name)
    }

    pub(super) fn link(&self, node: u64, mut args: Args<'_>) -> Answer {
        let old = self.inode(args.u64()?)?;
        let name = args.name()?;
        let dir = self.directory(node)?;
        if old.kind == FileType::Directory {
            return Err(Errno::PERM);
        }
        // By its descriptor, which needs no privilege this way. The link that is
        // followed is that of /proc; one in the share is linked as it is.
        let from = DecInt::from_fd(&old.fd);
        let follow = AtFlags::SYMLINK_FOLLOW;
        linkat(&self.share.proc, from, &dir.fd, name, follow)?;
        self.entry(node, name)
    }

    fn entry(&self, node: u64, name: &CStr) -> Answer {
        let (id, attr) = self.find(node, name)?;
        Ok(Out::default().entry(id, &attr, self.share.cache).into())
    }

    pub(super) fn unlink(&self, node: u64, mut args: Args<'_>, dir: bool) -> Answer {
        let name = args.name()?;
        let flags = if dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(&self.directory(node)?.fd, name, flags)?;
        OK
    }

    pub(super) fn rename(&self, node: u64, mut args: Args<'_>, with_flags: bool) -> Answer {
        let to = args.u64()?;
        let mut flags = RenameFlags::empty();
        if with_flags {
            flags = RenameFlags::from_bits(args.u32()?).ok_or(Errno::INVAL)?;
            args.pad()?;
        }
        let (old, new) = (args.name()?, args.name()?);
        let (from, to) = (self.directory(node)?, self.directory(to)?);
        renameat_with(&from.fd, old, &to.fd, new, flags)?;
        OK
    }

    pub(super) fn create(&self, header: &Header, mut args: Args<'_>) -> Answer {
        let (flags, mode) = (args.u32()?, args.u32()?);
        args.pad()?;
        let kill = args.u32()? & super::abi::OPEN_KILL_SUIDGID != 0;
        let name = args.name()?;
        let dir = self.directory(header.node)?;
        let how = super::data::open_flags(flags)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let permissions = Mode::from_raw_mode(mode & PERMISSIONS);
        let acting = self.share.owners.act_as(header.uid, header.gid)?;
        let created = openat(&dir.fd, name, how, permissions);
        drop(acting);
        let (node, attr, handle) = match created {
            Ok(fd) => {
                // The file itself, even if its name is another's by now.
                let path = openat(
                    &self.share.proc,
                    DecInt::from_fd(&fd),
                    OFlags::PATH | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let (node, attr) = self.add(Inode::new(path)?, Some(&dir))?;
                let handle = self.handles.add(node, Open::File(File::from(fd)));
                (node, attr, handle)
            }
            Err(Errno::EXIST) if flags & libc::O_EXCL as u32 == 0 => {
                let (node, attr) = self.find(header.node, name)?;
                (node, attr, self.open_node(node, flags, kill))
            }
            Err(e) => return Err(e),
        };
        match handle {
            Ok(handle) => Ok(Out::default()
                .entry(node, &attr, self.share.cache)
                .open(handle)
                .into()),
            Err(e) => {
                // The guest is not told of the node, so it cannot forget it.
                self.nodes.forget(node, 1);
                Err(e)
            }
        }
    }
}
