//! Answers requests: a thread for each connection.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use libc::{SIGKILL, SIGPIPE};
use protocol::{
    Archive, Exit, Failure, Frame, FrameError, FrameKind, Process, Reply, Request, Setup,
};
use rustix::io::Errno;
use rustix::process::WaitIdStatus;

use crate::archive::{self, Owner, Unpack};
use crate::error::{Context, Error, Result};
use crate::setup::{self, Sandbox};
use crate::spawn::{self, Started, Streams};
use crate::vsock::Listener;
use crate::{power, session, stats, sys};

/// Connections at a time. More are closed at once.
const MAX_CONNECTIONS: usize = 512;
/// The stack of a connection's thread, in bytes.
const STACK: usize = 512 << 10;
/// Bytes of an archive in one frame.
const CHUNK: usize = 64 << 10;
/// Signals, as the kernel counts them.
const SIGNALS: std::ops::RangeInclusive<i32> = 0..=64;

/// What all connections share.
#[derive(Default)]
pub struct Server {
    state: Mutex<State>,
    connections: AtomicUsize,
}

#[derive(Default)]
struct State {
    sandbox: Option<Arc<Sandbox>>,
    /// A set-up is under way, or has failed: there is no second one.
    begun: bool,
    main: Main,
    processes: BTreeMap<u32, Arc<Handle>>,
    last: u32,
}

/// The main process.
#[derive(Default)]
enum Main {
    #[default]
    None,
    /// It is being started.
    Starting,
    Runs(Arc<Handle>),
    Ended,
}

/// A process that runs.
struct Handle {
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

impl Handle {
    /// The kernel spares the first process of a namespace what ends any other one by
    /// default: it would write for ever what nobody reads.
    fn has_no_reader_and_would_not_notice(&self) -> bool {
        let link = format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd());
        let info = fs::read_to_string(link).unwrap_or_default();
        let Some(pid) = field(&info, "Pid:") else {
            return false;
        };
        fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| is_spared(&status, SIGPIPE))
    }
}

/// A field of a file in /proc that has one in each line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim())
}

/// Whether a process with this `/proc/PID/status` is the first of its namespace, and
/// neither handles nor ignores a signal.
fn is_spared(status: &str, signal: i32) -> bool {
    let first = field(status, "NSpid:").and_then(|ids| ids.split_whitespace().last());
    let has = |name| {
        let set = field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
        set.is_none_or(|set| set & 1 << (signal - 1) != 0)
    };
    first == Some("1") && !has("SigIgn:") && !has("SigCgt:")
}

/// Serves the host for ever.
pub fn serve(listener: &Listener) -> ! {
    let server = Arc::new(Server::default());
    loop {
        match listener.accept() {
            Ok(connection) => accept(&server, connection),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => power::fail(&format!("cannot accept connections: {e}")),
        }
    }
}

