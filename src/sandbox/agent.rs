//! Talking with the agent in a sandbox's guest, through the machine's socket.

use std::io::{self, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use protocol::{AGENT_PORT, Failure, Frame, FrameError, FrameKind, Reply, Request};
use thiserror::Error;

use super::frames::{self, Frames};

/// How long the machine may take to join a connection with the agent: it gives
/// the guest two seconds itself.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the agent may take for what it does at once.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer to `CONNECT`: `OK` and a number.
const MAX_ANSWER: usize = 32;

/// What can go wrong with the agent.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Nobody is there.
    #[error("the sandbox's agent cannot be reached: {0}")]
    Connect(#[source] io::Error),
    /// It does not speak, or not sense.
    #[error("the sandbox's agent: {0}")]
    Frame(#[from] FrameError),
    /// It broke off.
    #[error("the sandbox's agent broke off")]
    End,
    /// It cannot do that.
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl From<io::Error> for AgentError {
    fn from(error: io::Error) -> Self {
        AgentError::Frame(error.into())
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// Connects through the machine's socket at `path`.
    ///
    /// # Errors
    /// [`AgentError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, AgentError> {
        Self::dial(path).map_err(AgentError::Connect)
    }

    fn dial(path: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        writeln!(stream, "CONNECT {AGENT_PORT}")?;
        let mut answer = Vec::new();
        // A byte at a time: what follows the line is the agent's.
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            if answer.len() == MAX_ANSWER {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            // Goes on when a signal interrupts it.
            stream.read_exact(&mut byte).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => io::ErrorKind::ConnectionRefused.into(),
                _ => e,
            })?;
            answer.extend(byte);
        }
        match answer.starts_with(b"OK ") {
            true => Ok(Agent::on(stream)),
            false => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// On a connection that is there.
    pub fn on(stream: UnixStream) -> Self {
        Agent { stream }
    }

    /// Asks, and waits `patience` for the answer; without one for ever.
    ///
    /// # Errors
    /// [`AgentError::Failed`] when the answer is no, or the connection's.
    pub fn ask(
        &mut self,
        request: &Request,
        patience: Option<Duration>,
    ) -> Result<Reply, AgentError> {
        self.send(request)?;
        self.reply(patience)
    }

    /// Asks without waiting.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&mut self, request: &Request) -> Result<(), AgentError> {
        let frame = Frame::json(FrameKind::Request, request)?;
        Ok(frame.write_to(&mut self.stream)?)
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// As [`Agent::ask`].
    pub fn reply(&mut self, patience: Option<Duration>) -> Result<Reply, AgentError> {
        self.stream.set_read_timeout(patience)?;
        let frame = frames::read_one(&self.stream)?.ok_or(AgentError::End)?;
        self.stream.set_read_timeout(None)?;
        match frame.parse(FrameKind::Reply)? {
            Reply::Failed(failure) => Err(AgentError::Failed(failure)),
            reply => Ok(reply),
        }
    }

    /// The connection, for the streams of a process or an archive.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

/// An answer to another question than the one asked.
pub fn unexpected(reply: &Reply) -> AgentError {
    // Not what it holds, which may be long.
    let what = match reply {
        Reply::Done => "done",
        Reply::Started { .. } => "the start of a process",
        Reply::Stats(_) => "figures",
        Reply::Processes(_) => "a list of processes",
        Reply::Entry(_) => "what is at a path",
        Reply::Failed(_) => "a failure",
    };
    FrameError::Protocol(format!("an answer that was not asked for: {what}")).into()
}

/// Bytes of an archive as frames; ended by [`FrameWriter::finish`].
#[derive(Debug)]
pub struct FrameWriter<'a> {
    kind: FrameKind,
    to: BufWriter<&'a UnixStream>,
}

impl<'a> FrameWriter<'a> {
    /// Frames of this kind.
    pub fn new(to: &'a UnixStream, kind: FrameKind) -> Self {
        FrameWriter {
            kind,
            to: BufWriter::new(to),
        }
    }

    /// Says that that was all.
    ///
    /// # Errors
    /// The connection's.
    pub fn finish(mut self) -> io::Result<()> {
        Frame::new(self.kind, []).write_to(&mut self.to)?;
        self.to.flush()
    }
}

impl Write for FrameWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An empty frame would be the end.
        let bytes = &bytes[..bytes.len().min(protocol::MAX_PAYLOAD)];
        if !bytes.is_empty() {
            Frame::new(self.kind, bytes).write_to(&mut self.to)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The bytes of an archive that comes in frames, to its end.
#[derive(Debug)]
pub struct FrameReader {
    from: Frames,
    kind: FrameKind,
    piece: Vec<u8>,
    read: usize,
    ended: bool,
}

impl FrameReader {
    /// Of frames of this kind.
    pub fn new(from: UnixStream, kind: FrameKind) -> Self {
        FrameReader {
            from: Frames::new(from),
            kind,
            piece: Vec::new(),
            read: 0,
            ended: false,
        }
    }

    fn next_piece(&mut self) -> Result<(), FrameError> {
        let frame = self
            .from
            .read()?
            .ok_or_else(|| FrameError::Io(io::ErrorKind::UnexpectedEof.into()))?;
        if frame.kind == FrameKind::Reply
            && let Reply::Failed(failure) = frame.parse(FrameKind::Reply)?
        {
            return Err(io::Error::other(failure.message).into());
        }
        if frame.kind != self.kind {
            let what = format!("{:?} where {:?} was due", frame.kind, self.kind);
            return Err(FrameError::Protocol(what));
        }
        self.ended = frame.payload.is_empty();
        (self.piece, self.read) = (frame.payload, 0);
        Ok(())
    }
}

impl Read for FrameReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.piece.len() && !self.ended {
            self.next_piece().map_err(|e| match e {
                FrameError::Io(e) => e,
                e => io::Error::other(e),
            })?;
        }
        let rest = &self.piece[self.read..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.read += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    #[test]
    fn a_connection_begins_with_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        assert!(matches!(Agent::connect(&path), Err(AgentError::Connect(_))));
        let listener = UnixListener::bind(&path).unwrap();
        let machine = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 13];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"CONNECT 1024\n");
            // The answer and the agent's first word in one piece.
            let mut bytes = b"OK 7\n".to_vec();
            Frame::json(FrameKind::Reply, &Reply::Done)
                .unwrap()
                .write_to(&mut bytes)
                .unwrap();
            stream.write_all(&bytes).unwrap();
            let frame = Frame::read_from(&mut stream).unwrap().unwrap();
            assert_eq!(
                frame.parse::<Request>(FrameKind::Request).unwrap(),
                Request::PowerOff
            );
            // And then one that refuses.
            drop(listener.accept().unwrap());
        });
        let mut agent = Agent::connect(&path).unwrap();
        assert_eq!(agent.ask(&Request::PowerOff, None).unwrap(), Reply::Done);
        assert!(matches!(Agent::connect(&path), Err(AgentError::Connect(_))));
        machine.join().unwrap();
    }

    #[test]
    fn an_agent_that_breaks_the_protocol_is_an_error_of_one_line() {
        let frame = |kind: u8, len: u32, payload: &[u8]| {
            [&[kind][..], &len.to_le_bytes(), payload].concat()
        };
        let reply = |json: &str| frame(2, json.len() as u32, json.as_bytes());
        let shout = "\\u001b[2J\\n".repeat(20_000);
        for (what, answer) in [
            ("nothing", vec![]),
            ("noise", vec![0x5a; 100_000]),
            ("half a header", vec![2, 1]),
            ("half a frame", frame(2, 100, b"\"do")),
            ("4 GiB", frame(2, u32::MAX, &[b'x'; 1000])),
            ("another kind", frame(4, 4, b"\"do\"")),
            ("the end of a process", frame(6, 2, b"{}")),
            ("no JSON", reply("{\"done")),
            ("no answer", reply("\"gone\"")),
            ("no text", frame(2, 2, b"\xff\xfe")),
            ("deep JSON", reply(&"[".repeat(500_000))),
            (
                "a number too large",
                reply(r#"{"started":{"process":4294967296}}"#),
            ),
            ("a long name", reply(&format!(r#"{{"{shout}":1}}"#))),
            (
                "a long failure",
                reply(&format!(
                    r#"{{"failed":{{"message":"{shout}","status":0}}}}"#
                )),
            ),
        ] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let error = thread::scope(|scope| {
                scope.spawn(move || {
                    let _ = Frame::read_from(&mut far);
                    let _ = far.write_all(&answer);
                });
                let patience = Some(Duration::from_secs(20));
                Agent::on(near).ask(&Request::Stats, patience).unwrap_err()
            });
            let error = error.to_string();
            assert!(
                error.chars().count() < 1200,
                "{what}: {} bytes",
                error.len()
            );
        }
        let entry = protocol::Entry {
            mode: 0,
            size: 0,
            link: Some("x".repeat(100_000)),
        };
        assert!(unexpected(&Reply::Entry(entry)).to_string().len() < 200);
    }

    #[test]
    fn archives_go_through_frames() {
        let (near, far) = UnixStream::pair().unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = FrameWriter::new(&near, FrameKind::Stdin);
                writer.write_all(&bytes).unwrap();
                writer.finish().unwrap();
            });
            let mut read = Vec::new();
            FrameReader::new(far, FrameKind::Stdin)
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read, bytes);
        });
        let failure = Failure {
            message: "no room".into(),
            status: 125,
        };
        let (near, mut far) = UnixStream::pair().unwrap();
        Frame::json(FrameKind::Reply, &Reply::Failed(failure))
            .unwrap()
            .write_to(&mut far)
            .unwrap();
        let error = FrameReader::new(near, FrameKind::Stdout)
            .read(&mut [0])
            .unwrap_err();
        assert_eq!(error.to_string(), "no room");
    }
}
