//! The sandbox's cgroup (version 2).
//!
//! ```text
//! /             the agent
//! /sandbox      the workload; the root of its cgroup namespace
//! /sandbox/init the workload, if it is privileged
//! ```
//!
//! A cgroup that has processes cannot hand its controllers on to cgroups below.
//! A privileged workload shall be able to make those, for containers of its own,
//! so that its processes start in a leaf.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::{fs as std_fs, io};

use rustix::fs::{self, Mode, OFlags};

use crate::boot::CGROUP;
use crate::device_policy;
use crate::error::{Context, Result};
use crate::mounts::{FileSystem, RESTRICTED};

/// Bytes of a file of the hierarchy that are read.
const MAX_FILE: usize = 4096;

/// The sandbox's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    sandbox: OwnedFd,
    leaf: Option<OwnedFd>,
    controllers: String,
}

impl Cgroup {
    /// Makes it, with every controller that the kernel has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(privileged: bool) -> Result<Self> {
        FileSystem::new("cgroup2")
            .attributes(RESTRICTED)
            .flag("nsdelegate")
            .flag("memory_recursiveprot")
            .mount_on(CGROUP)?;
        let root = Path::new(CGROUP);
        let controllers = std_fs::read_to_string(root.join("cgroup.controllers"))
            .context(|| "read the cgroup controllers".into())?;
        let controllers = enable_all(&controllers);
        let control = root.join("cgroup.subtree_control");
        write_whole(&control, &controllers).or_else(|_| {
            // One that cannot be had shall not keep the others away.
            for controller in controllers.split_whitespace() {
                let _ = write_whole(&control, controller);
            }
            Ok(())
        })?;
        let make = |path: &Path| -> Result<OwnedFd> {
            std_fs::create_dir(path).context(|| format!("make cgroup {}", path.display()))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
        };
        let sandbox = make(&root.join("sandbox"))?;
        let leaf = match privileged {
            true => Some(make(&root.join("sandbox/init"))?),
            false => {
                device_policy::restrict(sandbox.as_fd())
                    .context(|| "restrict the use of devices".into())?;
                None
            }
        };
        Ok(Cgroup {
            sandbox,
            leaf,
            controllers,
        })
    }

    /// Where the main process starts: the root of its namespace.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.sandbox.as_fd()
    }

    /// Where further processes start.
    pub fn workload(&self) -> BorrowedFd<'_> {
        self.leaf.as_ref().unwrap_or(&self.sandbox).as_fd()
    }

    /// For a privileged workload: `cgroup.procs` of the leaf, for the main
    /// process to move to when its namespace is made, and then
    /// `cgroup.subtree_control` of the top.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delegation(&self) -> Result<Option<(OwnedFd, OwnedFd)>> {
        let Some(leaf) = &self.leaf else {
            return Ok(None);
        };
        let open = |directory: &OwnedFd, name: &str| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            fs::openat(directory, name, flags, Mode::empty()).context(|| format!("open {name}"))
        };
        Ok(Some((
            open(leaf, "cgroup.procs")?,
            open(&self.sandbox, "cgroup.subtree_control")?,
        )))
    }

    /// What to write to `cgroup.subtree_control` to enable every controller.
    pub fn controllers(&self) -> &str {
        &self.controllers
    }

    /// A file of the sandbox's cgroup, as `memory.current`; empty when the
    /// kernel has none.
    pub fn read(&self, name: &str) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let read = || -> rustix::io::Result<Vec<u8>> {
            let file = fs::openat(&self.sandbox, name, flags, Mode::empty())?;
            let mut bytes = vec![0; MAX_FILE];
            let n = rustix::io::read(&file, &mut bytes[..])?;
            bytes.truncate(n);
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A file with one number.
    pub fn number(&self, name: &str) -> u64 {
        self.read(name).trim().parse().unwrap_or(0)
    }

    /// A field of a file with lines of a key and a number.
    pub fn field(&self, name: &str, key: &str) -> u64 {
        keyed(&self.read(name), key)
    }
}

fn enable_all(controllers: &str) -> String {
    let words: Vec<_> = controllers
        .split_whitespace()
        .map(|c| format!("+{c}"))
        .collect();
    words.join(" ")
}

fn keyed(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then_some(value)
    });
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

/// The kernel wants all of it in one write.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    std_fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_enabled_in_one_line() {
        assert_eq!(enable_all("cpu io memory\n"), "+cpu +io +memory");
        assert_eq!(enable_all("\n"), "");
    }

    #[test]
    fn fields_are_found_by_their_key() {
        let text = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(keyed(text, "oom_kill"), 2);
        assert_eq!(keyed(text, "oom"), 3);
        assert_eq!(keyed(text, "none"), 0);
    }
}
