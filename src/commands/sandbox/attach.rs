//! `drupe attach`.

use super::end;
use crate::cli::sandbox::AttachArgs;
use crate::commands::Failure;
use crate::exit::Exit;
use crate::sandbox::attach::Options;
use crate::sandbox::ops;
use crate::sandbox::store::Store;

/// Joins a sandbox's streams with this process's.
///
/// # Errors
/// When it does not run.
pub fn run(args: &AttachArgs) -> Result<Exit, Failure> {
    let sandbox = Store::open()?.find(&args.sandbox)?;
    ops::need_running(&sandbox)?;
    let spec = sandbox.spec()?;
    let options = Options {
        stdin: spec.process.stdin && !args.no_stdin,
        output: true,
        terminal: spec.process.terminal,
        keys: args.detach_keys.clone(),
        signals: args.sig_proxy,
    };
    Ok(end(ops::attach(&sandbox, &options)?))
}
