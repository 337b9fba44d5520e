//! All streams of one device: which packet belongs to which, who is to send
//! next, and what has become of the sockets.
//!
//! What the guest can make this remember is bounded: [`MAX_STREAMS`] streams,
//! with what [`Pool`] has for all their data, each once in the queue of those with a packet to send; and the resets for
//! what has no stream any more, for which the device stops taking packets when
//! [`MAX_RESETS`] wait for buffers of the guest's.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{EpollEvent, EventSet};

use super::VsockError;
use super::connection::{Connection, LINGER, Outbox, Verdict};
use super::credit::Pool;
use super::handshake::Handshake;
use super::listener::Listener;
use super::packet::{HEADER_SIZE, HOST_CID, Header, Key, Op, TYPE_STREAM};
use super::poll::{Poller, TIMER};
use super::sock;
use super::spec::VsockSpec;
use crate::rate_log::RateLog;
use crate::virtio::GuestBuffer;

/// Streams at one time, in whatever state: just under the usual limit on open
/// files.
pub const MAX_STREAMS: usize = 1023;
/// So many of them the guest leaves to the host's programs, which would
/// otherwise be locked out by a guest that opens all it can.
const HOST_STREAMS: usize = 64;
/// Resets that wait before packets from the guest have to.
pub const MAX_RESETS: usize = 256;
/// The first port of the host's side for streams from host programs.
const FIRST_PORT: u32 = 1 << 30;
/// Host programs accepted before the other streams have their turn.
const ACCEPT_BATCH: usize = 16;
/// How long to wait when the host has run out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const LISTENER: u64 = TIMER + 1;
const FIRST_ID: u64 = LISTENER + 1;

/// A Unix socket and what it is used for.
enum Stream {
    Handshake(Handshake),
    Connection(Box<Connection>),
    /// Over for the guest; the host reads the rest.
    Draining(Outbox, Instant),
}

impl Stream {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Stream::Handshake(h) => Some(h.deadline),
            Stream::Connection(c) => c.deadline,
            Stream::Draining(_, deadline) => Some(*deadline),
        }
    }

    fn fd(&self) -> RawFd {
        match self {
            Stream::Handshake(h) => h.as_raw_fd(),
            Stream::Connection(c) => c.as_raw_fd(),
            Stream::Draining(out, _) => out.as_raw_fd(),
        }
    }
}

/// The streams of one device.
pub struct Muxer {
    guest_cid: u64,
    listener: Listener,
    poller: Poller,
    /// What the connections' receive buffers are of.
    pool: Pool,
    streams: HashMap<u64, Stream>,
    connections: HashMap<Key, u64>,
    /// Connections with a packet for the guest, each at most once.
    ready: VecDeque<u64>,
    resets: VecDeque<(Key, u16)>,
    next_id: u64,
    next_port: u32,
    running: bool,
    listening: bool,
    /// Nobody is accepted before.
    accept_after: Option<Instant>,
}

impl Muxer {
    /// Listens at the path of `spec`, but accepts nobody before
    /// [`Muxer::start`].
    ///
    /// # Errors
    /// Those of [`Listener::open`], and when descriptors run out.
    pub fn open(spec: &VsockSpec) -> Result<Self, VsockError> {
        let poller = Poller::new().map_err(VsockError::Poll)?;
        Ok(Muxer {
            guest_cid: spec.cid,
            listener: Listener::open(&spec.path)?,
            poller,
            pool: Pool::default(),
            streams: HashMap::new(),
            connections: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_id: FIRST_ID,
            next_port: 0,
            running: false,
            listening: false,
            accept_after: None,
        })
    }

    /// The one descriptor to watch, for reading.
    pub fn fd(&self) -> RawFd {
        self.poller.as_raw_fd()
    }

    /// The guest's driver is there.
    pub fn start(&mut self) {
        self.running = true;
        self.update_listener();
    }

