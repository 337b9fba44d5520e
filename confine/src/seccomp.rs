//! From lists of calls to filters of the kernel.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter};

use crate::filters::{self, Allow, When};
use crate::{Failed, Role, trap};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// `struct seccomp_data`: where the call's number stands, and its arguments, of
/// 64 bits each, the low half first.
const NUMBER_OFFSET: u32 = 0;
const ARGUMENTS_OFFSET: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_FROM: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// The filter of a role: what fails quietly, and the allow-list.
///
/// To install one, the kernel tries it with each call that there is, and it
/// translates it into machine code, in several passes: both take longer than
/// anything else here, and grow with the program. So a call's number is found by
/// halving, not one after the other, and what is answered stands there once: the
/// tree of numbers, the answers, and for each call that depends on its arguments
/// what looks at them.
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
    /// That depends on its arguments: those of the call of this number.
    Look(u32),
}

/// The answers that depend on nothing, as they stand behind the tree.
const ANSWERS: [Answer; 3] = [Answer::Allow, Answer::Refuse, Answer::Trap];

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
        let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
        let mut rules: BTreeMap<u32, Vec<When>> = BTreeMap::new();
        for call in refused(lists) {
            answers.insert(number(call)?, Answer::Refuse);
        }
        for (call, when) in lists.iter().copied().flatten() {
            let call = number(*call)?;
            match when {
                // Allowed whatever its arguments, it has no need of its rules.
                When::Always => {
                    answers.insert(call, Answer::Allow);
                }
                when => {
                    rules.entry(call).or_default().push(*when);
                    answers.entry(call).or_insert(Answer::Look(call));
                }
            }
        }
        rules.retain(|call, _| answers.get(call) == Some(&Answer::Look(*call)));
        let ranges = ranges(&answers);
        // Without rules, what `seccompiler` makes is a look at the architecture and
        // an answer.
        let mut program = SeccompFilter::new(
            BTreeMap::new(),
            SeccompAction::Trap,
            SeccompAction::Allow,
            ARCH,
        )
        .and_then(BpfProgram::try_from)
        .map_err(|e| Failed::new("compile a filter", e))?;
        program.pop();
        program.push(instruction(LOAD, NUMBER_OFFSET));
        let mut tree = Tree {
            program,
            answers_at: 0,
            looks: Vec::new(),
        };
        tree.answers_at = tree.program.len() + tree_size(&ranges);
        tree.grow(&ranges)?;
        let Tree {
            mut program, looks, ..
        } = tree;
        program.extend(ANSWERS.map(|answer| instruction(RETURN, value(answer))));
        let mut looked: BTreeMap<u32, usize> = BTreeMap::new();
        for (call, rules) in &rules {
            looked.insert(*call, program.len());
            look(&mut program, rules)?;
        }
        for (at, call) in looks {
            let to = looked.get(&call).copied().unwrap_or_default();
            program[at].k = distance(at, to)?;
        }
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

fn number(call: i64) -> Result<u32, Failed> {
    u32::try_from(call).map_err(|e| Failed::new("compile a filter", e))
}

/// What the kernel is told.
fn value(answer: Answer) -> u32 {
    u32::from(match answer {
        Answer::Allow => SeccompAction::Allow,
        Answer::Refuse => SeccompAction::Errno(libc::ENOSYS as u32),
        Answer::Trap | Answer::Look(_) => SeccompAction::Trap,
    })
}

/// From which number on which answer holds, up to the next.
fn ranges(answers: &BTreeMap<u32, Answer>) -> Vec<(u32, Answer)> {
    let mut ranges = vec![(0, Answer::Trap)];
    for (call, answer) in answers {
        // The end of the call before, if this is not the next one.
        if ranges.last().is_some_and(|(start, _)| start == call) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, before)| before != answer) {
            ranges.push((*call, *answer));
        }
        ranges.push((call + 1, Answer::Trap));
    }
    ranges
}

/// The instructions of a tree: a choice between any two ranges, and a jump to what
/// looks at arguments.
fn tree_size(ranges: &[(u32, Answer)]) -> usize {
    let looks = |(_, answer): &&(u32, Answer)| matches!(answer, Answer::Look(_));
    ranges.len() - 1 + ranges.iter().filter(looks).count()
}

/// A program that looks for the range that a number is in.
struct Tree {
    program: BpfProgram,
    /// Where [`ANSWERS`] will stand.
    answers_at: usize,
    /// Jumps that have no target yet, and whose arguments they want looked at.
    looks: Vec<(usize, u32)>,
}

impl Tree {
    /// Chooses between the halves; at least two ranges.
    fn grow(&mut self, ranges: &[(u32, Answer)]) -> Result<(), Failed> {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let start = high.first().map_or(0, |(start, _)| *start);
        let choice = self.program.len();
        self.program.push(instruction(JUMP_FROM, start));
        self.program[choice].jf = self.branch(choice, low)?;
        self.program[choice].jt = self.branch(choice, high)?;
        Ok(())
    }

