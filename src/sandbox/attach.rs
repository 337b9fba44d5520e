//! A process's streams on this process's own: standard input, output and error,
//! a terminal's size, and signals.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use protocol::{Exit, Failure, Frame, FrameKind, Reply, WindowSize};
use rustix::event::{PollFd, PollFlags};

use super::control;
use super::detach::{DetachFilter, DetachKeys};
use super::error::SandboxError;
use super::frames::Frames;
use super::signals::Signals;
use crate::terminal::{self, Guard};

/// The signals that are the process's and not drupe's.
const PROXIED: [i32; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];
/// So many times asked to end, drupe does, whatever becomes of the process.
const ENOUGH: u32 = 3;
/// How much of standard input is read at once.
const BUFFER: usize = 32 << 10;

/// What of its own the client lends.
#[derive(Debug, Clone)]
pub struct Options {
    /// Standard input.
    pub stdin: bool,
    /// Standard output and standard error.
    pub output: bool,
    /// The process has a terminal.
    pub terminal: bool,
    /// The keys that leave.
    pub keys: DetachKeys,
    /// Signals go to the process.
    pub signals: bool,
}

impl Options {
    /// The keyboard of a terminal goes to the process.
    fn raw(&self) -> bool {
        self.terminal && self.stdin
    }

    /// Checks that there is a terminal where one is needed.
    ///
    /// # Errors
    /// When there is none.
    pub fn check(&self) -> Result<(), SandboxError> {
        match self.raw() && !rustix::termios::isatty(io::stdin()) {
            true => Err(SandboxError::Refused(
                "standard input is no terminal: leave out -t, or -i".to_owned(),
            )),
            false => Ok(()),
        }
    }
}

/// The other side, beside its streams.
pub trait Remote: Send + Sync {
    /// Sends the process a signal.
    ///
    /// # Errors
    /// When it does not get there.
    fn signal(&self, signal: i32) -> Result<(), String>;
    /// Tells the process its window's size.
    fn resize(&self, size: WindowSize);
}

/// How it came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The process did.
    Exit(Exit),
    /// The user left; the process runs on.
    Detached,
    /// Nobody reads what it writes.
    NoReader,
    /// Something went wrong.
    Failed(Failure),
}

/// The size of this terminal, when there is one.
pub fn window_size() -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stdin()))
        .ok()?;
    Some(WindowSize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// Has signals come as data from here on, in this thread and those it starts.
///
/// # Errors
/// The system call's.
pub fn take_signals(options: &Options) -> io::Result<Option<Signals>> {
    match options.signals {
        true => Signals::block(&PROXIED).map(Some),
        // The size is the terminal's matter, not drupe's.
        false if options.raw() => Signals::block(&[libc::SIGWINCH]).map(Some),
        false => Ok(None),
    }
}

/// Passes signals on, on a thread of its own.
pub fn proxy_signals(signals: Option<Signals>, remote: Arc<dyn Remote>) {
    let Some(signals) = signals else { return };
    let proxy = move || {
        let mut asked = 0;
        while let Ok(signal) = signals.wait() {
            if signal == libc::SIGWINCH {
                if let Some(size) = window_size() {
                    remote.resize(size);
                }
                continue;
            }
            if let Err(e) = remote.signal(signal) {
                log::warn!("signal {signal} does not get there: {e}");
            }
            asked += u32::from(matches!(signal, libc::SIGINT | libc::SIGTERM));
            if asked == ENOUGH {
                terminal::restore();
                log::error!("asked to end for the third time: the sandbox is left alone");
                std::process::exit(128 + signal);
            }
        }
    };
    // Without a thread, signals do nothing: they are blocked.
    let _ = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(proxy);
}

/// Joins the process's streams with this process's, until one end is reached.
///
/// # Errors
/// When the terminal cannot be used.
pub fn streams(stream: UnixStream, options: &Options) -> io::Result<End> {
    let guard = match options.raw() {
        true => Some(Guard::enter(libc::STDIN_FILENO)?),
        false => None,
    };
    let left = Arc::new(AtomicBool::new(false));
    if options.stdin {
        let (to, left, keys) = (stream.try_clone()?, left.clone(), options.keys.clone());
        let filter = options.raw().then(|| DetachFilter::new(keys));
        // It may wait for a key for ever, and ends with the process.
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let stdin = io::stdin();
                if send_input(Blocking(stdin.as_fd()), &to, filter) == Input::Left {
                    left.store(true, Ordering::SeqCst);
                    // The connection may be gone already.
                    let _ = to.shutdown(Shutdown::Read);
                }
            })?;
    }
    let (out, err) = (io::stdout(), io::stderr());
    let end = take_output(stream, Blocking(out.as_fd()), Blocking(err.as_fd()));
    drop(guard);
    Ok(match left.load(Ordering::SeqCst) {
        true => End::Detached,
        false => end,
    })
}

/// Why there is no more input.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    /// It is at its end.
    Ended,
    /// The user typed the keys.
    Left,
}

