//! `drupe rm`.

use super::each;
use crate::cli::sandbox::RmArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::ops;

/// Removes sandboxes.
///
/// # Errors
/// One that runs, unless by force, or is not there.
pub fn run(args: &RmArgs) -> Result<Exit, Failure> {
    each(&args.sandboxes, |_, sandbox| {
        let name = sandbox.label();
        ops::remove(sandbox, args.force, args.volumes)?;
        print(&format!("{name}\n")).map(drop)
    })
}
