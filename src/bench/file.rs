//! Results that were written before.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::results::{FORMAT, Results};

/// The longest file that is read: all suites on all targets with a thousand
/// samples of each figure are 2 MiB.
const MAX_SIZE: u64 = 64 << 20;

/// Why a file gives no results.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {source}: give a file that 'drupe bench --out' wrote")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too long to be one.
    #[error("{0}: longer than {MAX_SIZE} bytes: give a file that 'drupe bench --out' wrote")]
    Size(PathBuf),
    /// It is something else.
    #[error("{path}: no results of a bench: {source}: give a file that 'drupe bench --out' wrote")]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another version of drupe wrote it.
    #[error(
        "{path}: results of format {format}, and this drupe reads {FORMAT}: measure again, or use the drupe that wrote it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        format: u64,
    },
}

/// Reads the results in a file.
///
/// # Errors
/// Each with the remedy, in a line.
pub fn read(path: &Path) -> Result<Results, FileError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut text))
        .map_err(|source| FileError::Read {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > MAX_SIZE {
        return Err(FileError::Size(path.to_owned()));
    }
    parse(&text, path)
}

fn parse(text: &[u8], path: &Path) -> Result<Results, FileError> {
    // The number first: what else another format has may be of any form.
    #[derive(Deserialize)]
    struct Head {
        format: u64,
    }
    let bad = |source| FileError::Text {
        path: path.to_owned(),
        source,
    };
    let head: Head = serde_json::from_slice(text).map_err(bad)?;
    if head.format != u64::from(FORMAT) {
        return Err(FileError::Format {
            path: path.to_owned(),
            format: head.format,
        });
    }
    serde_json::from_slice(text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        for (text, expected) in [
            ("", "EOF"),
            (
                "{\"format\": 2, \"unheard\": []}",
                "format 2, and this drupe reads 1",
            ),
            ("{\"format\": 1}", "missing field"),
            ("{\"format\": \"1\"}", "invalid type"),
            ("[1]", "no results of a bench"),
            ("\u{7f}ELF", "no results of a bench"),
        ] {
            let error = parse(text.as_bytes(), Path::new("a.json"))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(expected) && error.starts_with("a.json: "),
                "{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(matches!(
            read(Path::new("/nonexistent")),
            Err(FileError::Read { .. })
        ));
        assert!(matches!(
            read(Path::new("/dev/zero")),
            Err(FileError::Size(_))
        ));
    }
}
