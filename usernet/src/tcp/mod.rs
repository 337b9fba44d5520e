//! TCP: each connection of the guest is taken apart here and goes on as one of
//! the host's.
//!
//! The guest's wish (SYN) waits until the host's connection is there, so that the
//! guest sees what becomes of it: an answer, a reset, an ICMP message, silence.
//! The library speaks for the peer, with its address. Each connection has a set of
//! sockets of its own with one socket in it, so that a packet costs the same with
//! one connection or a thousand.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::wire::{HardwareAddress, IpCidr, IpListenEndpoint, TcpPacket};

use crate::context::{Context, StreamMessage, as_unreachable, random};
use crate::guard::Verdict;
use crate::link::Offload;
use crate::packet::{IpIn, Unreachable};
use crate::policy::Protocol;
use crate::poll::{Ready, Token};
use crate::{dns, sockets};

mod clock;
mod device;
mod dns_stream;
mod flow;

use clock::Clock;
use device::Wire;
use dns_stream::DnsStream;
use flow::{Far, Flow, Key, Near, Next, Stage};

/// The most connections.
const MAX_FLOWS: usize = 1024;
/// The most of them whose far half is not connected.
const MAX_CONNECTING: usize = 256;
/// The first so many connections have large buffers, the others small ones: 32 MiB
/// and 60 MiB are the most they can take together.
const LARGE_FLOWS: usize = 64;
/// Four of the largest segments in flight each way.
const LARGE_BUFFER: usize = 256 << 10;
const SMALL_BUFFER: usize = 32 << 10;
/// How long the host may try to connect: as long as Linux does.
const CONNECT: Duration = Duration::from_secs(130);
/// How long the guest may leave a SYN without an answer.
const OPEN: Duration = Duration::from_secs(10);
/// Connections accepted before others have their turn.
const ACCEPTS: usize = 16;
/// How long a published port rests when the process has no descriptors left.
const REST: Duration = Duration::from_secs(1);
/// The first of the gateway's ports that published connections come from.
const FIRST_PORT: u16 = 32768;

struct Listener {
    socket: TcpListener,
    guest_port: u16,
}

/// All connections.
pub struct Tcp {
    iface: Interface,
    clock: Clock,
    flows: HashMap<u64, Flow>,
    by_key: HashMap<Key, u64>,
    connecting: usize,
    listeners: HashMap<u64, Listener>,
    next_port: u16,
    /// For packets that belong to no connection.
    nobody: SocketSet<'static>,
}

impl Tcp {
    pub fn new(cx: &Context) -> Self {
        let clock = Clock::new(cx.now);
        Tcp {
            iface: interface(cx, &clock),
            clock,
            flows: HashMap::new(),
            by_key: HashMap::new(),
            connecting: 0,
            listeners: HashMap::new(),
            next_port: FIRST_PORT + (random() % 16384) as u16,
            nobody: SocketSet::new(Vec::new()),
        }
    }

    /// Publishes a port of the guest.
    pub fn publish(
        &mut self,
        cx: &mut Context,
        socket: TcpListener,
        guest_port: u16,
    ) -> io::Result<()> {
        let id = cx.new_id();
        cx.poll.watch_level(&socket, Token::Listener(id))?;
        self.listeners.insert(id, Listener { socket, guest_port });
        Ok(())
    }

    /// Ends all connections; what is published stays so.
    pub fn reset(&mut self, cx: &mut Context, offload: Offload) {
        for (_, flow) in self.flows.drain() {
            flow.far.reset();
        }
        self.by_key.clear();
        self.connecting = 0;
        cx.timers.retain(|token| !matches!(token, Token::Tcp(_)));
        cx.framer.offload = offload;
        // What may be left to the guest is settled when an interface is made.
        self.iface = interface(cx, &self.clock);
    }

