//! Contents of regular files: opening, reading, writing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, FileType, Mode, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync,
    openat, seek,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::abi::{Args, FSYNC_FDATASYNC, OPEN_KILL_SUIDGID, Out, WRITE_CACHE, WRITE_KILL_SUIDGID};
use super::server::{Answer, Done, MAX_DATA, OK, Server};
use super::tables::{Inode, Open};
use crate::sys_io;
use crate::virtio::GuestBuffer;

/// The most that one request copies from file to file: a worker is not to be
/// kept for longer. The guest asks for the rest.
const MAX_COPY: u64 = 16 << 20;

/// What of the guest's flags for an open file means something to the host. Not
/// `O_DIRECT`, since the guest's alignment is not the host's; not `O_APPEND`,
/// which each write says for itself; nor `O_NOATIME`, which only owners may ask
/// for.
pub(super) fn open_flags(flags: u32) -> OFlags {
    let passed = OFlags::ACCMODE | OFlags::SYNC | OFlags::DSYNC;
    OFlags::from_bits_retain(flags) & passed
}

/// Whether a file that is opened with these flags can be changed by it.
pub(super) fn writes(flags: u32) -> bool {
    let flags = OFlags::from_bits_retain(flags);
    flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC)
}

impl Server {
    /// Opens what a node stands for. Only regular files and directories: to open
    /// a device or a pipe can have effects on the host. The type cannot have
    /// changed since the look-up, as it is the same inode.
    pub(super) fn reopen(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, Errno> {
        match inode.kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::ACCESS),
        }
        let path = DecInt::from_fd(&inode.fd);
        let flags = flags | OFlags::CLOEXEC;
        openat(&self.share.proc, path, flags, Mode::empty())
    }

    pub(super) fn open(&self, node: u64, mut args: Args<'_>) -> Answer {
        let flags = args.u32()?;
        let kill = args.u32()? & OPEN_KILL_SUIDGID != 0;
        let handle = self.open_node(node, flags, kill)?;
        Ok(Out::default().open(handle).into())
    }

    /// Opens a regular file; the handle's number.
    pub(super) fn open_node(&self, node: u64, flags: u32, kill: bool) -> Result<u64, Errno> {
        let inode = self.inode(node)?;
        if inode.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        let truncates = OFlags::from_bits_retain(flags) & OFlags::TRUNC;
        let _kill = self.share.owners.without_set_id(kill)?;
        let file = self.reopen(&inode, open_flags(flags) | truncates)?;
        self.handles.add(node, Open::File(File::from(file)))
    }

    /// An open regular file, for as long as the result lives.
    fn file(&self, handle: u64, node: u64) -> Result<OpenFile, Errno> {
        let open = self.handles.get(handle, node)?;
        match &*open {
            Open::File(_) => Ok(OpenFile(open)),
            _ => Err(Errno::ISDIR),
        }
    }

    /// Reads straight into the guest's memory. Fewer bytes than asked for mean
    /// the end of the file.
    pub(super) fn read(&self, node: u64, mut args: Args<'_>, room: &mut GuestBuffer<'_>) -> Answer {
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let open = self.file(handle, node)?;
        let into = room.split_to(size.min(MAX_DATA) as usize);
        let len = sys_io::read_some_at(open.file()?, into, offset).map_err(errno)?;
        Ok(Done::Data(len))
    }

    /// Writes straight from the guest's memory.
    pub(super) fn write(
        &self,
        node: u64,
        mut args: Args<'_>,
        mut payload: GuestBuffer<'_>,
    ) -> Answer {
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let kind = args.u32()?;
        let _lock_owner = args.u64()?;
        let flags = OFlags::from_bits_retain(args.u32()?);
        if size > MAX_DATA || payload.len() < size as usize {
            return Err(Errno::INVAL);
        }
        let open = self.file(handle, node)?;
        let kill = kind & WRITE_KILL_SUIDGID != 0;
        let _kill = self.share.owners.without_set_id(kill)?;
        // At the end of the file as the host sees it now, since others may have
        // written; but where the guest says, when the data is from its cache.
        let append = flags.contains(OFlags::APPEND) && kind & WRITE_CACHE == 0;
        let from = payload.split_to(size as usize);
        let len = sys_io::write_some_at(open.file()?, from, offset, append).map_err(errno)?;
        Ok(Out::default().u32(len as u32).u32(0).into())
    }

    pub(super) fn release(&self, node: u64, mut args: Args<'_>) -> Answer {
        self.handles.remove(args.u64()?, node)?;
        OK
    }

    pub(super) fn fsync(&self, node: u64, mut args: Args<'_>) -> Answer {
        let (handle, flags) = (args.u64()?, args.u32()?);
        let data_only = flags & FSYNC_FDATASYNC != 0;
        match &*self.handles.get(handle, node)? {
            Open::File(file) if data_only => fdatasync(file)?,
            Open::File(file) => fsync(file)?,
            // Not under the lock: it may take long.
            Open::Dir(dir) => {
                let dir = dir.lock().map_err(|_| Errno::IO)?.try_clone();
                fsync(dir.map_err(errno)?)?;
            }
            Open::Top => {}
        }
        OK
    }

    pub(super) fn fallocate(&self, node: u64, mut args: Args<'_>) -> Answer {
        let (handle, offset, len) = (args.u64()?, args.u64()?, args.u64()?);
        let mode = FallocateFlags::from_bits(args.u32()?).ok_or(Errno::OPNOTSUPP)?;
        if len > self.max_space {
            return Err(Errno::NOSPC);
        }
        let open = self.file(handle, node)?;
        fallocate(open.file()?, mode, offset, len)?;
        OK
    }

    /// Finds data and holes: the other positions are the guest's affair.
    pub(super) fn lseek(&self, node: u64, mut args: Args<'_>) -> Answer {
        let (handle, offset, whence) = (args.u64()?, args.u64()?, args.u32()?);
        let to = match whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let at = seek(self.file(handle, node)?.file()?, to)?;
        Ok(Out::default().u64(at).into())
    }

    pub(super) fn copy_file_range(&self, node: u64, mut args: Args<'_>) -> Answer {
        let (handle, mut from_at) = (args.u64()?, args.u64()?);
        let (to_node, to_handle) = (args.u64()?, args.u64()?);
        let (mut to_at, len) = (args.u64()?, args.u64()?);
        if args.u64()? != 0 {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.file(handle, node)?, self.file(to_handle, to_node)?);
        let _kill = self.share.owners.without_set_id(true)?;
        let len = usize::try_from(len.min(MAX_COPY).min(self.max_space)).unwrap_or(usize::MAX);
        let (from, to) = (from.file()?, to.file()?);
        let copied = copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len)?;
        // It went through no queue.
        self.throttle.add(copied as u64);
        Ok(Out::default().u32(copied as u32).u32(0).into())
    }
}

/// A handle that is known to be of a regular file.
struct OpenFile(Arc<Open>);

impl OpenFile {
    fn file(&self) -> Result<&File, Errno> {
        match &*self.0 {
            Open::File(file) => Ok(file),
            _ => Err(Errno::ISDIR),
        }
    }
}

pub(super) fn errno(e: io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(match e.kind() {
        io::ErrorKind::InvalidInput => Errno::INVAL,
        _ => Errno::IO,
    })
}
