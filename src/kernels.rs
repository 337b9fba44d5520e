//! The store of kernels: one directory each, described by its `kernel.json`.
//!
//! The store is `$DRUPE_KERNELS`, else `drupe/kernels` in the user's cache
//! directory. The scripts that fill it find it in the same way.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vmm::config::VmConfig;

/// The description of a kernel in the store.
const DESCRIPTION: &str = "kernel.json";
/// The largest description that is read, in bytes; real ones have some hundred.
const MAX_DESCRIPTION_SIZE: u64 = 1 << 20;

/// What can be wrong with the store.
#[derive(Debug, Error)]
pub enum KernelsError {
    /// Nothing says where the store is.
    #[error("the kernel store has no place: set DRUPE_KERNELS or HOME, or give --store DIR")]
    NoStore,
    /// The store cannot be read.
    #[error("the kernel store {path}: {source}: make it readable or give another with --store")]
    Read {
        /// The store.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kernel of this name is neither a file nor in the store.
    #[error("kernel '{0}': there is no such file and no such kernel in 'drupe kernel list'")]
    Unknown(PathBuf),
}

/// A kernel of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Its name, which is that of its directory.
    pub name: String,
    /// `stock` (a distribution's) or `tuned` (built for drupe).
    pub flavour: String,
    /// Linux's version.
    pub version: String,
    /// The kernel.
    pub path: PathBuf,
    /// Its initial RAM disk, when it needs one.
    pub initrd: Option<PathBuf>,
}

/// `kernel.json`, as the scripts write it; what is not needed here is left out.
#[derive(Deserialize)]
struct Description {
    version: String,
    flavour: String,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
}

/// Where the store is, when it is not given.
///
/// # Errors
/// [`KernelsError::NoStore`].
pub fn default_store() -> Result<PathBuf, KernelsError> {
    let variable = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    variable("DRUPE_KERNELS")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("drupe/kernels")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/drupe/kernels")))
        .ok_or(KernelsError::NoStore)
}

/// The kernels in `store`, by name; none when there is no store yet. What is
/// broken is left out with a warning.
///
/// # Errors
/// [`KernelsError::Read`].
pub fn list(store: &Path) -> Result<Vec<Kernel>, KernelsError> {
    let unreadable = |source| KernelsError::Read {
        path: store.to_owned(),
        source,
    };
    let entries = match fs::read_dir(store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut kernels = Vec::new();
    for entry in entries {
        let directory = entry.map_err(unreadable)?.path();
        let hidden = |name: &str| name.starts_with('.');
        match directory.file_name().and_then(|name| name.to_str()) {
            // Work in progress and plain files are no kernels.
            Some(name) if hidden(name) || !directory.is_dir() => {}
            Some(name) => match read(store, name) {
                Ok(kernel) => kernels.push(kernel),
                Err(why) => log::warn!("kernel {}: {why}: left out", directory.display()),
            },
            None => log::warn!("kernel {}: not a name: left out", directory.display()),
        }
    }
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(kernels)
}

fn read(store: &Path, name: &str) -> Result<Kernel, String> {
    let directory = store.join(name);
    let text = read_description(&directory.join(DESCRIPTION))
        .map_err(|e| format!("{DESCRIPTION}: {e}"))?;
    let description: Description =
        serde_json::from_str(&text).map_err(|e| format!("{DESCRIPTION}: {e}"))?;
    let file = |name: &Path| {
        let path = directory.join(name);
        match (plain(name), path.is_file()) {
            (false, _) => Err(format!("'{}' is not a plain file name", name.display())),
            (true, false) => Err(format!("there is no '{}'", name.display())),
            (true, true) => Ok(path),
        }
    };
    Ok(Kernel {
        name: name.to_owned(),
        flavour: description.flavour,
        version: description.version,
        path: file(&description.kernel)?,
        initrd: description.initrd.as_deref().map(file).transpose()?,
    })
}

/// Reads a file that may be anything: a pipe would be waited for, and a device
/// might never end.
fn read_description(path: &Path) -> io::Result<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_DESCRIPTION_SIZE {
        return Err(io::Error::other(
            "not a regular file of a description's size",
        ));
    }
    let mut text = String::new();
    file.take(MAX_DESCRIPTION_SIZE).read_to_string(&mut text)?;
    Ok(text)
}

/// True for a name without any directory.
fn plain(name: &Path) -> bool {
    let mut components = name.components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    )
}

/// Where `--kernel NAME` is resolved: a kernel that is not a file, and has the
/// name of one in the store, becomes that one, and its initrd the VM's unless
/// there is another. Everything else stays as it is.
///
/// # Errors
/// [`KernelsError::Unknown`] for a name that is neither.
pub fn resolve(config: &mut VmConfig) -> Result<(), KernelsError> {
    if !plain(&config.kernel) || config.kernel.exists() {
        return Ok(());
    }
    let kernel = match (default_store(), config.kernel.to_str()) {
        (Ok(store), Some(name)) => read(&store, name).ok(),
        _ => None,
    };
    let Some(kernel) = kernel else {
        return Err(KernelsError::Unknown(config.kernel.clone()));
    };
    config.kernel = kernel.path;
    config.initrd = config.initrd.take().or(kernel.initrd);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(store: &Path, name: &str, json: &str) {
        let directory = store.join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("kernel"), "k").unwrap();
        fs::write(directory.join("initrd"), "i").unwrap();
        fs::write(directory.join(DESCRIPTION), json).unwrap();
    }

    #[test]
    fn what_is_whole_is_listed_by_name() {
        let store = tempfile::tempdir().unwrap();
        let json = |initrd: &str, kernel: &str| {
            format!(
                r#"{{"name": "x", "version": "6.12", "source": "s", "flavour": "tuned",
                "kernel": "{kernel}", "initrd": {initrd}, "inputs": "0"}}"#
            )
        };
        entry(store.path(), "b", &json("null", "kernel"));
        entry(store.path(), "a", &json("\"initrd\"", "kernel"));
        entry(store.path(), "missing", &json("\"none\"", "kernel"));
        entry(store.path(), "outside", &json("null", "../b/kernel"));
        entry(store.path(), "broken", "{");
        entry(store.path(), ".work", &json("null", "kernel"));
        fs::write(store.path().join("file"), "").unwrap();
        for name in ["endless", "pipe"] {
            fs::create_dir(store.path().join(name)).unwrap();
        }
        let description = |name: &str| store.path().join(name).join(DESCRIPTION);
        std::os::unix::fs::symlink("/dev/zero", description("endless")).unwrap();
        let pipe = std::process::Command::new("mkfifo")
            .arg(description("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        let kernels = list(store.path()).unwrap();
        let names: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(kernels[0].initrd, Some(store.path().join("a/initrd")));
        assert_eq!(kernels[1].path, store.path().join("b/kernel"));
        assert_eq!(kernels[1].initrd, None);
    }

    #[test]
    fn no_store_holds_no_kernels() {
        assert_eq!(list(Path::new("/nonexistent")).unwrap(), []);
        assert!(list(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn only_plain_names_are_looked_up() {
        for name in ["", ".", "..", "a/b", "/a", "../a"] {
            assert!(!plain(Path::new(name)), "{name}");
        }
        assert!(plain(Path::new("debian-6.12")));
    }
}
