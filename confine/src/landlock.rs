//! Landlock: rules of the kernel for what a process may do with files by name,
//! which hold even where there are no namespaces, and for descriptors of
//! directories.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::root::{Access, Part};
use crate::{Failed, Plan};

/// The latest version that is made use of; older kernels have fewer rules.
const LATEST: ABI = ABI::V6;

/// Allows the parts and the open directories of the plan, and nothing else.
pub fn restrict(plan: &Plan, parts: &[Part]) -> Result<(), Failed> {
    match rules(plan, parts) {
        Ok(RulesetStatus::NotEnforced) => Err(Failed::new(
            "use Landlock",
            "the kernel has it not, or not switched on (lsm=landlock,...)",
        )),
        Ok(_) => Ok(()),
        Err(e) => Err(Failed::new("use Landlock", e)),
    }
}

fn rules(plan: &Plan, parts: &[Part]) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(LATEST);
    let share = all & !AccessFs::Execute & !AccessFs::IoctlDev;
    // Files, directories and sockets. A link would be followed by whoever of the
    // host's opens what should be there, and a pipe would keep them waiting.
    let odd = AccessFs::MakeSym | AccessFs::MakeFifo | AccessFs::MakeChar | AccessFs::MakeBlock;
    let write = share & !odd;
    let read = BitFlags::from(AccessFs::ReadFile) | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(LATEST))?;
    if !plan.network() {
        rules = rules.handle_access(AccessNet::from_all(LATEST))?;
    }
    let mut rules = rules.create()?;
    for part in parts {
        let access = match part.access {
            Access::Read => read,
            Access::Write => write,
        };
        rules = rules.add_rule(PathBeneath::new(&part.fd, access))?;
    }
    for (fd, access) in &plan.directories {
        // SAFETY: whoever made the plan has the descriptor open until this is over.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        let access = match access {
            Access::Read => read,
            Access::Write => share,
        };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