    /// Closes every stream. Nothing is ready any more: the event loop sleeps.
    pub fn stop(&mut self) {
        self.running = false;
        self.streams.clear();
        self.connections.clear();
        self.ready.clear();
        self.resets.clear();
        self.accept_after = None;
        self.poller.disarm();
        self.update_listener();
    }

    /// True when [`Muxer::packet_for_guest`] may have something.
    pub fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// False when the guest has to take packets before it may send more.
    pub fn takes_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// A packet from the guest, with what follows its header.
    pub fn packet_from_guest(&mut self, header: &Header, payload: GuestBuffer) {
        let (src, dst): (u64, u64) = (header.src_cid.into(), header.dst_cid.into());
        if (src, dst) != (self.guest_cid, HOST_CID) {
            return;
        }
        let key = header.key();
        let kind = u16::from(header.socket_type);
        let op = Op::from_u16(header.op.into());
        if kind != TYPE_STREAM {
            // There is no connection of such a type.
            if op != Some(Op::Rst) {
                self.resets.push_back((key, kind));
            }
            return;
        }
        match (self.connections.get(&key).copied(), op) {
            (Some(id), Some(Op::Rst)) => self.settle(id, Verdict::Close),
            (None, Some(Op::Rst)) => {}
            (Some(id), Some(op)) => {
                if let Some(Stream::Connection(c)) = self.streams.get_mut(&id) {
                    let verdict = c.receive(op, header, payload);
                    self.settle(id, verdict);
                }
            }
            (Some(id), None) => self.settle(id, Verdict::Reset),
            (None, Some(Op::Request)) => self.connect(header),
            (None, _) => self.resets.push_back((key, kind)),
        }
        self.update_listener();
    }

    /// The guest asks for a port of the host.
    fn connect(&mut self, request: &Header) {
        let key = request.key();
        let Some(stream) = self.dial(key.local) else {
            return self.resets.push_back((key, TYPE_STREAM));
        };
        let connection = Box::new(Connection::from_guest(stream, request, self.pool.grant()));
        let id = self.new_id();
        if self
            .poller
            .add(connection.as_raw_fd(), id, interest(&connection))
            .is_err()
        {
            return self.resets.push_back((key, TYPE_STREAM));
        }
        self.streams.insert(id, Stream::Connection(connection));
        self.connections.insert(key, id);
        self.settle(id, Verdict::Keep);
    }

    /// A socket to whoever listens for `port`, when there is a place for it.
    fn dial(&self, port: u32) -> Option<UnixStream> {
        if self.streams.len() >= MAX_STREAMS - HOST_STREAMS {
            return None;
        }
        let refused = |e: &io::Error| {
            use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
            matches!(e.kind(), NotFound | ConnectionRefused | WouldBlock)
        };
        sock::connect(&self.listener.port_path(port))
            .inspect_err(|e| {
                if !refused(e) {
                    report("connect the guest to a host program", e);
                }
            })
            .ok()
    }

    /// Writes the next packet into `room`, which holds a header and some data;
    /// how long it is, or nothing when there is none.
    pub fn packet_for_guest(&mut self, mut room: GuestBuffer) -> Option<usize> {
        let mut header_room = room.split_to(HEADER_SIZE);
        let mut header = self.next_packet(&room)?;
        header.dst_cid = self.guest_cid.into();
        // Whether the buffer holds a header was asked of the caller.
        let _ = header_room.write_all(vm_memory::ByteValued::as_slice(&header));
        Some(HEADER_SIZE + u32::from(header.len) as usize)
    }

