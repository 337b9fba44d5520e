//! One TCP connection: the guest's half, which the library speaks, and the far
//! half, which the host's socket does.
//!
//! Each end of a stream is passed on by itself, so that a connection may be open
//! one way only; a reset is passed on at once. What neither half takes waits in
//! the buffers, and the window closes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::clock::Clock;
use super::device::Wire;
use super::dns_stream::DnsStream;
use crate::context::Context;
use crate::sockets;

/// Bytes moved in each direction before other connections have their turn.
const BUDGET: usize = 256 << 10;
/// Packets sent to the guest before they do.
const PACKETS: usize = 32;
/// When the guest is asked whether a silent connection is there still: a part of
/// it that went away without a word leaves them behind.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// How long the guest may leave that, or data, without an answer.
const GUEST_SILENCE: Duration = Duration::from_secs(600);
/// When to look again at a connection that wants to be looked at but does nothing.
const RETRY: Duration = Duration::from_millis(10);

/// The guest's address and that of its peer, as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub guest: SocketAddr,
    pub peer: SocketAddr,
}

/// The far half.
#[derive(Debug)]
pub enum Far {
    Host(TcpStream),
    /// The DNS forwarder.
    Dns(DnsStream),
}

/// The guest's half.
pub struct Near {
    pub sockets: SocketSet<'static>,
    handle: SocketHandle,
}

/// How far the connection is.
pub enum Stage {
    /// The far half is being connected; the guest's wish, a SYN, waits.
    Connecting(Vec<u8>),
    /// The guest's half is being connected.
    Opening(Near),
    /// Both are.
    Open(Near),
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It waits for an event, or this time.
    Wait(Option<Instant>),
    /// It has more to do.
    Again,
    /// It has ended well.
    Done,
    /// It has not: the far half is to be reset.
    Reset,
}

pub struct Flow {
    pub key: Key,
    pub far: Far,
    pub stage: Stage,
    /// When to be called at the latest, and whether it is on the list already.
    pub armed: Option<Instant>,
    pub queued: bool,
    /// When it began.
    pub since: Instant,
    /// What the far socket's events said.
    pub readable: bool,
    pub writable: bool,
    /// The guest sends no more.
    guest_ended: bool,
    /// That was passed on.
    far_told: bool,
    /// The far half sends no more, which was passed on.
    far_ended: bool,
    /// The last acknowledgement of a connection that ended well was sent.
    last_ack_sent: bool,
    /// The far half failed: the guest is to be told by a reset.
    failed: bool,
}

impl Near {
    /// A socket with buffers of `size` bytes each way.
    pub fn new(size: usize) -> Self {
        let buffer = || SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(), buffer());
        // The far half's sender has gathered small pieces already if it wanted to.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(into_smoltcp(KEEPALIVE)));
        socket.set_timeout(Some(into_smoltcp(GUEST_SILENCE)));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Near { sockets, handle }
    }

    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

impl Flow {
    pub fn new(key: Key, far: Far, stage: Stage, now: Instant) -> Self {
        Flow {
            key,
            far,
            stage,
            armed: None,
            queued: false,
            since: now,
            readable: false,
            writable: false,
            guest_ended: false,
            far_told: false,
            far_ended: false,
            last_ack_sent: false,
            failed: false,
        }
    }

    /// The guest's half, once there is one.
    pub fn near(&mut self) -> Option<&mut Near> {
        match &mut self.stage {
            Stage::Connecting(_) => None,
            Stage::Opening(near) | Stage::Open(near) => Some(near),
        }
    }

