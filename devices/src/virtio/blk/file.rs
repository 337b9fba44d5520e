//! A raw image file or a block device as a disk.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use thiserror::Error;

use super::SECTOR_SIZE;
use super::backend::DiskBackend;
use crate::sys_io;
use crate::virtio::GuestBuffer;

/// What a file system frees space in: the page, and nearly always the block.
const FILE_GRANULARITY: u32 = 4096;

/// Zeroes written in one call where the host can do no better.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Why a disk cannot be used.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Nothing is at the path.
    #[error("disk '{}': no such file; check the path, or create it with 'truncate -s SIZE'", .0.display())]
    Missing(PathBuf),
    /// The caller may not read it.
    #[error("disk '{}': permission denied; change its owner or mode so that you may read it", .0.display())]
    NotReadable(PathBuf),
    /// The caller may read it but not write it, or it is read-only as such.
    #[error("disk '{}' is not writable for you; change its owner or mode, or add 'readonly'", .0.display())]
    NotWritable(PathBuf),
    /// A directory, a pipe or another thing that holds no blocks.
    #[error("disk '{}' is a {kind}; give a raw image file or a block device", .path.display())]
    NotADisk {
        /// The disk.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file without contents.
    #[error("disk '{}' is empty; give it a size with 'truncate -s SIZE'", .0.display())]
    Empty(PathBuf),
    /// Less than one sector.
    #[error("disk '{}' has {size} bytes, less than one sector of 512; is it a disk image?", .path.display())]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The lock is taken.
    #[error("disk '{}' is in use by another VM, or given twice to this one; stop that VM, or give the disk to both with 'readonly'", .0.display())]
    InUse(PathBuf),
    /// The host uses the block device itself.
    #[error("disk '{}' is mounted or otherwise in use on this host; unmount it, or add 'readonly'", .0.display())]
    Mounted(PathBuf),
    /// Anything else that the host refuses.
    #[error("disk '{}': cannot {what}: {source}", .path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// An open file or block device. Reads and writes go through the host's page
/// cache; the lock is held until this is dropped.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: u64,
    block_size: u32,
    block_device: bool,
    discard_granularity: Option<u32>,
    /// The error number of the first flush that failed. Linux reports a lost
    /// write once and then forgets it, so no later flush may succeed. Held during a
    /// flush: another queue's must not succeed before this one has noted its error.
    lost_writes: Mutex<Option<i32>>,
}

impl FileDisk {
    /// Opens and locks a disk: exclusively, or shared when `readonly`.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(path: &Path, readonly: bool) -> Result<Self, DiskError> {
        let io = |what| {
            let path = path.to_owned();
            move |source| DiskError::Io { path, what, source }
        };
        // Looked at before it is opened, since to open a device or a pipe can
        // have effects; and again after, since it may have been exchanged.
        let metadata = path
            .metadata()
            .map_err(|e| open_error(path, readonly, e, "find it"))?;
        check_kind(path, metadata.file_type())?;
        // For a block device, without O_CREAT: not while it is mounted, swapped
        // to, or part of another device (open(2)).
        let exclusive = match metadata.file_type().is_block_device() && !readonly {
            true => libc::O_EXCL,
            false => 0,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!readonly)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | exclusive)
            .open(path)
            .map_err(|e| open_error(path, readonly, e, "open it"))?;
        let kind = file.metadata().map_err(io("examine it"))?.file_type();
        check_kind(path, kind)?;
        match sys_io::try_lock(&file, !readonly) {
            Ok(true) => {}
            Ok(false) => return Err(DiskError::InUse(path.to_owned())),
            // Some network file systems have no locks: the disk is worth more
            // than the protection.
            Err(e) => log::warn!(
                "disk '{}' cannot be locked ({e}); make sure that no other VM uses it",
                path.display()
            ),
        }
        // The end is the size for files and block devices alike.
        let size = (&file)
            .seek(SeekFrom::End(0))
            .map_err(io("find its size"))?;
        if size < SECTOR_SIZE {
            let path = path.to_owned();
            return Err(match size {
                0 => DiskError::Empty(path),
                _ => DiskError::TooSmall { path, size },
            });
        }
        if !size.is_multiple_of(SECTOR_SIZE) {
            log::warn!(
                "disk '{}' has {size} bytes: the guest does not see the last {}, a part of a sector of {SECTOR_SIZE}",
                path.display(),
                size % SECTOR_SIZE
            );
        }
        let mut disk = FileDisk {
            file,
            size,
            block_size: SECTOR_SIZE as u32,
            block_device: kind.is_block_device(),
            discard_granularity: None,
            lost_writes: Mutex::new(None),
        };
        if disk.block_device {
            disk.block_size =
                sys_io::logical_block_size(&disk.file).map_err(io("find its block size"))?;
            if !readonly && sys_io::is_read_only(&disk.file).map_err(io("examine it"))? {
                return Err(DiskError::NotWritable(path.to_owned()));
            }
        }
        if !readonly {
            disk.discard_granularity = disk.probe_discard();
        }
        Ok(disk)
    }

    /// Whether space can be freed: asks for a hole past the end, where there is
    /// nothing to lose. A block device is not asked; if it cannot, a discard
    /// does nothing.
    fn probe_discard(&self) -> Option<u32> {
        if self.block_device {
            return Some(self.block_size);
        }
        let page = u64::from(FILE_GRANULARITY);
        let past_end = self.size.checked_next_multiple_of(page)?;
        self.punch_hole(past_end, page).ok()?;
        Some(FILE_GRANULARITY)
    }

    fn flush_with(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let lost = self.lost_writes.lock();
        let mut lost = lost.unwrap_or_else(PoisonError::into_inner);
        if lost.is_none() {
            *lost = match sync() {
                Ok(()) => return Ok(()),
                Err(e) => Some(e.raw_os_error().unwrap_or(libc::EIO)),
            };
        }
        let number = lost.unwrap_or(libc::EIO);
        Err(io::Error::from_raw_os_error(number))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        sys_io::fallocate(&self.file, mode, offset, len)
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        sys_io::fallocate(&self.file, mode, offset, len)
    }

    fn write_zero_bytes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let n = len.min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..n as usize], offset)?;
            offset += n;
            len -= n;
        }
        Ok(())
    }
}

