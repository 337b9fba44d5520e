//! What every target gets to run, in a directory that is gone afterwards: a root
//! file system of the workload and little else, as a tree and as a tar.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{Context, Error, Result};

/// The workload (`guest-images/workload`), built and compressed by `build.rs`.
const WORKLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.zst"));
/// Where it is in the root file system.
pub const PROGRAM: &str = "/workload";
/// The file that it reads, in the directory that it starts in.
const SMALL: &str = "small";

/// A file of a root file system, or a directory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the root.
    pub path: String,
    /// Its bytes; a directory has none.
    pub data: Option<Vec<u8>>,
    /// Whether it is a program.
    pub program: bool,
}

impl Entry {
    /// A directory.
    pub fn directory(path: &str) -> Self {
        Entry {
            path: path.to_owned(),
            data: None,
            program: false,
        }
    }

    /// A file.
    pub fn file(path: &str, data: Vec<u8>) -> Self {
        Entry {
            path: path.to_owned(),
            data: Some(data),
            program: false,
        }
    }

    /// A program.
    pub fn program(path: &str, data: Vec<u8>) -> Self {
        Entry {
            program: true,
            ..Entry::file(path, data)
        }
    }

    fn mode(&self) -> u32 {
        if self.program || self.data.is_none() {
            0o755
        } else {
            0o644
        }
    }
}

/// The root file system of the workload.
///
/// # Errors
/// When the program in drupe's own file is damaged.
pub fn entries() -> Result<Vec<Entry>> {
    let program = zstd::decode_all(WORKLOAD).context(|| "the workload".into())?;
    let mut entries: Vec<_> = ["data", "dev", "proc", "sys", "tmp"]
        .map(Entry::directory)
        .into_iter()
        .collect();
    entries.push(Entry::program(&PROGRAM[1..], program));
    entries.push(Entry::file(SMALL, vec![b'x'; 1024]));
    Ok(entries)
}

/// The directory of a run, and the root file system in it.
#[derive(Debug)]
pub struct Work {
    directory: PathBuf,
    image: bool,
    further: Vec<Entry>,
}

impl Work {
    /// Makes it, where files that are thrown away are, with these files in the root
    /// beside the workload.
    ///
    /// # Errors
    /// When there is no room, or no workload.
    pub fn new(further: Vec<Entry>) -> Result<Self> {
        let name = format!("drupe-bench.{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .context(|| format!("{}: set TMPDIR to another place", directory.display()))?;
        let work = Work {
            directory,
            image: false,
            further,
        };
        let entries = work.root()?;
        unpack(&entries, &work.tree())?;
        pack(&entries, &work.tar())?;
        Ok(work)
    }

    /// All of the root file system.
    ///
    /// # Errors
    /// As of [`entries`].
    pub fn root(&self) -> Result<Vec<Entry>> {
        let mut entries = entries()?;
        entries.extend(self.further.iter().cloned());
        Ok(entries)
    }

    /// Another within it, whose root file system is that of an image, a tar as
    /// `docker export` writes it, with the workload and these files.
    ///
    /// # Errors
    /// When it is no such tar, or this process may not unpack it.
    pub fn with_image(&self, image: &Path, further: &[Entry]) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Failed(
                "--image: the files of an image belong to several users: run as root".into(),
            ));
        }
        let work = Work {
            directory: self.path("image"),
            image: true,
            further: Vec::new(),
        };
        let tree = work.tree();
        fs::create_dir_all(&tree).context(|| tree.display().to_string())?;
        // What is below /dev is the target's matter.
        let mut command = tar("--extract", image);
        command.args(["--preserve-permissions", "--exclude=./dev/*"]);
        command.arg("--exclude=dev/*").arg("--directory").arg(&tree);
        complete(&mut command)
            .map_err(|e| Error::Failed(format!("--image {}: {e}", image.display())))?;
        unpack(&entries()?, &tree)?;
        unpack(further, &tree)?;
        work.append(&work.tar(), "")?;
        Ok(work)
    }

    /// Whether its root file system is that of an image.
    pub fn is_image(&self) -> bool {
        self.image
    }

    /// Appends the root file system to a tar, which is made, below this path.
    ///
    /// # Errors
    /// The file system's.
    pub fn append(&self, to: &Path, below: &str) -> Result<()> {
        let mut command = tar("--append", to);
        // Names of files and of what hard links lead to, but not of what symbolic
        // ones do.
        if !below.is_empty() {
            command.arg(format!("--transform=flags=rSh;s,^\\.,{below},"));
        }
        command.arg("--directory").arg(self.tree()).arg(".");
        complete(&mut command)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The root file system, unpacked.
    pub fn tree(&self) -> PathBuf {
        self.path("root")
    }

    /// The same in a tar.
    pub fn tar(&self) -> PathBuf {
        self.path("root.tar")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        unmount(&self.directory);
        if let Err(e) = fs::remove_dir_all(&self.directory) {
            log::warn!("{}: {e}: remove it by hand", self.directory.display());
        }
    }
}

/// Takes away what somebody has mounted beneath it, the last first.
fn unmount(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let beneath = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| Path::new(path).starts_with(directory));
    for path in beneath.collect::<Vec<_>>().into_iter().rev() {
        use rustix::mount::{UnmountFlags, unmount};
        if let Err(e) = unmount(path, UnmountFlags::DETACH) {
            log::warn!("{path}: {e}: unmount it by hand");
        }
    }
}

