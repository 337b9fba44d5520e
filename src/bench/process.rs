//! Runs of a workload as processes: started, timed, limited, and ended with all
//! that they have left behind. This process adopts what outlives its parent, so
//! that everything that a run has started is beneath it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, wait};

use super::error::{Context, Error, Result};
use crate::sandbox::signals::Signals;

/// How long a run may take for anything: a limit for what hangs. Under emulation
/// a second of a machine takes a minute.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What the workload writes first.
pub const FIRST: &str = "first";
/// How long what was killed may take to go.
const FAREWELL: Duration = Duration::from_secs(10);
/// Bytes of output that are looked at.
const MAX_OUTPUT: usize = 1 << 20;

/// The signal that asked for the end; 0 as long as none has.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Whether what runs now is to tidy up.
static TIDYING: AtomicBool = AtomicBool::new(false);

/// From here on a signal ends what runs, and [`check`] fails.
///
/// # Errors
/// The system calls'.
pub fn take_signals() -> io::Result<()> {
    super::children::Children::adopt()?;
    let signals = Signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                SIGNAL.store(signal, Ordering::SeqCst);
                // What was about to be started as the signal came, too.
                loop {
                    if !TIDYING.load(Ordering::SeqCst) {
                        kill_all(&[]);
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
    Ok(())
}

/// # Errors
/// When a signal has asked for the end.
pub fn check() -> Result<()> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => Ok(()),
        signal => Err(Error::Interrupted(signal)),
    }
}

/// Runs what tidies up: also after a signal.
pub fn tidy(command: &mut Command) {
    TIDYING.store(true, Ordering::SeqCst);
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0);
    match command.spawn() {
        Ok(mut child) => {
            let pid = child.id();
            let end = Instant::now() + PATIENCE;
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() > end {
                    let _ = child.kill();
                    log::warn!("{command:?} (process {pid}): killed: it did not end");
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Err(e) => log::warn!("{:?}: {e}", command.get_program()),
    }
    TIDYING.store(false, Ordering::SeqCst);
}

/// A run.
#[derive(Debug)]
pub struct Run {
    child: Child,
    stdout: Option<ChildStdout>,
    output: String,
    errors: PathBuf,
    started: Instant,
    /// From the start to the workload's first line.
    pub first: Option<Duration>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// What it wrote.
    pub output: String,
    /// What it wrote on standard error, in a line.
    pub errors: String,
    /// Its status.
    pub status: ExitStatus,
    /// From the start to the workload's first line.
    pub first: Option<Duration>,
    /// From the start to the end.
    pub time: Duration,
    /// Processor time of its processes on this machine, in seconds: 0 until those
    /// that outlive it have ended, too.
    pub cpu: f64,
}

impl Run {
    /// Starts it. Its errors go to this file.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(command: &mut Command, errors: &Path) -> Result<Self> {
        check()?;
        let file = File::create(errors).context(|| errors.display().to_string())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // A group of its own: Ctrl-C is this process's to handle.
        command.stderr(file).process_group(0);
        let started = Instant::now();
        let mut child = command
            .spawn()
            .context(|| command.get_program().display().to_string())?;
        Ok(Run {
            stdout: child.stdout.take(),
            child,
            output: String::new(),
            errors: errors.to_owned(),
            started,
            first: None,
        })
    }

    /// Waits for the workload's first line.
    ///
    /// # Errors
    /// When the run ends without, or hangs.
    pub fn wait_first(&mut self) -> Result<Duration> {
        while self.first.is_none() {
            if !self.read()? {
                let status = self.reap()?;
                return Err(Error::Failed(format!(
                    "it ended before the workload began: {status}: {}",
                    self.said()
                )));
            }
        }
        check()?;
        Ok(self.first.unwrap_or_default())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it hangs.
    pub fn wait(mut self) -> Result<Ended> {
        while self.read()? {}
        let status = self.reap()?;
        let time = self.started.elapsed();
        check()?;
        Ok(Ended {
            errors: self.said(),
            output: std::mem::take(&mut self.output),
            status,
            first: self.first,
            time,
            cpu: 0.0,
        })
    }

    /// Reads what there is of output, once there is some; nothing comes any more
    /// when this is false.
    fn read(&mut self) -> Result<bool> {
        let Some(stdout) = &mut self.stdout else {
            return Ok(false);
        };
        let left = PATIENCE.saturating_sub(self.started.elapsed());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(stdout, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(Error::TooLong(PATIENCE)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e)).context(|| "poll".into()),
        }
        let mut buffer = [0; 4096];
        let n = stdout.read(&mut buffer).context(|| "its output".into())?;
        if n == 0 {
            self.stdout = None;
            return Ok(false);
        }
        if self.output.len() < MAX_OUTPUT {
            self.output += &String::from_utf8_lossy(&buffer[..n]);
        }
        if self.first.is_none() && self.output.lines().any(|line| line.trim() == FIRST) {
            self.first = Some(self.started.elapsed());
        }
        Ok(true)
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        let fd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .context(|| "pidfd_open".into())?;
        let left = PATIENCE.saturating_sub(self.started.elapsed());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => Err(Error::TooLong(PATIENCE)),
            _ => self.child.wait().context(|| "wait".into()),
        }
    }

    /// The last line of its errors, else of its output.
    fn said(&self) -> String {
        let errors = fs::read(&self.errors).unwrap_or_default();
        let errors = String::from_utf8_lossy(&errors);
        let last = |text: &str| {
            let line = text.lines().rev().find(|line| !line.trim().is_empty());
            line.map(crate::output::one_line)
        };
        last(&errors)
            .or_else(|| last(&self.output))
            .unwrap_or_else(|| "it said nothing".to_owned())
    }
}

