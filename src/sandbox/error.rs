//! What can go wrong with a sandbox, each in one line.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error about a sandbox.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Nothing has this name.
    #[error("no such sandbox: {0}: 'drupe ps -a' lists them")]
    Unknown(String),
    /// Several sandboxes begin so.
    #[error("'{0}' begins the identifier of several sandboxes: give more of it")]
    Ambiguous(String),
    /// What was given is no name.
    #[error(
        "'{0}' is no name: begin with a letter or a digit, go on with those, '_', '.' or '-', 2 to 128 in all"
    )]
    BadName(String),
    /// The name belongs to another.
    #[error("the name '{name}' is in use by {id}: remove or rename that one, or choose another")]
    NameInUse {
        /// The name.
        name: String,
        /// Its owner.
        id: String,
    },
    /// It has to run for this.
    #[error("sandbox {0} is not running: 'drupe start {0}' starts it")]
    NotRunning(String),
    /// It must not run for this.
    #[error("sandbox {0} is running: stop it first, or give -f")]
    Running(String),
    /// It has a process already.
    #[error("sandbox {0} is running already")]
    AlreadyRunning(String),
    /// A file of the state cannot be used.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of the state makes no sense.
    #[error("{path}: {why}: remove the sandbox with 'drupe rm -f'")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer drupe made it.
    #[error("{path}: of version {found}, and this drupe reads {known} at most: use a newer drupe")]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version it has.
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// Its monitor does not answer.
    #[error("sandbox {name} does not answer: {why}: 'drupe rm -f {name}' removes it")]
    Silent {
        /// Which sandbox.
        name: String,
        /// Why.
        why: String,
    },
    /// The sandbox says no.
    #[error("{0}")]
    Refused(String),
}

impl SandboxError {
    /// A file that cannot be used.
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        SandboxError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