    /// A packet from the guest.
    pub fn receive(&mut self, cx: &mut Context, ip: &IpIn<'_>) {
        let Ok(segment) = TcpPacket::new_checked(ip.payload) else {
            return;
        };
        let key = Key {
            guest: SocketAddr::new(ip.source, segment.src_port()),
            peer: SocketAddr::new(ip.destination, segment.dst_port()),
        };
        if key.guest.port() == 0 || key.peer.port() == 0 {
            return;
        }
        let wish = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        let Some(&id) = self.by_key.get(&key) else {
            match wish {
                true => self.open(cx, key, ip),
                false => self.reject(cx, ip.packet),
            }
            return;
        };
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        match &mut flow.stage {
            Stage::Connecting(_) if segment.rst() => self.remove(cx, id, false),
            // Asked again, perhaps by another program with the same port.
            Stage::Connecting(syn) if wish => ip.packet.clone_into(syn),
            Stage::Connecting(_) => {}
            Stage::Opening(near) | Stage::Open(near) => {
                let mut wire = Wire::new(cx, Some(ip.packet));
                let now = self.clock.at(cx.now);
                self.iface
                    .poll_ingress_single(now, &mut wire, &mut near.sockets);
                flow.observe();
                queue(flow, id, cx);
            }
        }
    }

    /// Answers a packet as a machine does that has no such connection.
    fn reject(&mut self, cx: &Context, packet: &[u8]) {
        let mut wire = Wire::new(cx, Some(packet));
        let now = self.clock.at(cx.now);
        self.iface
            .poll_ingress_single(now, &mut wire, &mut self.nobody);
    }

    /// The guest wants a connection.
    fn open(&mut self, cx: &mut Context, key: Key, ip: &IpIn<'_>) {
        if self.flows.len() >= MAX_FLOWS || self.connecting >= MAX_CONNECTING {
            // It asks again soon.
            crate::limit::warn(&format!(
                "{} TCP connections, {} of them not connected yet: a further one has to wait",
                self.flows.len(),
                self.connecting
            ));
            return;
        }
        if cx.addresses.is_dns(key.peer.ip()) && key.peer.port() == dns::PORT {
            let id = cx.new_id();
            let far = Far::Dns(DnsStream::default());
            let mut flow = Flow::new(key, far, Stage::Connecting(ip.packet.to_vec()), cx.now);
            flow.writable = true;
            self.connecting += 1;
            self.insert(id, flow);
            return self.connected(cx, id);
        }
        let to = match cx.guard.check(Protocol::Tcp, key.peer, cx.now) {
            Verdict::To(to) => to,
            Verdict::Refused => return self.reject(cx, ip.packet),
            Verdict::Unreachable(why) => return cx.refuse(ip, why),
            Verdict::Ignored => return,
        };
        let id = cx.new_id();
        let begun = sockets::connect_tcp(to).and_then(|stream| {
            cx.poll.watch(&stream, Token::Tcp(id))?;
            Ok(stream)
        });
        match begun {
            Ok(stream) => {
                let stage = Stage::Connecting(ip.packet.to_vec());
                let mut flow = Flow::new(key, Far::Host(stream), stage, cx.now);
                arm(&mut flow, id, cx, Some(cx.now + CONNECT));
                self.connecting += 1;
                self.insert(id, flow);
            }
            Err(error) => self.refuse(cx, ip.packet, key, &error),
        }
    }

    fn insert(&mut self, id: u64, flow: Flow) {
        self.by_key.insert(flow.key, id);
        self.flows.insert(id, flow);
    }

    /// Tells the guest why there is no connection.
    fn refuse(&mut self, cx: &Context, syn: &[u8], key: Key, error: &io::Error) {
        match as_unreachable(error) {
            Some(Unreachable::Port) => self.reject(cx, syn),
            Some(why) => cx.unreachable(syn, key.guest.ip(), why),
            // The guest finds out by itself.
            None if error.kind() == io::ErrorKind::TimedOut => {}
            None => crate::limit::warn(&format!("a connection to {}: {error}", key.peer)),
        }
    }

