//! A new process, from its first instruction to its program.
//!
//! What runs here is a copy of the agent with one thread, in which locks may be
//! held by threads that are not there: it makes system calls with what was
//! prepared before, and allocates nothing. What fails is told to the agent
//! through a pipe that the program's start closes.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, Access, AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType};

use crate::mounts::{READ_ONLY, RESTRICTED};
use crate::sys::{self, Forked, Strings};

/// Set in a copy of the agent: it is not PID 1 of the guest, though it may be
/// that of the sandbox.
pub static COPY: AtomicBool = AtomicBool::new(false);

/// The agent's own mounts, relative to its root: not for the workload.
const AGENTS: [&CStr; 4] = [c"/proc", c"/sys", c"/dev", c"/run/cgroup"];
const ROOT: &CStr = c"/run/root";

/// What a container does not see, below its root, as Docker has it.
const MASKED: [&CStr; 12] = [
    c"proc/acpi",
    c"proc/asound",
    c"proc/interrupts",
    c"proc/kcore",
    c"proc/keys",
    c"proc/latency_stats",
    c"proc/sched_debug",
    c"proc/scsi",
    c"proc/timer_list",
    c"proc/timer_stats",
    c"sys/devices/virtual/powercap",
    c"sys/firmware",
];

/// What a container does not write to.
const READ_ONLY_PATHS: [&CStr; 5] = [
    c"proc/bus",
    c"proc/fs",
    c"proc/irq",
    c"proc/sys",
    c"proc/sysrq-trigger",
];

/// A process as the agent has prepared it.
pub struct Plan<'a> {
    /// The namespaces that it goes to.
    pub place: Place<'a>,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// They are a terminal, which becomes the controlling one.
    pub terminal: bool,
    /// The paths to execute, one after the other.
    pub candidates: Vec<CString>,
    /// They come from `PATH`: what is not there or cannot be executed is passed
    /// over.
    pub search: bool,
    /// Arguments.
    pub args: Strings<'a>,
    /// Environment.
    pub env: Strings<'a>,
    /// Working directory.
    pub cwd: Cwd,
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// All groups.
    pub groups: Vec<Gid>,
    /// The bounding set, and root's permitted and effective ones.
    pub capabilities: CapabilitySet,
    /// No program gains privileges.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<(Resource, Rlimit)>,
    /// Stay, and run the program in a child.
    pub init: bool,
}

/// The namespaces of a process.
pub enum Place<'a> {
    /// The main process: new ones, which it furnishes.
    New {
        /// `/proc` and `/sys` are whole, and can be written to.
        privileged: bool,
        /// The path of the terminal to bind over `/dev/console`.
        console: Option<CString>,
        /// See [`crate::cgroup::Cgroup::delegation`], and what to write to the
        /// second.
        delegation: Option<(OwnedFd, OwnedFd, &'a str)>,
    },
    /// Those of the main process.
    Existing(BorrowedFd<'a>),
}

/// A directory to work in, made where it is not there.
pub struct Cwd {
    /// It.
    path: CString,
    /// It and those above it, from the top.
    steps: Vec<CString>,
}

impl Cwd {
    /// Prepares for an absolute path; `None` for one with a NUL.
    pub fn new(path: &std::path::Path) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let c_string = |p: &std::path::Path| CString::new(p.as_os_str().as_bytes()).ok();
        let mut steps: Vec<_> = path.ancestors().map(c_string).collect::<Option<_>>()?;
        steps.reverse();
        Some(Cwd {
            path: c_string(path)?,
            steps,
        })
    }
}

/// Where a process came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// To put it in its namespaces.
    Namespaces,
    /// To mount what the main process sees.
    Mounts,
    /// Its session and its standard streams.
    Streams,
    /// Resource limits.
    Limits,
    /// User, groups, capabilities.
    Identity,
    /// The working directory.
    Cwd,
    /// None of the candidates is there.
    Search,
    /// A candidate is not there or may not be executed.
    Program,
    /// To execute it.
    Execute,
    /// The init process for it.
    Init,
}

impl Stage {
    const ALL: [Stage; 10] = [
        Stage::Namespaces,
        Stage::Mounts,
        Stage::Streams,
        Stage::Limits,
        Stage::Identity,
        Stage::Cwd,
        Stage::Search,
        Stage::Program,
        Stage::Execute,
        Stage::Init,
    ];
}

/// What is told to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Where it failed.
    pub stage: Stage,
    /// The candidate.
    pub candidate: u16,
    /// Why.
    pub errno: Errno,
}

/// The bytes of a report.
pub const REPORT: usize = 8;

