//! The process of a sandbox as its monitor has it: its streams, its clients, and
//! the ways to end it. Knows nothing of machines: the agent is somebody behind a
//! socket, and the machine a call that ends it.

use std::io::{self, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use devices::virtio::DeviceLimits;
use protocol::{Exit, Failure, Frame, FrameError, FrameKind, Reply, WindowSize};

use super::clients::{Client, Clients};
use crate::sandbox::agent::{Agent, AgentError};
use crate::sandbox::control::{Attach, Request};
use crate::sandbox::log::{self, Stream};

/// How long the agent may take to pass on a signal.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(5);
/// How long a process may take to die of `SIGKILL`: it may be in the middle of a
/// write to a slow disk.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for descriptors before the next client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How much of the process's output is read at once.
const BUFFER: usize = 64 << 10;

/// What a session can do to the machine.
pub struct Levers {
    /// Ends it as it stands.
    pub kill: Box<dyn Fn() + Send + Sync>,
    /// Limits its devices.
    pub limit: Box<dyn Fn(&DeviceLimits) + Send + Sync>,
}

/// The process of a sandbox.
pub struct Session {
    /// The machine's socket.
    agent: PathBuf,
    stop_signal: i32,
    stop_timeout: Duration,
    stdin_once: bool,
    machine: Levers,
    /// Who is to hear of it.
    pub clients: Clients,
    process: OnceLock<u32>,
    stdin: Mutex<Option<UnixStream>>,
    ended: Mutex<bool>,
    end: Condvar,
}

/// How a sandbox is asked to end.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// By which signal.
    pub signal: i32,
    /// How long it then has.
    pub timeout: Duration,
    /// Its standard input ends when its first client leaves.
    pub stdin_once: bool,
}

impl Session {
    /// A session for a process that is yet to be started.
    pub fn new(agent: PathBuf, stop: Stop, machine: Levers) -> Self {
        Session {
            agent,
            stop_signal: stop.signal,
            stop_timeout: stop.timeout,
            stdin_once: stop.stdin_once,
            machine,
            clients: Clients::default(),
            process: OnceLock::new(),
            stdin: Mutex::new(None),
            ended: Mutex::new(false),
            end: Condvar::new(),
        }
    }

    /// Starts the process, and returns the connection from which its output
    /// comes.
    ///
    /// # Errors
    /// The agent's.
    pub fn start(&self, process: protocol::Process) -> Result<UnixStream, AgentError> {
        let stdin = process.stdin;
        let mut agent = Agent::connect(&self.agent)?;
        let request = protocol::Request::Start(Box::new(process));
        let reply = agent.ask(&request, Some(super::SETUP_PATIENCE))?;
        let Reply::Started { process } = reply else {
            return Err(crate::sandbox::agent::unexpected(&reply));
        };
        let stream = agent.into_stream();
        if stdin {
            *lock(&self.stdin) = Some(stream.try_clone()?);
        }
        // There is one start in a session.
        let _ = self.process.set(process);
        Ok(stream)
    }

    /// Passes the process's output on until it ends.
    ///
    /// # Errors
    /// When the connection ends before the process: then the machine has.
    pub fn pump(&self, from: UnixStream, mut log: log::Writer) -> Result<Exit, FrameError> {
        let mut from = BufReader::with_capacity(BUFFER, from);
        let mut complained = false;
        let result = loop {
            let frame = match Frame::read_from(&mut from) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
                Err(e) => break Err(e),
            };
            let stream = match frame.kind {
                FrameKind::Stdout => Stream::Stdout,
                FrameKind::Stderr => Stream::Stderr,
                FrameKind::Exit => break frame.parse(FrameKind::Exit),
                _ => continue,
            };
            if frame.payload.is_empty() {
                // The end of a stream; that of the process says so for both.
                continue;
            }
            if let Err(e) = log.write(stream, &frame.payload)
                && !complained
            {
                complained = true;
                ::log::warn!("the log has a hole: {e}");
            }
            self.clients.output(frame.kind, frame.payload);
        };
        *lock(&self.ended) = true;
        self.end.notify_all();
        *lock(&self.stdin) = None;
        result
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// When it does not run yet, or the agent's.
    pub fn signal(&self, signal: i32) -> Result<(), Failure> {
        let Some(process) = self.process.get() else {
            return match signal {
                libc::SIGTERM | libc::SIGINT | libc::SIGKILL => {
                    (self.machine.kill)();
                    Ok(())
                }
                _ => Err(failure("the sandbox is still starting")),
            };
        };
        let request = protocol::Request::Signal {
            process: *process,
            signal,
        };
        let asked = self.ask(&request);
        if signal == libc::SIGKILL && !self.wait(KILL_PATIENCE) {
            self.end_by_force();
            return Ok(());
        }
        asked.map(drop).map_err(|e| failure(&e.to_string()))
    }

    fn ask(&self, request: &protocol::Request) -> Result<Reply, AgentError> {
        Agent::connect(&self.agent)?.ask(request, Some(SIGNAL_PATIENCE))
    }

    fn resize(&self, size: WindowSize) -> Result<(), Failure> {
        let Some(process) = self.process.get() else {
            return Ok(());
        };
        let request = protocol::Request::Resize {
            process: *process,
            size,
        };
        let asked = self.ask(&request);
        asked.map(drop).map_err(|e| failure(&e.to_string()))
    }

