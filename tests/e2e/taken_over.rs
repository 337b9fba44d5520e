//! A drupe that runs, taken over: from outside, each of its threads is made to make
//! the system calls that somebody would make who controls it. No hook in drupe is
//! needed, so that it is the program that users have.
//!
//! A thread is stopped by `ptrace`, gets the registers of the call, makes it, and is
//! put back to where it was. A call that is not in the thread's list raises
//! `SIGSYS`, which is taken away here, since it would end the process: that it does
//! is seen in the end.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;

use confine::Role;

use crate::attempts::{ATTEMPTS, Argument, Attempt, End};
use crate::guest::Running;
use crate::hostile::driver::{SECRET, machine};
use crate::sandbox::Home;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Below what a thread uses of its stack.
const SCRATCH_BELOW: u64 = 4096;
/// Steps until a call is made: signals come in between.
const STEPS: usize = 100;

fn ptrace(request: u32, tid: i32, address: u64, data: u64) -> i64 {
    // SAFETY: `data` points to live registers where the request has any.
    unsafe { libc::ptrace(request, tid, address, data) }
}

/// A thread that is stopped.
struct Thread<'a> {
    tid: i32,
    before: libc::user_regs_struct,
    memory: &'a File,
    /// Where the process has a `syscall` instruction.
    syscall: u64,
}

impl<'a> Thread<'a> {
    fn stop(tid: i32, memory: &'a File, syscall: u64) -> Self {
        assert_eq!(ptrace(libc::PTRACE_SEIZE, tid, 0, 0), 0);
        assert_eq!(ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0), 0);
        wait(tid).unwrap();
        let mut thread = Thread {
            tid,
            // SAFETY: integers, for which all zeroes is a value.
            before: unsafe { std::mem::zeroed() },
            memory,
            syscall,
        };
        thread.before = thread.registers();
        thread
    }

    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = self.before;
        let to = &raw mut registers as u64;
        assert_eq!(ptrace(libc::PTRACE_GETREGS, self.tid, 0, to), 0);
        registers
    }

    /// Prepares the call.
    fn load(&self, attempt: &Attempt) {
        let mut registers = self.before;
        let mut scratch = registers.rsp - SCRATCH_BELOW;
        let mut arguments = [0_u64; 6];
        for (slot, argument) in arguments.iter_mut().zip(attempt.arguments) {
            *slot = match *argument {
                Argument::Value(value) => value as u64,
                Argument::Path(path) => {
                    let bytes = path.to_bytes_with_nul();
                    scratch -= bytes.len() as u64;
                    self.memory.write_all_at(bytes, scratch).unwrap();
                    scratch
                }
                // The one that tests it.
                Argument::Other => std::process::id().into(),
            };
        }
        let [a, b, c, d, e, f] = arguments;
        (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
        (registers.r10, registers.r8, registers.r9) = (d, e, f);
        registers.rax = attempt.number as u64;
        // It is in no call now that the kernel would begin again.
        registers.orig_rax = u64::MAX;
        registers.rip = self.syscall;
        registers.rsp = (scratch - SCRATCH_BELOW) & !15;
        self.set(&registers);
    }

    fn set(&self, registers: &libc::user_regs_struct) {
        let from = registers as *const _ as u64;
        assert_eq!(ptrace(libc::PTRACE_SETREGS, self.tid, 0, from), 0);
    }

    fn attempt(&self, attempt: &Attempt) -> End {
        self.load(attempt);
        for _ in 0..STEPS {
            assert_eq!(ptrace(libc::PTRACE_SINGLESTEP, self.tid, 0, 0), 0);
            match wait(self.tid) {
                Ok(libc::SIGSYS) => {
                    // The trap of the step itself may be left, and would end it.
                    assert_eq!(ptrace(libc::PTRACE_SINGLESTEP, self.tid, 0, 0), 0);
                    wait(self.tid).unwrap();
                    return End::Killed;
                }
                Ok(_) if self.registers().rip == self.syscall => {}
                Ok(libc::SIGTRAP) => {
                    let result = self.registers().rax as i64;
                    return match result {
                        -4095..0 => End::Refused(-result as i32),
                        _ => End::Succeeded,
                    };
                }
                _ => return End::Broken,
            }
        }
        End::Broken
    }

    /// Lets it go on as if nothing had been.
    fn release(self) {
        self.set(&self.before);
        assert_eq!(ptrace(libc::PTRACE_DETACH, self.tid, 0, 0), 0);
    }
}

