//! Starts processes in the sandbox.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use protocol::{Process, WindowSize};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::ThreadNameSpaceType;

use crate::accounts::Accounts;
use crate::child::{self, Cwd, Place, Plan, REPORT, Report, Stage};
use crate::error::{Context, Error, Result, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND, describe};
use crate::setup::Sandbox;
use crate::sys::{self, Forked, Strings};
use crate::{devices, limits};

/// `PATH` for a process that has none, as Docker sets it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `TERM` for a process with a terminal, as Docker sets it.
const DEFAULT_TERM: &str = "xterm";
/// Directories of `PATH` that are searched.
const MAX_CANDIDATES: usize = 1024;

/// A process that runs its program.
#[derive(Debug)]
pub struct Started {
    /// It.
    pub pidfd: OwnedFd,
    /// The agent's ends of its streams.
    pub streams: Streams,
}

/// The agent's ends of a process's standard streams, which do not block.
#[derive(Debug)]
pub enum Streams {
    /// Three pipes; no input if it is at its end from the start.
    Pipes {
        /// To standard input.
        input: Option<OwnedFd>,
        /// From standard output.
        output: OwnedFd,
        /// From standard error.
        error: OwnedFd,
    },
    /// A pseudo-terminal's master.
    Terminal(OwnedFd),
}

/// Starts a process: the main one, or, given that, another one beside it.
///
/// # Errors
/// A request that makes no sense, a program that cannot be executed, or what
/// the kernel says.
pub fn start(sandbox: &Sandbox, process: &Process, main: Option<&OwnedFd>) -> Result<Started> {
    let accounts = Accounts::read(&sandbox.root)?;
    let identity = accounts.identity(&process.user, &process.groups)?;
    let Some(program) = process.args.first() else {
        return Err(Error::request(
            "no command: give one, or take an image that has one",
        ));
    };
    let env = environment(process, &identity.home);
    let (candidates, search) = candidates(program, &env)?;
    let args = c_strings(&process.args)?;
    let env = c_strings(&env)?;
    if !process.cwd.is_absolute() {
        return Err(Error::request(format!(
            "the working directory '{}' is not absolute",
            process.cwd.display()
        )));
    }
    let cwd = Cwd::new(&process.cwd).ok_or_else(nul)?;
    let (streams, theirs) = Streams::new(sandbox, process, Uid::from_raw(identity.uid))?;
    let place = match main {
        Some(main) => Place::Existing(main.as_fd()),
        None => {
            let delegation = sandbox.cgroup.delegation()?;
            let controllers = sandbox.cgroup.controllers();
            Place::New {
                privileged: sandbox.privileged,
                console: theirs.console(&sandbox.root)?,
                delegation: delegation.map(|(procs, control)| (procs, control, controllers)),
            }
        }
    };
    let plan = Plan {
        place,
        stdio: theirs.stdio(sandbox.null.as_fd()),
        terminal: process.terminal.is_some(),
        candidates,
        search,
        args: Strings::new(&args),
        env: Strings::new(&env),
        cwd,
        uid: Uid::from_raw(identity.uid),
        gid: Gid::from_raw(identity.gid),
        groups: identity
            .groups
            .iter()
            .map(|gid| Gid::from_raw(*gid))
            .collect(),
        capabilities: limits::capabilities(&process.capabilities)?,
        no_new_privileges: process.no_new_privileges,
        rlimits: limits::rlimits(&process.rlimits)?,
        init: process.init && main.is_none(),
    };
    let (report, report_to) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe".into())?;
    let pidfd = launch(sandbox, &plan, main, &report_to)?;
    drop(report_to);
    let failed = wait_for_program(report);
    if let Some(report) = failed {
        reap(&pidfd);
        return Err(explain(&report, process, &plan));
    }
    Ok(Started { pidfd, streams })
}