impl Report {
    fn to_bytes(self) -> [u8; REPORT] {
        let mut bytes = [0; REPORT];
        bytes[0] = self.stage as u8;
        bytes[2..4].copy_from_slice(&self.candidate.to_le_bytes());
        bytes[4..].copy_from_slice(&self.errno.raw_os_error().to_le_bytes());
        bytes
    }

    /// The report in these bytes, if there is one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REPORT] = bytes.try_into().ok()?;
        Some(Report {
            stage: Stage::ALL.into_iter().find(|s| *s as u8 == bytes[0])?,
            candidate: u16::from_le_bytes([bytes[2], bytes[3]]),
            errno: sys::errno(i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])),
        })
    }
}

type Step<T = ()> = Result<T, Report>;

trait At<T> {
    fn at(self, stage: Stage) -> Step<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage) -> Step<T> {
        self.map_err(|errno| Report {
            stage,
            candidate: 0,
            errno,
        })
    }
}

/// Becomes the process. Called right behind [`sys::clone3`], in the child.
pub fn run(plan: &Plan<'_>, report_to: BorrowedFd<'_>) -> ! {
    COPY.store(true, Ordering::Relaxed);
    let report = match become_it(plan) {
        Err(report) => report,
        Ok(never) => match never {},
    };
    // When the agent does not listen, nobody is told.
    let _ = rustix::io::write(report_to, &report.to_bytes());
    exit(1)
}

fn become_it(plan: &Plan<'_>) -> Step<std::convert::Infallible> {
    // Before it shares a PID namespace with the workload: nobody there may look
    // at this copy of the agent, or at its program through /proc.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Namespaces)?;
    match &plan.place {
        Place::New {
            privileged,
            console,
            delegation,
        } => {
            enter_cgroup(delegation.as_ref()).at(Stage::Namespaces)?;
            furnish(*privileged, console.as_deref()).at(Stage::Mounts)?;
        }
        Place::Existing(main) => {
            let kinds = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
            rustix::thread::move_into_thread_name_spaces(*main, kinds).at(Stage::Namespaces)?;
        }
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    take_streams(plan).at(Stage::Streams)?;
    for (resource, limit) in &plan.rlimits {
        rustix::process::setrlimit(*resource, *limit).at(Stage::Limits)?;
    }
    // First as root, who may make it; if root may not, as on a share of the
    // host, then as the user.
    let entered = enter_cwd(&plan.cwd);
    if let Err(e) = entered
        && e != Errno::ACCESS
        && e != Errno::PERM
    {
        entered.at(Stage::Cwd)?;
    }
    take_identity(plan).at(Stage::Identity)?;
    if entered.is_err() {
        rustix::process::chdir(plan.cwd.path.as_c_str()).at(Stage::Cwd)?;
    }
    if plan.init {
        stay_as_init(plan.terminal).at(Stage::Init)?;
    }
    sys::reset_signals();
    Err(execute(plan))
}

fn enter_cgroup(delegation: Option<&(OwnedFd, OwnedFd, &str)>) -> Result<(), Errno> {
    sys::unshare_cgroup()?;
    if let Some((procs, control, controllers)) = delegation {
        rustix::io::write(procs, b"0")?;
        // What cannot be had for the workload's own cgroups is missing there.
        let _ = rustix::io::write(control, controllers.as_bytes());
    }
    Ok(())
}

/// Makes the new mount namespace, a copy of the agent's, the sandbox's.
fn furnish(privileged: bool, console: Option<&CStr>) -> Result<(), Errno> {
    for path in AGENTS {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    // The initramfs cannot be left by pivot_root(2): the root goes over it.
    rustix::process::chdir(ROOT)?;
    rustix::mount::mount_move(c".", c"/")?;
    rustix::process::chroot(c".")?;
    // From here on, no link leads out of the root.
    rustix::process::chdir(c"/")?;
    mount(c"proc", c"proc", RESTRICTED)?;
    let read_only = match privileged {
        true => MountAttrFlags::empty(),
        false => READ_ONLY,
    };
    mount(c"cgroup2", c"sys/fs/cgroup", RESTRICTED | read_only)?;
    if !privileged {
        READ_ONLY_PATHS.into_iter().try_for_each(make_read_only)?;
        MASKED.into_iter().try_for_each(mask)?;
    }
    match console {
        Some(terminal) => rustix::mount::mount_bind(terminal, c"dev/console"),
        None => Ok(()),
    }
}

fn mount(kind: &CStr, target: &CStr, attributes: MountAttrFlags) -> Result<(), Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&mount, c"", CWD, target, flags)
}

fn make_read_only(path: &CStr) -> Result<(), Errno> {
    match rustix::mount::mount_bind(path, path) {
        Err(Errno::NOENT) => return Ok(()),
        bound => bound?,
    }
    let flags = MountFlags::BIND
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    rustix::mount::mount_remount(path, flags, c"")
}

