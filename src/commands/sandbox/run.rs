//! `drupe run`.

use super::{create, end};
use crate::cli::run::RunArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::attach::Options;
use crate::sandbox::ops;

/// Makes a sandbox, starts it, and unless it is to run by itself waits for its
/// end.
///
/// # Errors
/// What keeps it from being made or started.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let options = Options {
        stdin: args.create.interactive,
        output: true,
        terminal: args.create.tty,
        keys: args.detach_keys.clone(),
        signals: args.sig_proxy,
    };
    if !args.detach {
        // Before there is anything that would have to be removed.
        options.check()?;
    }
    let sandbox = create::make(&args.create, args.detach)?;
    if args.detach {
        ops::start(&sandbox, None)?;
        return print(&format!("{}\n", sandbox.id));
    }
    Ok(end(ops::start(&sandbox, Some(&options))?))
}