fn launch(
    sandbox: &Sandbox,
    plan: &Plan<'_>,
    main: Option<&OwnedFd>,
    report_to: &OwnedFd,
) -> Result<OwnedFd> {
    let clone = |flags, cgroup| -> std::result::Result<(Pid, OwnedFd), Errno> {
        // SAFETY: `child::run` keeps to what a copy of a process with threads
        // may do.
        match unsafe { sys::clone3(flags, Some(cgroup)) }? {
            Forked::Child => child::run(plan, report_to.as_fd()),
            Forked::Parent(pid, pidfd) => Ok((pid, pidfd)),
        }
    };
    let cloned = match main {
        None => clone(libc::CLONE_NEWPID | libc::CLONE_NEWNS, sandbox.cgroup.top()),
        // To enter a PID namespace is to have one's children born there. It
        // cannot be undone by name, so a thread does it that has no future.
        Some(main) => thread::scope(|threads| {
            let enter = || {
                let kind = ThreadNameSpaceType::PROCESS_ID;
                rustix::thread::move_into_thread_name_spaces(main.as_fd(), kind)?;
                clone(0, sandbox.cgroup.workload())
            };
            match thread::Builder::new().spawn_scoped(threads, enter) {
                Ok(thread) => thread.join().unwrap_or(Err(Errno::CANCELED)),
                Err(_) => Err(Errno::AGAIN),
            }
        }),
    };
    match cloned {
        Ok((_, pidfd)) => Ok(pidfd),
        Err(Errno::SRCH) => Err(ended()),
        Err(e) => Err(e).context(|| "make a process".into()),
    }
}

/// The error of whoever comes after the main process's end.
pub fn ended() -> Error {
    Error::request("the sandbox's main process has ended")
}

/// The report of what failed, or none when the program runs.
fn wait_for_program(report: OwnedFd) -> Option<Report> {
    let mut bytes = Vec::with_capacity(REPORT);
    // A short read is as good as none.
    let _ = File::from(report)
        .take(REPORT as u64)
        .read_to_end(&mut bytes);
    Report::from_bytes(&bytes)
}

fn reap(pidfd: &OwnedFd) {
    let wait = || rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    // There is nothing else to wait for.
    let _ = rustix::io::retry_on_intr(wait);
}

fn environment(process: &Process, home: &str) -> Vec<String> {
    let mut env = process.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|e| variable(e).0 == name);
    if !has(&env, "HOME") {
        env.push(format!("HOME={home}"));
    }
    if process.terminal.is_some() && !has(&env, "TERM") {
        env.push(format!("TERM={DEFAULT_TERM}"));
    }
    env
}

fn variable(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, ""))
}

/// Where the program may be, and whether that is a search: a name with a slash
/// is a path.
fn candidates(program: &str, env: &[String]) -> Result<(Vec<CString>, bool)> {
    if program.contains('/') {
        return Ok((c_strings(&[program])?, false));
    }
    // The last one counts, as in a shell.
    let path = env.iter().rev().map(|e| variable(e));
    let path = path
        .into_iter()
        .find_map(|(name, value)| (name == "PATH").then_some(value))
        .unwrap_or(DEFAULT_PATH);
    let candidates = path.split(':').take(MAX_CANDIDATES).map(|directory| {
        let directory = match directory {
            "" => ".",
            directory => directory,
        };
        format!("{directory}/{program}")
    });
    let candidates: Vec<_> = match program {
        "" => Vec::new(),
        _ => candidates.collect(),
    };
    Ok((c_strings(&candidates)?, true))
}

fn c_strings<S: AsRef<str>>(strings: &[S]) -> Result<Vec<CString>> {
    let convert = |s: &S| CString::new(s.as_ref()).map_err(|_| nul());
    strings.iter().map(convert).collect()
}

fn nul() -> Error {
    Error::request("an argument, a variable or a path has a NUL in it")
}

