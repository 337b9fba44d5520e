//! What is done to sandboxes, whichever command asks for it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use devices::virtio::DeviceLimits;
use protocol::{Exit, Failure, Reply, WindowSize};
use rustix::process::{Pid, Signal};

use super::attach::{self, End, Options, Remote};
use super::control::{self, Attach, Request};
use super::error::SandboxError;
use super::lock::FileLock;
use super::monitor::{self, Launched};
use super::spec::Spec;
use super::state::{LOST, State, Status};
use super::store::{Sandbox, Store};
use super::{agent, cgroups, events, processes};
use crate::output;

/// How long a monitor may take for an end, beyond the time that the process has:
/// a guest writes out what it has.
const END_PATIENCE: Duration = Duration::from_secs(150);
/// How long a monitor may take for a short answer: it asks the guest.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a process of the host takes to die.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);
/// How much of a guest's console is shown when it did not come up, in lines.
const LAST_LINES: usize = 10;
/// How often it is looked whether it has.
const TICK: Duration = Duration::from_millis(20);

/// The monitor's side of a process, for signals and window sizes.
struct Monitor {
    sandbox: Sandbox,
    /// What it has to say, opened while the sandbox was there.
    log: Option<File>,
    /// Its keeper, as long as it is this one's child and may still be booting.
    booting: Option<(Pid, AtomicBool)>,
    /// The signal that ended the boot, or 0.
    interrupted: AtomicI32,
}

impl Monitor {
    /// Adds to the failure of a monitor which died the last thing that it had to say.
    fn explain(&self, failure: Failure) -> Failure {
        if !control::is_lost(&failure) {
            return failure;
        }
        let log = self.log.as_ref();
        let text = log.and_then(|log| super::files::read_open(log).ok());
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
        let message = match text.lines().rfind(|line| !line.is_empty()) {
            Some(line) => format!("drupe's process for the sandbox died: {line}"),
            None => "drupe's process for the sandbox was killed: unless somebody did it, \
                     the host had no memory left (see its kernel log)"
                .to_owned(),
        };
        Failure { message, ..failure }
    }
}

/// What becomes of a start that a signal ended.
fn interrupted(signal: i32) -> Failure {
    Failure {
        message: format!(
            "{} before the command had begun",
            super::signals::name(signal)
        ),
        status: 128u8.saturating_add(u8::try_from(signal).unwrap_or_default()),
    }
}

impl Remote for Monitor {
    fn signal(&self, signal: i32) -> Result<(), String> {
        if let Some((pid, started)) = &self.booting
            && !started.load(Ordering::SeqCst)
        {
            // There is no process yet that could have it: it is for the boot.
            return match signal {
                libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGALRM => Ok(()),
                _ => {
                    self.interrupted.store(signal, Ordering::SeqCst);
                    rustix::process::kill_process(*pid, Signal::TERM).map_err(|e| e.to_string())
                }
            };
        }
        ask(&self.sandbox, &Request::Signal(signal)).map_err(|e| e.to_string())
    }

    fn resize(&self, size: WindowSize) {
        // The next change comes through, or the process ends.
        let _ = ask(&self.sandbox, &Request::Resize(size));
    }
}

/// Asks a monitor something with a short answer.
fn ask(sandbox: &Sandbox, request: &Request) -> Result<(), SandboxError> {
    let mut stream = control::connect(sandbox, request)?;
    stream
        .set_read_timeout(Some(ANSWER_PATIENCE))
        .map_err(|e| SandboxError::io("ask", sandbox.dir(), e))?;
    match control::reply(&mut stream) {
        Ok(_) => Ok(()),
        Err(failure) => Err(SandboxError::Refused(failure.message)),
    }
}

/// Why a sandbox could not be started, or an attached one ended badly.
#[derive(Debug)]
pub enum StartError {
    /// Something on the host.
    Sandbox(SandboxError),
    /// The monitor or the agent say so.
    Failed(Failure),
}

impl From<SandboxError> for StartError {
    fn from(error: SandboxError) -> Self {
        StartError::Sandbox(error)
    }
}