/// A call of tar's, with owners by their numbers.
fn tar(what: &str, file: &Path) -> Command {
    let mut command = Command::new("tar");
    command.args([what, "--numeric-owner", "--file"]).arg(file);
    command
}

/// Runs it to its end.
fn complete(command: &mut Command) -> Result<()> {
    // Ctrl-C is this process's to handle.
    let output = command.process_group(0).output();
    let output = output.context(|| "tar".into())?;
    super::process::check()?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().next().unwrap_or("tar said nothing");
    Err(Error::Failed(crate::output::one_line(first)))
}

/// What a program is linked with, as its loader tells: the name below the root,
/// and the file. The loader itself is among them.
pub fn libraries(program: &Path) -> Vec<(String, PathBuf)> {
    let output = Command::new(program)
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let path = |line: &str| {
        let (path, _) = line.rsplit_once(" (0x")?;
        let path = path.rsplit("=> ").next()?.trim();
        let name = path.strip_prefix('/')?.to_owned();
        Some((name, PathBuf::from(path)))
    };
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(path)
        .collect()
}

/// Writes files and directories below a directory, which it makes.
///
/// # Errors
/// The file system's.
pub fn unpack(entries: &[Entry], to: &Path) -> Result<()> {
    let unpack = |entry: &Entry| {
        let path = to.join(&entry.path);
        match &entry.data {
            None => fs::create_dir_all(&path),
            Some(data) => File::options()
                .write(true)
                .create_new(true)
                .mode(entry.mode())
                .open(&path)
                .and_then(|mut file| file.write_all(data)),
        }
    };
    fs::create_dir_all(to).context(|| to.display().to_string())?;
    entries
        .iter()
        .try_for_each(|entry| unpack(entry).context(|| format!("{}: {}", to.display(), entry.path)))
}

/// Writes a tar of them.
///
/// # Errors
/// The file system's.
pub fn pack(entries: &[Entry], to: &Path) -> Result<()> {
    let pack = || -> io::Result<()> {
        let mut tar = tar::Builder::new(File::create(to)?);
        for entry in entries {
            let mut header = tar::Header::new_gnu();
            let data = entry.data.as_deref().unwrap_or_default();
            header.set_entry_type(match entry.data {
                None => tar::EntryType::Directory,
                Some(_) => tar::EntryType::Regular,
            });
            header.set_size(data.len() as u64);
            header.set_mode(entry.mode());
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, &entry.path, data)?;
        }
        tar.into_inner()?.flush()
    };
    pack().context(|| to.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_is_a_small_static_program() {
        let entries = entries().unwrap();
        let program = entries.iter().find(|e| e.path == "workload").unwrap();
        let data = program.data.as_deref().unwrap();
        assert_eq!(data[..4], *b"\x7fELF");
        // Of fixed addresses, and smaller than any library.
        assert_eq!(data[16..18], [2, 0]);
        assert!(data.len() < 64 << 10, "{}", data.len());
    }

    #[test]
    fn tree_and_tar_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [
            Entry::directory("a/b"),
            Entry::file("a/b/c", b"text".to_vec()),
            Entry::program("run", b"program".to_vec()),
        ];
        unpack(&entries, &dir.path().join("tree")).unwrap();
        pack(&entries, &dir.path().join("tar")).unwrap();
        let mut tar = tar::Archive::new(File::open(dir.path().join("tar")).unwrap());
        let mut seen = 0;
        for entry in tar.entries().unwrap() {
            use std::os::unix::fs::PermissionsExt;
            let mut entry = entry.unwrap();
            let path = dir.path().join("tree").join(entry.path().unwrap());
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(
                entry.header().mode().unwrap(),
                metadata.permissions().mode() & 0o777
            );
            if metadata.is_file() {
                let mut data = Vec::new();
                io::copy(&mut entry, &mut data).unwrap();
                assert_eq!(data, fs::read(&path).unwrap());
            }
            seen += 1;
        }
        assert_eq!(seen, entries.len());
    }

    #[test]
    fn a_root_is_appended_below_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work {
            directory: dir.path().join("work"),
            image: true,
            further: Vec::new(),
        };
        let tree = work.tree();
        unpack(&[Entry::file("./run", b"x".to_vec())], &tree).unwrap();
        fs::hard_link(tree.join("run"), tree.join("same")).unwrap();
        std::os::unix::fs::symlink("./run", tree.join("link")).unwrap();
        let to = dir.path().join("tar");
        pack(&[Entry::file("outside", b"y".to_vec())], &to).unwrap();
        work.append(&to, "a/b").unwrap();
        let mut tar = tar::Archive::new(File::open(&to).unwrap());
        let mut seen: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = |path: std::borrow::Cow<'_, Path>| path.to_string_lossy().into_owned();
                let link = entry.link_name().unwrap().map(path);
                let name = path(entry.path().unwrap());
                (name.trim_end_matches('/').to_owned(), link)
            })
            .collect();
        seen.sort();
        let name = |name: &str| name.to_owned();
        assert_eq!(seen.len(), 5, "{seen:?}");
        assert_eq!(seen[0], (name("a/b"), None));
        assert_eq!(seen[1], (name("a/b/link"), Some(name("./run"))));
        // Whichever of the two comes first in the directory is the file.
        let other = if seen[2].1.is_none() { 3 } else { 2 };
        let first = seen[5 - other].0.clone();
        assert_eq!(seen[other].1, Some(first));
        assert_eq!(seen[4], (name("outside"), None));
    }
}
