//! `drupe bench`.

use super::{Failure, print};
use crate::bench::{self, Error};
use crate::cli::bench::BenchArgs;
use crate::exit::Exit;

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

/// Runs `drupe bench`.
///
/// # Errors
/// When nothing can be measured, or nothing written.
pub fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    let results = bench::run(&args.plan())?;
    if let Some(directory) = &args.out {
        bench::write(&results, directory)?;
    }
    let text = match args.json {
        true => bench::json(&results)?,
        false => bench::report(&results),
    };
    print(&text)
}
