//! Monitors and keepers as processes of the host, for who has nothing better than
//! signals.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::monitor;
use super::state::State;
use super::store::Sandbox;

/// How often it is looked whether one has ended.
const TICK: Duration = Duration::from_millis(20);

/// Signals the monitor itself, and waits until it is gone.
///
/// # Errors
/// One line: that it is another process, or does not end.
pub fn terminate(
    sandbox: &Sandbox,
    state: &State,
    signal: Signal,
    patience: Duration,
) -> Result<(), String> {
    let gone = || !sandbox.has_monitor().unwrap_or(true);
    if let Some(pid) = monitor_of(state)
        && !gone()
    {
        // Its lock is held, so it lives; but the number is what it wrote itself.
        if !is_monitor(pid, sandbox) {
            let pid = pid.as_raw_nonzero();
            return Err(format!(
                "its state names process {pid}, which is not its monitor: that is left alone"
            ));
        }
        rustix::process::kill_process(pid, signal).map_err(|e| e.to_string())?;
    }
    let end = Instant::now() + patience;
    while !gone() {
        if Instant::now() > end {
            return Err("it does not end".to_owned());
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Has a monitor and its keeper go on, should somebody have stopped them: neither
/// could end.
pub fn wake(sandbox: &Sandbox, state: &State) {
    let monitor = monitor_of(state);
    let keeper = monitor.and_then(parent_of);
    for process in [keeper, monitor].into_iter().flatten() {
        if is_monitor(process, sandbox) {
            // One that has just ended does not need it.
            let _ = rustix::process::kill_process(process, Signal::CONT);
        }
    }
}

/// The monitor's process, as a state has it.
fn monitor_of(state: &State) -> Option<Pid> {
    Pid::from_raw(i32::try_from(state.pid?).ok()?)
}

/// Who has started a process.
fn parent_of(pid: Pid) -> Option<Pid> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(parent.trim().parse().ok()?)
}

/// Whether a process is the monitor of this sandbox, by the words that it was
/// started with.
fn is_monitor(pid: Pid, sandbox: &Sandbox) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let words = std::fs::read(path).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0).skip(1);
    words.next() == Some(monitor::COMMAND.as_bytes())
        && words.next() == Some(sandbox.id.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::id::Id;
    use crate::sandbox::spec::tests::spec;
    use crate::sandbox::store::Store;

    #[test]
    fn only_a_monitor_is_killed_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        let sandbox = store
            .create(Id::random().unwrap(), &mut spec(""), None)
            .unwrap();
        let _life = sandbox.lock_life().unwrap();
        let start = |words: &[&str]| {
            let mut shell = std::process::Command::new("sh");
            let shell = shell.args(["-c", "read line", "sh"]).args(words);
            shell.stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let mut bystander = start(&[]);
        let forged = State {
            pid: Some(bystander.id()),
            ..State::created()
        };
        let told = terminate(&sandbox, &forged, Signal::KILL, Duration::ZERO).unwrap_err();
        assert!(told.contains("is not its monitor"), "{told}");
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        assert!(!is_monitor(Pid::INIT, &sandbox));
    }
}
