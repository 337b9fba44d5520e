//! FUSE messages (Linux `include/uapi/linux/fuse.h`, protocol 7.38): numbers,
//! and how arguments are taken apart and answers put together. Integers are in
//! the guest's byte order, which is little-endian.

use std::ffi::CStr;

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

/// The protocol's major version.
pub const MAJOR: u32 = 7;
/// The minor version that this device speaks.
pub const MINOR: u32 = 38;
/// The oldest that it accepts: virtio-fs came with it.
pub const MIN_MINOR: u32 = 31;

/// Size of `fuse_in_header`.
pub const IN_HEADER: usize = 40;
/// Size of `fuse_out_header`.
pub const OUT_HEADER: usize = 16;
/// Size of `fuse_write_in`.
pub const WRITE_IN: usize = 40;
/// Size of `fuse_entry_out`.
pub const ENTRY_OUT: usize = 128;
/// Size of `fuse_dirent` without its name.
pub const DIRENT: usize = 24;
/// The node that every other is found from (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;
/// The longest name in a directory (`FUSE_NAME_MAX` is larger; hosts' is not).
pub const NAME_MAX: usize = 255;

/// Operations.
#[allow(missing_docs, reason = "the names are the protocol's")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
}

/// Abilities that `INIT` agrees upon.
pub mod init_flag {
    /// Reads of one file side by side.
    pub const ASYNC_READ: u32 = 1 << 0;
    /// `O_TRUNC` comes with `OPEN`.
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    /// Writes of more than a page.
    pub const BIG_WRITES: u32 = 1 << 5;
    /// Cached data is dropped when size or time of change differ.
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    /// `READDIRPLUS` is known,
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    /// and used where the guest thinks it pays off.
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    /// Direct I/O side by side.
    pub const ASYNC_DIO: u32 = 1 << 15;
    /// Look-ups in one directory side by side.
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    /// `max_pages` of the answer is valid.
    pub const MAX_PAGES: u32 = 1 << 22;
    /// Mounts within the share get device numbers of their own.
    pub const SUBMOUNTS: u32 = 1 << 27;
    /// The device clears set-user-ID and set-group-ID bits when told to.
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
    /// The request has `flags2`.
    pub const INIT_EXT: u32 = 1 << 30;
    /// What this device can do.
    pub const OFFERED: u32 = ASYNC_READ
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | PARALLEL_DIROPS
        | MAX_PAGES
        | SUBMOUNTS
        | HANDLE_KILLPRIV_V2
        | INIT_EXT;
}

/// Which fields of `SETATTR` count.
pub mod set {
    /// Permission bits.
    pub const MODE: u32 = 1 << 0;
    /// Owner.
    pub const UID: u32 = 1 << 1;
    /// Group.
    pub const GID: u32 = 1 << 2;
    /// Length.
    pub const SIZE: u32 = 1 << 3;
    /// Time of the last access.
    pub const ATIME: u32 = 1 << 4;
    /// Time of the last change of contents.
    pub const MTIME: u32 = 1 << 5;
    /// The handle is valid.
    pub const FH: u32 = 1 << 6;
    /// The access was now.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// The change was now.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// Clear the set-user-ID and set-group-ID bits.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_OPEN_KILL_SUIDGID`.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_WRITE_CACHE`: written from the page cache, the offset is right.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID`.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_FSYNC_FDATASYNC`.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `FUSE_ATTR_SUBMOUNT`.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;

/// `fuse_in_header`, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Length of the request in bytes, this header included.
    pub len: u32,
    /// What is asked for.
    pub opcode: u32,
    /// What the answer repeats.
    pub unique: u64,
    /// The node that it is about.
    pub node: u64,
    /// Who asks.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: &[u8; IN_HEADER]) -> Result<Self, Errno> {
        let mut args = Args::new(bytes);
        Ok(Header {
            len: args.u32()?,
            opcode: args.u32()?,
            unique: args.u64()?,
            node: args.u64()?,
            uid: args.u32()?,
            gid: args.u32()?,
        })
    }
}

/// The arguments of a request: a private copy, taken from the front. What is
/// missing or malformed is `EINVAL`.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Args(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    /// Leaves out 32 bits.
    pub fn pad(&mut self) -> Result<(), Errno> {
        self.u32().map(drop)
    }

    /// The next string, up to its NUL.
    pub fn string(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[text.count_bytes() + 1..];
        Ok(text)
    }

    /// The next string as a name in a directory: one component, and neither `.`
    /// nor `..`. This is what keeps a guest inside the share, so every name
    /// comes through here.
    pub fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// An answer's bytes, without the header.
#[derive(Debug, Default)]
pub struct Out(Vec<u8>);

