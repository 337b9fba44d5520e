//! A sandbox's keeper: the process that the one who starts it starts, and of which
//! the monitor is a child. It has no machine and meets no guest, is confined by
//! nothing, and does what a monitor must not be able to do: it writes how the
//! sandbox stands and what happened to it, and removes what is to be removed, from
//! the control group to the sandbox itself.
//!
//! The two have a socket, on which the monitor says three things, each once: why it
//! does not start, or that it has, and that it has ended. Whatever else it says ends
//! it. When it dies without a word, the keeper knows that, too.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use confine::{Birth, Child, Forked};
use protocol::{Exit, Failure, Frame, FrameError, FrameKind, READY_PORT};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::retry_on_intr;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::session::{failure, reply};
use super::{Refusal, note, remove_anonymous_volumes, vm};
use crate::cgroup::Group;
use crate::sandbox::control::{self, Attach, Request};
use crate::sandbox::error::SandboxError;
use crate::sandbox::lock::FileLock;
use crate::sandbox::signals::Signals;
use crate::sandbox::spec::{NetworkMode, Publish, Spec};
use crate::sandbox::state::{State, Status};
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::time::Time;
use crate::sandbox::{cgroups, events, frames, network};

/// How long a monitor may take to end when it has said that it does. It has said all
/// by then, and that its memory takes longer to be freed is no matter.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// What a monitor says to its keeper. Answer: `Done`, or why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// The sandbox does not start.
    Refused(Failure),
    /// Its process runs.
    Started {
        /// The ports of the host that lead in.
        ports: Vec<Publish>,
        /// What the monitor is confined by.
        confinement: confine::Report,
    },
    /// Its process has ended, or the machine before it, which is off.
    Ended {
        /// How.
        exit: Exit,
        /// Why, if not by the process.
        error: Option<String>,
    },
}

/// What a monitor begins with.
pub struct Start {
    /// The sandbox, whose directory is the current one.
    pub sandbox: Sandbox,
    /// What it is.
    pub spec: Spec,
    /// The connection with its first client, which has asked for
    pub client: UnixStream,
    /// this.
    pub attach: Attach,
    /// Who writes what becomes of it.
    pub keeper: Keeper,
    /// The namespaces that it was born into.
    pub birth: Birth,
}

/// A monitor's keeper.
pub struct Keeper(UnixStream);