/// Waits for a thread to stop: by which signal, or how it ended.
fn wait(tid: i32) -> Result<i32, i32> {
    let mut status = 0;
    // SAFETY: the status is live.
    let waited = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) };
    assert_eq!(waited, tid, "{}", std::io::Error::last_os_error());
    match libc::WIFSTOPPED(status) {
        true => Ok(libc::WSTOPSIG(status)),
        false => Err(status),
    }
}

/// A `syscall` instruction of the process.
fn instruction(pid: u32, memory: &File) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let code = maps.lines().filter(|line| line.contains(" r-xp "));
    for line in code.filter(|line| line.contains("/")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).unwrap();
        if let Some(at) = bytes.windows(2).position(|pair| pair == SYSCALL) {
            return start + at as u64;
        }
    }
    panic!("no system call in {maps}");
}

/// The threads of a process: number and name. A new one is called as the one that
/// made it until it has named itself: then there is more than one spawner.
fn threads(pid: u32) -> Vec<(i32, String)> {
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let thread = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap();
            let tid = task.file_name().to_str().unwrap().parse().unwrap();
            (tid, name.trim().to_owned())
        };
        let mut all: Vec<_> = tasks.map(|task| thread(task.unwrap())).collect();
        // One that KVM makes has no user code.
        all.retain(|(_, name)| !name.starts_with("kvm"));
        if all.iter().filter(|(_, name)| name == "spawner").count() == 1 {
            return all;
        }
        std::thread::yield_now();
    }
}

/// What a thread of `drupe boot` is for.
fn role(name: &str) -> Role {
    match name {
        "console" => Role::Console,
        "log" => Role::Log,
        "spawner" => Role::Spawner,
        "usernet" => Role::Network,
        _ if name.starts_with("vcpu") => Role::Vcpu,
        _ if name.starts_with("blk") => Role::Disk,
        _ if name.starts_with("fs") => Role::FileSystem,
        _ => Role::EventLoop,
    }
}

/// What a thread of a sandbox's monitor is for.
fn monitor_role(name: &str) -> Role {
    match name {
        "drupe" | "control" | "client" | "stop" | "signals" => Role::Control,
        "machine" => Role::EventLoop,
        // Without a user-mode network it may do no more for its threads than they
        // may themselves.
        "spawner" => Role::Disk,
        name => role(name),
    }
}

fn memory(pid: u32) -> File {
    let path = format!("/proc/{pid}/mem");
    File::options().read(true).write(true).open(path).unwrap()
}

/// A VM whose devices all run, with a share of one file more. [`SECRET`] is beside
/// that file, and beside the directory of the other share.
fn held() -> (Running, tempfile::TempDir) {
    let (guest, files) = machine("hold");
    let single = files.path().join("single");
    fs::write(&single, "single").unwrap();
    let share = format!("{},tag=one", single.display());
    let run = guest.arg("--share").arg(share).start();
    run.wait_for("held\n");
    (run, files)
}

/// Takes over each thread of a process in turn, prints what it could do, and
/// returns the names of the threads.
pub fn take_over(pid: u32, role: impl Fn(&str) -> Role) -> Vec<String> {
    let memory = memory(pid);
    let syscall = instruction(pid, &memory);
    let mut table = Vec::new();
    let mut bad = Vec::new();
    for (tid, name) in threads(pid) {
        let thread = Thread::stop(tid, &memory, syscall);
        let ends: Vec<End> = ATTEMPTS.iter().map(|a| thread.attempt(a)).collect();
        thread.release();
        for (attempt, end) in ATTEMPTS.iter().zip(&ends) {
            if !end.is_fine(attempt.name, role(&name)) {
                bad.push(format!("{} in {name}: {end:?}", attempt.name));
            }
        }
        table.push((name, ends));
    }
    print!("\n{:30}", "");
    table.iter().for_each(|(name, _)| print!("{name:>12}"));
    for (n, attempt) in ATTEMPTS.iter().enumerate() {
        print!("\n{:30}", attempt.name);
        let row = table.iter().map(|(_, ends)| ends[n].text());
        row.for_each(|text| print!("{text:>12}"));
    }
    println!();
    assert!(bad.is_empty(), "{bad:?}");
    table.into_iter().map(|(name, _)| name).collect()
}