    /// Asks the process to end, waits, and ends it. On return it has ended.
    pub fn stop(&self, signal: Option<i32>, timeout: Option<Duration>) {
        let asked = self.signal(signal.unwrap_or(self.stop_signal));
        let timeout = timeout.unwrap_or(self.stop_timeout);
        // One that cannot even be asked is not waited for.
        if (asked.is_err() || !self.wait(timeout)) && self.signal(libc::SIGKILL).is_err() {
            self.end_by_force();
        }
    }

    /// Ends the machine, and waits for nobody.
    pub fn end_by_force(&self) {
        self.clients.hurry();
        (self.machine.kill)();
    }

    /// Waits for the end of the process; false when it has not come in time.
    fn wait(&self, time: Duration) -> bool {
        let ended = lock(&self.ended);
        let (ended, _) = self
            .end
            .wait_timeout_while(ended, time, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        *ended
    }

    /// Serves clients, each in a thread of its own, for as long as the listener
    /// works.
    pub fn serve(self: Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(e) if passes(&e) => {
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
                Err(e) => return ::log::error!("clients are not served any more: {e}"),
            };
            let session = self.clone();
            let name = "client".to_owned();
            // Without a thread, the client finds its connection closed.
            let _ = thread::Builder::new()
                .name(name)
                .spawn(move || session.client(stream));
        }
    }

    /// Serves one client.
    fn client(&self, mut stream: UnixStream) {
        let request = match Frame::read_from(&mut stream) {
            Ok(Some(frame)) => frame.parse(FrameKind::Request),
            _ => return,
        };
        let answer = match request {
            Ok(Request::Attach(attach)) => {
                let client = match Client::new(&stream, attach.output) {
                    Ok(client) => Arc::new(client),
                    Err(_) => return,
                };
                // The answer comes before any output.
                if reply(&mut stream, Ok(())).is_ok() {
                    self.clients.add(client.clone());
                    self.attached(stream, &attach, &client);
                    self.clients.tidy();
                }
                return;
            }
            Ok(Request::Wait) => {
                if let Some(client) = self.waiting(&mut stream) {
                    // It says no more: this is its end, and nothing is kept of it.
                    let _ = stream.read(&mut [0]);
                    client.leave();
                    self.clients.tidy();
                }
                return;
            }
            Ok(Request::Stop { signal, timeout }) => {
                self.waiting(&mut stream);
                let timeout = timeout.map(|seconds| Duration::from_secs(seconds.into()));
                return self.stop(signal, timeout);
            }
            Ok(Request::Signal(signal)) => self.signal(signal),
            Ok(Request::Resize(size)) => self.resize(size),
            Ok(Request::Limit(limits)) => {
                (self.machine.limit)(&limits);
                Ok(())
            }
            Ok(Request::Detach) => Ok(()),
            Err(e) => Err(failure(&e.to_string())),
        };
        // A client that has gone does not need it.
        let _ = reply(&mut stream, answer);
    }

    fn waiting(&self, stream: &mut UnixStream) -> Option<Arc<Client>> {
        let client = Arc::new(Client::new(stream, false).ok()?);
        reply(stream, Ok(())).ok()?;
        self.clients.add(client.clone());
        Some(client)
    }

    /// Takes standard input from a client that has been added, until it leaves.
    pub fn attached(&self, stream: UnixStream, attach: &Attach, client: &Client) {
        if let Some(size) = attach.size {
            // A process without a terminal has no window.
            let _ = self.resize(size);
        }
        let mut from = BufReader::with_capacity(BUFFER, stream);
        loop {
            match Frame::read_from(&mut from) {
                Ok(Some(frame)) if frame.kind == FrameKind::Stdin && attach.stdin => {
                    if frame.payload.is_empty() {
                        self.end_stdin();
                    } else if let Some(stdin) = &mut *lock(&self.stdin)
                        && frame.write_to(stdin).is_err()
                    {
                        // Nobody reads it any more. The client stays for output.
                        ::log::info!("standard input has no reader");
                    }
                }
                Ok(Some(frame)) if frame.kind == FrameKind::Request => {
                    if matches!(frame.parse(FrameKind::Request), Ok(Request::Detach)) {
                        return client.leave();
                    }
                }
                Ok(Some(_)) => {}
                // It has been killed, or broke the rules.
                Ok(None) | Err(_) => {
                    client.leave();
                    if attach.stdin {
                        self.end_stdin();
                    }
                    return;
                }
            }
        }
    }

    /// The standard input of a client is at its end, and with it the process's
    /// unless another one may go on.
    fn end_stdin(&self) {
        if self.stdin_once
            && let Some(mut stdin) = lock(&self.stdin).take()
        {
            // When that fails there is nobody to be told.
            let _ = Frame::new(FrameKind::Stdin, []).write_to(&mut stdin);
        }
    }
}

/// Says that what was asked for is done, or why not.
///
/// # Errors
/// The connection's.
pub fn reply(stream: &mut UnixStream, answer: Result<(), Failure>) -> Result<(), FrameError> {
    let reply = match answer {
        Ok(()) => Reply::Done,
        Err(failure) => Reply::Failed(failure),
    };
    Ok(Frame::json(FrameKind::Reply, &reply)?.write_to(stream)?)
}

/// Whether the next client may be accepted although this one was not: a guest can
/// take all descriptors, and gives them back.
fn passes(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::ECONNABORTED
                | libc::EINTR
        )
    )
}

/// Something of drupe's own went wrong.
pub fn failure(message: &str) -> Failure {
    Failure {
        message: message.to_owned(),
        status: 125,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