    fn next_packet(&mut self, room: &GuestBuffer) -> Option<Header> {
        if let Some((key, kind)) = self.resets.pop_front() {
            let mut header = Header::new(key, Op::Rst);
            header.socket_type = kind.into();
            return Some(header);
        }
        // One try for each, whatever they claim to have.
        for _ in 0..self.ready.len() {
            let id = self.ready.pop_front()?;
            let Some(Stream::Connection(c)) = self.streams.get_mut(&id) else {
                continue;
            };
            c.queued = false;
            let packet = c.packet(room);
            // Back to the end of the queue, if it has more.
            self.settle(id, Verdict::Keep);
            if packet.is_some() {
                return packet;
            }
        }
        None
    }

    /// Looks after the sockets and deadlines that are due.
    pub fn handle_events(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        let n = self.poller.ready(&mut events);
        for event in &events[..n] {
            match event.data() {
                TIMER => self.expire(Instant::now()),
                LISTENER => self.accept(),
                id => self.stream_event(id, EventSet::from_bits_truncate(event.events())),
            }
        }
        self.update_listener();
    }

    fn stream_event(&mut self, id: u64, events: EventSet) {
        match self.streams.get_mut(&id) {
            Some(Stream::Connection(c)) => {
                let verdict = c.host_event(events);
                self.settle(id, verdict);
            }
            Some(Stream::Handshake(h)) => match h.read() {
                Ok(None) => {}
                Ok(Some(port)) => self.request(id, port),
                Err(_) => self.close(id),
            },
            Some(Stream::Draining(out, deadline)) => match out.flush() {
                Ok(_) if out.is_empty() => self.close(id),
                Ok(0) => {}
                Ok(_) => *deadline = Instant::now() + LINGER,
                Err(_) => self.close(id),
            },
            // Closed since the kernel was asked.
            None => {}
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPT_BATCH {
            if !self.running || self.streams.len() >= MAX_STREAMS {
                return;
            }
            match self.listener.accept() {
                Ok(stream) => {
                    let handshake = Handshake::new(stream);
                    let id = self.new_id();
                    if self
                        .poller
                        .add(handshake.as_raw_fd(), id, EventSet::IN)
                        .is_ok()
                    {
                        self.poller.arm(handshake.deadline);
                        self.streams.insert(id, Stream::Handshake(handshake));
                    }
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        report("accept a host program", &e);
                        let after = Instant::now() + ACCEPT_PAUSE;
                        self.accept_after = Some(after);
                        return self.poller.arm(after);
                    }
                },
            }
        }
    }

    /// The host program of handshake `id` asks for a port of the guest.
    fn request(&mut self, id: u64, peer: u32) {
        let Some(Stream::Handshake(handshake)) = self.streams.remove(&id) else {
            return;
        };
        let local = self.new_port(peer);
        let key = Key { local, peer };
        let (stream, grant) = (handshake.into_stream(), self.pool.grant());
        let connection = Box::new(Connection::from_host(key, stream, grant));
        let (fd, events) = (connection.as_raw_fd(), interest(&connection));
        if self.poller.modify(fd, id, events).is_err() {
            return;
        }
        self.streams.insert(id, Stream::Connection(connection));
        self.connections.insert(key, id);
        self.settle(id, Verdict::Keep);
    }

    /// Ends what was due before `now`.
    pub fn expire(&mut self, now: Instant) {
        self.poller.disarm();
        if self.accept_after.is_some_and(|after| after <= now) {
            self.accept_after = None;
        }
        let due: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.deadline().is_some_and(|d| d <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            match self.streams.get_mut(&id) {
                Some(Stream::Connection(c)) => {
                    let verdict = c.expire();
                    self.settle(id, verdict);
                }
                _ => self.close(id),
            }
        }
        let streams = self.streams.values().filter_map(Stream::deadline);
        if let Some(next) = streams.chain(self.accept_after).min() {
            self.poller.arm(next);
        }
    }

