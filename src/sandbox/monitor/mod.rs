//! A sandbox's monitor: the process that has its machine. It is drupe itself,
//! started again with a session of its own, and works in the sandbox's directory.
//! What is started is its keeper (`keeper.rs`), of which it is a child.
//!
//! Who starts them gives them a socket as standard output: the first client, which
//! makes one request. The monitor answers `Started`, or why not; from then on it is
//! a client like those that come through `control.sock`.

mod clients;
mod keeper;
mod launch;
mod session;
mod vm;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use confine::{Birth, Entry};
use protocol::{Exit, Failure, Frame, FrameKind, READY_PORT, Reply};
use vmm::Remains;

use self::clients::Client;
use self::keeper::{Keeper, Start};
use self::session::{Levers, Session, Stop, failure};
use self::vm::{Refusal, Vm};
use super::agent::{self, Agent, AgentError};
use super::control::{self, Attach};
use super::signals::Signals;
use super::spec::{Source, Spec};
use super::state::LOST;
use super::store::Sandbox;
use super::time::Time;
use super::volumes::{Volume, Volumes};
use super::{guest, log, network, usernet};
use crate::confinement::ConfinementError;
use crate::{confinement, kernels, logging};

pub use self::launch::{Launched, launch};
pub use self::vm::{CONSOLE, SOCKET};

/// The word that makes drupe a monitor. The command line does not list it.
pub const COMMAND: &str = "sandbox-monitor";
/// The word behind that which makes it say what it does, and when.
pub const VERBOSE: &str = "-v";
/// What the monitor itself has to say.
pub const LOG: &str = "monitor.log";
/// The most that is kept of that, in bytes.
const MAX_LOG: u64 = 1 << 20;

/// How it begins to say that the guest never answered. Who hears it looks for the
/// reason in what the guest's kernel said.
pub const NOT_UP: &str = "the guest did not come up";

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Says how far it has come, how long after its start, and when.
fn note(what: &str) {
    let at = Time::now().nanos() / 1000;
    ::log::info!(
        "{what} after {} us, at {at} us",
        START.elapsed().as_micros()
    );
}

