//! From lists of calls to filters of the kernel.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::filters::{self, Allow, When};
use crate::{Failed, Role, trap};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// `struct seccomp_data`: where the call's number stands.
const NUMBER_OFFSET: u32 = 0;

/// The filter of a role: what fails quietly, and the allow-list.
///
/// To install one, the kernel tries it with each call that there is, and it
/// translates it into machine code: both take longer than anything else here. So
/// a call's number is found by halving, not one after the other. Only calls that
/// depend on an argument go to a list behind that, which `seccompiler` makes.
pub struct Filter(BpfProgram);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It is made.
    Allow,
    /// It fails.
    Refuse,
    /// It ends the process.
    Trap,
    /// That depends on its arguments.
    Look,
}

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
        let mut answers: BTreeMap<i64, Answer> = BTreeMap::new();
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in refused(lists) {
            answers.insert(call, Answer::Refuse);
        }
        for (call, when) in lists.iter().copied().flatten() {
            match condition(*when)? {
                Some(rule) => {
                    rules.entry(*call).or_default().push(rule);
                    answers.entry(*call).or_insert(Answer::Look);
                }
                // Allowed whatever its arguments, it has no need of its rules.
                None => {
                    answers.insert(*call, Answer::Allow);
                }
            }
        }
        rules.retain(|call, _| answers.get(call) == Some(&Answer::Look));
        let failed = |e| Failed::new("compile a filter", e);
        let compile = |rules| {
            SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, ARCH)
                .and_then(BpfProgram::try_from)
                .map_err(failed)
        };
        // Without rules, what is left is a look at the architecture and an answer.
        let mut program = compile(BTreeMap::new())?;
        program.pop();
        program.push(instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            NUMBER_OFFSET,
        ));
        let mut tree = tree(&ranges(&answers)?)?;
        let len = tree.len();
        for (at, jump) in tree.iter_mut().enumerate() {
            if u32::from(jump.code) == LOOK {
                jump.k = jump_length(len - at - 1)?;
            }
        }
        program.extend(tree);
        program.extend(compile(rules)?);
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

/// From which number on which answer holds, up to the next.
fn ranges(answers: &BTreeMap<i64, Answer>) -> Result<Vec<(u32, Answer)>, Failed> {
    let mut ranges = vec![(0, Answer::Trap)];
    for (call, answer) in answers {
        let call = u32::try_from(*call).map_err(|e| Failed::new("compile a filter", e))?;
        // The end of the call before, if this is not the next one.
        if ranges.last().is_some_and(|(start, _)| *start == call) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, before)| before != answer) {
            ranges.push((call, *answer));
        }
        ranges.push((call + 1, Answer::Trap));
    }
    Ok(ranges)
}

/// A jump out of the tree to what looks at arguments. There is no other jump of
/// this kind in it.
const LOOK: u32 = libc::BPF_JMP | libc::BPF_JA;

/// Looks for the range that the number is in, and answers.
fn tree(ranges: &[(u32, Answer)]) -> Result<BpfProgram, Failed> {
    let answer = |action| vec![instruction(libc::BPF_RET | libc::BPF_K, u32::from(action))];
    if let [(_, one)] = ranges {
        return Ok(match one {
            Answer::Allow => answer(SeccompAction::Allow),
            Answer::Refuse => answer(SeccompAction::Errno(libc::ENOSYS as u32)),
            Answer::Trap => answer(SeccompAction::Trap),
            Answer::Look => vec![instruction(LOOK, 0)],
        });
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let start = high.first().map_or(0, |(start, _)| *start);
    let (low, high) = (tree(low)?, tree(high)?);
    let mut choice = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, start);
    choice.jt = jump_length(low.len())?;
    Ok([vec![choice], low, high].concat())
}

