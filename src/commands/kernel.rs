//! `drupe kernel`: fill and list the store of kernels.
//!
//! Fetching and building are scripts, which belong to `guest-images/kernel` and
//! can be read and run there; the program carries them along.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};
use thiserror::Error;

use super::{Failure, json, print};
use crate::cli::{Format, KernelCommand, ListArgs, StoreArgs};
use crate::exit::Exit;
use crate::kernels::{self, Kernel};
use crate::output;
use crate::sandbox::signals::Signals;

/// The scripts, and the options and patches that `build` looks for beside itself.
const FILES: [(&str, &str); 4] = [
    ("fetch", include_str!("../../guest-images/kernel/fetch")),
    ("build", include_str!("../../guest-images/kernel/build")),
    (
        "drupe.config",
        include_str!("../../guest-images/kernel/drupe.config"),
    ),
    (
        "returns.patch",
        include_str!("../../guest-images/kernel/returns.patch"),
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
        Format::Json => print(&json(&kernels)?),
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
    let mut command = Command::new("bash");
    command.arg(scratch.0.join(name)).args(words);
    let ended = run_as_group(&mut command);
    drop(scratch);
    let (status, signal) = ended.map_err(|source| {
        Failure::runtime(KernelError::Bash {
            script: name,
            source,
        })
    })?;
    match (status.success(), signal) {
        (true, _) => Ok(Exit::Success),
        (false, Some(signal)) => Ok(Exit::Signal(u8::try_from(signal).unwrap_or(u8::MAX))),
        _ => Err(Failure::runtime(KernelError::Failed {
            script: name,
            status,
        })),
    }
}

/// Runs a program and all that it starts as a process group, to which the signals
/// that are to end drupe go: a build has many processes, and killing the first
/// would leave the others at work. Says how it ended, and after which signal.
fn run_as_group(command: &mut Command) -> io::Result<(ExitStatus, Option<i32>)> {
    let mut taken: Vec<i32> = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
    // What was ignored stays so, as under nohup.
    let ignored = ignored();
    taken.retain(|signal| ignored & 1 << (signal - 1) == 0);
    taken.push(libc::SIGCHLD);
    // Nothing is asked, and a group in the background may not read a terminal.
    let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    // Not before: what is blocked here would be blocked there.
    let signals = Signals::block(&taken)?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut first = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, first));
        }
        let signal = signals.wait()?;
        if signal == libc::SIGCHLD {
            continue;
        }
        // Whoever asks twice means it.
        let send = match first.replace(signal) {
            None => match signal {
                libc::SIGINT => Signal::INT,
                libc::SIGHUP => Signal::HUP,
                libc::SIGQUIT => Signal::QUIT,
                _ => Signal::TERM,
            },
            Some(_) => Signal::KILL,
        };
        if let Some(group) = group {
            // It may have ended just now.
            let _ = rustix::process::kill_process_group(group, send);
        }
    }
}

/// The signals that this process was started to ignore, a bit for each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
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
            let data = name == "drupe.config" || name.ends_with(".patch");
            assert!(data || text.starts_with("#!/bin/bash\n"), "{name}");
        }
        // What stands beside `build` in the source and not in here would be left out
        // of the kernels that users build.
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/guest-images/kernel");
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(name == "README.md" || FILES.iter().any(|(file, _)| name == *file));
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
