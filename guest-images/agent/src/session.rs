//! The streams of a process on its connection, until it has ended and all that
//! it wrote is on its way.
//!
//! One thread waits for everything, and reads nothing that it could not pass
//! on: a reader that is slow at one end makes the writer at the other wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use protocol::{Exit, Frame, FrameKind, MAX_PAYLOAD};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};

use crate::spawn::Streams;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a frame before its payload.
const HEADER: usize = 5;
/// What a terminal can hold when its process ends: the kernel's buffers, and
/// some more. A pipe tells.
const TERMINAL_BUFFER: usize = 256 << 10;

/// Carries the streams of a process; its exit has been sent when this returns,
/// unless nobody was there to take it.
///
/// When the connection breaks, or the other side breaks the protocol, the
/// process goes on: its input is at its end, and its output is thrown away.
pub fn carry(
    connection: File,
    streams: Streams,
    pidfd: &OwnedFd,
    ended: impl FnOnce(WaitIdStatus) -> Exit,
) {
    let mut session = Session::new(connection, streams);
    let mut ended = Some(ended);
    let mut exit = None;
    while exit.is_none() || !session.drained() {
        // poll(2) fails for want of memory only: then it is tried again.
        let changed = session.turn(pidfd, exit.is_none()).unwrap_or(false);
        if changed && let Some(status) = wait_for(pidfd) {
            session.stop_at_what_is_there();
            exit = ended.take().map(|ended| ended(status));
        }
    }
    if let Some(exit) = exit {
        session.finish(&exit);
    }
}

/// The status of a process that has ended, once.
fn wait_for(pidfd: &OwnedFd) -> Option<WaitIdStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let wait = || rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
    rustix::io::retry_on_intr(wait).ok().flatten()
}

/// Something that the process writes to.
struct Output {
    from: OwnedFd,
    kind: FrameKind,
    /// Bytes that are still to come, once the process has ended.
    left: Option<usize>,
}

struct Session {
    /// None when nobody listens any more.
    connection: Option<File>,
    /// Nothing comes from it any more.
    silent: bool,
    decoder: Decoder,
    /// To standard input; none when it is closed.
    input: Option<OwnedFd>,
    /// What is to be written there.
    pending: Vec<u8>,
    written: usize,
    outputs: Vec<Output>,
    /// Room for a frame, how long the one in it is, and how much of that has
    /// been sent.
    frame: Box<[u8]>,
    len: usize,
    sent: usize,
}

impl Session {
    fn new(connection: File, streams: Streams) -> Self {
        // A connection that would block would hold up the other streams; it
        // never fails.
        let _ = rustix::io::ioctl_fionbio(&connection, true);
        let output = |from, kind| Output {
            from,
            kind,
            left: None,
        };
        let (input, outputs) = match streams {
            Streams::Pipes {
                input,
                output: out,
                error,
            } => (
                input,
                vec![
                    output(out, FrameKind::Stdout),
                    output(error, FrameKind::Stderr),
                ],
            ),
            Streams::Terminal(master) => (
                master.try_clone().ok(),
                vec![output(master, FrameKind::Stdout)],
            ),
        };
        Session {
            connection: Some(connection),
            silent: false,
            decoder: Decoder::default(),
            input,
            pending: Vec::new(),
            written: 0,
            outputs,
            frame: vec![0; HEADER + CHUNK].into_boxed_slice(),
            len: 0,
            sent: 0,
        }
    }

    /// All output has been sent.
    fn drained(&self) -> bool {
        self.outputs.is_empty() && self.len == 0
    }

