//! `drupe start`.

use super::{each, end};
use crate::cli::CliError;
use crate::cli::sandbox::StartArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::attach::Options;
use crate::sandbox::ops;
use crate::sandbox::store::Store;

/// Starts sandboxes; one of them with its streams here.
///
/// # Errors
/// What keeps one from starting.
pub fn run(args: &StartArgs) -> Result<Exit, Failure> {
    if !args.attach && !args.interactive {
        return each(&args.sandboxes, |_, sandbox| {
            // As with Docker, what runs already is as wanted.
            if !sandbox.state()?.status.is_live() {
                ops::start(sandbox, None)?;
            }
            print(&format!("{}\n", sandbox.label())).map(drop)
        });
    }
    let [name] = &args.sandboxes[..] else {
        let why = "only one sandbox can have this input and output: leave out -a and -i";
        return Err(CliError::Usage(why.to_owned()).into());
    };
    let sandbox = Store::open()?.find(name)?;
    let spec = sandbox.spec()?;
    let options = Options {
        stdin: args.interactive && spec.process.stdin,
        output: true,
        terminal: spec.process.terminal,
        keys: args.detach_keys.clone(),
        signals: true,
    };
    if sandbox.state()?.status.is_live() {
        return Ok(end(ops::attach(&sandbox, &options)?));
    }
    Ok(end(ops::start(&sandbox, Some(&options))?))
}
