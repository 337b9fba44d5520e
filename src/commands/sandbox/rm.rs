//! `drupe rm`.

use super::each_or;
use crate::cli::sandbox::RmArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::output;
use crate::sandbox::error::SandboxError;
use crate::sandbox::ops;

/// Removes sandboxes. By force, it is said of one that is not there and is no
/// failure, as with docker.
///
/// # Errors
/// One that runs, unless by force, or is not there.
pub fn run(args: &RmArgs) -> Result<Exit, Failure> {
    let missing = |error: SandboxError| match error {
        SandboxError::Unknown(_) if args.force => {
            output::print_error(&error, false);
            Ok(())
        }
        error => Err(error.into()),
    };
    each_or(&args.sandboxes, missing, |_, sandbox| {
        let name = sandbox.label();
        ops::remove(sandbox, args.force, args.volumes)?;
        print(&format!("{name}\n")).map(drop)
    })
}
