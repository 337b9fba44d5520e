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
    /// There is none to choose from.
    #[error(
        "no kernel in {0}: get one with 'drupe kernel build' or 'drupe kernel fetch', or give --kernel FILE"
    )]
    None(PathBuf),
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

impl Kernel {
    /// Where the modules are that it needs before it has a root, when it needs
    /// any: `guest-images/kernel/fetch` puts them beside it.
    pub fn modules(&self) -> Option<PathBuf> {
        let directory = self.path.parent()?.join("boot-modules");
        directory.join("order").is_file().then_some(directory)
    }
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

/// The kernel of this name in the store, or the newest of this flavour.
fn find(store: &Path, name: &str) -> Option<Kernel> {
    if let Ok(kernel) = read(store, name) {
        return Some(kernel);
    }
    let kernels = list(store).unwrap_or_default().into_iter();
    kernels
        .filter(|kernel| kernel.flavour == name)
        .max_by_key(|kernel| version(&kernel.version))
}

/// Where `--kernel NAME` is resolved: a kernel that is not a file, and has the
/// name (or is the newest of the flavour, `stock` or `tuned`) of one in the store,
/// becomes that one, and its initrd the VM's unless
/// there is another. Everything else stays as it is.
///
/// # Errors
/// [`KernelsError::Unknown`] for a name that is neither.
pub fn resolve(config: &mut VmConfig) -> Result<(), KernelsError> {
    if !plain(&config.kernel) || config.kernel.exists() {
        return Ok(());
    }
    let kernel = match (default_store(), config.kernel.to_str()) {
        (Ok(store), Some(name)) => find(&store, name),
        _ => None,
    };
    let Some(kernel) = kernel else {
        return Err(KernelsError::Unknown(config.kernel.clone()));
    };
    config.kernel = kernel.path;
    config.initrd = config.initrd.take().or(kernel.initrd);
    Ok(())
}

/// The kernel for a sandbox: the one that was asked for, a file or a name in the
/// store; else the newest tuned one of the store, else the newest.
///
/// # Errors
/// [`KernelsError::Unknown`] or [`KernelsError::None`], or the store's.
pub fn choose(asked: Option<&Path>) -> Result<Kernel, KernelsError> {
    if let Some(path) = asked {
        let mut config = VmConfig::new(path);
        resolve(&mut config)?;
        return match config.kernel.is_file() {
            true => Ok(Kernel {
                name: path.display().to_string(),
                flavour: String::new(),
                version: String::new(),
                path: config.kernel,
                initrd: config.initrd,
            }),
            false => Err(KernelsError::Unknown(path.to_owned())),
        };
    }
    let store = default_store()?;
    let rank = |kernel: &Kernel| (kernel.flavour == "tuned", version(&kernel.version));
    let best = list(&store)?.into_iter().max_by_key(rank);
    best.ok_or(KernelsError::None(store))
}

/// The numbers in a version, to compare it with others.
fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
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
    fn a_flavour_stands_for_its_newest_kernel() {
        let store = tempfile::tempdir().unwrap();
        for (name, flavour, version) in [
            ("a", "tuned", "6.9.1"),
            ("b", "tuned", "6.12.3"),
            ("stock", "tuned", "5.1"),
            ("c", "stock", "6.1"),
        ] {
            let json = format!(
                r#"{{"version": "{version}", "flavour": "{flavour}", "kernel": "kernel", "initrd": null}}"#
            );
            entry(store.path(), name, &json);
        }
        let found = |name| find(store.path(), name).map(|kernel| kernel.name);
        assert_eq!(found("tuned").as_deref(), Some("b"));
        assert_eq!(found("stock").as_deref(), Some("stock"));
        assert_eq!(found("c").as_deref(), Some("c"));
        assert_eq!(found("mainline"), None);
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