/// How many instructions are left out by a jump.
fn jump_length<T: TryFrom<usize>>(instructions: usize) -> Result<T, Failed> {
    T::try_from(instructions)
        .map_err(|_| Failed::new("compile a filter", "its list is too long for a jump"))
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
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

    /// A call's arguments.
    type Arguments = [u64; 6];

    /// What the kernel does with a program, for a call of this number with these
    /// arguments; and in how many instructions.
    fn run(program: &[sock_filter], arch: u32, number: u32, of: &Arguments) -> (u32, usize) {
        // `struct seccomp_data`: little-endian, the low half of an argument first.
        let word = |k: u32| of[(k as usize - 16) / 8];
        let (mut accumulator, mut at) = (0u32, 0);
        for steps in 1..=program.len() {
            let now = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { now.jt } else { now.jf });
            match u32::from(now.code) {
                0x20 => {
                    accumulator = match now.k {
                        0 => number,
                        4 => arch,
                        k if (k - 16) % 8 == 0 => word(k) as u32,
                        k => (word(k) >> 32) as u32,
                    }
                }
                0x05 => at += now.k as usize,
                0x15 => at += jump(accumulator == now.k),
                0x25 => at += jump(accumulator > now.k),
                0x35 => at += jump(accumulator >= now.k),
                0x54 => accumulator &= now.k,
                0x06 => return (now.k, steps),
                code => panic!("an instruction that none of this makes: {code:#x}"),
            }
        }
        panic!("a program without an end");
    }

    /// What the lists say of a call.
    fn expected(lists: &[&'static [Allow]], number: i64, of: &Arguments) -> u32 {
        let argument = |n: u8| of[usize::from(n)];
        let is = |(n, value): (u8, u64)| argument(n) as u32 == value as u32;
        let holds = |when: &When| match *when {
            When::Always => true,
            When::Is(n, value) => is((n, value)),
            When::All(values) => values.iter().copied().all(is),
            When::Without(n, bits) => argument(n) & bits == 0,
            When::OwnProcess(n) => argument(n) == u64::from(std::process::id()),
        };
        let all = || lists.iter().copied().flatten();
        let mut of_it = all().filter(|(call, _)| *call == number).peekable();
        if of_it.peek().is_none() && filters::REFUSED.contains(&number) {
            return SeccompAction::Errno(libc::ENOSYS as u32).into();
        }
        match of_it.any(|(_, when)| holds(when)) {
            true => SeccompAction::Allow.into(),
            false => SeccompAction::Trap.into(),
        }
    }

    #[test]
    fn a_program_says_what_the_lists_do_of_every_call() {
        const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
        let roles = Role::ALL.into_iter().map(filters::of);
        for lists in roles.chain([filters::spawner(&Role::LATE), filters::spawner(&[])]) {
            let Filter(program) = Filter::compile(&lists).unwrap();
            let alike = [0, 1, u64::MAX, u64::from(std::process::id())];
            let mut arguments = Vec::from(alike.map(|argument| [argument; 6]));
            for (_, when) in lists.iter().copied().flatten() {
                match when {
                    When::Is(_, value) | When::Without(_, value) => arguments
                        .extend([*value, value - 1, value + 1, value | 1 << 40].map(|v| [v; 6])),
                    When::All(values) => {
                        let mut right = [u64::MAX; 6];
                        for (n, value) in *values {
                            right[usize::from(*n)] = *value;
                        }
                        arguments.push(right);
                        // All but one of them.
                        for (n, value) in *values {
                            let mut wrong = right;
                            wrong[usize::from(*n)] = value + 1;
                            arguments.push(wrong);
                        }
                    }
                    When::Always | When::OwnProcess(_) => {}
                }
            }
            // And those of the other ABI of the processor, and none.
            let numbers = (0..1200).chain([1 << 30, (1 << 30) + 16, u32::MAX]);
            for number in numbers {
                for of in &arguments {
                    let (said, steps) = run(&program, AUDIT_ARCH_X86_64, number, of);
                    let wanted = expected(&lists, number.into(), of);
                    assert_eq!(said, wanted, "call {number}, {of:x?}");
                    let looked = lists.iter().copied().flatten().any(|(call, when)| {
                        *call == i64::from(number) && !matches!(when, When::Always)
                    });
                    assert!(steps <= 16 || looked, "call {number} in {steps}");
                }
                let other = run(&program, AUDIT_ARCH_X86_64 ^ 1, number, &[0; 6]).0;
                assert_eq!(other, u32::from(SeccompAction::KillProcess));
            }
        }
    }

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