fn accept(server: &Arc<Server>, connection: File) {
    if server.connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
        server.connections.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let shared = server.clone();
    let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
        shared.answer(connection);
        shared.connections.fetch_sub(1, Ordering::Relaxed);
    });
    if thread.is_err() {
        // No memory for a thread: the connection is closed.
        server.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    fn answer(&self, mut connection: File) {
        let request = match read_request(&mut connection) {
            Ok(Some(request)) => request,
            Ok(None) | Err(FrameError::Io(_)) => return,
            Err(e @ FrameError::Protocol(_)) => {
                let failure = Error::request(e.to_string());
                return reply(&mut connection, &Reply::Failed(failure.into()));
            }
        };
        let result = match request {
            Request::Start(process) => return self.start(connection, &process),
            Request::GetArchive(archive) => return self.get(connection, &archive),
            Request::PutArchive(archive) => return self.put(connection, &archive),
            Request::PowerOff => power::off(),
            Request::Setup(setup) => self.setup(&setup).map(|()| Reply::Done),
            Request::Signal { process, signal } => {
                self.signal(process, signal).map(|()| Reply::Done)
            }
            Request::Resize { process, size } => self.resize(process, size).map(|()| Reply::Done),
            Request::Stats => self
                .sandbox()
                .map(|sandbox| Reply::Stats(stats::stats(&sandbox))),
            Request::Processes => self
                .sandbox()
                .and_then(|sandbox| stats::processes(&sandbox))
                .map(Reply::Processes),
            Request::Stat(archive) => self.sandbox().and_then(|sandbox| {
                archive::stat(&sandbox.root, &archive.path, archive.follow).map(Reply::Entry)
            }),
        };
        reply(&mut connection, &result.unwrap_or_else(failed));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sandbox(&self) -> Result<Arc<Sandbox>> {
        let sandbox = self.state().sandbox.clone();
        sandbox.ok_or_else(|| Error::request("the sandbox has not been set up"))
    }

    fn setup(&self, setup: &Setup) -> Result<()> {
        if std::mem::replace(&mut self.state().begun, true) {
            return Err(Error::request("the sandbox has been set up before"));
        }
        let sandbox = setup::setup(setup)?;
        self.state().sandbox = Some(Arc::new(sandbox));
        Ok(())
    }

    fn start(&self, mut connection: File, process: &Process) {
        match self.launch(process) {
            Err(e) => reply(&mut connection, &failed(e)),
            Ok((id, handle, streams)) => {
                reply(&mut connection, &Reply::Started { process: id });
                session::carry(connection, streams, &handle.pidfd, |status| {
                    self.ended(id, process.main);
                    self.exit(status)
                });
            }
        }
    }

    fn launch(&self, process: &Process) -> Result<(u32, Arc<Handle>, Streams)> {
        let sandbox = self.sandbox()?;
        let main = self.begin(process.main)?;
        let main = main.as_ref().map(|main| &main.pidfd);
        let started = spawn::start(&sandbox, process, main).and_then(|started| {
            let Started { pidfd, streams } = started;
            let terminal = match &streams {
                Streams::Terminal(master) => {
                    Some(master.try_clone().context(|| "keep the terminal".into())?)
                }
                Streams::Pipes { .. } => None,
            };
            Ok((Arc::new(Handle { pidfd, terminal }), streams))
        });
        let mut state = self.state();
        let (handle, streams) = match started {
            Ok(started) => started,
            Err(e) => {
                if process.main {
                    state.main = Main::Ended;
                }
                return Err(e);
            }
        };
        state.last += 1;
        let id = state.last;
        state.processes.insert(id, handle.clone());
        if process.main {
            state.main = Main::Runs(handle.clone());
        }
        Ok((id, handle, streams))
    }

    /// Whether a process may be started now; the main process for another one.
    fn begin(&self, main: bool) -> Result<Option<Arc<Handle>>> {
        let mut state = self.state();
        match (&state.main, main) {
            (Main::None, true) => {
                state.main = Main::Starting;
                Ok(None)
            }
            (_, true) => Err(Error::request("the main process has been started before")),
            (Main::Runs(main), false) => Ok(Some(main.clone())),
            (Main::Ended, false) => Err(spawn::ended()),
            (Main::None | Main::Starting, false) => {
                Err(Error::request("the main process has not been started"))
            }
        }
    }

    fn ended(&self, id: u32, main: bool) {
        let mut state = self.state();
        state.processes.remove(&id);
        if main {
            state.main = Main::Ended;
        }
    }

    fn exit(&self, status: WaitIdStatus) -> Exit {
        let killed = status.terminating_signal().map(|signal| 128 + signal);
        let number = status.exit_status().or(killed).unwrap_or(255);
        let oom_killed = self
            .sandbox()
            .is_ok_and(|sandbox| stats::oom_killed(&sandbox));
        Exit {
            status: u8::try_from(number & 0xff).unwrap_or(255),
            oom_killed,
        }
    }

    /// The process, or none if it has ended.
    fn process(&self, id: u32) -> Result<Option<Arc<Handle>>> {
        let state = self.state();
        match state.processes.get(&id) {
            Some(handle) => Ok(Some(handle.clone())),
            None if (1..=state.last).contains(&id) => Ok(None),
            None => Err(Error::request(format!("there never was a process {id}"))),
        }
    }

    fn signal(&self, id: u32, signal: i32) -> Result<()> {
        if !SIGNALS.contains(&signal) {
            return Err(Error::request(format!("{signal} is no signal")));
        }
        let Some(handle) = self.process(id)? else {
            return Ok(());
        };
        let signal = match signal {
            SIGPIPE if handle.has_no_reader_and_would_not_notice() => SIGKILL,
            signal => signal,
        };
        match sys::pidfd_send_signal(handle.pidfd.as_fd(), signal) {
            Err(Errno::SRCH) => Ok(()),
            result => result.context(|| format!("send signal {signal}")),
        }
    }

    fn resize(&self, id: u32, size: protocol::WindowSize) -> Result<()> {
        let Some(handle) = self.process(id)? else {
            return Ok(());
        };
        match &handle.terminal {
            Some(terminal) => spawn::resize(terminal, size).context(|| "resize".into()),
            None => Err(Error::request(format!("process {id} has no terminal"))),
        }
    }

    fn get(&self, mut connection: File, archive: &Archive) {
        let Archive { path, follow, .. } = archive;
        let sandbox = self.sandbox();
        let entry = sandbox
            .as_ref()
            .map_err(|e| Error::request(e.to_string()))
            .and_then(|sandbox| archive::stat(&sandbox.root, path, *follow));
        let (sandbox, entry) = match (sandbox, entry) {
            (Ok(sandbox), Ok(entry)) => (sandbox, entry),
            (_, Err(e)) | (Err(e), _) => return reply(&mut connection, &failed(e)),
        };
        reply(&mut connection, &Reply::Entry(entry));
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let mut frames = Frames(&mut connection);
        let mut buffered = io::BufWriter::with_capacity(CHUNK, &mut frames);
        let packed = archive::pack(&sandbox.root, path, *follow, name, &mut buffered)
            .and_then(|()| buffered.flush().context(|| "send the archive".into()));
        drop(buffered);
        match packed {
            // The empty frame is the end.
            Ok(()) => drop(Frame::new(FrameKind::Stdout, []).write_to(&mut connection)),
            Err(e) => reply(&mut connection, &failed(e)),
        }
    }

    fn put(&self, mut connection: File, archive: &Archive) {
        let options = Unpack {
            owner: match archive.chown_root {
                true => Owner::Root,
                false => Owner::Archive,
            },
            top: false,
        };
        let mut incoming = Incoming::new(&mut connection);
        let result = self.sandbox().and_then(|sandbox| {
            archive::unpack(&sandbox.root, &archive.path, &mut incoming, options)
        });
        // What follows the archive's end, or the entry that failed: the other
        // side sends all of it before it reads.
        let rest = io::copy(&mut incoming, &mut io::sink());
        let result = match rest {
            Ok(_) => result,
            Err(_) => Err(Error::request("the archive was cut off")),
        };
        let answer = result.map_or_else(failed, |()| Reply::Done);
        reply(&mut connection, &answer);
    }
}

fn read_request(connection: &mut File) -> std::result::Result<Option<Request>, FrameError> {
    match Frame::read_from(connection)? {
        Some(frame) => frame.parse(FrameKind::Request).map(Some),
        None => Ok(None),
    }
}

fn failed(error: Error) -> Reply {
    Reply::Failed(Failure::from(error))
}

fn reply(connection: &mut File, reply: &Reply) {
    let frame = Frame::json(FrameKind::Reply, reply).or_else(|e| {
        let failure = Error::request(format!("the answer: {e}"));
        Frame::json(FrameKind::Reply, &failed(failure))
    });
    if let Ok(frame) = frame {
        // Who does not wait for the answer does not get it.
        let _ = frame.write_to(connection);
    }
}

/// Bytes to frames of standard output.
struct Frames<'a>(&'a mut File);

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK);
        if n > 0 {
            Frame::new(FrameKind::Stdout, &bytes[..n]).write_to(self.0)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames of standard input to bytes.
struct Incoming<'a> {
    connection: &'a mut File,
    frame: Vec<u8>,
    read: usize,
    ended: bool,
}

