//! `drupe kernel`: fill and list the store of kernels.
//!
//! Fetching and building are scripts, which belong to `guest-images/kernel` and
//! can be read and run there; the program carries them along.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use thiserror::Error;
use vmm_sys_util::signal::register_signal_handler;

use super::{Failure, print};
use crate::cli::{Format, KernelCommand, ListArgs, StoreArgs};
use crate::exit::Exit;
use crate::kernels::{self, Kernel};
use crate::output;

/// The scripts, and the options that `build` looks for beside itself.
const FILES: [(&str, &str); 3] = [
    ("fetch", include_str!("../../guest-images/kernel/fetch")),
    ("build", include_str!("../../guest-images/kernel/build")),
    (
        "drupe.config",
        include_str!("../../guest-images/kernel/drupe.config"),
    ),
];

#[derive(Debug, Error)]
enum KernelError {
    #[error("kernel {script}: bash: {source}: install bash")]
    Bash {
        script: &'static str,
        source: io::Error,
    },
    #[error("kernel {script}: {path}: {source}: set TMPDIR to a directory that can be written")]
    Unpack {
        script: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("kernel {script}: failed ({status}): the lines above say why")]
    Failed {
        script: &'static str,
        status: ExitStatus,
    },
}

/// Runs `drupe kernel`.
///
/// # Errors
/// A store that cannot be read, or a script that failed.
pub fn run(command: KernelCommand) -> Result<Exit, Failure> {
    match command {
        KernelCommand::Fetch(args) => script("fetch", store(args)),
        KernelCommand::Build(args) => {
            let mut words = store(args.store);
            let fragment = args.fragment.map(PathBuf::into_os_string);
            option(&mut words, "--fragment", fragment);
            let version = args.version.map(OsString::from);
            option(&mut words, "--version", version);
            script("build", words)
        }
        KernelCommand::List(args) => list(args),
    }
}

fn store(args: StoreArgs) -> Vec<OsString> {
    let mut words = Vec::new();
    let store = args.store.map(PathBuf::into_os_string);
    option(&mut words, "--store", store);
    words
}

fn option(words: &mut Vec<OsString>, name: &str, value: Option<OsString>) {
    if let Some(value) = value {
        words.extend([OsString::from(name), value]);
    }
}

fn list(args: ListArgs) -> Result<Exit, Failure> {
    let store = match args.store.store {
        Some(store) => store,
        None => kernels::default_store()?,
    };
    let kernels = kernels::list(&store)?;
    match args.format {
        Format::Text => print(&table(&kernels)),
        Format::Json => {
            print(&(serde_json::to_string_pretty(&kernels).map_err(Failure::runtime)? + "\n"))
        }
    }
}

fn table(kernels: &[Kernel]) -> String {
    let mut rows = vec![["NAME", "FLAVOUR", "VERSION", "PATH"].map(str::to_owned)];
    rows.extend(kernels.iter().map(|k| {
        let path = k.path.display().to_string();
        [&k.name, &k.flavour, &k.version, &path].map(|cell| output::one_line(cell))
    }));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let (name, flavour, version) = (width(0), width(1), width(2));
    rows.iter()
        .map(|[n, f, v, path]| format!("{n:name$}  {f:flavour$}  {v:version$}  {path}\n"))
        .collect()
}

/// Runs a script with drupe's own input and output.
fn script(name: &'static str, words: Vec<OsString>) -> Result<Exit, Failure> {
    let unpack = |path: &Path, source| {
        Failure::runtime(KernelError::Unpack {
            script: name,
            path: path.to_owned(),
            source,
        })
    };
    let scratch = Scratch::new().map_err(|e| unpack(&env::temp_dir(), e))?;
    for (file, text) in FILES {
        fs::write(scratch.0.join(file), text).map_err(|e| unpack(&scratch.0, e))?;
    }
    // Ctrl-C reaches the script as well: it ends, and drupe tidies up after it.
    ignore_interrupts();
    let status = Command::new("bash")
        .arg(scratch.0.join(name))
        .args(words)
        .status();
    drop(scratch);
    let status = status.map_err(|source| {
        Failure::runtime(KernelError::Bash {
            script: name,
            source,
        })
    })?;
    match (status.success(), status.signal()) {
        (true, _) => Ok(Exit::Success),
        (false, Some(libc::SIGINT)) => Ok(Exit::Signal(libc::SIGINT as u8)),
        _ => Err(Failure::runtime(KernelError::Failed {
            script: name,
            status,
        })),
    }
}

/// Makes SIGINT do nothing in this process. A child starts with the default
/// again, which it would not if the signal were ignored.
fn ignore_interrupts() {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    // When it cannot be set, Ctrl-C leaves a directory behind in TMPDIR.
    let _ = register_signal_handler(libc::SIGINT, nothing);
}

/// A directory of this user's alone, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let id = std::process::id();
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for attempt in 0..100 {
            let path = env::temp_dir().join(format!("drupe-kernel.{id}.{attempt}"));
            // It must not exist: what another user put there is not entered.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let kernel = |name: &str, version: &str| Kernel {
            name: name.into(),
            flavour: "tuned".into(),
            version: version.into(),
            path: format!("/s/{name}/kernel").into(),
            initrd: None,
        };
        let text = table(&[kernel("a", "6.12.1"), kernel("longer", "6.1")]);
        assert_eq!(
            text,
            "NAME    FLAVOUR  VERSION  PATH\n\
             a       tuned    6.12.1   /s/a/kernel\n\
             longer  tuned    6.1      /s/longer/kernel\n"
        );
    }

    #[test]
    fn the_scripts_are_what_they_should_be() {
        for (name, text) in FILES {
            assert!(name == "drupe.config" || text.starts_with("#!/bin/bash\n"));
        }
    }

    #[test]
    fn a_scratch_directory_goes_with_its_owner() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.0.clone();
        fs::write(path.join("x"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
