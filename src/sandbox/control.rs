//! What clients say to a sandbox's monitor, over the socket `control.sock` in
//! its directory. Frames as with the agent: a [`Request`], then what it asks for.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use devices::virtio::DeviceLimits;
use protocol::{Exit, Failure, Frame, FrameError, FrameKind, Reply, WindowSize};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::frames;
use super::store::{Sandbox, socket_path};

/// How long a monitor may take to take a connection, and how often it is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// The socket's name.
pub const SOCKET: &str = "control.sock";

/// What a client asks of the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The streams of the process. Answer: `Done`, or `Started` for the client
    /// that started the sandbox; then `Stdout` and `Stderr` frames, and `Exit`.
    /// The client sends `Stdin` frames.
    Attach(Attach),
    /// Tell when it has ended. Answer: as for `Attach` without its streams.
    Wait,
    /// Of a client that is attached: it leaves, and standard input stays open.
    Detach,
    /// Send the process a signal. Answer: `Done`.
    Signal(i32),
    /// Limit the machine's devices. Answer: `Done`.
    Limit(Box<DeviceLimits>),
    /// Tell the process the size of its window. Answer: `Done`.
    Resize(WindowSize),
    /// Ask the process to end, and end it when it has not within these seconds;
    /// its own stop signal and time when not given. Answer: as for `Wait`.
    Stop {
        /// The signal that asks.
        signal: Option<i32>,
        /// Seconds.
        timeout: Option<u32>,
    },
}

/// Which streams a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attach {
    /// It sends standard input.
    pub stdin: bool,
    /// It takes standard output and standard error.
    pub output: bool,
    /// The size of its terminal.
    pub size: Option<WindowSize>,
}

/// Connects with the monitor of a sandbox and asks it something.
///
/// # Errors
/// [`SandboxError::NotRunning`] when there is no monitor, or the connection's.
pub fn connect(sandbox: &Sandbox, request: &Request) -> Result<UnixStream, SandboxError> {
    let dir = sandbox.open_dir()?;
    let silent = |e: FrameError| SandboxError::Silent {
        name: sandbox.label(),
        why: e.to_string(),
    };
    let mut stream = match dial(&socket_path(&dir, SOCKET), CONNECT_PATIENCE) {
        Ok(stream) => stream,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(SandboxError::NotRunning(sandbox.label()));
        }
        Err(e) => return Err(silent(e.into())),
    };
    send(&mut stream, request).map_err(silent)?;
    Ok(stream)
}

/// Connects with a socket whose owner may have stopped to take connections.
fn dial(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let end = Instant::now() + patience;
    while let Err(e) = net::connect(&socket, &address) {
        match e {
            Errno::INTR => {}
            Errno::AGAIN if Instant::now() < end => thread::sleep(CONNECT_PAUSE),
            Errno::AGAIN => return Err(io::Error::other("it takes no connections")),
            e => return Err(e.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Sends a request.
///
/// # Errors
/// The connection's.
pub fn send(stream: &mut UnixStream, request: &impl Serialize) -> Result<(), FrameError> {
    Ok(Frame::json(FrameKind::Request, request)?.write_to(stream)?)
}

/// Waits for the answer.
///
/// # Errors
/// [`Failure`] when the monitor says no, or has gone.
pub fn reply(stream: &mut UnixStream) -> Result<Reply, Failure> {
    match frames::read_one(stream) {
        Ok(Some(frame)) => match frame.parse(FrameKind::Reply) {
            Ok(Reply::Failed(failure)) => Err(failure),
            Ok(reply) => Ok(reply),
            Err(e) => Err(lost(&e.to_string())),
        },
        Ok(None) => Err(lost("it ended")),
        Err(e) => Err(lost(&e.to_string())),
    }
}

/// Waits for the end of a sandbox on a connection that asked for it, until a certain
/// time if there is one.
///
/// # Errors
/// [`Failure`] when the monitor ends without a word, or is late.
pub fn wait_for_exit(stream: &UnixStream, end: Option<Instant>) -> Result<Exit, Failure> {
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(lost("it does not end"));
        }
        stream
            .set_read_timeout(left)
            .map_err(|e| lost(&e.to_string()))?;
        match frames::read_one(stream) {
            Ok(Some(frame)) if frame.kind == FrameKind::Exit => {
                return frame
                    .parse(FrameKind::Exit)
                    .map_err(|e| lost(&e.to_string()));
            }
            Ok(Some(frame)) => {
                if let Ok(Reply::Failed(failure)) = frame.parse(FrameKind::Reply) {
                    return Err(failure);
                }
            }
            Ok(None) => return Err(lost("it ended")),
            Err(e) => return Err(lost(&e.to_string())),
        }
    }
}

const LOST: &str = "drupe's process for the sandbox does not answer";

/// The monitor is not there any more.
pub fn lost(why: &str) -> Failure {
    Failure {
        message: format!("{LOST}: {why}"),
        status: 125,
    }
}

/// Whether a failure is one of [`lost`].
pub fn is_lost(failure: &Failure) -> bool {
    failure.message.starts_with(LOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn a_monitor_that_talks_without_end_is_not_waited_for() {
        let (near, far) = UnixStream::pair().unwrap();
        let talk = thread::spawn(move || {
            let frame = Frame::new(FrameKind::Stdout, *b"still here");
            while frame.write_to(&mut &far).is_ok() {}
        });
        let late = wait_for_exit(&near, Some(Instant::now() + SHORT)).unwrap_err();
        assert!(is_lost(&late) && late.message.contains("does not end"));
        drop(near);
        talk.join().unwrap();
        // Nor one that says nothing.
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(wait_for_exit(&near, Some(Instant::now() + SHORT)).is_err());
    }

    #[test]
    fn a_monitor_that_takes_no_connections_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let first = dial(&path, SHORT).unwrap();
        net::listen(&listener, 0).unwrap();
        assert!(dial(&path, SHORT).is_err());
        // With room it goes on.
        drop((listener.accept().unwrap(), first));
        assert!(dial(&path, SHORT).is_ok());
    }
}