/// Starts a sandbox, with the streams of its process on this one's, or without.
/// `None` when it runs on.
///
/// # Errors
/// What keeps it from starting. One that is to be removed at its end is, then.
pub fn start(sandbox: &Sandbox, options: Option<&Options>) -> Result<Option<End>, StartError> {
    if let Some(options) = options {
        options.check()?;
    }
    let_end(sandbox)?;
    let changes = sandbox.lock_changes()?;
    if sandbox.state()?.status.is_live() || sandbox.has_monitor()? {
        return Err(SandboxError::AlreadyRunning(sandbox.label()).into());
    }
    let signals = match options {
        Some(options) => attach::take_signals(options)
            .map_err(|e| SandboxError::io("take signals for", sandbox.dir(), e))?,
        None => None,
    };
    let attach = options.map_or_else(Attach::default, |options| Attach {
        stdin: options.stdin,
        output: options.output,
        size: options.terminal.then(attach::window_size).flatten(),
    });
    let Launched {
        mut stream,
        mut child,
        log,
    } = monitor::launch(sandbox, attach).or_else(|e| {
        give_up(sandbox, &changes)?;
        Err(e)
    })?;
    let remote = Arc::new(Monitor {
        sandbox: sandbox.clone(),
        log: Some(log),
        interrupted: AtomicI32::new(0),
        booting: i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .map(|pid| (pid, AtomicBool::new(false))),
    });
    attach::proxy_signals(signals, remote.clone());
    if let Err(failure) = control::reply(&mut stream) {
        // It has nothing more to do, and its locks go with it.
        let _ = child.wait();
        let failure = match remote.interrupted.load(Ordering::SeqCst) {
            0 => remote.explain(failure),
            signal => interrupted(signal),
        };
        let removed = sandbox.spec().is_ok_and(|spec| spec.auto_remove);
        let (failure, said) = not_up(sandbox, removed, failure);
        for line in said {
            output::print_note(&line);
        }
        give_up(sandbox, &changes)?;
        return Err(StartError::Failed(failure));
    }
    if let Some((_, started)) = &remote.booting {
        started.store(true, Ordering::SeqCst);
    }
    drop(changes);
    let Some(options) = options else {
        return Ok(None);
    };
    let end = attach::streams(stream, options)
        .map_err(|e| SandboxError::io("use the terminal for", sandbox.dir(), e))?;
    finish(end, &remote)
}

