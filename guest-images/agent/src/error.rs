//! Why the agent could not do something.

use protocol::Failure;
use rustix::io::Errno;
use thiserror::Error;

/// Exit status of a process that could not be started for another reason than
/// its program.
pub const STATUS_FAILED: u8 = 125;
/// Exit status of a process whose program cannot be executed.
pub const STATUS_NOT_EXECUTABLE: u8 = 126;
/// Exit status of a process whose program is not there.
pub const STATUS_NOT_FOUND: u8 = 127;

/// What went wrong: one line that names the thing.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{what}: {}", describe(*source))]
    System {
        /// What was tried, on what.
        what: String,
        /// The kernel's reason.
        source: Errno,
    },
    /// The request asks for something that is not there or makes no sense.
    #[error("{0}")]
    Request(String),
    /// A process's program.
    #[error("{message}")]
    Program {
        /// In the words that Docker has for it.
        message: String,
        /// [`STATUS_NOT_FOUND`] or [`STATUS_NOT_EXECUTABLE`].
        status: u8,
    },
}

/// The agent's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A bad request.
    pub fn request(message: impl Into<String>) -> Self {
        Error::Request(message.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Program { status, .. } => status,
            _ => STATUS_FAILED,
        };
        Failure {
            message: error.to_string(),
            status,
        }
    }
}

/// Says what was tried, where the kernel's error alone does not.
pub trait Context<T> {
    /// `what` is put before the kernel's reason.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: IntoErrno> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::System {
            what: what(),
            source: e.into_errno(),
        })
    }
}

/// Errors that are the kernel's.
pub trait IntoErrno {
    /// The number; `EIO` when there is none.
    fn into_errno(self) -> Errno;
}

impl IntoErrno for Errno {
    fn into_errno(self) -> Errno {
        self
    }
}

impl IntoErrno for std::io::Error {
    fn into_errno(self) -> Errno {
        Errno::from_io_error(&self).unwrap_or(Errno::IO)
    }
}

/// The reason in the words that container tools have for it: lower case,
/// without the number.
pub fn describe(errno: Errno) -> String {
    let text = errno.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_like_those_of_container_tools() {
        let failed: std::result::Result<(), _> = Err(Errno::NOENT);
        let error = failed.context(|| "mount /x".into()).unwrap_err();
        assert_eq!(error.to_string(), "mount /x: no such file or directory");
        assert_eq!(Failure::from(error).status, STATUS_FAILED);
        assert_eq!(describe(Errno::NOEXEC), "exec format error");
        assert_eq!(describe(Errno::ACCESS), "permission denied");
    }

    #[test]
    fn a_programs_failure_has_its_status() {
        let error = Error::Program {
            message: "x".into(),
            status: STATUS_NOT_FOUND,
        };
        assert_eq!(Failure::from(error).status, 127);
    }
}
