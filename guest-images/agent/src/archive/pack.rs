//! A tree to an archive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::{PERMISSIONS, pax::XATTR};
use crate::error::{Context, Result};
use crate::resolve::{Root, read_link, type_of};

/// Files with several names whose first one is remembered. Beyond that each
/// name becomes a file of its own.
const MAX_LINKED: usize = 1 << 16;
/// Bytes of an extended attribute, the kernel's own limit (`XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 64 << 10;
/// Bytes of a file's list of attributes (`XATTR_LIST_MAX`).
const MAX_XATTR_LIST: usize = 64 << 10;
/// File systems that hold no files: `/sys`, `/proc`, `/dev/pts`, `/dev/mqueue`
/// and cgroups (`linux/magic.h`).
const NOT_FILES: [u64; 5] = [0x6265_6572, 0x9fa0, 0x1cd1, 0x1980_0202, 0x6367_7270];

/// Writes an archive of what is at `path`, with `name` in its place.
///
/// # Errors
/// The kernel's, the writer's, or a file that vanishes meanwhile.
pub fn pack(root: &Root, path: &Path, follow: bool, name: &OsStr, to: impl Write) -> Result<()> {
    let describe = || format!("pack {}", path.display());
    let top = root.locate(path, follow).context(describe)?;
    let mut packer = Packer {
        top,
        name: name.to_owned().into(),
        builder: Builder::new(to),
        linked: HashMap::new(),
    };
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        match packer.one(&relative) {
            Ok(children) => todo.extend(children),
            // Gone since its directory was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !relative.as_os_str().is_empty() => {}
            Err(e) => {
                return Err(e).context(|| format!("pack {}", path.join(relative).display()));
            }
        }
    }
    packer.builder.finish().context(describe)
}

struct Packer<W: Write> {
    top: OwnedFd,
    name: PathBuf,
    builder: Builder<W>,
    /// The first name of a file that has several, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    /// Appends one file; what is in it if it is a directory.
    fn one(&mut self, relative: &Path) -> io::Result<Vec<PathBuf>> {
        let found = self.open(relative, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
        let name = match relative.as_os_str().is_empty() {
            true => self.name.clone(),
            false => self.name.join(relative),
        };
        let mut header = header(&stat);
        let mut pax = Vec::new();
        let kind = type_of(&stat);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&id) {
                header.set_entry_type(EntryType::Link);
                let target = first.as_os_str().as_bytes().to_vec();
                set_link(&mut header, target, &mut pax)?;
                self.append(&name, &mut header, pax, io::empty())?;
                return Ok(Vec::new());
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert(id, name.clone());
            }
        }
        match kind {
            FileType::RegularFile => {
                // As the path still says: another file may be there by now.
                let file = self.open(
                    relative,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
                )?;
                let now = fs::fstat(&file)?;
                if type_of(&now) != FileType::RegularFile {
                    return Err(Errno::NOENT.into());
                }
                pax.extend(xattrs(&file));
                let size = u64::try_from(now.st_size).unwrap_or(0);
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                // A file that shrinks meanwhile is filled up with zeroes.
                let data = File::from(file).chain(io::repeat(0)).take(size);
                self.append(&name, &mut header, pax, data)?;
            }
            FileType::Directory => {
                let directory = self.open(relative, OFlags::RDONLY | OFlags::DIRECTORY)?;
                pax.extend(xattrs(&directory));
                header.set_entry_type(EntryType::Directory);
                self.append(&name, &mut header, pax, io::empty())?;
                return children(directory, relative);
            }
            FileType::Symlink => {
                let target = read_link(found.as_fd())?;
                let target = target.as_os_str().as_bytes().to_vec();
                header.set_entry_type(EntryType::Symlink);
                set_link(&mut header, target, &mut pax)?;
                self.append(&name, &mut header, pax, io::empty())?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                header.set_entry_type(match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    FileType::BlockDevice => EntryType::Block,
                    _ => EntryType::Fifo,
                });
                header.set_device_major(fs::major(stat.st_rdev))?;
                header.set_device_minor(fs::minor(stat.st_rdev))?;
                self.append(&name, &mut header, pax, io::empty())?;
            }
            // Sockets mean nothing without the process that listens.
            _ => {}
        }
        Ok(Vec::new())
    }

    fn open(&self, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if !relative.as_os_str().is_empty() {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let found = fs::openat2(&self.top, relative, flags, Mode::empty(), resolve)?;
            return Ok(found);
        }
        if flags.contains(OFlags::PATH) {
            return self.top.try_clone();
        }
        // What a descriptor without any access names, opened for reading.
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.top)
        );
        let found = fs::open(path, flags - OFlags::NOFOLLOW, Mode::empty())?;
        Ok(found)
    }

    fn append(
        &mut self,
        name: &Path,
        header: &mut Header,
        mut pax: Vec<(String, Vec<u8>)>,
        data: impl Read,
    ) -> io::Result<()> {
        let mut bytes = name.as_os_str().as_bytes().to_vec();
        if header.entry_type().is_dir() {
            // As every tar writes it.
            bytes.push(b'/');
        }
        if let Some(gnu) = header.as_gnu_mut() {
            match gnu.name.get_mut(..bytes.len()) {
                Some(field) => field.copy_from_slice(&bytes),
                None => {
                    let len = gnu.name.len();
                    gnu.name.copy_from_slice(&bytes[..len]);
                    pax.push(("path".into(), bytes));
                }
            }
        }
        if !pax.is_empty() {
            let records = pax
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()));
            self.builder.append_pax_extensions(records)?;
        }
        header.set_cksum();
        self.builder.append(header, data)
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & PERMISSIONS);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// As it is, byte for byte; in an extended header if it is too long.
fn set_link(
    header: &mut Header,
    target: Vec<u8>,
    pax: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    match header.set_link_name_literal(&target) {
        Ok(()) => {}
        Err(_) => {
            header.set_link_name_literal(&target[..100])?;
            pax.push(("linkpath".into(), target));
        }
    }
    Ok(())
}

/// The attributes of an open file. What cannot be read is left out: a file
/// without them is better than none.
fn xattrs(file: &OwnedFd) -> Vec<(String, Vec<u8>)> {
    // Most files have none: ask before getting memory for them.
    if matches!(fs::flistxattr_query(file), Ok(0) | Err(_)) {
        return Vec::new();
    }
    let mut list = vec![0; MAX_XATTR_LIST];
    let Ok(len) = fs::flistxattr(file, &mut list[..]) else {
        return Vec::new();
    };
    let names = list[..len].split(|b| *b == 0);
    let read = |name: &[u8]| {
        let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty())?;
        let mut value = vec![0; MAX_XATTR];
        let len = fs::fgetxattr(file, name, &mut value[..]).ok()?;
        value.truncate(len);
        Some((format!("{XATTR}{name}"), value))
    };
    names.filter_map(read).collect()
}

fn children(directory: OwnedFd, relative: &Path) -> io::Result<Vec<PathBuf>> {
    let kind = fs::fstatfs(&directory)?.f_type as u64;
    if NOT_FILES.contains(&kind) {
        return Ok(Vec::new());
    }
    let mut children = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            children.push(relative.join(name));
        }
    }
    Ok(children)
}
