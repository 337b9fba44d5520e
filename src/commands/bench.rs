//! `drupe bench`.

use std::fs;
use std::io;
use std::path::PathBuf;

use thiserror::Error as ThisError;

use super::{Failure, json, print};
use crate::bench::file::{self, FileError};
use crate::bench::{self, Error, compare, report};
use crate::cli::Format;
use crate::cli::bench::{BenchArgs, BenchCommand, CompareArgs, FailOn, ShowArgs};
use crate::exit::Exit;

/// The width of what is no terminal, and of one that does not say.
const WIDTH: usize = 80;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error {
            Error::Interrupted(signal) => Exit::Signal(signal as u8),
            _ => Exit::Error,
        };
        Failure {
            exit,
            ..Failure::runtime(error)
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Failure::runtime(error)
    }
}

#[derive(Debug, ThisError)]
#[error("--html {path}: {source}: give a file that can be written")]
struct Unwritable {
    path: PathBuf,
    source: io::Error,
}

/// Runs `drupe bench`.
///
/// # Errors
/// When nothing can be measured, nothing written, or no results read.
pub fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    match &args.command {
        Some(BenchCommand::Compare(args)) => return compare(args),
        Some(BenchCommand::Show(args)) => return show(args),
        None => {}
    }
    let results = bench::run(&args.plan())?;
    if let Some(directory) = &args.out {
        bench::write(&results, directory)?;
    }
    let text = match args.json {
        true => bench::json(&results)?,
        false => report::text::text(&results, width()),
    };
    print(&text)
}

fn compare(args: &CompareArgs) -> Result<Exit, Failure> {
    let comparison = compare::compare(&file::read(&args.first)?, &file::read(&args.second)?);
    let text = match args.format {
        Format::Json => json(&comparison)?,
        Format::Text => report::compared::text(&comparison, width()),
    };
    print(&text)?;
    Ok(match args.fail_on {
        Some(FailOn::Worse) if comparison.has_worse() => Exit::Error,
        _ => Exit::Success,
    })
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let results = file::read(&args.results)?;
    let Some(path) = &args.html else {
        return print(&report::text::text(&results, width()));
    };
    fs::write(path, report::html::page(&results)).map_err(|source| {
        let path = path.clone();
        Failure::runtime(Unwritable { path, source })
    })?;
    Ok(Exit::Success)
}

/// How wide the terminal is.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => WIDTH,
    }
}
