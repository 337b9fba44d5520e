//! Attributes, extended attributes, the file system as a whole.

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatVfs, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    XattrFlags, chmodat, chownat, fstatvfs, ftruncate, getxattr, getxattr_query, listxattr,
    removexattr, setxattr, syncfs, utimensat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::abi::{Args, Attr, Out, ROOT, set};
use super::server::{Answer, Done, OK, Server};
use super::tables::{Inode, Open};

/// The largest value of an extended attribute, and the longest list of names
/// (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: usize = 64 << 10;
/// The only extended attributes that pass. Those of `security.` and `trusted.`
/// mean something to the host, and the guest's are none of its business; file
/// capabilities are among them.
const XATTR_PREFIX: &[u8] = b"user.";

/// Permission bits and owner of the directory round a single file.
const TOP: Attr = Attr {
    ino: ROOT,
    size: 0,
    blocks: 0,
    atime: (0, 0),
    mtime: (0, 0),
    ctime: (0, 0),
    mode: libc::S_IFDIR | 0o555,
    nlink: 2,
    uid: 0,
    gid: 0,
    rdev: 0,
    block_size: 4096,
    flags: 0,
};

/// What `SETATTR` asks for.
struct Wanted {
    valid: u32,
    handle: u64,
    size: u64,
    atime: Timespec,
    mtime: Timespec,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Wanted {
    fn parse(mut args: Args<'_>) -> Result<Self, Errno> {
        let valid = args.u32()?;
        args.pad()?;
        let (handle, size) = (args.u64()?, args.u64()?);
        let _lock_owner = args.u64()?;
        let (atime, mtime) = (args.u64()?, args.u64()?);
        let _ctime = args.u64()?;
        let (atime_nsec, mtime_nsec) = (args.u32()?, args.u32()?);
        let _ctime_nsec = args.u32()?;
        let mode = args.u32()?;
        args.pad()?;
        let (uid, gid) = (args.u32()?, args.u32()?);
        let time = |field, now, sec: u64, nsec: u32| {
            match () {
                () if valid & field == 0 => Ok(UTIME_OMIT),
                () if valid & now != 0 => Ok(UTIME_NOW),
                // More would mean one of the two above to the kernel.
                () if nsec >= 1_000_000_000 => Err(Errno::INVAL),
                () => Ok(nsec.into()),
            }
            .map(|tv_nsec| Timespec {
                tv_sec: sec as i64,
                tv_nsec,
            })
        };
        Ok(Wanted {
            valid,
            handle,
            size,
            atime: time(set::ATIME, set::ATIME_NOW, atime, atime_nsec)?,
            mtime: time(set::MTIME, set::MTIME_NOW, mtime, mtime_nsec)?,
            mode,
            uid,
            gid,
        })
    }

    fn has(&self, field: u32) -> bool {
        self.valid & field != 0
    }
}

impl Server {
    /// The host's attributes as the guest sees them.
    pub(super) fn attr(&self, st: &Statx) -> Attr {
        Attr::new(st, self.share.owners.to_guest(st.stx_uid, st.stx_gid))
    }

    pub(super) fn getattr(&self, node: u64) -> Answer {
        let attr = match self.top(node) {
            Some(_) => TOP,
            None => self.attr(&self.nodes.get(node)?.status()?),
        };
        Ok(Out::default().attr_out(&attr, self.share.cache).into())
    }

    pub(super) fn setattr(&self, node: u64, args: Args<'_>) -> Answer {
        let inode = self.inode(node)?;
        let wanted = Wanted::parse(args)?;
        // The descriptor's own link in /proc leads to the file itself, a
        // symbolic link as well.
        let proc = &self.share.proc;
        let path = || DecInt::from_fd(&inode.fd);
        if wanted.has(set::MODE) {
            if inode.kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            let mode = Mode::from_raw_mode(wanted.mode & 0o7777);
            chmodat(proc, path(), mode, AtFlags::empty())?;
        }
        if wanted.has(set::UID | set::GID) {
            let owners = self.share.owners;
            let uid = wanted.has(set::UID).then(|| owners.uid_to_host(wanted.uid));
            let gid = wanted.has(set::GID).then(|| owners.gid_to_host(wanted.gid));
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            chownat(&inode.fd, c"", uid.transpose()?, gid.transpose()?, flags)?;
        }
        if wanted.has(set::SIZE) {
            self.truncate(node, &inode, &wanted)?;
        }
        if wanted.has(set::ATIME | set::MTIME) {
            let times = Timestamps {
                last_access: wanted.atime,
                last_modification: wanted.mtime,
            };
            utimensat(proc, path(), &times, AtFlags::empty())?;
        }
        let attr = self.attr(&inode.status()?);
        Ok(Out::default().attr_out(&attr, self.share.cache).into())
    }