    /// One half: the way to its answer, or a tree of its own.
    fn branch(&mut self, choice: usize, ranges: &[(u32, Answer)]) -> Result<u8, Failed> {
        let to = match ranges {
            [(_, Answer::Look(call))] => {
                self.looks.push((self.program.len(), *call));
                self.program.push(instruction(JUMP, 0));
                self.program.len() - 1
            }
            [(_, answer)] => {
                let place = ANSWERS.iter().position(|one| one == answer);
                self.answers_at + place.unwrap_or(ANSWERS.len() - 1)
            }
            ranges => {
                let to = self.program.len();
                self.grow(ranges)?;
                to
            }
        };
        distance(choice, to)
    }
}

/// Looks at the arguments of a call, which is made when one of the rules holds.
fn look(program: &mut BpfProgram, rules: &[When]) -> Result<(), Failed> {
    let (allow, trap) = (value(Answer::Allow), value(Answer::Trap));
    // Most ask for one of some values of the same argument: it is loaded once.
    let mut of_one = rules.iter().map(|rule| match rule {
        When::Is(argument, value) => Some((*argument, *value)),
        _ => None,
    });
    let first = of_one.next().flatten().map(|(argument, _)| argument);
    if let Some(argument) = first
        && of_one.all(|rule| rule.is_some_and(|(other, _)| other == argument))
    {
        program.push(instruction(LOAD, offset(argument, Half::Low)));
        let allowed = program.len() + rules.len() + 1;
        for rule in rules {
            if let When::Is(_, value) = rule {
                let at = program.len();
                program.push(instruction(JUMP_IF_EQUAL, *value as u32));
                program[at].jt = distance(at, allowed)?;
            }
        }
        program.push(instruction(RETURN, trap));
        program.push(instruction(RETURN, allow));
        return Ok(());
    }
    for rule in rules {
        let tests = tests(*rule);
        let steps = |test: &Test| 2 + usize::from(test.mask.is_some());
        let next = program.len() + tests.iter().map(steps).sum::<usize>() + 1;
        for test in tests {
            program.push(instruction(LOAD, test.offset));
            if let Some(mask) = test.mask {
                program.push(instruction(AND, mask));
            }
            let at = program.len();
            program.push(instruction(JUMP_IF_EQUAL, test.value));
            program[at].jf = distance(at, next)?;
        }
        program.push(instruction(RETURN, allow));
    }
    program.push(instruction(RETURN, trap));
    Ok(())
}

/// A look at one half of an argument.
struct Test {
    offset: u32,
    mask: Option<u32>,
    value: u32,
}

#[derive(Debug, Clone, Copy)]
enum Half {
    Low,
    High,
}

fn offset(argument: u8, half: Half) -> u32 {
    let half = match half {
        Half::Low => 0,
        Half::High => 4,
    };
    ARGUMENTS_OFFSET + 8 * u32::from(argument) + half
}

/// What has to be so for a rule to hold.
fn tests(rule: When) -> Vec<Test> {
    let is = |argument, half, value| Test {
        offset: offset(argument, half),
        mask: None,
        value,
    };
    let high = |value: u64| (value >> 32) as u32;
    match rule {
        When::Always => Vec::new(),
        // Of 64 bits the kernel looks at 32 in these arguments, and the C library
        // may leave anything in the others.
        When::Is(argument, value) => vec![is(argument, Half::Low, value as u32)],
        When::All(values) => values
            .iter()
            .map(|(argument, value)| is(*argument, Half::Low, *value as u32))
            .collect(),
        When::Without(argument, bits) => [(Half::Low, bits as u32), (Half::High, high(bits))]
            .into_iter()
            .filter(|(_, bits)| *bits != 0)
            .map(|(half, bits)| Test {
                mask: Some(bits),
                ..is(argument, half, 0)
            })
            .collect(),
        When::OwnProcess(argument) => vec![
            is(argument, Half::Low, std::process::id()),
            is(argument, Half::High, 0),
        ],
    }
}

/// How many instructions a jump leaves out.
fn distance<T: TryFrom<usize>>(from: usize, to: usize) -> Result<T, Failed> {
    to.checked_sub(from + 1)
        .and_then(|between| T::try_from(between).ok())
        .ok_or_else(|| Failed::new("compile a filter", "its list is too long for a jump"))
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
    fn programs_are_short_whatever_threads_start_late() {
        let all = 1 << Role::LATE.len();
        for chosen in 0..all {
            let late = Role::LATE.iter().enumerate();
            let late = late.filter(|(n, _)| chosen >> n & 1 == 1);
            let late: Vec<Role> = late.map(|(_, role)| *role).collect();
            let Filter(program) = Filter::of_spawner(&late).unwrap();
            assert!(program.len() < 350, "{late:?}: {}", program.len());
        }
        let Filter(console) = Filter::of(Role::Console).unwrap();
        assert!(console.len() < 120, "{}", console.len());
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