/// What Docker says.
fn explain(report: &Report, process: &Process, plan: &Plan<'_>) -> Error {
    let reason = describe(report.errno);
    let system = |what: &str| Error::System {
        what: what.to_owned(),
        source: report.errno,
    };
    let name = process.args.first().map_or("", String::as_str);
    let program = |message: String| Error::Program {
        message,
        status: match report.errno {
            Errno::NOENT | Errno::NOTDIR => STATUS_NOT_FOUND,
            _ => STATUS_NOT_EXECUTABLE,
        },
    };
    match report.stage {
        Stage::Namespaces if report.errno == Errno::SRCH => ended(),
        Stage::Namespaces => system("enter the sandbox's namespaces"),
        Stage::Mounts => system("mount the sandbox's file systems"),
        Stage::Streams => system("set up the standard streams"),
        Stage::Limits => system("set the resource limits"),
        Stage::Identity => system("set user, groups and capabilities"),
        Stage::Init => system("start the init process"),
        Stage::Cwd => program_status(
            format!("chdir to cwd (\"{}\"): {reason}", process.cwd.display()),
            STATUS_NOT_EXECUTABLE,
        ),
        Stage::Search => program(format!(
            "exec: \"{name}\": executable file not found in $PATH"
        )),
        Stage::Program => program(match report.errno {
            Errno::NOENT | Errno::NOTDIR => format!("exec: \"{name}\": stat {name}: {reason}"),
            _ => format!("exec: \"{name}\": {reason}"),
        }),
        Stage::Execute => {
            let path = plan.candidates.get(usize::from(report.candidate));
            let path = path.map_or(name.into(), |p| p.to_string_lossy());
            program(format!("exec {path}: {reason}"))
        }
    }
}

fn program_status(message: String, status: u8) -> Error {
    Error::Program { message, status }
}

/// The process's ends of its streams.
struct Theirs {
    /// Input, output, error; all the same for a terminal.
    ends: [Option<OwnedFd>; 3],
    terminal: bool,
}

impl Theirs {
    fn stdio<'a>(&'a self, null: BorrowedFd<'a>) -> [BorrowedFd<'a>; 3] {
        let first = self.ends[0].as_ref().map_or(null, AsFd::as_fd);
        match self.terminal {
            true => [first; 3],
            false => {
                let end = |n: usize| self.ends[n].as_ref().map_or(null, AsFd::as_fd);
                [first, end(1), end(2)]
            }
        }
    }

    /// The terminal's path below the root.
    fn console(&self, root: &crate::resolve::Root) -> Result<Option<CString>> {
        let (true, Some(terminal)) = (self.terminal, &self.ends[0]) else {
            return Ok(None);
        };
        devices::make_console(root)?;
        // The devpts has only numbers in it.
        let path = rustix::fs::readlink(
            format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(terminal)
            ),
            Vec::new(),
        );
        let path = path.context(|| "find the terminal".into())?;
        let number = Path::new(OsStr::from_bytes(path.as_bytes())).file_name();
        let mut path = b"dev/pts/".to_vec();
        path.extend(number.unwrap_or_default().as_bytes());
        CString::new(path).map(Some).map_err(|_| nul())
    }
}

impl Streams {
    fn new(sandbox: &Sandbox, process: &Process, owner: Uid) -> Result<(Self, Theirs)> {
        match process.terminal {
            Some(size) => Self::terminal(sandbox, size, owner),
            None => Self::pipes(process.stdin, owner),
        }
        .context(|| "make the standard streams".into())
    }

    fn terminal(
        sandbox: &Sandbox,
        size: WindowSize,
        owner: Uid,
    ) -> std::result::Result<(Self, Theirs), Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master = rustix::fs::openat(&sandbox.terminals, "ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        resize(&master, size)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::fs::fchown(&slave, Some(owner), None)?;
        let theirs = Theirs {
            ends: [Some(slave), None, None],
            terminal: true,
        };
        Ok((Streams::Terminal(master), theirs))
    }

    fn pipes(stdin: bool, owner: Uid) -> std::result::Result<(Self, Theirs), Errno> {
        let pipe = || -> std::result::Result<(OwnedFd, OwnedFd), Errno> {
            let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            // So that the user can open /dev/stdout and its like.
            rustix::fs::fchown(&to, Some(owner), None)?;
            Ok((from, to))
        };
        let ours = |end: OwnedFd| -> std::result::Result<OwnedFd, Errno> {
            rustix::fs::fcntl_setfl(&end, OFlags::NONBLOCK)?;
            Ok(end)
        };
        let (their_input, input) = match stdin {
            true => {
                let (from, to) = pipe()?;
                (Some(from), Some(ours(to)?))
            }
            false => (None, None),
        };
        let (output, their_output) = pipe()?;
        let (error, their_error) = pipe()?;
        let streams = Streams::Pipes {
            input,
            output: ours(output)?,
            error: ours(error)?,
        };
        let theirs = Theirs {
            ends: [their_input, Some(their_output), Some(their_error)],
            terminal: false,
        };
        Ok((streams, theirs))
    }
}

