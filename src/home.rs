//! Where drupe keeps its data.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use thiserror::Error;

/// Why drupe's data have no place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HomeError {
    /// Nothing says where.
    #[error("drupe's data have no place: set DRUPE_HOME or HOME")]
    Unknown,
    /// It is another user's, who could not use what root leaves there; and confined,
    /// root is one user among others.
    #[error("{}: belongs to user {owner}: run drupe as that user, or set DRUPE_HOME to another directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
}

/// The directory of drupe's data: `$DRUPE_HOME`, else `drupe` in
/// `$XDG_DATA_HOME` or in `~/.local/share`.
///
/// # Errors
/// [`HomeError`].
pub fn data_dir() -> Result<PathBuf, HomeError> {
    let variable = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let path = variable("DRUPE_HOME")
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("drupe")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/share/drupe")))
        .ok_or(HomeError::Unknown)?;
    match fs::metadata(&path) {
        Ok(found) if rustix::process::geteuid().is_root() && found.uid() != 0 => {
            let owner = found.uid();
            Err(HomeError::Foreign { path, owner })
        }
        _ => Ok(path),
    }
}