/// Opens what is beside the shares, in a worker of a share, from each descriptor of
/// the process on: those that lead there.
fn beside_the_shares(pid: u32) -> Vec<String> {
    let memory = memory(pid);
    let syscall = instruction(pid, &memory);
    let all = threads(pid);
    let worker = all.iter().find(|(_, name)| name.starts_with("fs0-q1"));
    let worker = Thread::stop(worker.unwrap().0, &memory, syscall);
    let paths = [SECRET.to_owned(), format!("../{SECRET}")];
    let paths = paths.map(|path| -> &CStr { Box::leak(CString::new(path).unwrap().into()) });
    let mut led = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let fd: i64 = entry.file_name().to_str().unwrap().parse().unwrap();
        for path in paths {
            let arguments = [
                Argument::Value(fd),
                Argument::Path(path),
                Argument::Value(libc::O_PATH.into()),
            ];
            let open = Attempt {
                name: "open what is beside a share",
                number: libc::SYS_openat,
                arguments: Vec::leak(arguments.into()),
            };
            match worker.attempt(&open) {
                End::Refused(_) => {}
                end => {
                    let at = fs::read_link(entry.path());
                    led.push(format!("{path:?} from {fd}, {at:?}: {end:?}"));
                }
            }
        }
    }
    worker.release();
    led
}

#[test]
fn no_thread_of_a_drupe_that_runs_can_do_what_is_not_its_own() {
    let (mut run, _files) = held();
    let led = beside_the_shares(run.pid());
    assert!(led.is_empty(), "{led:?}");
    let names = take_over(run.pid(), role);
    for needed in [
        "vcpu0", "blk0-q0", "fs0-q1-0", "usernet", "console", "spawner",
    ] {
        assert!(names.iter().any(|name| name == needed), "no {needed}");
    }
    // The machine has noticed nothing.
    run.type_line("q");
    let end = run.finish();
    assert_eq!(end.status.code(), Some(0), "{}", end.errors);
}

#[test]
fn nor_can_a_thread_of_a_sandbox_s_monitor() {
    let home = Home::new();
    home.detached("taken", "-v volume:/data", "while :; do sleep 1; done");
    let pid = home.inspect("taken")["State"]["Pid"].as_u64().unwrap();
    let names = take_over(pid as u32, monitor_role);
    for needed in ["drupe", "machine", "control", "vcpu0", "spawner"] {
        assert!(names.iter().any(|name| name == needed), "no {needed}");
    }
    assert_eq!(home.ok(&["exec", "taken", "echo", "fine"]), "fine");
    home.ok(&["rm", "-f", "taken"]);
}

#[test]
fn such_a_call_ends_a_drupe_that_runs_and_says_which() {
    let (run, _files) = held();
    let memory = memory(run.pid());
    let syscall = instruction(run.pid(), &memory);
    let all = threads(run.pid());
    let disk = all.iter().find(|(_, name)| name == "blk0-q0");
    let tid = disk.unwrap_or_else(|| panic!("{all:?}")).0;
    let thread = Thread::stop(tid, &memory, syscall);
    let execve = ATTEMPTS.iter().find(|a| a.name.starts_with("execve"));
    thread.load(execve.unwrap());
    assert_eq!(ptrace(libc::PTRACE_DETACH, tid, 0, 0), 0);
    let end = run.finish();
    assert_eq!(end.status.signal(), Some(libc::SIGSYS), "{}", end.errors);
    let line = "thread 'blk0-q0' made system call 59 (execve)";
    assert!(end.errors.contains(line), "{}", end.errors);
}