    /// Something happened to a connection's socket.
    pub fn event(&mut self, cx: &mut Context, id: u64, ready: Ready) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.readable |= ready.readable;
        flow.writable |= ready.writable;
        let (Stage::Connecting(syn), Far::Host(stream)) = (&mut flow.stage, &flow.far) else {
            return queue(flow, id, cx);
        };
        let failed = match stream.take_error() {
            Ok(error) => error,
            Err(error) => Some(error),
        };
        match failed {
            Some(error) => {
                let (syn, key) = (std::mem::take(syn), flow.key);
                self.remove(cx, id, false);
                self.refuse(cx, &syn, key, &error);
            }
            None if sockets::is_connected(stream) => self.connected(cx, id),
            None => {}
        }
    }

    /// The far half is there: the guest's wish is granted.
    fn connected(&mut self, cx: &mut Context, id: u64) {
        let size = self.buffer_size();
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let Stage::Connecting(syn) = &mut flow.stage else {
            return;
        };
        let syn = std::mem::take(syn);
        let mut near = Near::new(size);
        let endpoint = IpListenEndpoint {
            addr: Some(flow.key.peer.ip().into()),
            port: flow.key.peer.port(),
        };
        // The socket is new and the port is not zero.
        let _ = near.socket().listen(endpoint);
        let now = self.clock.at(cx.now);
        let mut wire = Wire::new(cx, Some(&syn));
        self.iface
            .poll_ingress_single(now, &mut wire, &mut near.sockets);
        self.connecting -= 1;
        flow.since = cx.now;
        flow.stage = Stage::Opening(near);
        arm(flow, id, cx, Some(cx.now + OPEN));
        queue(flow, id, cx);
    }

    fn buffer_size(&self) -> usize {
        match self.flows.len() <= LARGE_FLOWS {
            true => LARGE_BUFFER,
            false => SMALL_BUFFER,
        }
    }

    /// Moves a connection on.
    pub fn serve(&mut self, cx: &mut Context, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.queued = false;
        let next = flow.serve(&mut self.iface, &self.clock, cx);
        if let Far::Dns(stream) = &mut flow.far {
            let messages = stream.queries.drain(..);
            cx.queries
                .extend(messages.map(|message| StreamMessage { flow: id, message }));
        }
        match next {
            Next::Wait(at) => arm(flow, id, cx, at),
            Next::Again => queue(flow, id, cx),
            Next::Done => self.remove(cx, id, false),
            Next::Reset => self.remove(cx, id, true),
        }
    }

    /// Answers of the forwarder to queries that came by connections.
    pub fn answers(&mut self, cx: &mut Context) {
        while let Some(answer) = cx.answers.pop_front() {
            if let Some(flow) = self.flows.get_mut(&answer.flow)
                && let Far::Dns(stream) = &mut flow.far
            {
                stream.answer(&answer.message);
                flow.readable = true;
                flow.writable = true;
                queue(flow, answer.flow, cx);
            }
        }
    }

    /// A connection's time has come.
    pub fn expired(&mut self, cx: &mut Context, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.armed = None;
        match &mut flow.stage {
            Stage::Connecting(_) if cx.now >= flow.since + CONNECT => self.remove(cx, id, false),
            Stage::Opening(near) if cx.now >= flow.since + OPEN => {
                near.socket().abort();
                queue(flow, id, cx);
            }
            _ => queue(flow, id, cx),
        }
    }

    fn remove(&mut self, cx: &mut Context, id: u64, reset: bool) {
        let Some(flow) = self.flows.remove(&id) else {
            return;
        };
        self.by_key.remove(&flow.key);
        if let Stage::Connecting(_) = flow.stage {
            self.connecting -= 1;
        }
        if let Some(at) = flow.armed {
            cx.timers.remove(at, Token::Tcp(id));
        }
        if reset {
            flow.far.reset();
        }
    }

    /// Someone wants to connect to a published port.
    pub fn accept(&mut self, cx: &mut Context, listener: u64) {
        for _ in 0..ACCEPTS {
            let Some(Listener { socket, guest_port }) = self.listeners.get(&listener) else {
                return;
            };
            let guest_port = *guest_port;
            match sockets::accept(socket) {
                Ok(stream) => self.inward(cx, stream, guest_port),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if sockets::is_exhausted(&error) => {
                    crate::limit::warn(&format!("a published port: {error}"));
                    cx.poll.forget(socket);
                    cx.timers.add(cx.now + REST, Token::Listener(listener));
                    return;
                }
                // It has gone again.
                Err(_) => {}
            }
        }
    }

    /// A published port has rested.
    pub fn rested(&mut self, cx: &mut Context, listener: u64) {
        if let Some(Listener { socket, .. }) = self.listeners.get(&listener)
            && cx
                .poll
                .watch_level(socket, Token::Listener(listener))
                .is_err()
        {
            cx.timers.add(cx.now + REST, Token::Listener(listener));
        }
    }

    /// Connects a peer of a published port with the guest.
    fn inward(&mut self, cx: &mut Context, stream: TcpStream, guest_port: u16) {
        let key = self.free_key(cx, guest_port);
        let (Some(key), true) = (key, self.flows.len() < MAX_FLOWS) else {
            crate::limit::warn("a published port: too many TCP connections");
            return sockets::reset(stream);
        };
        let id = cx.new_id();
        if cx.poll.watch(&stream, Token::Tcp(id)).is_err() {
            return sockets::reset(stream);
        }
        let mut near = Near::new(self.buffer_size());
        let peer = (
            smoltcp::wire::IpAddress::from(key.peer.ip()),
            key.peer.port(),
        );
        let context = self.iface.context();
        if near.socket().connect(context, key.guest, peer).is_err() {
            return sockets::reset(stream);
        }
        let mut flow = Flow::new(key, Far::Host(stream), Stage::Opening(near), cx.now);
        arm(&mut flow, id, cx, Some(cx.now + OPEN));
        queue(&mut flow, id, cx);
        self.insert(id, flow);
    }

    /// A port of the gateway that no connection with this port of the guest has.
    fn free_key(&mut self, cx: &Context, guest_port: u16) -> Option<Key> {
        let guest = SocketAddr::new(cx.addresses.guest.into(), guest_port);
        // More tries than there can be connections.
        for _ in 0..=MAX_FLOWS {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            let peer = SocketAddr::new(cx.addresses.gateway.into(), port);
            let key = Key { guest, peer };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }
}

