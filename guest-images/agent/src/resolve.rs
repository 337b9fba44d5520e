//! Paths in the sandbox's root. Whatever stands there, links and all, no path
//! leads out of it: the kernel resolves each with `RESOLVE_IN_ROOT`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Links that are followed in one path, as many as the kernel follows.
const MAX_LINKS: u32 = 40;
/// How often the kernel is asked again when something was renamed meanwhile.
const MAX_RETRIES: u32 = 64;

/// What a path's last part is to be when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// A directory that is the root for all paths.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// `directory` as the root.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(directory: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::open(directory, flags, Mode::empty()).map(Root)
    }

    /// Opens a path, links followed unless `flags` say otherwise.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        for _ in 0..MAX_RETRIES {
            match fs::openat2(&self.0, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A descriptor that only names what is at the path.
    ///
    /// # Errors
    /// The kernel's.
    pub fn locate(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let nofollow = match follow {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        self.get(path, OFlags::PATH | nofollow, Mode::empty())
    }

    /// Locates a path, and makes what is missing of it: directories on the way,
    /// and `leaf` at its end.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` for too many links.
    pub fn make(&self, path: &Path, leaf: Leaf) -> Result<OwnedFd, Errno> {
        match self.locate(path, true) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        // Part by part: `done` holds neither links nor "..".
        let mut todo: VecDeque<OsString> = parts(path).collect();
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match self.locate(&next, false) {
                Ok(found) if file_type(&found)? == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = read_link(found.as_fd())?;
                    if target.is_absolute() {
                        done.clear();
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                Ok(_) => done = next,
                Err(Errno::NOENT) => {
                    let parent = self.locate(&done, false)?;
                    let file = todo.is_empty() && leaf == Leaf::File;
                    make_at(parent.as_fd(), &part, file)?;
                    done = next;
                }
                Err(e) => return Err(e),
            }
        }
        self.locate(&done, false)
    }

    /// Reads a file, `limit` bytes at most: `EFBIG` beyond. What is no regular
    /// file is not read: `EINVAL`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.get(path, flags, Mode::empty())?;
        if file_type(&file)? != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let mut bytes = Vec::new();
        File::from(file)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        match bytes.len() as u64 > limit {
            true => Err(Errno::FBIG),
            false => Ok(bytes),
        }
    }
}

impl From<OwnedFd> for Root {
    fn from(directory: OwnedFd) -> Self {
        Root(directory)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where a link leads, from a descriptor of the link itself.
///
/// # Errors
/// The kernel's.
pub fn read_link(link: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    let target = fs::readlinkat(link, "", Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// The type of a file from its status.
pub fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn file_type(fd: &OwnedFd) -> Result<FileType, Errno> {
    fs::statat(fd, "", AtFlags::EMPTY_PATH).map(|stat| type_of(&stat))
}

fn make_at(parent: BorrowedFd<'_>, name: &OsString, file: bool) -> Result<(), Errno> {
    let made = match file {
        true => fs::mknodat(
            parent,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        ),
        false => fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
    };
    match made {
        // Somebody else was faster.
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// The parts of a path that lead somewhere; `..` is one of them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as std_fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std_fs::create_dir(dir.path().join("root")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn what_is_missing_is_made() {
        let (dir, root) = root();
        root.make(Path::new("/a/b/../c/file"), Leaf::File).unwrap();
        assert!(dir.path().join("root/a/c/file").is_file());
        assert!(!dir.path().join("root/a/c/file").is_dir());
        root.make(Path::new("a/b/d"), Leaf::Directory).unwrap();
        assert!(dir.path().join("root/a/b/d").is_dir());
        // Again, and the root itself.
        root.make(Path::new("/a/b/d"), Leaf::Directory).unwrap();
        root.make(Path::new("/"), Leaf::Directory).unwrap();
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let (dir, root) = root();
        let inside = dir.path().join("root");
        symlink("/new/place", inside.join("absolute")).unwrap();
        symlink("../../../up", inside.join("relative")).unwrap();
        root.make(Path::new("/absolute/x"), Leaf::File).unwrap();
        assert!(inside.join("new/place/x").is_file());
        root.make(Path::new("/relative"), Leaf::Directory).unwrap();
        assert!(inside.join("up").is_dir() && !dir.path().join("up").exists());
        std_fs::write(dir.path().join("secret"), "s").unwrap();
        symlink("../secret", inside.join("leak")).unwrap();
        assert_eq!(root.read(Path::new("leak"), 9), Err(Errno::NOENT));
        symlink("loop", inside.join("loop")).unwrap();
        assert_eq!(
            root.make(Path::new("loop/x"), Leaf::File).unwrap_err(),
            Errno::LOOP
        );
        symlink("b/x", inside.join("a")).unwrap();
        symlink("a/y", inside.join("b")).unwrap();
        assert!(root.make(Path::new("a"), Leaf::File).is_err());
    }

    #[test]
    fn a_file_is_no_directory_on_the_way() {
        let (dir, root) = root();
        std_fs::write(dir.path().join("root/file"), "").unwrap();
        assert!(root.make(Path::new("file/x"), Leaf::File).is_err());
    }

    #[test]
    fn only_regular_files_of_some_size_are_read() {
        let (dir, root) = root();
        std_fs::write(dir.path().join("root/f"), "12345").unwrap();
        let read = |path: &str, limit| root.read(Path::new(path), limit);
        assert_eq!(read("f", 5).unwrap(), b"12345");
        assert_eq!(read("/f", 4), Err(Errno::FBIG));
        assert_eq!(read("/", 4), Err(Errno::INVAL));
        rustix::fs::mknodat(&root, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(read("fifo", 4), Err(Errno::INVAL));
        assert_eq!(read("none", 4), Err(Errno::NOENT));
    }
}
