//! `drupe update`.

use super::each;
use crate::cli::CliError;
use crate::cli::sandbox::UpdateArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::ops;

/// Changes what sandboxes may use.
///
/// # Errors
/// One that is not there, or whose monitor does not answer.
pub fn run(args: &UpdateArgs) -> Result<Exit, Failure> {
    if args.limits.is_empty() {
        let why = "nothing to change: 'drupe update --help' lists what can be";
        return Err(CliError::Usage(why.to_owned()).into());
    }
    each(&args.sandboxes, |_, sandbox| {
        ops::update(sandbox, |spec| args.limits.apply(spec))?;
        print(&format!("{}\n", sandbox.label())).map(drop)
    })
}