/// How long a guest may take to boot. Emulated hosts are slow.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);
/// How long the agent may take to make the sandbox: it may have to copy what an
/// image has in the place of a new volume.
const SETUP_PATIENCE: Duration = Duration::from_secs(600);
/// How long a guest may take to write out what it has and to switch itself off.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(90);
/// How long a machine may take to end when it was told to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Is the keeper of the sandbox `id`, and its monitor.
pub fn main(id: &str) -> ExitCode {
    // They live long, and who started them may have had anything open.
    confine::close_inherited();
    // A clock that starts now.
    LazyLock::force(&START);
    // It was started as /proc/self/exe, and would be called `exe` by ps and pgrep.
    let _ = rustix::thread::set_name(c"drupe");
    logging::start_no_thread();
    logging::bound_file(MAX_LOG);
    let result = launch::take().and_then(|stream| keeper::keep(stream, id, run));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            ::log::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Is the monitor.
fn run(start: Start) -> Result<(), Refusal> {
    let Start {
        sandbox,
        spec,
        mut client,
        attach,
        mut keeper,
        birth,
    } = start;
    match Running::start(&sandbox, &spec, &client, &attach, &mut keeper, birth) {
        Ok(running) => running.finish(client, attach, keeper),
        Err(failure) => {
            if let Err(e) = keeper.refused(&failure) {
                ::log::error!("{}", e.message);
            }
            let frame = Frame::json(FrameKind::Reply, &Reply::Failed(failure))?;
            Ok(frame.write_to(&mut client)?)
        }
    }
}

/// A sandbox whose process runs.
struct Running {
    session: Arc<Session>,
    first: Arc<Client>,
    output: UnixStream,
    log: log::Writer,
    machine: Started,
}

/// A machine that runs, and what it needs on the host.
struct Started {
    vm: Vm,
    flush: bool,
    blueprint: vm::Blueprint,
    network: network::Prepared,
}

impl Running {
    fn start(
        sandbox: &Sandbox,
        spec: &Spec,
        client: &UnixStream,
        attach: &Attach,
        keeper: &mut Keeper,
        birth: Birth,
    ) -> Result<Self, Failure> {
        let refused = |e: Refusal| failure(&e.to_string());
        // Before there are threads: they all leave the signals to this one.
        let signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(|e| refused(e.into()))?;
        let first = Client::new(client, attach.output).map_err(|e| refused(e.into()))?;
        let first = Arc::new(first);
        let (machine, ready, mounts) = power_on(sandbox, spec, keeper, birth).map_err(refused)?;
        note("machine on");
        let (handle, limits) = (machine.vm.handle.clone(), machine.vm.limits.clone());
        let session = Arc::new(Session::new(
            vm::SOCKET.into(),
            Stop {
                signal: spec.stop_signal,
                timeout: Duration::from_secs(spec.stop_timeout.into()),
                stdin_once: spec.process.stdin_once,
            },
            Levers {
                kill: Box::new(move || handle.stop()),
                limit: Box::new(move |wanted| limits.set(wanted)),
            },
        ));
        watch_signals(signals, session.clone());
        let result = boot(spec, &machine, &ready, mounts, &session, attach);
        let output = match result {
            Ok(output) => output,
            Err(e) => {
                // Whether the guest is at fault or not, it is of no more use.
                machine.vm.handle.give_up();
                return Err(explain(e, machine.vm));
            }
        };
        drop(ready);
        let opened = log::Writer::open(Path::new("."), spec.log).and_then(|log| {
            let listener = UnixListener::bind(control::SOCKET)?;
            Ok((log, listener))
        });
        let (log, listener) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                machine.vm.handle.stop();
                return Err(failure(&format!("{}: {e}", sandbox.dir().display())));
            }
        };
        let serving = session.clone();
        // Without a thread, nobody but the first client can be served.
        let _ = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serving.serve(&listener));
        let ports = machine.network.ports.clone();
        if let Err(e) = keeper.started(ports, machine.vm.confinement.clone()) {
            machine.vm.handle.stop();
            return Err(e);
        }
        note("clients served");
        Ok(Running {
            session,
            first,
            output,
            log,
            machine,
        })
    }

    /// From the start of its process to the end of everything.
    fn finish(
        self,
        mut stream: UnixStream,
        attach: Attach,
        mut keeper: Keeper,
    ) -> Result<(), Refusal> {
        let Running {
            session,
            first,
            output,
            log,
            machine,
        } = self;
        let started = Frame::json(FrameKind::Reply, &Reply::Started { process: 0 })?;
        // A client that has gone misses it.
        let _ = started.write_to(&mut stream);
        session.clients.add(first.clone());
        let serving = session.clone();
        let _ = thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || serving.attached(stream, &attach, &first));

        let exit = session.pump(output, log);
        note("process ended");
        let Started {
            vm,
            flush,
            blueprint,
            network,
        } = machine;
        let (end, remains) = power_off(&session, vm, flush, exit.as_ref().ok());
        note("machine off");
        // The machine's files, its volumes and its TAP are free from here on.
        drop((blueprint, network));
        let (exit, error) = match exit {
            Ok(exit) => (exit, None),
            Err(_) => {
                let lost = Exit {
                    status: LOST,
                    oom_killed: false,
                };
                (lost, Some(end))
            }
        };
        let frame = match &error {
            None => Frame::json(FrameKind::Exit, &exit)?,
            Some(why) => Frame::json(FrameKind::Reply, &Reply::Failed(failure(why)))?,
        };
        // Whoever hears of the end finds it written down.
        if let Err(e) = keeper.ended(exit, error) {
            ::log::error!("{}", e.message);
        }
        note("tidied up");
        session.clients.hurry();
        session.clients.end(&frame);
        // Nobody waits for that any more.
        drop(remains);
        Ok(())
    }
}

/// Makes the machine and switches it on.
fn power_on(
    sandbox: &Sandbox,
    spec: &Spec,
    keeper: &Keeper,
    birth: Birth,
) -> Result<(Started, UnixListener, Vec<protocol::Mount>), Refusal> {
    let kernel = kernels::choose(spec.machine.kernel.as_deref())?;
    let mounts = guest::mounts(spec, Path::is_file);
    let mut network = network::prepare(&spec.network, &sandbox.id)?;
    let home = sandbox.store().home().to_owned();
    let blueprint = vm::blueprint(spec, &home, &kernel, &mounts, network.card.take())?;
    // Before the guest can dial it.
    let ready = UnixListener::bind(format!("{}_{READY_PORT}", vm::SOCKET))?;
    let vm = Vm::start(&blueprint.config, |machine| {
        let files = vec![Entry::write(sandbox.dir())];
        let birth = Some(birth);
        let report = confinement::enter(spec.confine, &blueprint.config, machine, files, birth)?;
        // By the path that the store calls it by.
        std::env::set_current_dir(sandbox.dir()).map_err(ConfinementError::Directory)?;
        keeper.follow().map_err(ConfinementError::Keeper)?;
        Ok(report)
    })?;
    network.ports = usernet::opened(&network.ports, &vm.published);
    let started = Started {
        vm,
        flush: blueprint.flush,
        blueprint,
        network,
    };
    Ok((started, ready, mounts.guest))
}

