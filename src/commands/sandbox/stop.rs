//! `drupe stop`, `restart`, `kill` and `wait`.

use super::{Said, each};
use crate::cli::sandbox::{KillArgs, StopArgs, WaitArgs};
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::ops;

/// Asks sandboxes to end, and makes them.
///
/// # Errors
/// One that is not there or will not end.
pub fn run(args: &StopArgs) -> Result<Exit, Failure> {
    each(&args.sandboxes, |_, sandbox| {
        let name = sandbox.label();
        ops::stop(sandbox, args.signal, args.time)?;
        print(&format!("{name}\n")).map(drop)
    })
}

/// Ends sandboxes, as [`run`] does, and starts them again, with those that did
/// not run.
///
/// # Errors
/// One that will not end or cannot start, or that would not be there any more.
pub fn restart(args: &StopArgs) -> Result<Exit, Failure> {
    each(&args.sandboxes, |_, sandbox| {
        let name = sandbox.label();
        if sandbox.spec()?.auto_remove && sandbox.state()?.status.is_live() {
            let why = format!("{name} is removed when it ends (--rm): run it anew");
            return Err(Failure::runtime(Said(why)));
        }
        ops::stop(sandbox, args.signal, args.time)?;
        ops::start(sandbox, None)?;
        print(&format!("{name}\n")).map(drop)
    })
}

/// Sends sandboxes a signal.
///
/// # Errors
/// One that does not run.
pub fn kill(args: &KillArgs) -> Result<Exit, Failure> {
    each(&args.sandboxes, |_, sandbox| {
        let name = sandbox.label();
        ops::signal(sandbox, args.signal)?;
        print(&format!("{name}\n")).map(drop)
    })
}

/// Waits for sandboxes to end.
///
/// # Errors
/// One that is not there.
pub fn wait(args: &WaitArgs) -> Result<Exit, Failure> {
    each(&args.sandboxes, |_, sandbox| {
        print(&format!("{}\n", ops::wait(sandbox)?)).map(drop)
    })
}
