//! Frames from an agent that may be hostile: what has begun has to end. Between two
//! frames the other side may take as long as it likes, as a process may that says
//! nothing.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use protocol::{Frame, FrameError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a frame may take from its first byte to its last. An agent sends each
/// at once; this leaves room for a guest that hardly gets a processor.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a stream, what is read at once.
const BUFFER: usize = 64 << 10;

/// Reads one frame, and nothing behind it; `None` at the end of the stream. The
/// stream's own timeout holds for its first byte.
///
/// # Errors
/// As [`Frame::read_from`], and when the frame takes too long.
pub fn read_one(stream: &UnixStream) -> Result<Option<Frame>, FrameError> {
    Frame::read_from(&mut Timed::new(stream, FRAME_TIMEOUT))
}

/// The frames of a stream, to its end.
#[derive(Debug)]
pub struct Frames {
    from: BufReader<Timed<UnixStream>>,
}

impl Frames {
    /// Of this stream.
    pub fn new(stream: UnixStream) -> Self {
        Self::within(stream, FRAME_TIMEOUT)
    }

    /// Of this stream, each of them in no more than this.
    fn within(stream: UnixStream, timeout: Duration) -> Self {
        let timed = Timed::new(stream, timeout);
        Frames {
            from: BufReader::with_capacity(BUFFER, timed),
        }
    }

    /// The next one; `None` at the end of the stream.
    ///
    /// # Errors
    /// As [`read_one`].
    pub fn read(&mut self) -> Result<Option<Frame>, FrameError> {
        // A frame may have begun behind the last one.
        let begun = !self.from.buffer().is_empty();
        self.from.get_mut().begin(begun);
        loop {
            match self.from.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Frame::read_from(&mut self.from)
    }
}

/// What the bytes of a frame are read from: once one has come, the others must.
#[derive(Debug)]
struct Timed<S> {
    stream: S,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl<S: std::borrow::Borrow<UnixStream>> Timed<S> {
    fn new(stream: S, timeout: Duration) -> Self {
        Timed {
            stream,
            timeout,
            deadline: None,
        }
    }

    /// The next frame is to come, or has come in part.
    fn begin(&mut self, begun: bool) {
        self.deadline = begun.then(|| Instant::now() + self.timeout);
    }

    /// Waits for more until the deadline.
    fn wait(&self, deadline: Instant) -> io::Result<()> {
        let stream = self.stream.borrow();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(stream, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => {
                    let why = format!("a message was not whole after {} s", self.timeout.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl<S: std::borrow::Borrow<UnixStream>> Read for Timed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            self.wait(deadline)?;
        }
        let n = self.stream.borrow().read(buffer)?;
        if self.deadline.is_none() {
            self.begin(true);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use protocol::FrameKind;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn bytes(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = Frame::new(FrameKind::Stdout, payload);
        frame.write_to(&mut bytes).unwrap();
        bytes
    }

    /// Sends a byte every so often for as long as somebody reads.
    fn drip(mut to: UnixStream, bytes: &[u8]) {
        for byte in bytes {
            if to.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn one_that_drips_is_given_up() {
        let whole = bytes(&[b'x'; 10_000]);
        let start = Instant::now();
        for first in [&b""[..], &bytes(b"before")] {
            let (near, mut far) = UnixStream::pair().unwrap();
            thread::scope(|scope| {
                let whole = &whole;
                scope.spawn(move || {
                    // The slow one begins in the same packet as the one before.
                    far.write_all(&[first, &whole[..3]].concat()).unwrap();
                    drip(far, &whole[3..]);
                });
                let mut frames = Frames::within(near, SHORT);
                if !first.is_empty() {
                    let frame = frames.read().unwrap().unwrap();
                    assert_eq!(frame.payload, b"before");
                }
                let error = frames.read().unwrap_err();
                assert!(error.to_string().contains("was not whole"), "{error}");
            });
        }
        // And what is read alone.
        let (near, far) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| drip(far, &whole));
            let near = near;
            let mut timed = Timed::new(&near, SHORT);
            assert!(Frame::read_from(&mut timed).is_err());
        });
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    }

    #[test]
    fn between_two_frames_there_is_time() {
        let (near, mut far) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..3 {
                    thread::sleep(SHORT * 2);
                    far.write_all(&bytes(b"late")).unwrap();
                }
                // In two pieces, and soon enough.
                let large = bytes(&[7; 200_000]);
                let (a, b) = large.split_at(100_000);
                far.write_all(a).unwrap();
                thread::sleep(SHORT / 6);
                far.write_all(b).unwrap();
            });
            let mut frames = Frames::within(near, SHORT);
            for _ in 0..3 {
                assert_eq!(frames.read().unwrap().unwrap().payload, b"late");
            }
            assert_eq!(frames.read().unwrap().unwrap().payload.len(), 200_000);
            assert!(frames.read().unwrap().is_none());
        });
    }
}