/// Tells a terminal the size of its window.
///
/// # Errors
/// The kernel's.
pub fn resize(terminal: impl AsFd, size: WindowSize) -> std::result::Result<(), Errno> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Process {
        Process {
            main: true,
            args: vec!["prog".into()],
            env: vec![],
            cwd: "/".into(),
            user: String::new(),
            groups: vec![],
            terminal: None,
            stdin: false,
            capabilities: vec![],
            no_new_privileges: false,
            rlimits: vec![],
            init: false,
        }
    }

    #[test]
    fn what_is_missing_in_the_environment_is_added() {
        let mut process = process();
        assert_eq!(environment(&process, "/root"), ["HOME=/root"]);
        process.env = vec!["HOME=".into(), "A=b=c".into()];
        process.terminal = Some(WindowSize { rows: 1, cols: 1 });
        let env = environment(&process, "/root");
        assert_eq!(env, ["HOME=", "A=b=c", "TERM=xterm"]);
    }

    #[test]
    fn programs_are_looked_for_in_the_path() {
        let find = |program: &str, env: &[&str]| {
            let env: Vec<_> = env.iter().map(|e| (*e).to_owned()).collect();
            let (candidates, search) = candidates(program, &env).unwrap();
            let text = |c: CString| c.into_string().unwrap();
            (candidates.into_iter().map(text).collect::<Vec<_>>(), search)
        };
        let (default, search) = find("x", &[]);
        assert!(search && default[0] == "/usr/local/sbin/x" && default.len() == 6);
        assert_eq!(
            find("x", &["PATH=/no", "PATH=/a::/b"]).0,
            ["/a/x", "./x", "/b/x"]
        );
        assert_eq!(find("./x", &["PATH=/a"]), (vec!["./x".to_owned()], false));
        assert_eq!(find("", &[]), (vec![], true));
        assert!(candidates("a\0b", &[]).is_err());
        let long = format!("PATH={}", ":".repeat(5000));
        assert_eq!(find("x", &[&long]).0.len(), MAX_CANDIDATES);
    }

    #[test]
    fn failures_sound_like_dockers() {
        let fds = tempfile::tempfile().unwrap();
        let process = process();
        let plan = Plan {
            place: Place::Existing(fds.as_fd()),
            stdio: [fds.as_fd(); 3],
            terminal: false,
            candidates: vec![c"/bin/prog".into()],
            search: true,
            args: Strings::new::<CString>(&[]),
            env: Strings::new::<CString>(&[]),
            cwd: Cwd::new(Path::new("/")).unwrap(),
            uid: Uid::ROOT,
            gid: Gid::ROOT,
            groups: vec![],
            capabilities: rustix::thread::CapabilitySet::empty(),
            no_new_privileges: false,
            rlimits: vec![],
            init: false,
        };
        let says = |stage, errno, message: &str, status| {
            let report = Report {
                stage,
                candidate: 0,
                errno,
            };
            let failure = protocol::Failure::from(explain(&report, &process, &plan));
            assert_eq!(
                (failure.message.as_str(), failure.status),
                (message, status)
            );
        };
        says(
            Stage::Search,
            Errno::NOENT,
            "exec: \"prog\": executable file not found in $PATH",
            127,
        );
        says(
            Stage::Program,
            Errno::NOENT,
            "exec: \"prog\": stat prog: no such file or directory",
            127,
        );
        says(
            Stage::Program,
            Errno::ACCESS,
            "exec: \"prog\": permission denied",
            126,
        );
        says(
            Stage::Program,
            Errno::ISDIR,
            "exec: \"prog\": is a directory",
            126,
        );
        says(
            Stage::Execute,
            Errno::NOEXEC,
            "exec /bin/prog: exec format error",
            126,
        );
        // Its interpreter is missing.
        says(
            Stage::Execute,
            Errno::NOENT,
            "exec /bin/prog: no such file or directory",
            127,
        );
        says(
            Stage::Namespaces,
            Errno::SRCH,
            "the sandbox's main process has ended",
            125,
        );
    }
}