impl Ended {
    /// # Errors
    /// When its status says so.
    pub fn success(self) -> Result<Self> {
        match self.status.success() {
            true => Ok(self),
            false => Err(Error::Failed(format!("{}: {}", self.status, self.errors))),
        }
    }
}

/// The processes beneath this one, without those given.
pub fn all(except: &[u32]) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let mut fields = fields.split(' ');
        let state = fields.next().unwrap_or("Z");
        let parent = fields.next().and_then(|parent| parent.parse::<u32>().ok());
        if let Some(parent) = parent
            && state != "Z"
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![std::process::id()];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(pid, _)| *pid));
        at += 1;
    }
    found[1..]
        .iter()
        .copied()
        .filter(|pid| !except.contains(pid))
        .collect()
}

/// Kills all processes beneath this one, without those given.
pub fn kill_all(except: &[u32]) {
    for pid in all(except) {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Waits until what runs has ended and was waited for, without the processes given;
/// kills what does not end.
pub fn reap_all(except: &[u32]) {
    let end = Instant::now() + FAREWELL;
    loop {
        // Who has ended by now is waited for below.
        let left = all(except);
        // Until there is no child that has ended, or none at all.
        while let Ok(Some(_)) | Err(rustix::io::Errno::INTR) = wait(WaitOptions::NOHANG) {}
        if left.is_empty() {
            return;
        }
        if Instant::now() > end {
            kill_all(except);
        }
        if Instant::now() > end + FAREWELL {
            log::warn!("processes {left:?} cannot be ended");
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What processes take of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// The same with pages that several share divided among these.
    pub pss: u64,
}

/// The memory of processes together; what has just ended has none.
///
/// # Errors
/// When a process does not show its own: a part would pass for all.
pub fn memory(pids: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context(|| format!("{path}: it takes root")),
        };
        let of = |name| super::machine::of_meminfo(&text, name).unwrap_or(0);
        sum.rss += of("Rss");
        sum.pss += of("Pss");
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, dir: &tempfile::TempDir) -> Result<Run> {
        let mut command = Command::new("/bin/sh");
        Run::start(command.args(["-c", script]), &dir.path().join("errors"))
    }

    #[test]
    fn a_run_is_seen_from_its_first_line_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo boot; printf 'first\\r\\n'; echo no >&2; exit 3";
        let ended = start(script, &dir).unwrap().wait().unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.first.unwrap() <= ended.time);
        assert_eq!(
            (ended.output.as_str(), ended.errors.as_str()),
            ("boot\nfirst\r\n", "no")
        );
        let error = ended.success().unwrap_err().to_string();
        assert_eq!(error, "exit status: 3: no");
    }

    #[test]
    fn one_that_ends_too_early_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = start("echo out of order", &dir).unwrap();
        let error = run.wait_first().unwrap_err().to_string();
        assert!(error.ends_with("exit status: 0: out of order"), "{error}");
        let missing = Run::start(&mut Command::new("/no/program"), &dir.path().join("errors"));
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .starts_with("/no/program: ")
        );
    }

    #[test]
    fn a_run_and_its_memory_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = start("echo first; exec sleep 100", &dir).unwrap();
        run.wait_first().unwrap();
        let pid = run.child.id();
        assert!(all(&[]).contains(&pid));
        assert!(!all(&[pid]).contains(&pid));
        let memory = memory(&[pid]).unwrap();
        assert!(memory.rss >= memory.pss && memory.pss > 0, "{memory:?}");
        assert_eq!(super::memory(&[u32::MAX >> 2]).unwrap(), Memory::default());
        run.child.kill().unwrap();
        run.wait().unwrap();
    }
}