fn mask(path: &CStr) -> Result<(), Errno> {
    let stat = match fs::stat(path) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => mount(c"tmpfs", path, RESTRICTED | READ_ONLY),
        _ => rustix::mount::mount_bind(c"dev/null", path),
    }
}

fn take_streams(plan: &Plan<'_>) -> Result<(), Errno> {
    rustix::process::setsid()?;
    let [input, output, error] = plan.stdio;
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error)?;
    if plan.terminal {
        rustix::process::ioctl_tiocsctty(input)?;
    }
    Ok(())
}

fn enter_cwd(cwd: &Cwd) -> Result<(), Errno> {
    match rustix::process::chdir(cwd.path.as_c_str()) {
        Err(Errno::NOENT) => {}
        entered => return entered,
    }
    for step in &cwd.steps {
        match fs::mkdir(step.as_c_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    rustix::process::chdir(cwd.path.as_c_str())
}

fn take_identity(plan: &Plan<'_>) -> Result<(), Errno> {
    // Bits that this kernel does not know are refused with EINVAL.
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !plan.capabilities.contains(one)
            && rustix::thread::remove_capability_from_bounding_set(one) == Err(Errno::INVAL)
        {
            break;
        }
    }
    rustix::thread::set_thread_groups(&plan.groups)?;
    rustix::thread::set_thread_res_gid(plan.gid, plan.gid, plan.gid)?;
    rustix::thread::set_thread_res_uid(plan.uid, plan.uid, plan.uid)?;
    // Another user's permitted set is empty by now, and stays so.
    let permitted = match plan.uid.is_root() {
        true => plan.capabilities & rustix::thread::capabilities(None)?.permitted,
        false => CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: permitted,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(())
}

/// Executes the first candidate that can be; why it could not be.
fn execute(plan: &Plan<'_>) -> Report {
    for (number, path) in plan.candidates.iter().enumerate() {
        let report = |stage, errno| Report {
            stage,
            candidate: u16::try_from(number).unwrap_or(u16::MAX),
            errno,
        };
        match (executable(path), plan.search) {
            (Ok(()), _) => {
                let errno = sys::execve(path, &plan.args, &plan.env);
                return report(Stage::Execute, errno);
            }
            (Err(_), true) => {}
            (Err(errno), false) => return report(Stage::Program, errno),
        }
    }
    Report {
        stage: Stage::Search,
        candidate: 0,
        errno: Errno::NOENT,
    }
}

fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        _ => fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()),
    }
}

/// Splits off a child, which goes on to execute the program. This process stays
/// as its init: it hands on signals, reaps, and ends as the child does.
fn stay_as_init(terminal: bool) -> Result<(), Errno> {
    let everything = sys::all_signals();
    sys::set_signal_mask(&everything);
    // SAFETY: neither of the two allocates or takes locks from here on.
    match unsafe { sys::clone3(0, None) }? {
        Forked::Child => {
            // A process group of its own, in the foreground, so that what is
            // typed is meant for it. SIGTTOU is blocked.
            rustix::process::setpgid(None, None)?;
            if terminal {
                rustix::termios::tcsetpgrp(stdin(), rustix::process::getpid())?;
            }
            Ok(())
        }
        Forked::Parent(child, pidfd) => {
            drop(pidfd);
            // The program's start, or its failure, is for the child to report.
            sys::close_from(3);
            // A name for `ps`.
            let _ = rustix::thread::set_name(c"drupe-init");
            init(child, &everything)
        }
    }
}

fn init(child: Pid, everything: &libc::sigset_t) -> ! {
    loop {
        match sys::wait_signal(everything) {
            libc::SIGCHLD => {
                while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                    if pid == child {
                        let killed = status.terminating_signal().map(|signal| 128 + signal);
                        exit(status.exit_status().or(killed).unwrap_or(1));
                    }
                }
            }
            signal if signal > 0 => sys::kill(child.as_raw_nonzero().get(), signal),
            // Interrupted.
            _ => {}
        }
    }
}

fn stdin() -> BorrowedFd<'static> {
    // SAFETY: `take_streams` put a stream there, and nothing closes it.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_out_as_they_went_in() {
        for stage in Stage::ALL {
            let report = Report {
                stage,
                candidate: 513,
                errno: Errno::ACCESS,
            };
            assert_eq!(Report::from_bytes(&report.to_bytes()), Some(report));
        }
        assert_eq!(Report::from_bytes(&[]), None);
        assert_eq!(Report::from_bytes(&[99, 0, 0, 0, 1, 0, 0, 0]), None);
    }

    #[test]
    fn a_directory_is_made_from_the_top() {
        let cwd = Cwd::new(std::path::Path::new("/a/b")).unwrap();
        assert_eq!(cwd.steps, [c"/", c"/a", c"/a/b"].map(CString::from));
    }
}