    fn truncate(&self, node: u64, inode: &Inode, wanted: &Wanted) -> Result<(), Errno> {
        let kill = wanted.has(set::KILL_SUIDGID);
        let _kill = self.share.owners.without_set_id(kill)?;
        if wanted.has(set::FH) {
            let open = self.handles.get(wanted.handle, node)?;
            return match &*open {
                Open::File(file) => ftruncate(file, wanted.size),
                _ => Err(Errno::ISDIR),
            };
        }
        if inode.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        let file = self.reopen(inode, OFlags::WRONLY)?;
        ftruncate(&file, wanted.size)
    }

    pub(super) fn statfs(&self, node: u64) -> Answer {
        let st: StatVfs = match self.top(node) {
            Some(single) => fstatvfs(&single.file)?,
            None => fstatvfs(&self.nodes.get(node)?.fd)?,
        };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Out::default()
            .u64(st.f_blocks)
            .u64(st.f_bfree)
            .u64(st.f_bavail)
            .u64(st.f_files)
            .u64(st.f_ffree)
            .u32(small(st.f_bsize))
            .u32(small(st.f_namemax))
            .u32(small(st.f_frsize))
            .zeroes(4 + 24)
            .into())
    }

    /// Makes the host's file system durable, as `sync` in the guest asks for.
    pub(super) fn syncfs(&self, node: u64) -> Answer {
        if !self.share.readonly && self.top(node).is_none() {
            let inode = self.directory(node)?;
            syncfs(self.reopen(&inode, OFlags::RDONLY)?)?;
        }
        OK
    }

    pub(super) fn getxattr(&self, node: u64, mut args: Args<'_>) -> Answer {
        let size = args.u32()? as usize;
        args.pad()?;
        let name = xattr_name(&mut args)?;
        let file = self.xattr_path(node)?.ok_or(Errno::NODATA)?;
        if size == 0 {
            return Ok(xattr_size(getxattr_query(&file.path, name)?));
        }
        let mut value = vec![0; size.min(XATTR_MAX)];
        let len = getxattr(&file.path, name, &mut value)?;
        value.truncate(len);
        Ok(Done::Reply(value))
    }

    pub(super) fn listxattr(&self, node: u64, mut args: Args<'_>) -> Answer {
        let size = args.u32()? as usize;
        let mut names = Vec::new();
        if let Some(file) = self.xattr_path(node)? {
            let mut all = vec![0; XATTR_MAX];
            let len = listxattr(&file.path, &mut all)?;
            let passes = |name: &&[u8]| name.starts_with(XATTR_PREFIX);
            for name in all[..len].split_inclusive(|b| *b == 0).filter(passes) {
                names.extend_from_slice(name);
            }
        }
        match size {
            0 => Ok(xattr_size(names.len())),
            _ if names.len() > size => Err(Errno::RANGE),
            _ => Ok(Done::Reply(names)),
        }
    }

    pub(super) fn setxattr(&self, node: u64, mut args: Args<'_>) -> Answer {
        let (size, flags) = (args.u32()? as usize, args.u32()?);
        let name = xattr_name(&mut args)?;
        let value = args.rest();
        if size > XATTR_MAX {
            return Err(Errno::TOOBIG);
        }
        if size != value.len() {
            return Err(Errno::INVAL);
        }
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let file = self.xattr_path(node)?.ok_or(Errno::PERM)?;
        setxattr(&file.path, name, value, flags)?;
        OK
    }

    pub(super) fn removexattr(&self, node: u64, mut args: Args<'_>) -> Answer {
        let name = xattr_name(&mut args)?;
        let file = self.xattr_path(node)?.ok_or(Errno::PERM)?;
        removexattr(&file.path, name)?;
        OK
    }

    /// A path to the node's descriptor; none for what has no attributes of
    /// [`XATTR_PREFIX`].
    fn xattr_path(&self, node: u64) -> Result<Option<XattrPath>, Errno> {
        if self.top(node).is_some() {
            return Ok(None);
        }
        let inode = self.nodes.get(node)?;
        let has = matches!(inode.kind, FileType::RegularFile | FileType::Directory);
        Ok(has.then(|| XattrPath {
            path: format!("/proc/self/fd/{}", inode.fd.as_raw_fd()),
            _inode: inode,
        }))
    }
}

/// A path by way of a descriptor, which stays open as long as this lives: its
/// number could be another file's otherwise.
struct XattrPath {
    path: String,
    _inode: Arc<Inode>,
}

fn xattr_name<'a>(args: &mut Args<'a>) -> Result<&'a CStr, Errno> {
    let name = args.string()?;
    if !name.to_bytes().starts_with(XATTR_PREFIX) {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(name)
}

fn xattr_size(len: usize) -> Done {
    Out::default().u32(len as u32).u32(0).into()
}
