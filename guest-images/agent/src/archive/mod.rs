//! Files in and out of the root, as tar archives (POSIX.1 `pax`).
//!
//! Archives come from users, and trees from workloads that may change them
//! meanwhile: each file is named by a descriptor that was resolved inside the
//! root, and links are never followed at the end of a path.

mod pack;
mod pax;
mod unpack;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use protocol::Entry;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

pub use pack::pack;
pub use unpack::{Owner, Unpack, unpack};

use crate::error::{Context, Result};
use crate::resolve::{Root, read_link, type_of};

/// How much is copied at once, in bytes.
const CHUNK: usize = 64 << 10;
/// Permission bits, with set-user-ID and its like.
const PERMISSIONS: u32 = 0o7777;

/// What is at a path.
///
/// # Errors
/// The kernel's, such as that nothing is.
pub fn stat(root: &Root, path: &Path, follow: bool) -> Result<Entry> {
    let look = || {
        let found = root.locate(path, follow)?;
        let stat = fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
        let link = match type_of(&stat) {
            FileType::Symlink => {
                let target = read_link(std::os::fd::AsFd::as_fd(&found))?;
                Some(target.to_string_lossy().into_owned())
            }
            _ => None,
        };
        Ok::<_, Errno>(Entry {
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            link,
        })
    };
    look().context(|| path.display().to_string())
}

/// Removes a file, or a directory with all that is in it.
///
/// # Errors
/// The kernel's.
pub fn remove_all(root: &Root, path: &Path) -> std::result::Result<(), Errno> {
    // Depth first, without recursion: a tree may be as deep as paths are long.
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.last().cloned() {
        let parent = root.locate(path.parent().unwrap_or(Path::new("")), false)?;
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let directory = match fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                todo.pop();
                continue;
            }
            Err(Errno::ISDIR) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                root.get(&path, flags, Mode::empty())?
            }
            Err(e) => return Err(e),
        };
        match fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                todo.pop();
                continue;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                todo.push(path.join(name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