    /// Waits until something can be done, and does it; true when the process may
    /// have ended.
    fn turn(&mut self, pidfd: &OwnedFd, running: bool) -> Result<bool, Errno> {
        let sending = self.len > 0;
        let feeding = !self.pending.is_empty();
        let mut polled = Vec::with_capacity(5);
        if running {
            polled.push(PollFd::new(pidfd, PollFlags::IN));
        }
        let mut wanted = PollFlags::empty();
        if sending {
            wanted |= PollFlags::OUT;
        }
        if !feeding && !self.silent {
            wanted |= PollFlags::IN;
        }
        let connection = self.connection.as_ref().map(|connection| {
            polled.push(PollFd::new(connection, wanted));
            polled.len() - 1
        });
        let input = self.input.as_ref().filter(|_| feeding).map(|input| {
            polled.push(PollFd::new(input, PollFlags::OUT));
            polled.len() - 1
        });
        // One frame at a time: the next is read when it has been sent.
        let first_output = polled.len();
        if !sending {
            for output in &self.outputs {
                polled.push(PollFd::new(&output.from, PollFlags::IN));
            }
        }
        // Of a process that has ended, only what is there is read.
        let now = Timespec::default();
        let timeout = (!running && !sending).then_some(&now);
        match rustix::event::poll(&mut polled, timeout) {
            Err(Errno::INTR) => return Ok(false),
            result => result?,
        };
        let events: Vec<_> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        let happened = |index: Option<usize>| match index {
            Some(index) => events[index],
            None => PollFlags::empty(),
        };
        let on_connection = happened(connection);
        if on_connection.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            self.hang_up();
        }
        if on_connection.contains(PollFlags::OUT) {
            self.send();
        }
        if on_connection.contains(PollFlags::IN) && wanted.contains(PollFlags::IN) {
            self.receive();
        }
        if !happened(input).is_empty() {
            self.feed();
        }
        // Backwards, since those that are at their end are removed.
        for index in (0..events.len().saturating_sub(first_output)).rev() {
            let ready = !running || !events[first_output + index].is_empty();
            if ready && self.len == 0 {
                self.collect(index);
            }
        }
        Ok(running && !events[0].is_empty())
    }

    /// From the connection towards standard input.
    fn receive(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let mut bytes = [0; CHUNK];
        let n = match connection.read(&mut bytes) {
            Ok(0) => {
                // Half closed, or gone: the next write tells.
                self.silent = true;
                self.close_input();
                return;
            }
            Ok(n) => n,
            Err(e) if waits(&e) => return,
            Err(_) => return self.hang_up(),
        };
        match self.decoder.feed(&bytes[..n], &mut self.pending) {
            Ok(()) => self.feed(),
            Err(NotStdin) => self.hang_up(),
        }
    }

    /// To standard input.
    fn feed(&mut self) {
        while self.written < self.pending.len() {
            let Some(input) = &self.input else {
                break;
            };
            match rustix::io::write(input, &self.pending[self.written..]) {
                Ok(n) => self.written += n,
                Err(Errno::AGAIN | Errno::INTR) => return,
                // Nobody reads it any more.
                Err(_) => self.input = None,
            }
        }
        self.pending.clear();
        self.written = 0;
        if self.decoder.ended {
            self.close_input();
        }
    }

    fn close_input(&mut self) {
        if self.pending.is_empty() {
            self.input = None;
        } else {
            // Behind what is still to be written.
            self.decoder.ended = true;
        }
    }

    /// From an output to the frame that is sent next.
    fn collect(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        let most = output.left.unwrap_or(CHUNK).min(CHUNK);
        let n = match rustix::io::read(&output.from, &mut self.frame[HEADER..HEADER + most]) {
            Ok(n) => n,
            Err(Errno::INTR) => return,
            Err(Errno::AGAIN) if output.left.is_none() => return,
            // A terminal that no process has open says EIO.
            Err(_) => 0,
        };
        let mut at_end = n == 0;
        if let Some(left) = &mut output.left {
            *left -= n;
            at_end |= *left == 0;
        }
        if self.connection.is_some() && n > 0 {
            self.len = HEADER + n;
            set_header(&mut self.frame[..self.len], output.kind);
        }
        if at_end {
            self.outputs.remove(index);
        }
        self.send();
    }

    /// From the frame to the connection.
    fn send(&mut self) {
        while self.sent < self.len {
            let Some(connection) = &mut self.connection else {
                break;
            };
            match connection.write(&self.frame[self.sent..self.len]) {
                Ok(n) => self.sent += n,
                Err(e) if waits(&e) => return,
                Err(_) => return self.hang_up(),
            }
        }
        self.len = 0;
        self.sent = 0;
    }

    /// The process has ended. What its orphans may write later does not count.
    fn stop_at_what_is_there(&mut self) {
        self.outputs.retain_mut(|output| {
            let left = match output.kind {
                FrameKind::Stderr => rustix::io::ioctl_fionread(&output.from).unwrap_or(0),
                _ if rustix::termios::isatty(&output.from) => TERMINAL_BUFFER as u64,
                _ => rustix::io::ioctl_fionread(&output.from).unwrap_or(0),
            };
            output.left = usize::try_from(left).ok();
            left > 0
        });
    }

    /// Nobody listens.
    fn hang_up(&mut self) {
        self.connection = None;
        self.silent = true;
        self.pending.clear();
        self.written = 0;
        self.input = None;
        self.len = 0;
        self.sent = 0;
    }

    fn finish(mut self, exit: &Exit) {
        if let Some(connection) = &mut self.connection
            && let Ok(frame) = Frame::json(FrameKind::Exit, exit)
        {
            let _ = rustix::io::ioctl_fionbio(&*connection, false);
            // Gone by now: nobody is told.
            let _ = frame.write_to(connection);
        }
    }
}

fn waits(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn set_header(frame: &mut [u8], kind: FrameKind) {
    let len = (frame.len() - HEADER) as u32;
    frame[0] = kind as u8;
    frame[1..HEADER].copy_from_slice(&len.to_le_bytes());
}

/// Takes frames of standard input apart as they come, in whatever pieces.
#[derive(Debug, Default)]
struct Decoder {
    header: [u8; HEADER],
    /// Bytes of the header.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// The empty frame was there.
    ended: bool,
}

/// Something else came.
#[derive(Debug, PartialEq, Eq)]
struct NotStdin;

impl Decoder {
    /// Appends the payloads in `bytes` to `to`.
    fn feed(&mut self, mut bytes: &[u8], to: &mut Vec<u8>) -> Result<(), NotStdin> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                to.extend_from_slice(payload);
                self.left -= payload.len();
                bytes = rest;
                continue;
            }
            let missing = (HEADER - self.have).min(bytes.len());
            let (part, rest) = bytes.split_at(missing);
            self.header[self.have..self.have + missing].copy_from_slice(part);
            self.have += missing;
            bytes = rest;
            if self.have == HEADER {
                self.have = 0;
                let [kind, len @ ..] = self.header;
                self.left = u32::from_le_bytes(len) as usize;
                if kind != FrameKind::Stdin as u8 || self.left > MAX_PAYLOAD || self.ended {
                    return Err(NotStdin);
                }
                self.ended = self.left == 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
