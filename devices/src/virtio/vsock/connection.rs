//! One stream between a guest's socket and a Unix socket of the host.
//!
//! Nothing here waits, and the only memory that grows is the outbox, up to
//! what its [`Grant`] says: data toward the guest stay in the Unix socket until there are
//! both credit and a buffer of the guest's for them.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};
use vmm_sys_util::epoll::EventSet;

use super::credit::{Credit, Grant};
use super::packet::{Header, Key, Op, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND};
use super::sock;
use crate::virtio::GuestBuffer;

/// How long a host program may take to say which port it wants, and the guest
/// to answer. A kernel answers by itself; but one whose processors wait for a
/// quota, or whose memory is swapped, stands still for seconds.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that is over for one side is kept for the other when
/// nothing moves.
pub const LINGER: Duration = Duration::from_secs(10);
/// The most data in one packet toward the guest, so that streams take turns.
const MAX_PAYLOAD: usize = 64 * 1024;

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It is over, and the guest knows.
    Close,
    /// It is over; the guest gets a reset.
    Reset,
    /// It is over for the guest, which gets a reset; the host still gets what
    /// the guest sent.
    Drain,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A host program waits for the guest's answer.
    Connecting { asked: bool },
    /// Both sides know of the connection.
    Open,
}

/// What goes to the host and did not fit into its socket.
#[derive(Debug)]
pub struct Outbox {
    stream: UnixStream,
    bytes: VecDeque<u8>,
    grant: Grant,
}

