//! What every target gets to run, in a directory that is gone afterwards: a root
//! file system of the workload and little else, as a tree and as a tar.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::{Context, Result};

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
}

impl Work {
    /// Makes it, where files that are thrown away are.
    ///
    /// # Errors
    /// When there is no room, or no workload.
    pub fn new() -> Result<Self> {
        let name = format!("drupe-bench.{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .context(|| format!("{}: set TMPDIR to another place", directory.display()))?;
        let work = Work { directory };
        let entries = entries()?;
        unpack(&entries, &work.tree())?;
        pack(&entries, &work.tar())?;
        Ok(work)
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
}