impl Keeper {
    /// The sandbox does not start.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn refused(&mut self, why: &Failure) -> Result<(), Failure> {
        self.say(&Word::Refused(why.clone()))
    }

    /// Its process runs.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn started(
        &mut self,
        ports: Vec<Publish>,
        confinement: confine::Report,
    ) -> Result<(), Failure> {
        self.say(&Word::Started { ports, confinement })
    }

    /// It has ended. On return that has been written down, and a sandbox that is not
    /// to be kept is gone.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn ended(&mut self, exit: Exit, error: Option<String>) -> Result<(), Failure> {
        self.say(&Word::Ended { exit, error })
    }

    fn say(&mut self, word: &Word) -> Result<(), Failure> {
        control::send(&mut self.0, word).map_err(|e| control::lost(&e.to_string()))?;
        control::reply(&mut self.0).map(drop)
    }

    /// From here on this process ends when its keeper does. To be called after the
    /// last change of what it may do: with that the kernel forgets it.
    ///
    /// # Errors
    /// The kernel's, or that there is no keeper any more.
    pub fn follow(&self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before.
        let mut fds = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let at_once = Timespec::default();
        match retry_on_intr(|| rustix::event::poll(&mut fds, Some(&at_once)))? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Keeps the sandbox `id`, for whose start `client` asks; `monitor` is its monitor,
/// in a process of its own.
///
/// # Errors
/// What `monitor` has, or what cannot be told to anybody.
pub fn keep(
    mut client: UnixStream,
    id: &str,
    monitor: impl FnOnce(Start) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let frame = Frame::read_from(&mut client)?.ok_or("nobody says how to start")?;
    let Request::Attach(attach) = frame.parse(FrameKind::Request)? else {
        return Err("the first request is to attach".into());
    };
    let refuse = |mut client: UnixStream, why: &dyn std::fmt::Display| {
        Ok(reply(&mut client, Err(failure(&why.to_string())))?)
    };
    let (near, far) = UnixStream::pair()?;
    let (mut kept, signals) = match Kept::begin(id) {
        Ok(begun) => begun,
        Err(e) => return refuse(client, &e),
    };
    let group = kept.group.as_ref().and_then(Group::open);
    match confine::fork(kept.spec.confine, group.as_ref().map(AsFd::as_fd)) {
        Err(e) => {
            kept.did_not_start(&failure(&e.to_string()));
            kept.leave_group();
            refuse(client, &e)
        }
        Ok(Forked::Child(birth)) => {
            // With the lock the monitor could live on behind a keeper that has ended.
            drop((near, signals, group, kept.life.take()));
            let mut keeper = Keeper(far);
            match control::reply(&mut keeper.0) {
                Ok(_) => monitor(Start {
                    sandbox: kept.sandbox,
                    spec: kept.spec,
                    client,
                    attach,
                    keeper,
                    birth,
                }),
                // The client has heard why.
                Err(_) => Ok(()),
            }
        }
        Ok(Forked::Parent(child)) => {
            // The monitor has the same words behind its name.
            let _ = rustix::thread::set_name(c"drupe-keeper");
            drop(far);
            match kept.watch(near, child, &signals, client) {
                Ok(()) => Ok(()),
                Err((client, e)) => refuse(client, &e),
            }
        }
    }
}

/// A sandbox, as its keeper has it.
struct Kept {
    sandbox: Sandbox,
    spec: Spec,
    /// Until it is let go, nobody else starts it.
    life: Option<FileLock>,
    /// How it stood before it was started.
    before: State,
    state: State,
    /// The monitor's control group, made.
    group: Option<Group>,
}

impl Kept {
    fn begin(id: &str) -> Result<(Self, Signals), SandboxError> {
        let sandbox = Store::open()?.find(id)?;
        let io = |what| {
            let dir = sandbox.dir().to_owned();
            move |e| SandboxError::io(what, &dir, e)
        };
        std::env::set_current_dir(sandbox.dir()).map_err(io("enter"))?;
        let life = Some(sandbox.lock_life()?);
        let before = sandbox.state()?;
        let spec = sandbox.spec()?;
        // They wait for the monitor until there is one.
        let signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(io("take signals for"))?;
        let mut kept = Kept {
            state: before.clone(),
            sandbox,
            spec,
            life,
            before,
            group: None,
        };
        // Of a monitor that was killed with its keeper.
        kept.clean_up();
        match cgroups::make(&kept.sandbox, &kept.spec) {
            Ok(group) => kept.group = group,
            Err(e) => {
                kept.did_not_start(&failure(&e.to_string()));
                kept.leave_group();
                return Err(e);
            }
        }
        Ok((kept, signals))
    }

    /// From the monitor's first instruction to its end.
    fn watch(
        mut self,
        mut monitor: UnixStream,
        child: Child,
        signals: &Signals,
        client: UnixStream,
    ) -> Result<(), (UnixStream, SandboxError)> {
        if let Err(e) = self.admit(&child) {
            // It has done nothing yet, and hears that there is nothing to do.
            drop(monitor);
            child.wait();
            self.leave_group();
            return Err((client, e));
        }
        // The monitor's alone: its end is the end of the monitor.
        drop(client);
        if reply(&mut monitor, Ok(())).is_ok()
            && let Err(e) = self.listen(&mut monitor, &child, signals)
        {
            log::error!("the sandbox's monitor is ended: {e}");
        }
        // It has hung up: on the way to its end, or to live on unheard.
        child.signal(Signal::KILL);
        child.wait();
        self.conclude();
        note("kept to the end");
        Ok(())
    }

    /// Lets the monitor begin, in its control group.
    fn admit(&mut self, child: &Child) -> Result<(), SandboxError> {
        let pid = child.id();
        let bridged = matches!(self.spec.network.mode, NetworkMode::Bridge(_));
        self.write(State {
            status: Status::Starting,
            pid: Some(pid),
            // Before it is there: whoever tidies up finds it.
            tap: bridged.then(|| network::tap_name(&self.sandbox.id)),
            ..State::created()
        })?;
        let Some(group) = self.group.as_ref().filter(|_| !child.is_in_group()) else {
            return Ok(());
        };
        cgroups::enter(&self.sandbox, &self.spec, group, pid)
            .inspect_err(|e| self.did_not_start(&failure(&e.to_string())))
    }

    /// Takes down what the monitor says, and passes signals on, until it is gone.
    fn listen(
        &mut self,
        monitor: &mut UnixStream,
        child: &Child,
        signals: &Signals,
    ) -> Result<(), FrameError> {
        let arrived = signals.arrived()?;
        let mut ended = None;
        loop {
            let mut fds = [
                PollFd::new(&*monitor, PollFlags::IN),
                PollFd::from_borrowed_fd(arrived.as_fd(), PollFlags::IN),
            ];
            // One that has said that it has ended has only to do so.
            if self.state.status == Status::Exited {
                ended.get_or_insert_with(|| Instant::now() + END_PATIENCE);
            }
            let left = ended.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let ready = retry_on_intr(|| rustix::event::poll(&mut fds, left.as_ref()));
            if ready.map_err(io::Error::from)? == 0 {
                return Err(FrameError::Protocol("it does not end".to_owned()));
            }
            let (said, asked) = (fds[0].revents(), fds[1].revents());
            if !asked.is_empty() {
                let signal = Signal::from_named_raw(signals.wait()?);
                if let Some(signal) = signal {
                    child.signal(signal);
                }
            }
            if said.is_empty() {
                continue;
            }
            let Some(frame) = frames::read_one(monitor)? else {
                return Ok(());
            };
            reply(monitor, self.hear(frame.parse(FrameKind::Request)?)?)?;
        }
    }

    fn hear(&mut self, word: Word) -> Result<Result<(), Failure>, FrameError> {
        let written = match (word, self.state.status) {
            (Word::Refused(why), Status::Starting) => {
                self.did_not_start(&why);
                Ok(())
            }
            (Word::Started { ports, confinement }, Status::Starting) => {
                let state = State {
                    status: Status::Running,
                    started: Some(Time::now()),
                    ports,
                    confinement: Some(confinement),
                    ..self.state.clone()
                };
                self.write(state)
                    .map(|()| events::sandbox(&self.sandbox, &self.spec, "start", &[]))
            }
            (Word::Ended { exit, error }, Status::Running) => {
                let state = self.state.clone();
                let state = state.exited(exit.status, exit.oom_killed, error, Time::now());
                self.end(state);
                if self.spec.auto_remove {
                    // Whoever is at it is waited for.
                    self.remove(self.sandbox.lock_changes());
                }
                Ok(())
            }
            (word, status) => {
                let why = format!("{word:?} of a sandbox that is {}", status.name());
                return Err(FrameError::Protocol(why));
            }
        };
        Ok(written.map_err(|e| failure(&e.to_string())))
    }

    fn write(&mut self, state: State) -> Result<(), SandboxError> {
        self.sandbox.write_state(&state)?;
        self.state = state;
        Ok(())
    }

    fn did_not_start(&mut self, why: &Failure) {
        self.clean_up();
        self.put(State {
            error: Some(why.message.clone()),
            exit_code: Some(why.status),
            ..self.before.clone()
        });
    }

    /// Writes down how it stands now, whether there is room for that or not.
    fn put(&mut self, state: State) {
        self.state = state;
        if let Err(e) = self.sandbox.write_state(&self.state) {
            log::error!("{e}");
        }
    }

    /// What the monitor had on the host goes.
    fn clean_up(&self) {
        network::remove_tap(self.state.tap.as_deref(), &self.sandbox.id);
        let ready = format!("{}_{READY_PORT}", vm::SOCKET);
        for socket in [control::SOCKET, vm::SOCKET, &ready] {
            // Most of the time there is none.
            let _ = fs::remove_file(self.sandbox.path(socket));
        }
    }

    /// Writes down an end; the sandbox can be started again from here on.
    fn end(&mut self, state: State) {
        self.clean_up();
        let code = ("exitCode", state.exit_code.unwrap_or_default().to_string());
        self.put(state);
        events::sandbox(&self.sandbox, &self.spec, "die", &[code]);
        if !self.spec.auto_remove {
            self.let_go();
        }
    }

    /// The monitor's control group is of no more use.
    fn leave_group(&self) {
        match self.life {
            // Nobody else starts it.
            Some(_) => cgroups::discard(&self.sandbox),
            None => cgroups::sweep_for(&self.sandbox),
        }
    }

    fn let_go(&mut self) {
        self.life = None;
    }

    /// The monitor is gone, with or without a word.
    fn conclude(&mut self) {
        let live = self.state.status.is_live();
        let lost = live.then(|| self.sandbox.lost(&self.state, Time::now()));
        // Behind the look at it, and while nobody else can be in it.
        self.leave_group();
        if let Some(lost) = lost {
            self.end(lost);
        }
        if self.spec.auto_remove && self.life.is_some() {
            // Who starts it waits for this process and then removes it, unless they
            // have gone.
            match self.sandbox.try_lock_changes() {
                Ok(None) => self.let_go(),
                Ok(Some(changes)) => self.remove(Ok(changes)),
                Err(e) => self.remove(Err(e)),
            }
        }
    }

    /// Removes a sandbox that is not to be kept, and the volumes made for it.
    fn remove(&mut self, changes: Result<FileLock, SandboxError>) {
        // The directory goes, and the process has to be somewhere.
        let _ = std::env::set_current_dir(Path::new("/"));
        let removed = changes.and_then(|changes| self.sandbox.remove(&changes));
        match removed {
            Ok(()) => events::sandbox(&self.sandbox, &self.spec, "destroy", &[]),
            Err(e) => log::error!("{e}"),
        }
        remove_anonymous_volumes(self.sandbox.store().home(), &self.spec);
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::id::Id;
    use crate::sandbox::spec::tests::spec;

    fn starting(auto_remove: bool) -> (tempfile::TempDir, Kept) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("home"));
        let mut spec = Spec {
            auto_remove,
            ..spec("")
        };
        let id = Id::random().unwrap();
        let sandbox = store.create(id, &mut spec, None).unwrap();
        let mut kept = Kept {
            spec: sandbox.spec().unwrap(),
            life: Some(sandbox.lock_life().unwrap()),
            before: State::created(),
            state: State::created(),
            group: None,
            sandbox,
        };
        kept.write(State {
            status: Status::Starting,
            pid: Some(1),
            ..State::created()
        })
        .unwrap();
        (dir, kept)
    }

    fn started() -> Word {
        Word::Started {
            ports: Vec::new(),
            confinement: confine::Report::off(),
        }
    }

    fn ended(status: u8) -> Word {
        let exit = Exit {
            status,
            oom_killed: false,
        };
        Word::Ended { exit, error: None }
    }

    fn actions(kept: &Kept) -> Vec<String> {
        let events = events::Follower::new(kept.sandbox.store().home()).read();
        events.unwrap().into_iter().map(|e| e.action).collect()
    }

    #[test]
    fn a_life_is_written_down_and_its_lock_let_go() {
        let (_dir, mut kept) = starting(false);
        fs::write(kept.sandbox.path(control::SOCKET), "").unwrap();
        assert_eq!(kept.hear(started()).unwrap(), Ok(()));
        assert_eq!(kept.sandbox.state().unwrap().status, Status::Running);
        assert_eq!(kept.hear(ended(3)).unwrap(), Ok(()));
        let state = kept.sandbox.state().unwrap();
        assert_eq!((state.status, state.exit_code), (Status::Exited, Some(3)));
        assert!(!kept.sandbox.has_monitor().unwrap());
        assert!(!kept.sandbox.path(control::SOCKET).exists());
        assert_eq!(actions(&kept), ["start", "die"]);
    }

    #[test]
    fn what_is_not_to_be_kept_is_gone_when_the_monitor_hears_of_it() {
        let (_dir, mut kept) = starting(true);
        kept.hear(started()).unwrap().unwrap();
        assert_eq!(kept.hear(ended(0)).unwrap(), Ok(()));
        assert!(!kept.sandbox.dir().exists());
        assert_eq!(actions(&kept), ["start", "die", "destroy"]);
    }

    #[test]
    fn a_monitor_that_does_not_start_leaves_things_as_they_were() {
        let (_dir, mut kept) = starting(true);
        kept.hear(Word::Refused(failure("no kernel")))
            .unwrap()
            .unwrap();
        let state = kept.sandbox.state().unwrap();
        assert_eq!(state.status, Status::Created);
        assert_eq!(state.error.as_deref(), Some("no kernel"));
        // Who starts it removes it.
        assert!(kept.sandbox.dir().exists() && actions(&kept).is_empty());
    }

    #[test]
    fn one_that_dies_is_lost_and_left_to_who_is_at_it() {
        let (_dir, mut kept) = starting(true);
        let changes = kept.sandbox.lock_changes().unwrap();
        kept.conclude();
        assert!(kept.sandbox.dir().exists() && !kept.sandbox.has_monitor().unwrap());
        drop(changes);
        let (_dir, mut kept) = starting(true);
        kept.conclude();
        assert!(!kept.sandbox.dir().exists());
        let (_dir, mut kept) = starting(false);
        kept.conclude();
        let state = kept.sandbox.state().unwrap();
        assert_eq!(state.exit_code, Some(crate::sandbox::state::LOST));
    }

    #[test]
    fn nothing_is_said_twice_or_out_of_turn() {
        let (_dir, mut kept) = starting(false);
        assert!(kept.hear(ended(0)).is_err());
        kept.hear(started()).unwrap().unwrap();
        for word in [started(), Word::Refused(failure("late"))] {
            assert!(kept.hear(word).is_err());
        }
        assert_eq!(kept.sandbox.state().unwrap().status, Status::Running);
        kept.hear(ended(0)).unwrap().unwrap();
        for word in [started(), ended(1), Word::Refused(failure("late"))] {
            assert!(kept.hear(word).is_err());
        }
        assert_eq!(kept.sandbox.state().unwrap().exit_code, Some(0));
    }
}