/// Adds to why a guest did not come up what its kernel said last, and where to
/// look. What is said of a sandbox that is removed is all that is left of it.
fn not_up(sandbox: &Sandbox, removed: bool, failure: Failure) -> (Failure, Vec<String>) {
    if !failure.message.starts_with(monitor::NOT_UP) {
        return (failure, Vec::new());
    }
    let text = super::files::read(&sandbox.path(monitor::CONSOLE)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(str::trim_end).filter(|l| !l.is_empty());
    let mut said: Vec<String> = lines.rev().take(LAST_LINES).map(str::to_owned).collect();
    said.reverse();
    let advice = match (said.is_empty(), removed) {
        // KVM's own failures have this advice with them.
        (true, _) if failure.message.contains("drupe doctor") => {
            "its kernel said nothing".to_owned()
        }
        (true, _) => {
            "its kernel said nothing: 'drupe doctor' tells whether KVM runs guests here".to_owned()
        }
        (false, true) => "the last that its kernel said stands above".to_owned(),
        (false, false) => format!(
            "'drupe logs --console {}' has all that its kernel said",
            sandbox.label()
        ),
    };
    let failure = Failure {
        message: format!("{}: {advice}", failure.message),
        ..failure
    };
    (failure, said)
}

/// Removes a sandbox that was not started and is not to be kept.
fn give_up(sandbox: &Sandbox, changes: &FileLock) -> Result<(), SandboxError> {
    // Its keeper may have been killed: it has ended, and nobody else starts it.
    if sandbox.settle(changes).is_ok() && !sandbox.has_monitor()? {
        cgroups::discard(sandbox);
    }
    if let Ok(spec) = sandbox.spec()
        && spec.auto_remove
    {
        sandbox.remove(changes)?;
        monitor::remove_anonymous_volumes(sandbox.store().home(), &spec);
        events::sandbox(sandbox, &spec, "destroy", &[]);
    }
    Ok(())
}

/// Attaches to a sandbox that runs.
///
/// # Errors
/// When it does not run, or ends other than by its process.
pub fn attach(sandbox: &Sandbox, options: &Options) -> Result<Option<End>, StartError> {
    options.check()?;
    let signals = attach::take_signals(options)
        .map_err(|e| SandboxError::io("take signals for", sandbox.dir(), e))?;
    let size = options.terminal.then(attach::window_size).flatten();
    let request = Request::Attach(Attach {
        stdin: options.stdin,
        output: options.output,
        size,
    });
    let mut stream = control::connect(sandbox, &request)?;
    control::reply(&mut stream).map_err(StartError::Failed)?;
    let remote = Arc::new(Monitor {
        sandbox: sandbox.clone(),
        log: File::open(sandbox.path(monitor::LOG)).ok(),
        interrupted: AtomicI32::new(0),
        booting: None,
    });
    attach::proxy_signals(signals, remote.clone());
    let end = attach::streams(stream, options)
        .map_err(|e| SandboxError::io("use the terminal for", sandbox.dir(), e))?;
    finish(end, &remote)
}

fn finish(end: End, remote: &Monitor) -> Result<Option<End>, StartError> {
    match end {
        End::Failed(failure) => Err(StartError::Failed(remote.explain(failure))),
        End::NoReader => {
            // As it would happen to a process whose reader is gone.
            let _ = remote.signal(libc::SIGPIPE);
            Ok(Some(End::NoReader))
        }
        end => Ok(Some(end)),
    }
}

/// Sends a sandbox's process a signal.
///
/// # Errors
/// When it does not run, or does not get it.
pub fn signal(sandbox: &Sandbox, signal: i32) -> Result<(), SandboxError> {
    need_running(sandbox)?;
    ask(sandbox, &Request::Signal(signal))?;
    if let Ok(spec) = sandbox.spec() {
        events::sandbox(sandbox, &spec, "kill", &[("signal", signal.to_string())]);
    }
    Ok(())
}

/// Changes what a sandbox may use: now, if it runs, and at its next start.
///
/// # Errors
/// When its monitor does not answer, or the file's.
pub fn update(sandbox: &Sandbox, change: impl FnOnce(&mut Spec)) -> Result<(), SandboxError> {
    let _changes = sandbox.lock_changes()?;
    let mut spec = sandbox.spec()?;
    change(&mut spec);
    // Those that there were and are no more have to be lifted as well.
    let limits = DeviceLimits {
        disk: Some(spec.limits.disk.unwrap_or_default()),
        share: Some(spec.limits.share.unwrap_or_default()),
        net: Some(spec.limits.net.unwrap_or_default()),
    };
    if sandbox.state()?.status.is_live() {
        cgroups::update(sandbox, &spec)?;
    }
    match ask(sandbox, &Request::Limit(Box::new(limits))) {
        Ok(()) | Err(SandboxError::NotRunning(_)) => {}
        Err(e) => return Err(e),
    }
    sandbox.write_spec(&spec)?;
    events::sandbox(sandbox, &spec, "update", &[]);
    Ok(())
}

/// Checks that a sandbox runs.
///
/// # Errors
/// [`SandboxError::NotRunning`], or the state's.
pub fn need_running(sandbox: &Sandbox) -> Result<State, SandboxError> {
    let state = sandbox.state()?;
    match state.status {
        Status::Running => Ok(state),
        _ => Err(SandboxError::NotRunning(sandbox.label())),
    }
}

/// Ends a sandbox's process: asks it to, and after `timeout` seconds makes it. One
/// that does not run is left alone. On return its machine is gone.
///
/// # Errors
/// When it will not end.
pub fn stop(
    sandbox: &Sandbox,
    signal: Option<i32>,
    timeout: Option<u32>,
) -> Result<(), SandboxError> {
    let state = sandbox.state()?;
    if !state.status.is_live() {
        return Ok(());
    }
    processes::wake(sandbox, &state);
    let spec = sandbox.spec();
    let seconds = timeout.or_else(|| spec.as_ref().map(|s| s.stop_timeout).ok());
    let patience = Duration::from_secs(seconds.unwrap_or_default().into()) + END_PATIENCE;
    let ended = match control::connect(sandbox, &Request::Stop { signal, timeout }) {
        Ok(stream) => match control::wait_for_exit(&stream, Some(Instant::now() + patience)) {
            // It ended without its process: that is an end too.
            Err(failure) if sandbox.has_monitor().unwrap_or(false) => Err(failure.message),
            _ => Ok(()),
        },
        // It boots, or has just ended.
        Err(SandboxError::NotRunning(_)) => {
            processes::terminate(sandbox, &state, Signal::TERM, patience)
        }
        Err(e) => Err(e.to_string()),
    };
    if let Err(why) = ended {
        log::warn!("sandbox {}: {why}: its process is killed", sandbox.label());
        processes::terminate(sandbox, &state, Signal::KILL, DEATH_PATIENCE).map_err(|why| {
            SandboxError::Silent {
                name: sandbox.label(),
                why,
            }
        })?;
    }
    if let Ok(spec) = spec {
        events::sandbox(sandbox, &spec, "stop", &[]);
    }
    Ok(())
}

/// Waits until a sandbox does not run, and says what its process ended with.
///
/// # Errors
/// When it cannot be waited for.
pub fn wait(sandbox: &Sandbox) -> Result<u8, SandboxError> {
    loop {
        let state = sandbox.state()?;
        match state.status {
            // One that does not run is not waited for, as docker has it: the
            // answer is 0, or why it could not be started.
            Status::Created => return Ok(state.exit_code.unwrap_or(0)),
            Status::Starting => thread::sleep(10 * TICK),
            Status::Exited => return Ok(state.exit_code.unwrap_or(LOST)),
            Status::Running => match control::connect(sandbox, &Request::Wait) {
                Ok(stream) => match control::wait_for_exit(&stream, None) {
                    Ok(Exit { status, .. }) => return Ok(status),
                    Err(_) if sandbox.dir().is_dir() => {}
                    Err(_) => return Ok(LOST),
                },
                Err(SandboxError::NotRunning(_)) => thread::sleep(TICK),
                Err(e) => return Err(e),
            },
        }
    }
}

/// Waits for the keeper of a sandbox that has ended, which may be at its last steps.
/// To be called without the lock on changes, which it may be waiting for.
fn let_end(sandbox: &Sandbox) -> Result<(), SandboxError> {
    let end = Instant::now() + DEATH_PATIENCE;
    let ended = || sandbox.state().is_ok_and(|state| !state.status.is_live());
    while sandbox.has_monitor()? && ended() && Instant::now() < end {
        thread::sleep(TICK);
    }
    Ok(())
}

/// Removes a sandbox; one that runs only by force. With `volumes` those that were
/// made for it go too.
///
/// # Errors
/// When it runs, or does not let itself be removed.
pub fn remove(sandbox: &Sandbox, force: bool, volumes: bool) -> Result<(), SandboxError> {
    match sandbox.state() {
        Ok(state) if state.status.is_live() => match force {
            true => stop(sandbox, Some(libc::SIGKILL), Some(0))?,
            false => return Err(SandboxError::Running(sandbox.label())),
        },
        // Whatever its state says, it can go.
        Err(SandboxError::Corrupt { .. } | SandboxError::Io { .. }) if force => {}
        state => drop(state?),
    }
    let_end(sandbox)?;
    let changes = match sandbox.lock_changes() {
        // It has removed itself at its end.
        Err(SandboxError::Unknown(_)) if force => return Ok(()),
        changes => changes?,
    };
    if sandbox.has_monitor()? {
        return Err(SandboxError::Running(sandbox.label()));
    }
    let spec = sandbox.spec();
    sandbox.remove(&changes)?;
    if let Ok(spec) = spec {
        events::sandbox(sandbox, &spec, "destroy", &[]);
        if volumes || spec.auto_remove {
            monitor::remove_anonymous_volumes(sandbox.store().home(), &spec);
        }
    }
    // Its keeper may have been killed.
    cgroups::sweep_for(sandbox);
    Ok(())
}

/// All sandboxes with what they are and how they stand, the newest first. What
/// should have removed itself and did not live to is removed; what cannot be
/// read is left out with a warning.
///
/// # Errors
/// When they cannot be listed.
pub fn list(store: &Store) -> Result<Vec<(Sandbox, Spec, State)>, SandboxError> {
    let mut list = Vec::new();
    for sandbox in store.list()? {
        let read = sandbox.spec().and_then(|spec| Ok((spec, sandbox.state()?)));
        match read {
            Ok((spec, state)) if super::store::is_left_over(&spec, &state) => {
                if let Ok(Some(changes)) = sandbox.try_lock_changes()
                    && sandbox.has_monitor().is_ok_and(|has| !has)
                    && sandbox.remove(&changes).is_ok()
                {
                    events::sandbox(&sandbox, &spec, "destroy", &[]);
                    monitor::remove_anonymous_volumes(store.home(), &spec);
                }
            }
            Ok((spec, state)) => list.push((sandbox, spec, state)),
            // It was removed meanwhile.
            Err(SandboxError::Unknown(_)) => {}
            Err(e) => log::warn!("sandbox {}: {e}", sandbox.id.short()),
        }
    }
    store.sweep();
    cgroups::sweep(store);
    list.sort_by_key(|(_, spec, _)| std::cmp::Reverse(spec.created));
    Ok(list)
}

/// A process that was started beside the sandbox's own.
struct Beside {
    sandbox: Sandbox,
    process: u32,
}

impl Remote for Beside {
    fn signal(&self, signal: i32) -> Result<(), String> {
        let request = protocol::Request::Signal {
            process: self.process,
            signal,
        };
        ask_agent(&self.sandbox, &request).map_err(|e| e.to_string())?;
        Ok(())
    }

    fn resize(&self, size: WindowSize) {
        let request = protocol::Request::Resize {
            process: self.process,
            size,
        };
        // The next change comes through, or the process ends.
        let _ = ask_agent(&self.sandbox, &request);
    }
}

/// Connects with the agent of a sandbox that runs.
///
/// # Errors
/// When it does not run or cannot be reached.
pub fn connect_agent(sandbox: &Sandbox) -> Result<agent::Agent, SandboxError> {
    need_running(sandbox)?;
    let dir = sandbox.open_dir()?;
    let path = super::store::socket_path(&dir, monitor::SOCKET);
    agent::Agent::connect(&path).map_err(|e| SandboxError::Silent {
        name: sandbox.label(),
        why: e.to_string(),
    })
}

/// Asks the agent of a sandbox one thing.
///
/// # Errors
/// When it cannot be reached, or says no.
pub fn ask_agent(sandbox: &Sandbox, request: &protocol::Request) -> Result<Reply, SandboxError> {
    connect_agent(sandbox)?
        .ask(request, Some(agent::REPLY_TIMEOUT))
        .map_err(|e| SandboxError::Refused(e.to_string()))
}

/// Runs a process in a sandbox, beside its own. `None` when it runs on.
///
/// # Errors
/// What keeps it from starting.
pub fn exec(
    sandbox: &Sandbox,
    process: protocol::Process,
    options: Option<&Options>,
) -> Result<Option<End>, StartError> {
    if let Some(options) = options {
        options.check()?;
    }
    let mut agent = connect_agent(sandbox)?;
    let signals = match options {
        Some(options) => attach::take_signals(options)
            .map_err(|e| SandboxError::io("take signals for", sandbox.dir(), e))?,
        None => None,
    };
    let request = protocol::Request::Start(Box::new(process));
    let process = match agent.ask(&request, Some(agent::REPLY_TIMEOUT)) {
        Ok(Reply::Started { process }) => process,
        Ok(reply) => return Err(refused(&agent::unexpected(&reply)).into()),
        Err(agent::AgentError::Failed(failure)) => return Err(StartError::Failed(failure)),
        Err(e) => return Err(refused(&e).into()),
    };
    let Some(options) = options else {
        return Ok(None);
    };
    let remote = Arc::new(Beside {
        sandbox: sandbox.clone(),
        process,
    });
    attach::proxy_signals(signals, remote.clone());
    let end = attach::streams(agent.into_stream(), options)
        .map_err(|e: io::Error| SandboxError::io("use the terminal for", sandbox.dir(), e))?;
    match end {
        End::Failed(failure) => Err(StartError::Failed(failure)),
        End::NoReader => {
            let _ = remote.signal(libc::SIGPIPE);
            Ok(Some(End::NoReader))
        }
        end => Ok(Some(end)),
    }
}

fn refused(error: &agent::AgentError) -> SandboxError {
    SandboxError::Refused(error.to_string())
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