impl DiskBackend for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn discard_granularity(&self) -> Option<u32> {
        self.discard_granularity
    }

    fn read_at(&self, into: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        sys_io::read_at(&self.file, into, offset)
    }

    fn write_at(&self, from: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        sys_io::write_at(&self.file, from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.flush_with(|| self.file.sync_data())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let done = if self.block_device {
            sys_io::discard_blocks(&self.file, offset, len)
        } else {
            self.punch_hole(offset, len)
        };
        match done {
            Err(e) if unsupported(&e) => Ok(()),
            done => done,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        type Way = fn(&FileDisk, u64, u64) -> io::Result<()>;
        // For a block device these modes are what BLKZEROOUT does, with and
        // without leave to unmap. A hole where the guest would keep the space is
        // still better than to write: a sparse file never promised space.
        let ways: [Way; 3] = if may_unmap {
            [Self::punch_hole, Self::zero_range, Self::write_zero_bytes]
        } else {
            [Self::zero_range, Self::punch_hole, Self::write_zero_bytes]
        };
        let mut result = Ok(());
        for way in ways {
            result = way(self, offset, len);
            match &result {
                Err(e) if unsupported(e) => {}
                _ => break,
            }
        }
        result
    }
}

/// True when the file system or the device lacks the operation as such.
fn unsupported(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV)
    )
}

fn check_kind(path: &Path, kind: FileType) -> Result<(), DiskError> {
    let kind = if kind.is_file() || kind.is_block_device() {
        return Ok(());
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "special file"
    };
    Err(DiskError::NotADisk {
        path: path.to_owned(),
        kind,
    })
}

