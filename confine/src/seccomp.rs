//! From lists of calls to filters of the kernel.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::filters::{self, Allow, When};
use crate::{Failed, Role, trap};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// The filter of a role: what fails quietly, and then the allow-list.
pub struct Filter(BpfProgram);

impl Filter {
    /// Compiles that of a role.
    ///
    /// # Errors
    /// When the compiler refuses a list.
    pub fn of(role: Role) -> Result<Self, Failed> {
        Self::compile(&filters::of(role))
    }

    /// Compiles that of a spawner of threads of these roles.
    ///
    /// # Errors
    /// As [`Filter::of`].
    pub fn of_spawner(late: &[Role]) -> Result<Self, Failed> {
        Self::compile(&filters::spawner(late))
    }

    fn compile(lists: &[&'static [Allow]]) -> Result<Self, Failed> {
        let refused = refused(lists);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (call, when) in lists.iter().copied().flatten() {
            rules.entry(*call).or_default().extend(condition(*when)?);
        }
        // A call without rules is allowed whatever its arguments.
        let always = |(_, when): &&Allow| matches!(when, When::Always);
        let whole = lists.iter().copied().flatten().filter(always);
        for call in whole.map(|(call, _)| call).chain(&refused) {
            rules.insert(*call, Vec::new());
        }
        let allow = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, ARCH);
        let quiet = refused.iter().map(|call| (*call, Vec::new())).collect();
        let quiet = SeccompFilter::new(
            quiet,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENOSYS as u32),
            ARCH,
        );
        let compile = |filter: Result<SeccompFilter, seccompiler::BackendError>| {
            filter
                .and_then(BpfProgram::try_from)
                .map_err(|e| Failed::new("compile a filter", e))
        };
        // One after the other, as one: to install a filter, the kernel goes through
        // all calls there are, which takes longer than anything else here. What
        // the first would let pass, in its last instruction, goes to the second.
        let mut program = compile(quiet)?;
        program.pop();
        program.extend(compile(allow)?);
        Ok(Filter(program))
    }

    /// Puts this thread, and those that it starts from now on, under the filter.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&self) -> Result<(), Failed> {
        trap::accept();
        seccompiler::apply_filter(&self.0).map_err(|e| Failed::new("install a filter", e))
    }
}

/// What fails quietly.
fn refused(lists: &[&'static [Allow]]) -> Vec<i64> {
    let allowed = |call| lists.iter().copied().flatten().any(|(c, _)| c == call);
    let refused = filters::REFUSED.iter().filter(|call| !allowed(*call));
    refused.copied().collect()
}

fn condition(when: When) -> Result<Option<SeccompRule>, Failed> {
    let equal = |argument, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
    };
    // Of 64 bits the kernel looks at 32 in these arguments, and the C library may
    // leave anything in the others.
    let half = |argument, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    let condition = match when {
        When::Always => return Ok(None),
        When::All(values) => {
            let conditions = values
                .iter()
                .map(|(argument, value)| half(*argument, *value));
            return conditions
                .collect::<Result<_, _>>()
                .and_then(SeccompRule::new)
                .map(Some)
                .map_err(|e| Failed::new("compile a condition", e));
        }
        When::Is(argument, value) => half(argument, value),
        When::Without(argument, bits) => SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(bits),
            0,
        ),
        When::OwnProcess(argument) => equal(argument, std::process::id().into()),
    };
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map(Some)
        .map_err(|e| Failed::new("compile a condition", e))
}

/// For tests: whether a role may make a call at all.
#[cfg(test)]
pub fn allows(role: Role, call: i64) -> bool {
    let mut lists = filters::of(role).into_iter().flatten();
    lists.any(|(allowed, _): &Allow| *allowed == call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_compiles_and_none_may_start_programs() {
        for role in Role::ALL {
            assert!(Filter::of(role).is_ok(), "{role:?}");
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_pidfd_open,
                libc::SYS_kill,
                libc::SYS_tkill,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_pivot_root,
                libc::SYS_chroot,
                libc::SYS_setns,
                libc::SYS_init_module,
                libc::SYS_finit_module,
                libc::SYS_kexec_load,
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_userfaultfd,
                libc::SYS_io_uring_setup,
                libc::SYS_keyctl,
                libc::SYS_open_by_handle_at,
                libc::SYS_memfd_create,
            ] {
                assert!(!allows(role, call), "{role:?} may make call {call}");
            }
        }
    }

    #[test]
    fn names_of_files_and_sockets_belong_to_few() {
        let who = |call| Role::ALL.into_iter().filter(move |r| allows(*r, call));
        let files: Vec<_> = who(libc::SYS_openat).collect();
        assert_eq!(
            files,
            [
                Role::FileSystem,
                Role::Network,
                Role::Control,
                Role::Spawner
            ]
        );
        let sockets: Vec<_> = who(libc::SYS_socket).collect();
        assert_eq!(
            sockets,
            [Role::EventLoop, Role::Network, Role::Control, Role::Spawner]
        );
        let threads: Vec<_> = who(libc::SYS_clone).collect();
        assert_eq!(threads, [Role::Control, Role::Spawner]);
    }
}
