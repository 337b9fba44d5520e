//! The commands about sandboxes, one in each module.

mod attach;
mod completions;
mod cp;
mod create;
mod events;
mod exec;
mod image;
mod inspect;
mod logs;
mod manual;
mod port;
mod ps;
mod rm;
mod run;
mod start;
mod stats;
mod stop;
mod system;
mod table;
mod top;
mod update;
mod volume;

use std::ffi::OsString;

use protocol::Failure as Refusal;
use thiserror::Error;

use super::Failure;
use crate::cli::Command;
use crate::exit::{Exit, OWN_FAILURE};
use crate::sandbox::attach::End;
use crate::sandbox::error::SandboxError;
use crate::sandbox::ops::StartError;
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::volumes::VolumeError;

/// The commands that say by their status whether drupe failed or what it ran.
const PASS_STATUS: [&str; 4] = ["run", "create", "exec", "attach"];

/// Whether the command line is of a command that ends as a sandbox's does, as
/// far as one that makes no sense lets itself be read.
pub fn passes_status(command: &str, args: &[OsString]) -> bool {
    let attaches = |word: &OsString| {
        let word = word.to_string_lossy();
        match word.strip_prefix('-') {
            Some(long) if long.starts_with('-') => {
                matches!(&*word, "--attach" | "--interactive")
            }
            Some(letters) => letters.contains(['a', 'i']),
            None => false,
        }
    };
    PASS_STATUS.contains(&command) || (command == "start" && args.iter().any(attaches))
}

/// Something that the sandbox, or its monitor, says.
#[derive(Debug, Error)]
#[error("{0}")]
struct Said(String);

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        Failure::runtime(error)
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        Failure::runtime(error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Sandbox(error) => error.into(),
            StartError::Failed(Refusal { message, status }) => Failure {
                exit: Exit::Command(status),
                ..Failure::runtime(Said(message))
            },
        }
    }
}

/// Runs a command about sandboxes.
///
/// # Errors
/// The command's.
pub fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => as_command(run::run(&args)),
        Command::Create(args) => as_command(create::run(&args)),
        Command::Start(args) if args.attach || args.interactive => as_command(start::run(&args)),
        Command::Start(args) => as_error(start::run(&args)),
        Command::Exec(args) => as_command(exec::run(&args)),
        Command::Attach(args) => as_command(attach::run(&args)),
        Command::Stop(args) => stop::run(&args),
        Command::Restart(args) => as_error(stop::restart(&args.stop)),
        Command::Kill(args) => stop::kill(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Ps(args) => ps::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Cp(args) => cp::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Wait(args) => stop::wait(&args),
        Command::Top(args) => top::run(&args),
        Command::Port(args) => port::run(&args),
        Command::Rename(args) => rename(&args.sandbox, &args.name),
        Command::Update(args) => update::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Volume(args) => volume::run(args.command),
        Command::System(args) => system::run(args.command),
        Command::Completions(args) => completions::completions(args.shell),
        Command::Names(args) => completions::names(args.kind),
        Command::Man(args) => manual::pages(&args.directory),
        Command::Bench(_)
        | Command::Boot(_)
        | Command::Doctor(_)
        | Command::Kernel(_)
        | Command::Image(_)
        | Command::Images(_)
        | Command::Import(_)
        | Command::Load(_)
        | Command::Pull(_)
        | Command::Rmi(_)
        | Command::Tag(_) => Ok(Exit::Success),
    }
}

/// The end of a command that otherwise ends as the sandbox's does.
fn as_command(result: Result<Exit, Failure>) -> Result<Exit, Failure> {
    result.map_err(|failure| match failure.exit {
        Exit::Command(_) => failure,
        _ => Failure {
            exit: Exit::Command(OWN_FAILURE),
            ..failure
        },
    })
}

/// The end of a command that does not: what kept a sandbox's command from
/// starting is an error like others.
fn as_error(result: Result<Exit, Failure>) -> Result<Exit, Failure> {
    result.map_err(|failure| match failure.exit {
        Exit::Command(_) => Failure {
            exit: Exit::Error,
            ..failure
        },
        _ => failure,
    })
}

/// What drupe ends with, after it was joined with a process.
fn end(end: Option<End>) -> Exit {
    match end {
        None | Some(End::Detached) => Exit::Success,
        Some(End::Exit(exit)) => Exit::Command(exit.status),
        Some(End::NoReader) => Exit::Signal(libc::SIGPIPE as u8),
        // It has been made an error already.
        Some(End::Failed(failure)) => Exit::Command(failure.status),
    }
}

/// Does something to each sandbox that is named, whatever becomes of the others.
///
/// # Errors
/// The last one's; those before are logged.
fn each(
    names: &[String],
    act: impl FnMut(&Store, &Sandbox) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    each_or(names, |error| Err(error.into()), act)
}

/// As [`each`], where `missing` decides about one that is not found.
///
/// # Errors
/// The last one's; those before are logged.
fn each_or(
    names: &[String],
    missing: impl Fn(SandboxError) -> Result<(), Failure>,
    mut act: impl FnMut(&Store, &Sandbox) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let store = Store::open()?;
    let mut last = None;
    for name in names {
        let done = match store.find(name) {
            Ok(sandbox) => act(&store, &sandbox),
            Err(error) => missing(error),
        };
        if let Err(failure) = done
            && let Some(before) = last.replace(failure)
        {
            crate::output::print_error(&*before.error, before.explain);
        }
    }
    last.map_or(Ok(Exit::Success), Err)
}

fn rename(sandbox: &str, name: &str) -> Result<Exit, Failure> {
    let sandbox = Store::open()?.find(sandbox)?;
    let old = sandbox.label();
    sandbox.rename(name)?;
    let old = ("oldName", old);
    crate::sandbox::events::sandbox(&sandbox, &sandbox.spec()?, "rename", &[old]);
    Ok(Exit::Success)
}
