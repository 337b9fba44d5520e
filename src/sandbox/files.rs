//! Small files: private, and written as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The largest state file that is read; real ones are a few KiB, an environment
/// may make one larger.
const MAX_SIZE: u64 = 16 << 20;
/// What most of them fit into.
const USUAL_SIZE: usize = 4 << 10;

/// Makes a directory, and those above it, for this user alone.
///
/// # Errors
/// The system call's.
pub fn private_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What the names begin with of directories that are being made, and of those that
/// are being removed.
const UNFINISHED: &str = ".";
/// What is older was not finished, and never will be: its process has died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Where something is made that is to get this name in a directory, or removed that
/// had it.
pub fn unfinished(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{UNFINISHED}{name}"))
}

/// Removes what processes that died have left unfinished in a directory; returns
/// the names that it would have had.
pub fn sweep(directory: &Path) -> Vec<String> {
    let abandoned = abandoned(directory).into_iter().filter_map(|name| {
        let would_be = name.strip_prefix(UNFINISHED)?.to_owned();
        fs::remove_dir_all(directory.join(&name)).ok()?;
        Some(would_be)
    });
    abandoned.collect()
}

/// The names in a directory of what has not changed for so long that whoever made it
/// is not at it any more.
pub fn abandoned(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let old = entries.filter(|entry| {
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        let age = changed.ok().and_then(|changed| changed.elapsed().ok());
        age.is_some_and(|age| age > ABANDONED)
    });
    old.filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Puts `bytes` in the place of a file: readers see the old ones or the new ones.
///
/// # Errors
/// The file system's; the old file is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let mut name = path.as_os_str().to_owned();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}.{number}.new", std::process::id()));
    let new = PathBuf::from(name);
    let result = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path));
    if result.is_err() {
        // What is left of it harms nobody.
        let _ = fs::remove_file(&new);
    }
    result
}

/// Reads a small file.
///
/// # Errors
/// The file's, or `FileTooLarge` for what is none of ours.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?)
}

/// Reads a small file that is open, from its beginning, wherever others who have it
/// open with this process have come.
///
/// # Errors
/// As [`read`].
pub fn read_open(file: &File) -> io::Result<Vec<u8>> {
    bounded(FromStart { file, at: 0 })
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    // Read at once: without room, it would be felt for by ever larger reads.
    let mut bytes = Vec::with_capacity(USUAL_SIZE);
    from.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_SIZE {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(to, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    #[test]
    fn only_what_was_given_up_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, age: u64| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            File::open(&path).unwrap().set_modified(then).unwrap();
        };
        for (name, age) in [(".new", 60), (".dead", 4000), ("finished", 4000)] {
            make(name, age);
        }
        assert_eq!(sweep(dir.path()), ["dead"]);
        let left = fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".new", "finished"]);
        assert!(sweep(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn a_file_is_the_old_one_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomically(&path, b"old").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let big = vec![b'x'; 1 << 20];
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20 {
                    write_atomically(&path, &big).unwrap();
                    write_atomically(&path, b"old").unwrap();
                }
            });
            while !writer.is_finished() {
                let len = read(&path).unwrap().len();
                assert!(len == 3 || len == big.len(), "{len}");
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomically(&dir.path().join("no/file"), b"x").is_err());
    }
}