impl Outbox {
    /// Sends what the socket takes; how much that was.
    ///
    /// # Errors
    /// When nobody will read it.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut done = 0;
        while !self.bytes.is_empty() {
            match sock::send(&self.stream, self.bytes.as_slices().0) {
                Ok(n) => {
                    self.bytes.drain(..n);
                    done += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        // An idle connection should cost no memory.
        self.bytes = VecDeque::new();
        Ok(done)
    }

    /// Bytes that wait.
    #[cfg(any(test, feature = "testing"))]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl AsRawFd for Outbox {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// The state of one stream.
#[derive(Debug)]
pub struct Connection {
    /// Its ports.
    pub key: Key,
    /// When [`Connection::expire`] is due.
    pub deadline: Option<Instant>,
    /// The muxer has it in the queue of those with a packet for the guest.
    pub queued: bool,
    /// The muxer watches the socket for room to write.
    pub watches_writing: bool,
    state: State,
    out: Outbox,
    credit: Credit,
    /// The socket may have something to read: set by events, which come once
    /// for each arrival, cleared when a read finds nothing.
    readable: bool,
    /// Everything from the host was read.
    host_finished: bool,
    /// The host will read no more.
    host_deaf: bool,
    /// The host was told that nothing more comes from the guest.
    host_told_end: bool,
    /// What the guest shut down.
    guest_shut: u32,
    /// What the guest was told that we shut down.
    told_shut: u32,
    response_due: bool,
    update_due: bool,
}

impl Connection {
    /// A host program asks for a port of the guest.
    pub fn from_host(key: Key, stream: UnixStream, grant: Grant) -> Self {
        let deadline = Some(Instant::now() + REQUEST_TIMEOUT);
        Self::new(
            key,
            stream,
            grant,
            State::Connecting { asked: false },
            deadline,
        )
    }

    /// The guest asked for a port of the host with `request`, and got `stream`.
    pub fn from_guest(stream: UnixStream, request: &Header, grant: Grant) -> Self {
        let mut connection = Self::new(request.key(), stream, grant, State::Open, None);
        connection.credit.update(request);
        connection.response_due = true;
        connection
    }

    fn new(
        key: Key,
        stream: UnixStream,
        grant: Grant,
        state: State,
        deadline: Option<Instant>,
    ) -> Self {
        Connection {
            key,
            deadline,
            queued: false,
            watches_writing: false,
            state,
            credit: Credit::new(grant.bytes()),
            out: Outbox {
                stream,
                bytes: VecDeque::new(),
                grant,
            },
            readable: true,
            host_finished: false,
            host_deaf: false,
            host_told_end: false,
            guest_shut: 0,
            told_shut: 0,
            response_due: false,
            update_due: false,
        }
    }

    /// True when bytes wait for the host to read.
    pub fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// What waits for the host.
    #[cfg(any(test, feature = "testing"))]
    pub fn outbox(&self) -> &Outbox {
        &self.out
    }

    /// What is left of the host's side of a connection that is over.
    pub fn into_outbox(self) -> Outbox {
        // Nobody reads what the host still sends: let it know.
        let _ = self.out.stream.shutdown(Shutdown::Read);
        self.out
    }

    /// A packet of the guest's for this connection, other than [`Op::Rst`].
    pub fn receive(&mut self, op: Op, header: &Header, payload: GuestBuffer) -> Verdict {
        self.credit.update(header);
        match (self.state, op) {
            (State::Connecting { asked: true }, Op::Response) => return self.accepted(),
            (State::Open, Op::Rw) => return self.take_data(header, payload),
            (State::Open, Op::CreditUpdate) => {}
            (State::Open, Op::CreditRequest) => self.update_due = true,
            (State::Open, Op::Shutdown) => {
                self.guest_shut |= u32::from(header.flags) & SHUTDOWN_BOTH;
                return self.guest_shut_down();
            }
            // Also a second request: the guest has lost its end of this one.
            _ => return Verdict::Reset,
        }
        Verdict::Keep
    }

    fn accepted(&mut self) -> Verdict {
        self.state = State::Open;
        self.deadline = None;
        let line = format!("OK {}\n", self.key.local);
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match sock::send(&self.out.stream, rest) {
                Ok(n @ 1..) => rest = &rest[n..],
                // The first line that it gets does not fit its buffer.
                Ok(_) => return Verdict::Reset,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Verdict::Reset,
                // It may have left already, its message for the guest sent.
                Err(_) => return self.deafen(),
            }
        }
        Verdict::Keep
    }

    fn take_data(&mut self, header: &Header, mut payload: GuestBuffer) -> Verdict {
        let len = u32::from(header.len) as usize;
        let most = self.out.grant.bytes() as usize;
        let room = most - self.out.bytes.len();
        if len > payload.len() || len > room || self.guest_shut & SHUTDOWN_SEND != 0 {
            return Verdict::Reset;
        }
        if self.host_deaf {
            // Sent before the guest heard that nobody reads it.
            self.credit.forwarded(len);
            return Verdict::Keep;
        }
        let mut payload = payload.split_to(len);
        if self.out.is_empty() {
            match send_from_guest(&self.out.stream, &payload) {
                Ok(n) => {
                    payload.advance(n);
                    self.credit.forwarded(n);
                }
                Err(_) => {
                    self.credit.forwarded(len);
                    return self.deafen();
                }
            }
        }
        if !payload.is_empty() {
            let mut rest = vec![0; payload.len()];
            // It cannot be short: the buffer holds as much as it says.
            let n = payload.read(&mut rest).unwrap_or(0);
            // All at once: growing by doubling could take twice as much.
            self.out.bytes.reserve_exact(most - self.out.bytes.len());
            self.out.bytes.extend(&rest[..n]);
        }
        Verdict::Keep
    }

    fn guest_shut_down(&mut self) -> Verdict {
        if self.guest_shut == SHUTDOWN_BOTH {
            // The guest waits for the reset and then forgets; what the host has
            // not read yet is no business of the guest's any more.
            return if self.out.is_empty() {
                Verdict::Reset
            } else {
                Verdict::Drain
            };
        }
        if self.guest_shut & SHUTDOWN_RCV != 0 {
            // So that the host's writes fail. It can have left already.
            let _ = self.out.stream.shutdown(Shutdown::Read);
        }
        self.after_writing()
    }

    /// The socket is ready for something.
    pub fn host_event(&mut self, events: EventSet) -> Verdict {
        if !(events - EventSet::OUT).is_empty() {
            self.readable = true;
        }
        if events.contains(EventSet::HANG_UP) && self.state == State::Open {
            return self.deafen();
        }
        if events.contains(EventSet::OUT) {
            match self.out.flush() {
                Ok(n) => self.credit.forwarded(n),
                Err(_) => return self.deafen(),
            }
        }
        self.after_writing()
    }

    /// The host will read no more: what waits for it is dropped.
    fn deafen(&mut self) -> Verdict {
        self.host_deaf = true;
        self.credit.forwarded(self.out.bytes.len());
        self.out.bytes = VecDeque::new();
        Verdict::Keep
    }

    fn after_writing(&mut self) -> Verdict {
        if self.out.is_empty() && self.guest_shut & SHUTDOWN_SEND != 0 && !self.host_told_end {
            // Once: each call is an event again.
            self.host_told_end = true;
            let _ = self.out.stream.shutdown(Shutdown::Write);
        }
        Verdict::Keep
    }

    /// The deadline has passed.
    pub fn expire(&mut self) -> Verdict {
        match self.state {
            // The guest never heard of it.
            State::Connecting { asked: false } => Verdict::Close,
            _ => Verdict::Reset,
        }
    }

    /// True when [`Connection::packet`] should be called.
    pub fn has_packet(&self) -> bool {
        match self.state {
            State::Connecting { asked } => !asked,
            State::Open => {
                self.response_due
                    || self.update_due
                    || self.credit.should_announce()
                    || self.shutdown_due() != 0
                    || self.may_read() && (self.credit.room() > 0 || self.credit.should_ask())
            }
        }
    }

    /// The next packet for the guest; its data are put into `room`. None when it
    /// turns out that there is nothing to send.
    pub fn packet(&mut self, room: &GuestBuffer) -> Option<Header> {
        let mut header = match self.state {
            State::Connecting { asked: true } => return None,
            State::Connecting { asked: false } => {
                self.state = State::Connecting { asked: true };
                Header::new(self.key, Op::Request)
            }
            State::Open => self.open_packet(room)?,
        };
        self.credit.announce(&mut header);
        self.update_due = false;
        Some(header)
    }

    fn open_packet(&mut self, room: &GuestBuffer) -> Option<Header> {
        if std::mem::take(&mut self.response_due) {
            return Some(Header::new(self.key, Op::Response));
        }
        if self.may_read() {
            let n = self.read_data(room);
            if n > 0 {
                self.credit.sent(n);
                let mut header = Header::new(self.key, Op::Rw);
                header.len = (n as u32).into();
                return Some(header);
            }
        }
        let shut = self.shutdown_due();
        if shut != 0 {
            self.told_shut |= shut;
            if self.told_shut == SHUTDOWN_BOTH {
                self.deadline = Some(Instant::now() + LINGER);
            }
            let mut header = Header::new(self.key, Op::Shutdown);
            header.flags = self.told_shut.into();
            return Some(header);
        }
        if self.may_read() && self.credit.should_ask() {
            self.credit.asked();
            return Some(Header::new(self.key, Op::CreditRequest));
        }
        if self.update_due || self.credit.should_announce() {
            return Some(Header::new(self.key, Op::CreditUpdate));
        }
        None
    }

    fn may_read(&self) -> bool {
        self.readable && !self.host_finished && self.guest_shut & SHUTDOWN_RCV == 0
    }

    /// Reads from the host into the guest's buffer, within the guest's credit.
    fn read_data(&mut self, room: &GuestBuffer) -> usize {
        let cap = self.credit.room().min(MAX_PAYLOAD);
        if cap == 0 {
            return 0;
        }
        let mut done = 0;
        for piece in room.pieces() {
            let len = piece.len().min(cap - done);
            let n = match read_some(&self.out.stream, piece, len) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                // The host closed without reading everything.
                Err(_) => {
                    self.host_finished = true;
                    let _ = self.deafen();
                    break;
                }
            };
            done += n;
            if n < len {
                // Whether that was all for now or the end, the next read tells.
                self.host_finished = done == 0;
                break;
            }
            if done == cap {
                break;
            }
        }
        done
    }

    /// What the guest has to be told about shutdown, as flags.
    fn shutdown_due(&self) -> u32 {
        let sends_no_more = self.host_finished || self.guest_shut & SHUTDOWN_RCV != 0;
        let receives_no_more =
            self.host_deaf || self.guest_shut & SHUTDOWN_SEND != 0 && self.out.is_empty();
        let mut flags = 0;
        if self.host_finished {
            flags |= SHUTDOWN_SEND;
        }
        if self.host_deaf {
            flags |= SHUTDOWN_RCV;
        }
        if sends_no_more && receives_no_more {
            flags = SHUTDOWN_BOTH;
        }
        flags & !self.told_shut
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.out.as_raw_fd()
    }
}

/// Sends what the socket takes at once; how much that was.
fn send_from_guest(stream: &UnixStream, payload: &GuestBuffer) -> io::Result<usize> {
    let mut done = 0;
    for piece in payload.pieces() {
        match sock::send_guest(stream, piece) {
            Ok(n) => {
                done += n;
                if n < piece.len() {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            // What was taken before the error is lost with the stream.
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Reads into the first `len` bytes of a piece of guest memory.
fn read_some(mut stream: &UnixStream, piece: &VolatileSlice, len: usize) -> io::Result<usize> {
    let mut piece = piece.subslice(0, len).map_err(io::Error::other)?;
    loop {
        match stream.read_volatile(&mut piece) {
            Ok(n) => return Ok(n),
            Err(VolatileMemoryError::IOError(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(VolatileMemoryError::IOError(e)) => return Err(e),
            Err(e) => return Err(io::Error::other(e)),
        }
    }
}
