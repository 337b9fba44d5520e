//! One module for each command. A command prints its results on standard output
//! and hands its error back.

mod bench;
mod boot;
pub mod doctor;
pub mod images;
mod kernel;
mod sandbox;
mod units;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::cli::{CliError, Command};
use crate::exit::{self, Exit};
use crate::kernels::KernelsError;
use crate::output;

/// An error, and the status that drupe exits with for it.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub exit: Exit,
    /// What to print.
    pub error: Box<dyn Error>,
    /// The causes are printed too, verbose or not: without them the error
    /// explains nothing.
    pub explain: bool,
}

impl Failure {
    /// Something went wrong on this machine.
    pub fn runtime(error: impl Error + 'static) -> Self {
        Failure {
            exit: Exit::Error,
            error: Box::new(error),
            explain: false,
        }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Failure {
            exit: Exit::Usage,
            error: Box::new(error),
            explain: false,
        }
    }
}

impl From<KernelsError> for Failure {
    fn from(error: KernelsError) -> Self {
        let exit = match error {
            KernelsError::NoStore | KernelsError::Unknown(_) => Exit::Usage,
            KernelsError::None(_) | KernelsError::Read { .. } => Exit::Error,
        };
        Failure {
            exit,
            error: Box::new(error),
            explain: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}: give it room or another place")]
struct PrintError(#[source] io::Error);

/// Runs a command.
///
/// # Errors
/// The command's.
pub fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Bench(args) => bench::run(&args),
        Command::Boot(args) => boot::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Image(args) => images::run(args.command),
        Command::Images(args) => images::list(&args),
        Command::Import(args) => images::import(&args),
        Command::Kernel(args) => kernel::run(args.command),
        Command::Load(args) => images::load(&args),
        Command::Pull(args) => images::pull(&args),
        Command::Rmi(args) => images::remove(&args),
        Command::Tag(args) => images::tag(&args),
        command => sandbox::run(command),
    }
}

/// The failure of a command line that makes no sense: of a command that passes a
/// sandbox's status on, it has a status that says drupe failed.
pub fn misused(error: CliError, args: impl IntoIterator<Item = OsString>) -> Failure {
    let failure = Failure::from(error);
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    let mut words = args.iter().filter_map(|word| word.to_str());
    let command = words.find(|word| !word.starts_with('-'));
    match command.is_some_and(|command| sandbox::passes_status(command, &args)) {
        true => Failure {
            exit: Exit::Command(exit::OWN_FAILURE),
            ..failure
        },
        false => failure,
    }
}

/// Prints a command's result.
///
/// # Errors
/// When standard output takes no more, for another reason than that its reader
/// has gone away.
pub fn print(text: &str) -> Result<Exit, Failure> {
    print_on(text).map(|_| Exit::Success)
}

/// The same for a command that goes on; false when nobody reads it any more.
///
/// # Errors
/// As of [`print`].
fn print_on(text: &str) -> Result<bool, Failure> {
    output::print(text).map_err(|e| Failure::runtime(PrintError(e)))
}

/// Something for a program, with its line's end, safe for a terminal.
///
/// # Errors
/// What JSON cannot say.
fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::runtime)?;
    Ok(output::json_for_terminal(&text) + "\n")
}

/// Asks, on standard error, whether `what` is really to be removed; only a yes is
/// one, from a terminal or from `echo y`.
///
/// # Errors
/// When there is nobody who answers: a script has to hear that nothing was done.
fn confirmed(what: &str) -> Result<bool, Failure> {
    let terminal = io::stdin().is_terminal();
    let mut answer = String::new();
    let asked = match terminal {
        true => write!(io::stderr(), "This removes {what}. Go on? [y/N] "),
        false => Ok(()),
    };
    match asked.and_then(|()| io::stdin().read_line(&mut answer)) {
        Ok(read) if read > 0 || terminal => Ok(matches!(answer.trim(), "y" | "Y" | "yes")),
        _ => {
            let why = format!("this removes {what}: give -f to say that you mean it");
            Err(CliError::Usage(why).into())
        }
    }
}