fn open_error(path: &Path, readonly: bool, source: io::Error, what: &'static str) -> DiskError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => DiskError::Missing(path),
        Some(libc::EBUSY) if !readonly => DiskError::Mounted(path),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            if !readonly && File::open(&path).is_ok() {
                DiskError::NotWritable(path)
            } else {
                DiskError::NotReadable(path)
            }
        }
        _ => DiskError::Io { path, what, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn file_of(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn message(path: &Path, readonly: bool) -> String {
        let message = FileDisk::open(path, readonly).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()) && !message.contains('\n'));
        message
    }

    #[test]
    fn what_is_no_disk_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(&dir.path().join("none"), false).contains("truncate -s"));
        assert!(message(dir.path(), true).contains("is a directory; give a raw"));
        assert!(message(Path::new("/dev/null"), false).contains("is a character device"));
        assert!(message(file_of(0).path(), false).contains("is empty; give it a size"));
        assert!(message(file_of(511).path(), false).contains("511 bytes, less than"));
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(message(&socket, false).contains("is a socket"));
        assert!(message(&file_of(512).path().join("x"), false).contains("no such file"));
    }

    #[test]
    fn refusals_by_the_host_tell_reading_from_writing() {
        // Mapped by hand, since root is never refused.
        let file = file_of(512);
        let refused = |path: &Path, readonly, number| {
            let e = io::Error::from_raw_os_error(number);
            open_error(path, readonly, e, "open it").to_string()
        };
        assert!(refused(file.path(), false, libc::EROFS).contains("add 'readonly'"));
        assert!(refused(file.path(), true, libc::EACCES).contains("may read it"));
        assert!(refused(Path::new("/none"), false, libc::EACCES).contains("may read it"));
        assert!(refused(file.path(), false, libc::EBUSY).contains("unmount it, or add"));
        assert!(refused(file.path(), false, libc::ETXTBSY).contains("cannot open it: "));
    }

    #[test]
    fn a_disk_in_use_is_refused_unless_all_only_read() {
        let file = file_of(4096);
        let writer = FileDisk::open(file.path(), false).unwrap();
        for readonly in [false, true] {
            assert!(message(file.path(), readonly).contains("is in use by another VM"));
        }
        drop(writer);
        let reader = FileDisk::open(file.path(), true).unwrap();
        let _second = FileDisk::open(file.path(), true).unwrap();
        assert!(message(file.path(), false).contains("is in use by another VM"));
        assert_eq!(reader.discard_granularity(), None, "nothing to discard");
    }

    /// Zeroes and holes leave the neighbours and the size alone.
    fn check_zeroing(dir: &Path) {
        const SIZE: u64 = 1 << 20;
        let mut file = tempfile::NamedTempFile::new_in(dir).unwrap();
        file.write_all(&vec![0xaa; SIZE as usize + 100]).unwrap();
        let disk = FileDisk::open(file.path(), false).unwrap();
        let ways: [&dyn Fn(u64, u64) -> io::Result<()>; 4] = [
            &|o, l| disk.write_zeroes(o, l, false),
            &|o, l| disk.write_zeroes(o, l, true),
            &|o, l| disk.write_zero_bytes(o, l),
            &|o, l| disk.discard(o, l),
        ];
        for (i, way) in ways.into_iter().enumerate() {
            let start = i as u64 * 0x3_0000 + 512;
            way(start, 0x2_0000).unwrap();
            let mut bytes = vec![0; 0x2_0400];
            disk.file.read_exact_at(&mut bytes, start - 512).unwrap();
            let (before, rest) = bytes.split_at(512);
            let (zeroes, after) = rest.split_at(0x2_0000);
            assert!(zeroes.iter().all(|b| *b == 0), "way {i}");
            assert!(before.iter().chain(after).all(|b| *b == 0xaa), "way {i}");
        }
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(metadata.len(), SIZE + 100);
        disk.flush().unwrap();
        if disk.discard_granularity().is_some() {
            disk.discard(0, SIZE).unwrap();
            let blocks = file.as_file().metadata().unwrap().blocks();
            assert!(blocks * 512 <= 0x1_0000, "{blocks} blocks are left");
        }
    }

    #[test]
    fn zeroes_and_holes_on_a_disk_and_in_memory() {
        check_zeroing(&std::env::temp_dir());
        // No ZERO_RANGE there.
        if Path::new("/dev/shm").is_dir() {
            check_zeroing(Path::new("/dev/shm"));
        }
    }

    /// Overwrites the device that `DRUPE_TEST_BLOCK_DEVICE` names: at least 1 MiB
    /// of scratch, such as a loop device over an empty file.
    #[test]
    #[ignore = "needs root and a scratch block device"]
    fn a_block_device_is_a_disk() {
        let path = PathBuf::from(std::env::var_os("DRUPE_TEST_BLOCK_DEVICE").unwrap());
        let mut claim = OpenOptions::new();
        claim.read(true).custom_flags(libc::O_EXCL);
        let claimed = claim.open(&path).unwrap();
        assert!(message(&path, false).contains("is mounted or otherwise in use"));
        drop(claimed);
        let disk = FileDisk::open(&path, false).unwrap();
        assert!(claim.open(&path).is_err(), "nobody can mount it now");
        assert!(message(&path, true).contains("is in use by another VM"));
        let block = u64::from(disk.block_size());
        assert!(disk.size() >= 1 << 20 && disk.size().is_multiple_of(block));
        assert_eq!(disk.discard_granularity(), Some(disk.block_size()));
        let read = |n: u64| {
            let mut bytes = vec![0; block as usize];
            disk.file.read_exact_at(&mut bytes, n * block).unwrap();
            bytes
        };
        let full = vec![0xaa; block as usize];
        for n in 0..8 {
            disk.file.write_all_at(&full, n * block).unwrap();
        }
        disk.write_zeroes(block, block, false).unwrap();
        disk.write_zeroes(3 * block, block, true).unwrap();
        disk.discard(5 * block, block).unwrap();
        disk.flush().unwrap();
        for n in [1, 3] {
            assert_eq!(read(n), vec![0; block as usize], "{n}");
        }
        for n in [0, 2, 4, 6, 7] {
            assert_eq!(read(n), full, "{n}");
        }
        assert!(disk.discard(1, block).is_err(), "not whole blocks");
    }

    #[test]
    fn a_failed_flush_is_never_forgotten() {
        let file = file_of(512);
        let disk = FileDisk::open(file.path(), false).unwrap();
        disk.flush().unwrap();
        let lost = || Err(io::Error::from_raw_os_error(libc::ENOSPC));
        for flush in [disk.flush_with(lost), disk.flush()] {
            assert_eq!(flush.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        }
    }

    /// The kernel tells the first of two flushes of a lost write, and the second,
    /// which may be another queue's, that all is well.
    #[test]
    fn a_flush_beside_a_failing_one_fails_too() {
        let file = file_of(512);
        let disk = FileDisk::open(file.path(), false).unwrap();
        let (begun, begins) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                disk.flush_with(|| {
                    begun.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    Err(io::Error::from_raw_os_error(libc::EIO))
                })
            });
            begins.recv().unwrap();
            assert!(disk.flush_with(|| Ok(())).is_err());
            assert!(first.join().unwrap().is_err());
        });
    }
}