impl Out {
    /// Adds 16 bits.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds 32 bits.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds 64 bits.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds so many zeroes.
    pub fn zeroes(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Adds these bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Adds `fuse_attr`.
    pub fn attr(self, attr: &Attr) -> Self {
        self.u64(attr.ino)
            .u64(attr.size)
            .u64(attr.blocks)
            .u64(attr.atime.0 as u64)
            .u64(attr.mtime.0 as u64)
            .u64(attr.ctime.0 as u64)
            .u32(attr.atime.1)
            .u32(attr.mtime.1)
            .u32(attr.ctime.1)
            .u32(attr.mode)
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(attr.rdev)
            .u32(attr.block_size)
            .u32(attr.flags)
    }

    /// Adds `fuse_attr_out`: attributes that may be used for `valid` seconds.
    pub fn attr_out(self, attr: &Attr, valid: u64) -> Self {
        self.u64(valid).zeroes(8).attr(attr)
    }

    /// Adds `fuse_entry_out`: a name and attributes that may be used for `valid`
    /// seconds. No number is ever given to another file, so all are of
    /// generation 0.
    pub fn entry(self, node: u64, attr: &Attr, valid: u64) -> Self {
        let generation = 0;
        self.u64(node)
            .u64(generation)
            .u64(valid)
            .u64(valid)
            .zeroes(8)
            .attr(attr)
    }

    /// Adds `fuse_open_out`.
    pub fn open(self, handle: u64) -> Self {
        self.u64(handle).zeroes(8)
    }

    /// Adds `fuse_dirent`.
    pub fn dirent(self, entry: &Dirent<'_>) -> Self {
        let name = entry.name.to_bytes();
        self.u64(entry.ino)
            .u64(entry.next)
            .u32(name.len() as u32)
            .u32(entry.kind.as_raw_mode() >> 12)
            .bytes(name)
            .zeroes(name.len().next_multiple_of(8) - name.len())
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// An entry of a directory.
#[derive(Debug)]
pub struct Dirent<'a> {
    /// Number of the file.
    pub ino: u64,
    /// Where the entry behind this one is found.
    pub next: u64,
    /// What it is.
    pub kind: FileType,
    /// Its name.
    pub name: &'a CStr,
}

impl Dirent<'_> {
    /// Bytes that [`Out::dirent`] adds.
    pub fn size(&self) -> usize {
        DIRENT + self.name.count_bytes().next_multiple_of(8)
    }
}

/// A file's attributes as the guest sees them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attr {
    /// Number of the file.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks: u64,
    /// Seconds and nanoseconds of the last access,
    pub atime: (i64, u32),
    /// of the last change of contents,
    pub mtime: (i64, u32),
    /// and of the last change of attributes.
    pub ctime: (i64, u32),
    /// Type and permissions.
    pub mode: u32,
    /// Names that it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Preferred size of I/O.
    pub block_size: u32,
    /// [`ATTR_SUBMOUNT`].
    pub flags: u32,
}

impl Attr {
    /// The host's attributes, with the owner as the guest sees it.
    pub fn new(st: &Statx, (uid, gid): (u32, u32)) -> Self {
        let (major, minor) = (st.stx_rdev_major, st.stx_rdev_minor);
        Attr {
            ino: st.stx_ino,
            size: st.stx_size,
            blocks: st.stx_blocks,
            atime: (st.stx_atime.tv_sec, st.stx_atime.tv_nsec),
            mtime: (st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec),
            ctime: (st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec),
            mode: st.stx_mode.into(),
            nlink: st.stx_nlink,
            uid,
            gid,
            rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            block_size: st.stx_blksize,
            flags: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_component() {
        let name = |bytes: &'static [u8]| Args::new(bytes).name().map(CStr::to_bytes);
        assert_eq!(name(b"a\0"), Ok(&b"a"[..]));
        assert_eq!(name(b"...\0rest"), Ok(&b"..."[..]));
        for bad in [
            &b""[..],
            b"\0",
            b".\0",
            b"..\0",
            b"/\0",
            b"a/b\0",
            b"../a\0",
            b"a/\0",
            b"no end",
        ] {
            assert_eq!(name(bad), Err(Errno::INVAL), "{bad:?}");
        }
        let long = [b'x'; NAME_MAX + 1];
        let mut bytes = long.to_vec();
        bytes.push(0);
        assert_eq!(Args::new(&bytes).name(), Err(Errno::NAMETOOLONG));
        assert!(Args::new(&bytes[1..]).name().is_ok());
    }

    #[test]
    fn arguments_end_where_the_bytes_do() {
        let mut args = Args::new(&[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'x', 0, 9]);
        assert_eq!((args.u32(), args.u64()), (Ok(1), Ok(2)));
        assert_eq!(args.string().unwrap(), c"x");
        assert_eq!(args.u32(), Err(Errno::INVAL));
        assert_eq!(args.rest(), [9]);
    }

    #[test]
    fn answers_have_the_protocols_sizes() {
        let attr = Attr::default();
        assert_eq!(Out::default().attr(&attr).len(), 88);
        assert_eq!(Out::default().attr_out(&attr, 1).len(), 104);
        assert_eq!(Out::default().entry(7, &attr, 1).len(), ENTRY_OUT);
        assert_eq!(Out::default().open(7).len(), 16);
        for name in [c"a", c"12345678", c"123456789"] {
            let entry = Dirent {
                ino: 1,
                next: 2,
                kind: FileType::Directory,
                name,
            };
            let bytes = Out::default().dirent(&entry).into_bytes();
            assert_eq!(bytes.len(), entry.size());
            assert!(bytes.len().is_multiple_of(8));
            assert_eq!(bytes[20], 4, "DT_DIR");
        }
    }
}