    /// After anything happened to connection `id`: does as the verdict says, and
    /// brings what is known of the connection outside of it up to date.
    fn settle(&mut self, id: u64, verdict: Verdict) {
        let Some(Stream::Connection(c)) = self.streams.get_mut(&id) else {
            return;
        };
        let key = c.key;
        match verdict {
            Verdict::Keep => {
                if c.wants_to_write() != c.watches_writing {
                    c.watches_writing = c.wants_to_write();
                    if self.poller.modify(c.as_raw_fd(), id, interest(c)).is_err() {
                        return self.settle(id, Verdict::Reset);
                    }
                }
                if !c.queued && c.has_packet() {
                    c.queued = true;
                    self.ready.push_back(id);
                }
                if let Some(deadline) = c.deadline {
                    self.poller.arm(deadline);
                }
            }
            Verdict::Close => self.close(id),
            Verdict::Reset => {
                self.close(id);
                self.resets.push_back((key, TYPE_STREAM));
            }
            Verdict::Drain => {
                self.forget(id);
                if let Some(Stream::Connection(c)) = self.streams.remove(&id) {
                    let deadline = Instant::now() + LINGER;
                    let out = c.into_outbox();
                    self.streams.insert(id, Stream::Draining(out, deadline));
                    self.poller.arm(deadline);
                }
                self.resets.push_back((key, TYPE_STREAM));
            }
        }
    }

    /// Closes a stream of any kind.
    fn close(&mut self, id: u64) {
        self.forget(id);
        if let Some(stream) = self.streams.remove(&id) {
            self.poller.remove(stream.fd());
        }
    }

    /// Takes connection `id` from the guest's view.
    fn forget(&mut self, id: u64) {
        if let Some(Stream::Connection(c)) = self.streams.get(&id) {
            self.connections.remove(&c.key);
            if c.queued {
                self.ready.retain(|&other| other != id);
            }
        }
    }

    /// Watches the listener only when somebody could be accepted: it is ready
    /// as long as anybody waits, and the event loop would spin.
    fn update_listener(&mut self) {
        let listen =
            self.running && self.streams.len() < MAX_STREAMS && self.accept_after.is_none();
        if listen == self.listening {
            return;
        }
        let fd = self.listener.as_raw_fd();
        if !listen {
            self.poller.remove(fd);
            self.listening = false;
        } else if self.poller.add(fd, LISTENER, EventSet::IN).is_ok() {
            self.listening = true;
        }
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// A port of the host's side that no connection to `peer` has.
    fn new_port(&mut self, peer: u32) -> u32 {
        loop {
            // Above the ports that programs listen on, for 2^30 connections.
            let local = FIRST_PORT | self.next_port;
            self.next_port = self.next_port.wrapping_add(1) % FIRST_PORT;
            if !self.connections.contains_key(&Key { local, peer }) {
                return local;
            }
        }
    }

    /// Streams, ready connections and resets that wait.
    #[cfg(any(test, feature = "testing"))]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.streams.len(), self.ready.len(), self.resets.len())
    }

    /// The most bytes that one stream holds for its host.
    #[cfg(any(test, feature = "testing"))]
    pub fn most_held(&self) -> usize {
        let held = self.streams.values().map(|s| match s {
            Stream::Handshake(_) => 0,
            Stream::Connection(c) => c.outbox().len(),
            Stream::Draining(out, _) => out.len(),
        });
        held.max().unwrap_or(0)
    }
}

/// Something of the host's is wrong or has run out; the device goes on.
fn report(what: &str, error: &io::Error) {
    static LOG: RateLog = RateLog::new();
    if LOG.allow() {
        log::warn!(
            "vsock: cannot {what}: {error}; check the socket's permissions and the limit on open files"
        );
    }
}

/// What to watch a connection's socket for. Edge-triggered: a socket with data
/// for which the guest has no room, or one whose other end is gone, would be
/// reported for ever. Room to write is watched for only when it is needed, or
/// each read by the host would be an event.
fn interest(connection: &Connection) -> EventSet {
    let events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    if connection.wants_to_write() {
        events | EventSet::OUT
    } else {
        events
    }
}