    /// Takes note of what a packet of the guest changed.
    pub fn observe(&mut self) {
        let Some(near) = self.near() else {
            return;
        };
        let state = near.socket().state();
        self.guest_ended |= matches!(
            state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if !matches!(self.stage, Stage::Opening(_))
            || matches!(
                state,
                State::SynSent | State::SynReceived | State::Listen | State::Closed
            )
        {
            return;
        }
        let connecting = Stage::Connecting(Vec::new());
        if let Stage::Opening(near) = std::mem::replace(&mut self.stage, connecting) {
            self.stage = Stage::Open(near);
        }
    }

    /// Moves what can be moved, both ways.
    pub fn serve(&mut self, iface: &mut Interface, clock: &Clock, cx: &Context) -> Next {
        let mut again = false;
        if matches!(self.stage, Stage::Open(_)) {
            if !self.failed {
                again |= self.give_far().unwrap_or_else(|_| self.fail());
            }
            // What came before a failure is still the guest's.
            again |= self.give_guest().unwrap_or_else(|_| self.fail());
        }
        let over = self.failed && (self.far_ended || !self.readable);
        let Some(near) = self.near() else {
            return Next::Wait(None);
        };
        if over && near.socket().send_queue() == 0 {
            near.socket().abort();
        }
        self.send(iface, clock, cx, again)
    }

    /// The far half is gone: nothing more of what it was to get.
    fn fail(&mut self) -> bool {
        self.failed = true;
        false
    }

    /// What the guest sent, to the far half; true when there is more.
    fn give_far(&mut self) -> io::Result<bool> {
        let (Stage::Open(near), far) = (&mut self.stage, &mut self.far) else {
            return Ok(false);
        };
        let socket = near.socket();
        let mut left = BUDGET;
        while socket.can_recv() {
            if !self.writable {
                return Ok(false);
            }
            if left == 0 {
                return Ok(true);
            }
            let taken = socket.recv(|data| {
                let part = data.get(..left).unwrap_or(data);
                match far.write(part) {
                    Ok(n) => (n, Ok(n)),
                    Err(e) => (0, Err(e)),
                }
            });
            match taken {
                Ok(Ok(n)) => left -= n.min(left),
                Ok(Err(e)) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(e),
                Err(_) => break,
            }
        }
        if self.guest_ended && !self.far_told {
            self.far_told = true;
            far.end()?;
            // The forwarder may have no more to say, then.
            self.readable = true;
        }
        Ok(false)
    }

    /// What the far half sent, to the guest; true when there is more.
    fn give_guest(&mut self) -> io::Result<bool> {
        let (Stage::Open(near), far) = (&mut self.stage, &mut self.far) else {
            return Ok(false);
        };
        let socket = near.socket();
        let mut left = BUDGET;
        while self.readable && !self.far_ended && socket.can_send() {
            if left == 0 {
                return Ok(true);
            }
            let given = socket.send(|room| {
                let len = room.len().min(left);
                match far.read(room.get_mut(..len).unwrap_or_default()) {
                    Ok(n) => (n, Ok(n)),
                    Err(e) => (0, Err(e)),
                }
            });
            match given {
                Ok(Ok(0)) => {
                    self.far_ended = true;
                    // One that failed ends by a reset.
                    if !self.failed {
                        socket.close();
                    }
                }
                Ok(Ok(n)) => left -= n.min(left),
                Ok(Err(e)) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
                Ok(Err(e)) => {
                    self.far_ended = true;
                    return Err(e);
                }
                Err(_) => break,
            }
        }
        Ok(false)
    }

    /// Sends the guest what is due, and finds out what is next.
    fn send(&mut self, iface: &mut Interface, clock: &Clock, cx: &Context, more: bool) -> Next {
        let (ended_well, last_ack_sent) = (self.guest_ended && self.far_ended, self.last_ack_sent);
        let (far_told, failed) = (self.far_told, self.failed);
        let Some(near) = self.near() else {
            return Next::Wait(None);
        };
        let now = clock.at(cx.now);
        let mut wire = Wire::new(cx, None);
        let time_wait = near.socket().state() == State::TimeWait;
        let mut sent = 0;
        // After its last acknowledgement a socket would only count down to forget
        // what the far half has not taken yet.
        while sent < PACKETS && !(time_wait && last_ack_sent) {
            match iface.poll_egress(now, &mut wire, &mut near.sockets) {
                PollResult::None => break,
                PollResult::SocketStateChanged => sent += 1,
            }
        }
        let full = wire.full;
        let state = near.socket().state();
        let waiting = near.socket().can_recv();
        match state {
            // Refused, or reset, or nobody answered for too long.
            State::Closed if failed && full => return Next::Again,
            State::Closed if failed || !ended_well => return Next::Reset,
            // The guest reset what it had asked for.
            State::Listen => return Next::Reset,
            State::Closed | State::TimeWait => {
                self.last_ack_sent |= !full;
                if far_told && !waiting && self.last_ack_sent {
                    return Next::Done;
                }
                // The far half takes the rest in its own time.
                return if full || more {
                    Next::Again
                } else {
                    Next::Wait(None)
                };
            }
            _ => {}
        }
        if full || more || sent >= PACKETS {
            return Next::Again;
        }
        let at = iface.poll_at(now, &near.sockets).map(|at| clock.from(at));
        Next::Wait(at.map(|at| match at <= cx.now {
            true => cx.now + RETRY,
            false => at,
        }))
    }
}

impl Far {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Far::Host(stream) => stream.write(data),
            Far::Dns(stream) => stream.write(data),
        }
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Far::Host(stream) => stream.read(room),
            Far::Dns(stream) => stream.read(room),
        }
    }

    /// The guest sends no more.
    fn end(&mut self) -> io::Result<()> {
        match self {
            Far::Host(stream) => match stream.shutdown(std::net::Shutdown::Write) {
                // The other end has reset the connection: reading tells.
                Err(e) if e.kind() == ErrorKind::NotConnected => Ok(()),
                other => other,
            },
            Far::Dns(stream) => {
                stream.end();
                Ok(())
            }
        }
    }

    /// Closes it by a reset.
    pub fn reset(self) {
        if let Far::Host(stream) = self {
            sockets::reset(stream);
        }
    }
}

pub fn into_smoltcp(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(duration.as_micros() as u64)
}