/// Puts a connection on the list of those with something to do.
fn queue(flow: &mut Flow, id: u64, cx: &mut Context) {
    if !std::mem::replace(&mut flow.queued, true) {
        cx.ready.push_back(Token::Tcp(id));
    }
}

/// Sees to it that a connection is called at `at` or before. An earlier time
/// stays: it finds out when it is called.
fn arm(flow: &mut Flow, id: u64, cx: &mut Context, at: Option<Instant>) {
    let Some(at) = at else {
        return;
    };
    if let Some(armed) = flow.armed {
        if armed <= at {
            return;
        }
        cx.timers.remove(armed, Token::Tcp(id));
    }
    flow.armed = Some(at);
    cx.timers.add(at, Token::Tcp(id));
}

/// The library's end of the wire: packets to any address are for it.
fn interface(cx: &Context, clock: &Clock) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = random();
    let mut iface = Interface::new(config, &mut Wire::new(cx, None), clock.at(cx.now));
    iface.set_any_ip(true);
    iface.update_ip_addrs(|addrs| {
        let ours = [
            (cx.addresses.gateway.into(), cx.addresses.prefix_len),
            (cx.addresses.gateway6.into(), cx.addresses.prefix_len6),
        ];
        for (addr, prefix_len) in ours {
            // There is room for two.
            let _ = addrs.push(IpCidr::new(addr, prefix_len));
        }
    });
    iface
}
