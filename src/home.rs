//! Where drupe keeps its data.

use std::env;
use std::path::PathBuf;

use thiserror::Error;

/// Nothing says where drupe's data are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("drupe's data have no place: set DRUPE_HOME or HOME")]
pub struct NoHome;

/// The directory of drupe's data: `$DRUPE_HOME`, else `drupe` in
/// `$XDG_DATA_HOME` or in `~/.local/share`.
///
/// # Errors
/// [`NoHome`].
pub fn data_dir() -> Result<PathBuf, NoHome> {
    let variable = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    variable("DRUPE_HOME")
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("drupe")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/share/drupe")))
        .ok_or(NoHome)
}
