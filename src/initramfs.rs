//! The initramfs of a sandbox's guest: the agent as `/init`, and the modules
//! that its kernel needs before there is a root.
//!
//! A cpio archive in the `newc` format (`Documentation/driver-api/early-userspace/
//! buffer-format.rst` of Linux). It is not compressed: the guest would take
//! longer to unpack it than drupe takes to copy it. The agent is compressed in
//! drupe, which unpacks it for a guest.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The agent (`guest-images/agent`), built and compressed by `build.rs`.
const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.zst"));
/// Its bytes when it is unpacked.
const AGENT_SIZE: usize = include!(concat!(env!("OUT_DIR"), "/agent-size"));
/// What tells it from others, by `build.rs`.
const AGENT_ID: &str = env!("AGENT_ID");

/// The list of a kernel's modules, in the order in which they are loaded; of
/// the directory that `guest-images/kernel/fetch` makes, and of the initramfs.
const ORDER: &str = "order";
/// Bytes of one module: ten times the largest of those that are needed.
const MAX_MODULE: u64 = 32 << 20;
/// Modules of one kernel.
const MAX_MODULES: usize = 256;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// What is wrong with a kernel's modules.
#[derive(Debug, Error)]
pub enum ModulesError {
    /// They cannot be read.
    #[error("kernel modules: {path}: {source}: fetch the kernel again with 'drupe kernel fetch'")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The list is no list of modules.
    #[error("kernel modules: {path}: {why}: fetch the kernel again with 'drupe kernel fetch'")]
    Bad {
        /// What.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A kernel module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its file's name, as `ext4.ko`.
    pub name: String,
    /// The file.
    pub data: Vec<u8>,
}

/// The modules in a kernel's directory for them, in the order to load them.
///
/// # Errors
/// A list or a module that cannot be read.
pub fn read_modules(directory: &Path) -> Result<Vec<Module>, ModulesError> {
    let list = directory.join(ORDER);
    let read = |path: &Path| {
        let read = || {
            let mut data = Vec::new();
            File::open(path)?
                .take(MAX_MODULE + 1)
                .read_to_end(&mut data)?;
            match data.len() as u64 > MAX_MODULE {
                true => Err(io::Error::other("it is too long")),
                false => Ok(data),
            }
        };
        read().map_err(|source| ModulesError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let bad = |why: String| ModulesError::Bad {
        path: list.clone(),
        why,
    };
    let names = String::from_utf8(read(&list)?).map_err(|_| bad("it is no text".into()))?;
    let names: Vec<_> = names.lines().filter(|name| !name.is_empty()).collect();
    if names.len() > MAX_MODULES {
        return Err(bad(format!("it has more than {MAX_MODULES} modules")));
    }
    let module = |name: &&str| {
        if name.contains('/') || name.starts_with('.') {
            return Err(bad(format!("'{name}' is no file's name")));
        }
        Ok(Module {
            name: (*name).to_owned(),
            data: read(&directory.join(name))?,
        })
    };
    names.iter().map(module).collect()
}

/// The archive. The agent loads the modules in this order.
///
/// # Errors
/// When the agent is not what `build.rs` made: the program's file is damaged.
pub fn build(modules: &[Module]) -> io::Result<Vec<u8>> {
    let size: usize = modules.iter().map(|m| m.data.len() + 256).sum();
    let mut archive = Archive(Vec::with_capacity(AGENT_SIZE + size + 4096));
    archive.entry("dev", DIRECTORY, (0, 0), &[]);
    // For the messages of the kernel's first program.
    archive.entry("dev/console", CONSOLE, (5, 1), &[]);
    archive.header("init", PROGRAM, (0, 0), AGENT_SIZE);
    let start = archive.0.len();
    zstd::stream::copy_decode(AGENT, &mut archive.0)?;
    if archive.0.len() - start != AGENT_SIZE {
        return Err(io::Error::other("the agent in drupe's own file is cut"));
    }
    archive.align();
    if !modules.is_empty() {
        archive.entry("modules", DIRECTORY, (0, 0), &[]);
        let order: String = modules.iter().map(|m| format!("{}\n", m.name)).collect();
        archive.entry("modules/order", FILE, (0, 0), order.as_bytes());
        for module in modules {
            let name = format!("modules/{}", module.name);
            archive.entry(&name, FILE, (0, 0), &module.data);
        }
    }
    archive.entry("TRAILER!!!", 0, (0, 0), &[]);
    Ok(archive.0)
}

/// An archive without an agent: directories, whose data are none, and programs.
/// Its first process is told by the kernel's command line.
#[allow(dead_code, reason = "the end-to-end tests do without")]
pub fn of<'a>(entries: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Vec<u8> {
    let mut archive = Archive(Vec::new());
    for (name, data) in entries {
        match data {
            Some(data) => archive.entry(name, PROGRAM, (0, 0), data),
            None => archive.entry(name, DIRECTORY, (0, 0), &[]),
        }
    }
    archive.entry("dev/console", CONSOLE, (5, 1), &[]);
    archive.entry("TRAILER!!!", 0, (0, 0), &[]);
    archive.0
}

/// The archive as a file, for a configuration that wants a path: the path is good
/// as long as the file is open, in this process. Without modules it is always the
/// same: it is made once, kept in `directory`, and in the host's page cache from
/// then on.
///
/// # Errors
/// The kernel's, for want of memory or descriptors.
pub fn file(directory: &Path, modules: &[Module]) -> io::Result<(File, PathBuf)> {
    if modules.is_empty()
        && let Ok(file) = kept(directory)
    {
        let path = fd_path(&file);
        return Ok((file, path));
    }
    // Also where nothing can be kept.
    in_memory(modules)
}

/// Bytes of an archive without modules.
fn size() -> u64 {
    const HEADER: usize = 6 + 13 * 8;
    let entry = |name: &str, data: usize| {
        (HEADER + name.len() + 1).next_multiple_of(4) + data.next_multiple_of(4)
    };
    let entries = [
        entry("dev", 0),
        entry("dev/console", 0),
        entry("init", AGENT_SIZE),
        entry("TRAILER!!!", 0),
    ];
    entries.iter().sum::<usize>() as u64
}

fn kept(directory: &Path) -> io::Result<File> {
    let path = directory.join(AGENT_ID);
    if let Ok(file) = File::open(&path)
        && file.metadata()?.len() == size()
    {
        return Ok(file);
    }
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        // That of another version; who has it open keeps it.
        let _ = fs::remove_file(entry?.path());
    }
    // Whoever makes it at the same time has another one.
    let tag = RandomState::new().hash_one(AGENT_ID);
    let new = directory.join(format!(".{AGENT_ID}.{tag:x}"));
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&build(&[])?)?;
            // After a crash it is whole, or not there.
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, &path))
        .and_then(|()| File::open(&path));
    if made.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&new);
    }
    made
}