fn send_input(mut from: impl Read, mut to: &UnixStream, mut filter: Option<DetachFilter>) -> Input {
    let mut buffer = vec![0; BUFFER];
    let mut typed = Vec::new();
    loop {
        let n = match from.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that has gone away is at its end.
            result => result.unwrap_or(0),
        };
        let mut bytes = &buffer[..n];
        if let (Some(filter), 1..) = (&mut filter, n) {
            typed.clear();
            if filter.filter(bytes, &mut typed) {
                let detach = Frame::json(FrameKind::Request, &control::Request::Detach);
                let frames = [Ok(Frame::new(FrameKind::Stdin, &typed[..])), detach];
                // What was typed before the keys is the process's; nothing is not
                // worth a frame, and would be the end. If it cannot be said, the
                // connection is gone, which says it too.
                let skip = usize::from(typed.is_empty());
                for frame in frames.into_iter().skip(skip).flatten() {
                    let _ = frame.write_to(&mut to);
                }
                return Input::Left;
            }
            bytes = &typed;
            if bytes.is_empty() {
                continue;
            }
        }
        let sent = Frame::new(FrameKind::Stdin, bytes).write_to(&mut to);
        if n == 0 || sent.is_err() {
            return Input::Ended;
        }
    }
}

fn take_output(stream: UnixStream, mut out: impl Write, mut err: impl Write) -> End {
    let mut from = Frames::new(stream);
    loop {
        let frame = match from.read() {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Failed(control::lost("it ended")),
            Err(e) => return End::Failed(control::lost(&e.to_string())),
        };
        let written = match frame.kind {
            FrameKind::Stdout => out.write_all(&frame.payload).and_then(|()| out.flush()),
            FrameKind::Stderr => err.write_all(&frame.payload).and_then(|()| err.flush()),
            FrameKind::Exit => {
                return match frame.parse(FrameKind::Exit) {
                    Ok(exit) => End::Exit(exit),
                    Err(e) => End::Failed(control::lost(&e.to_string())),
                };
            }
            FrameKind::Reply => match frame.parse(FrameKind::Reply) {
                Ok(Reply::Failed(failure)) => return End::Failed(failure),
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return End::NoReader,
            Err(e) => {
                return End::Failed(Failure {
                    message: format!("output: {e}: give it room or another place"),
                    status: 125,
                });
            }
            Ok(()) => {}
        }
    }
}

/// A descriptor that blocks even when somebody who shares it has said otherwise.
struct Blocking<'a>(BorrowedFd<'a>);

impl Blocking<'_> {
    fn retry<T>(
        &self,
        ready: PollFlags,
        mut call: impl FnMut() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match call() {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let mut fds = [PollFd::from_borrowed_fd(self.0, ready)];
                    match rustix::event::poll(&mut fds, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                result => return Ok(result?),
            }
        }
    }
}

impl Read for Blocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fd = self.0;
        self.retry(PollFlags::IN, || rustix::io::read(fd, &mut *buffer))
    }
}

impl Write for Blocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.0;
        self.retry(PollFlags::OUT, || rustix::io::write(fd, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Blocking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blocking({})", self.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(stream: &mut UnixStream) -> Vec<Frame> {
        std::iter::from_fn(|| Frame::read_from(stream).unwrap()).collect()
    }

    #[test]
    fn input_goes_as_it_comes_and_ends() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(BUFFER + 1).collect();
        assert_eq!(send_input(&bytes[..], &near, None), Input::Ended);
        drop(near);
        let frames = frames(&mut far);
        let sent: Vec<u8> = frames.iter().flat_map(|f| f.payload.clone()).collect();
        assert_eq!(sent, bytes);
        assert!(frames.last().unwrap().payload.is_empty());
        assert_eq!(frames.iter().filter(|f| f.payload.is_empty()).count(), 1);
    }

    #[test]
    fn the_keys_say_good_bye() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let filter = DetachFilter::new(DetachKeys::default());
        assert_eq!(
            send_input(&b"ab\x10\x11c"[..], &near, Some(filter)),
            Input::Left
        );
        drop(near);
        let frames = frames(&mut far);
        assert_eq!(frames[0], Frame::new(FrameKind::Stdin, *b"ab"));
        let request: control::Request = frames[1].parse(FrameKind::Request).unwrap();
        assert_eq!((frames.len(), request), (2, control::Request::Detach));
    }

    #[test]
    fn output_is_kept_apart_and_the_exit_ends_it() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let exit = Exit {
            status: 3,
            oom_killed: false,
        };
        for frame in [
            Frame::new(FrameKind::Stdout, *b"o\0"),
            Frame::new(FrameKind::Stderr, *b"e\xff"),
            Frame::new(FrameKind::Stdout, *b"u"),
            Frame::json(FrameKind::Exit, &exit).unwrap(),
        ] {
            frame.write_to(&mut far).unwrap();
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(take_output(near, &mut out, &mut err), End::Exit(exit));
        assert_eq!((&out[..], &err[..]), (&b"o\0u"[..], &b"e\xff"[..]));
    }

    #[test]
    fn a_connection_that_ends_is_an_error_and_a_reader_that_goes_is_none() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert!(matches!(
            take_output(near, Vec::new(), Vec::new()),
            End::Failed(_)
        ));
        let (near, mut far) = UnixStream::pair().unwrap();
        Frame::new(FrameKind::Stdout, *b"x")
            .write_to(&mut far)
            .unwrap();
        assert_eq!(take_output(near, Gone, Vec::new()), End::NoReader);
    }

    #[test]
    fn a_descriptor_blocks_even_if_it_does_not() {
        let (reader, mut writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let late = thread::spawn(move || {
            thread::sleep(std::time::Duration::from_millis(50));
            writer.write_all(b"late").unwrap();
        });
        let mut text = String::new();
        Blocking(reader.as_fd()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "late");
        late.join().unwrap();
    }
}