/// Why a sandbox's process could not be started.
enum BootError {
    /// The guest never came up.
    NotReady,
    /// Something of the host's.
    Host(io::Error),
    /// The agent.
    Agent(AgentError),
}

impl From<AgentError> for BootError {
    fn from(error: AgentError) -> Self {
        BootError::Agent(error)
    }
}

/// Waits for the guest, has it make the sandbox, and starts the process.
fn boot(
    spec: &Spec,
    machine: &Started,
    ready: &UnixListener,
    mounts: Vec<protocol::Mount>,
    session: &Session,
    attach: &Attach,
) -> Result<UnixStream, BootError> {
    match machine.vm.wait_ready(ready, BOOT_PATIENCE) {
        Ok(true) => {}
        Ok(false) => return Err(BootError::NotReady),
        Err(e) => return Err(BootError::Host(e)),
    }
    note("guest up");
    let setup = guest::setup(spec, mounts, machine.network.guest.clone());
    let mut agent = Agent::connect(Path::new(vm::SOCKET))?;
    let request = protocol::Request::Setup(Box::new(setup));
    match agent.ask(&request, Some(SETUP_PATIENCE))? {
        Reply::Done => {}
        reply => return Err(agent::unexpected(&reply).into()),
    }
    note("sandbox made");
    let output = session.start(guest::process(spec, attach.size))?;
    note("process started");
    Ok(output)
}

/// What a client is told of a start that failed. The machine has been stopped.
fn explain(error: BootError, vm: Vm) -> Failure {
    match error {
        BootError::Agent(AgentError::Failed(failure)) => failure,
        BootError::Host(e) => failure(&e.to_string()),
        BootError::NotReady => failure(&format!("{NOT_UP}: {}", first_line(&vm.join().0))),
        BootError::Agent(e) => failure(&format!("{e}: {}", first_line(&vm.join().0))),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Switches the machine off, after the guest has written out what has to last,
/// and says how it ended. What the kernel is still to free of it comes with that.
fn power_off(
    session: &Session,
    vm: Vm,
    flush: bool,
    exit: Option<&Exit>,
) -> (String, Option<Remains>) {
    let ended = |time| vm.wait_end(time).unwrap_or(false);
    if exit.is_some() && flush {
        let asked = Agent::connect(Path::new(vm::SOCKET))
            .and_then(|mut agent| agent.send(&protocol::Request::PowerOff));
        if let Err(e) = asked {
            ::log::warn!("the guest cannot be switched off: {e}");
        } else if !ended(POWER_OFF_PATIENCE) {
            ::log::warn!("the guest does not switch itself off");
        }
    } else if exit.is_none() && !ended(END_PATIENCE) {
        // The agent has gone and the machine has not: it is of no more use.
        ::log::warn!("the agent has gone");
    }
    session.end_by_force();
    vm.join()
}

/// Removes the volumes that were made for a sandbox alone.
pub fn remove_anonymous_volumes(home: &Path, spec: &Spec) {
    let volumes = Volumes::new(home);
    for volume in anonymous_volumes(home, spec) {
        if let Err(e) = volumes.remove(&volume) {
            ::log::warn!("{e}");
        }
    }
}

fn anonymous_volumes(home: &Path, spec: &Spec) -> Vec<Volume> {
    let volumes = Volumes::new(home);
    let anonymous = spec.mounts.iter().filter_map(|mount| match &mount.source {
        Source::Volume {
            name,
            anonymous: true,
            ..
        } => Some(name),
        _ => None,
    });
    // The volume itself has to say so, too: what is removed is not for one file in
    // the sandbox's directory to tell.
    let of_one = |volume: &Volume| volume.description().is_ok_and(|found| found.anonymous);
    let found = anonymous.filter_map(|name| match volumes.find(name) {
        Ok(volume) => of_one(&volume).then_some(volume),
        Err(e) => {
            ::log::warn!("{e}");
            None
        }
    });
    found.collect()
}

/// Ends the sandbox when the monitor is asked to end: in good order the first
/// time, at once the second.
fn watch_signals(signals: Signals, session: Arc<Session>) {
    let asked = Mutex::new(false);
    let watch = move || {
        while let Ok(signal) = signals.wait() {
            if signal == libc::SIGHUP {
                continue;
            }
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *asked, true) {
                session.end_by_force();
                continue;
            }
            let stopped = session.clone();
            let stop = thread::Builder::new()
                .name("stop".to_owned())
                .spawn(move || stopped.stop(None, None));
            if stop.is_err() {
                // It cannot be asked then.
                session.end_by_force();
            }
        }
    };
    // Without a thread, signals wait until the sandbox ends by itself.
    let _ = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch);
}