fn fd_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)).into()
}

/// The archive as a file of no directory.
fn in_memory(modules: &[Module]) -> io::Result<(File, PathBuf)> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the name is a terminated string; the kernel copies it.
    let fd = unsafe { libc::memfd_create(c"initramfs".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this caller.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(&build(modules)?)?;
    let path = fd_path(&file);
    Ok((file, path))
}

/// Writes the archive to a file.
///
/// # Errors
/// The file's.
#[allow(dead_code, reason = "the end-to-end tests use it")]
pub fn write(modules: &[Module], path: &Path) -> io::Result<()> {
    fs::write(path, build(modules)?)
}

/// An archive that is being written.
struct Archive(Vec<u8>);

impl Archive {
    /// Appends a file, with the number of the device that it is.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.header(name, mode, device, data.len());
        self.0.extend_from_slice(data);
        self.align();
    }

    /// Appends what comes before a file's `size` bytes.
    fn header(&mut self, name: &str, mode: u32, device: (u32, u32), size: usize) {
        // Inode, mode, uid, gid, links, time, size, the device that the file is
        // on, the device that it is, length of the name, checksum. The inode
        // matters for hard links only.
        let fields = [
            0,
            mode,
            0,
            0,
            1,
            0,
            size as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.0.extend_from_slice(b"070701");
        for field in fields {
            self.0.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.align();
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn module(name: &str) -> Module {
        Module {
            name: name.into(),
            data: name.as_bytes().repeat(3),
        }
    }

    #[test]
    fn the_agent_is_a_static_program() {
        let agent = zstd::decode_all(AGENT).unwrap();
        assert_eq!(agent.len(), AGENT_SIZE);
        assert!(agent.starts_with(b"\x7fELF"));
        // e_type of an executable at fixed addresses; a dynamic one has an
        // interpreter's path in it.
        assert_eq!(agent[16..18], [2, 0]);
        let interpreter = b"/lib64/ld-linux-x86-64.so.2\0";
        let in_front = &agent[..4096];
        assert!(
            !in_front
                .windows(interpreter.len())
                .any(|w| w == interpreter)
        );
    }

    #[test]
    fn cpio_reads_it() {
        let archive = build(&[module("a.ko"), module("b.ko")]).unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-tv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tools/deps installs cpio");
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let list = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<_>> = list
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let name = |n: usize| *lines[n].last().unwrap();
        let names: Vec<_> = (0..lines.len()).map(name).collect();
        let wanted = ["dev", "dev/console", "init", "modules", "modules/order"];
        assert_eq!(names[..5], wanted);
        assert_eq!(names[5..], ["modules/a.ko", "modules/b.ko"]);
        assert_eq!((lines[1][0], lines[1][4]), ("crw-------", "5,"));
        assert_eq!((lines[2][0], lines[2][2]), ("-rwxr-xr-x", "0"));
        assert_eq!(lines[2][4], AGENT_SIZE.to_string());
    }

    #[test]
    fn modules_are_read_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("z.ko"), "z").unwrap();
        fs::write(dir.path().join("a.ko"), "a").unwrap();
        let order = |text: &str| {
            fs::write(dir.path().join(ORDER), text).unwrap();
            read_modules(dir.path())
        };
        let names: Vec<_> = order("z.ko\na.ko\n").unwrap();
        let names: Vec<_> = names.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["z.ko", "a.ko"]);
        for bad in [
            "none.ko\n",
            "../x\n",
            "/etc/passwd\n",
            &"z.ko\n".repeat(257),
        ] {
            assert!(order(bad).is_err(), "{bad}");
        }
        assert!(read_modules(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn it_can_be_had_as_a_path() {
        let (file, path) = in_memory(&[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), build(&[]).unwrap());
        drop(file);
    }

    #[test]
    fn it_is_kept_for_the_next_time() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("initramfs");
        let inode = |file: &File| file.metadata().unwrap().ino();
        let (first, path) = file(&dir, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), build(&[]).unwrap());
        let (second, _) = file(&dir, &[]).unwrap();
        assert_eq!(inode(&first), inode(&second));
        // Another version's goes when this one's is made.
        fs::rename(dir.join(AGENT_ID), dir.join("0")).unwrap();
        let (third, path) = file(&dir, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), build(&[]).unwrap());
        assert_ne!(inode(&first), inode(&third));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        // One that was cut off is made again.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let kept = dir.join(AGENT_ID);
        File::options()
            .write(true)
            .open(&kept)
            .unwrap()
            .set_len(1000)
            .unwrap();
        let (_file, path) = file(&dir, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), build(&[]).unwrap());
        // With modules it is another one each time, and nothing is kept.
        let (_file, path) = file(&dir, &[module("a.ko")]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), build(&[module("a.ko")]).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        // Where there can be no directory.
        let (_file, path) = file(&dir.join(AGENT_ID), &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), build(&[]).unwrap());
    }
}
