//! `drupe completions` and `drupe man`: made of the command line's own
//! description.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::shells;
use thiserror::Error;

use crate::cli::Cli;
use crate::cli::volume::Shell;
use crate::commands::{Failure, print};
use crate::exit::Exit;

#[derive(Debug, Error)]
#[error("{path}: {source}: give a directory that can be written")]
struct ManError {
    path: PathBuf,
    source: io::Error,
}

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output's.
pub fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, "drupe", &mut text),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, "drupe", &mut text),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, "drupe", &mut text),
    }
    print(&String::from_utf8_lossy(&text))
}

/// Writes a manual page for drupe and each of its commands.
///
/// # Errors
/// When a page cannot be written.
pub fn pages(directory: &Path) -> Result<Exit, Failure> {
    let failed = |source| {
        Failure::runtime(ManError {
            path: directory.to_owned(),
            source,
        })
    };
    fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        for page in ["drupe.1", "drupe-run.1", "drupe-volume-create.1"] {
            let text = fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains("drupe"), "{page}");
        }
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in [shells::Shell::Bash, shells::Shell::Zsh, shells::Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "drupe", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("network-policy") && !text.contains("sandbox-monitor"));
        }
    }
}
