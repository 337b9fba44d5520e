//! Why a measurement came to nothing.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// Why a measurement came to nothing.
#[derive(Debug, Error)]
pub enum Error {
    /// A file, a process or a system call.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Said in a line.
    #[error("{0}")]
    Failed(String),
    /// A run that hung.
    #[error("it did not end within {0:?}: it was killed")]
    TooLong(Duration),
    /// A signal asked for the end.
    #[error("interrupted by signal {0}: what had been measured is not kept")]
    Interrupted(i32),
}

/// What a measurement comes to.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was done when something failed.
pub trait Context<T> {
    /// With this description.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what(),
            source,
        })
    }
}
