//! `drupe stop`, `kill` and `wait`.

use super::each;
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