impl<'a> Incoming<'a> {
    fn new(connection: &'a mut File) -> Self {
        Incoming {
            connection,
            frame: Vec::new(),
            read: 0,
            ended: false,
        }
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.read == self.frame.len() && !self.ended {
            let frame = Frame::read_from(self.connection).map_err(io::Error::other)?;
            match frame {
                Some(frame) if frame.kind == FrameKind::Stdin => {
                    self.ended = frame.payload.is_empty();
                    self.frame = frame.payload;
                    self.read = 0;
                }
                // A connection that ends in the middle is no end of an archive.
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = to.len().min(self.frame.len() - self.read);
        to[..n].copy_from_slice(&self.frame[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    fn ask(server: &Server, request: &[u8]) -> String {
        let (mut host, theirs) = UnixStream::pair().unwrap();
        host.write_all(request).unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        server.answer(OwnedFd::from(theirs).into());
        match Frame::read_from(&mut host).unwrap() {
            Some(frame) => match frame.parse(FrameKind::Reply).unwrap() {
                Reply::Failed(failure) => failure.message,
                other => format!("{other:?}"),
            },
            None => "closed".into(),
        }
    }

    fn frame(request: &Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        Frame::json(FrameKind::Request, request)
            .unwrap()
            .write_to(&mut bytes)
            .unwrap();
        bytes
    }

    #[test]
    fn nothing_can_be_asked_of_a_sandbox_that_is_not_there() {
        let server = Server::default();
        let path = Archive {
            path: Path::new("/").into(),
            follow: false,
            chown_root: false,
        };
        for request in [
            Request::Stats,
            Request::Processes,
            Request::Stat(path.clone()),
            Request::GetArchive(path),
        ] {
            let answer = ask(&server, &frame(&request));
            assert_eq!(answer, "the sandbox has not been set up", "{request:?}");
        }
        let signal = |process, signal| ask(&server, &frame(&Request::Signal { process, signal }));
        assert_eq!(signal(1, 15), "there never was a process 1");
        assert_eq!(signal(1, 65), "65 is no signal");
    }

    #[test]
    fn who_would_not_notice_a_signal_is_known() {
        let status = |ids, ignored, caught| {
            format!("Name:\tx\nNSpid:\t{ids}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n")
        };
        let (none, pipe) = ("0000000000000000", "0000000000001000");
        for (ids, ignored, caught, spared) in [
            ("7\t1", none, none, true),
            ("7\t1", pipe, none, false),
            ("7\t1", none, pipe, false),
            ("7\t2", none, none, false),
        ] {
            let status = status(ids, ignored, caught);
            assert_eq!(is_spared(&status, SIGPIPE), spared, "{status}");
        }
        assert!(!is_spared("", SIGPIPE));
    }

    #[test]
    fn what_is_no_request_is_answered_and_closed() {
        let server = Server::default();
        assert_eq!(ask(&server, b""), "closed");
        assert_eq!(ask(&server, b"\x01"), "closed");
        assert!(ask(&server, b"\x07\0\0\0\0").contains("broke the protocol"));
        assert!(ask(&server, b"\x01\x02\0\0\0{}").contains("broke the protocol"));
        assert!(ask(&server, b"\x01\xff\xff\xff\xff").contains("broke the protocol"));
    }

    #[test]
    fn an_archive_ends_with_an_empty_frame_only() {
        let read = |frames: &[(FrameKind, &[u8])]| {
            let (mut host, theirs) = UnixStream::pair().unwrap();
            for (kind, payload) in frames {
                Frame::new(*kind, *payload).write_to(&mut host).unwrap();
            }
            drop(host);
            let mut bytes = Vec::new();
            let mut theirs = OwnedFd::from(theirs).into();
            Incoming::new(&mut theirs)
                .read_to_end(&mut bytes)
                .map(|_| bytes)
        };
        let stdin = FrameKind::Stdin;
        assert_eq!(
            read(&[(stdin, b"ab"), (stdin, b"c"), (stdin, b"")]).unwrap(),
            b"abc"
        );
        assert!(read(&[(stdin, b"ab")]).is_err());
        assert!(read(&[(FrameKind::Stdout, b"ab")]).is_err());
    }
}
