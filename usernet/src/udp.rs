//! UDP: a socket of the host for each pair of addresses that the guest uses, and
//! the datagrams of published ports.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use smoltcp::wire::UdpPacket;

use crate::context::{Context, as_unreachable};
use crate::guard::Verdict;
use crate::packet::{IpIn, Unreachable};
use crate::policy::Protocol;
use crate::poll::{Ready, Token};

/// The most flows; a new one beyond it ends the one that was silent longest.
const MAX_FLOWS: usize = 512;
/// How long a flow without an answer lives (RFC 4787 allows less for known ports;
/// Linux tracks such flows as long).
const IDLE_UNANSWERED: Duration = Duration::from_secs(30);
/// How long one with answers does: RFC 4787 REQ-5 asks for two minutes.
const IDLE: Duration = Duration::from_secs(120);
/// The largest datagram.
const MAX_DATAGRAM: usize = 65536;
/// Datagrams taken from one socket before the others have their turn.
const BATCH: usize = 32;
/// How much of the last packet is kept, to be quoted when it is refused: the
/// headers.
const KEPT: usize = 48;
/// The first of the gateway's ports that published flows come from.
const FIRST_PORT: u16 = 32768;

/// The guest's address and that of its peer, as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    guest: SocketAddr,
    peer: SocketAddr,
}

#[derive(Debug)]
enum Way {
    /// A socket of its own, from the guest out.
    Out(UdpSocket),
    /// From a published port in: by the listener's socket, with this address.
    In { listener: u64, peer: SocketAddr },
}

#[derive(Debug)]
struct Flow {
    key: Key,
    way: Way,
    used: Instant,
    /// When its timer is due.
    armed: Instant,
    answered: bool,
    /// It is on the list of those with something to do.
    queued: bool,
    /// The beginning of the last packet of the guest.
    last: Vec<u8>,
}

#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    guest_port: u16,
    queued: bool,
}

/// All flows.
#[derive(Debug)]
pub struct Udp {
    flows: HashMap<u64, Flow>,
    by_key: HashMap<Key, u64>,
    by_peer: HashMap<(u64, SocketAddr), u64>,
    listeners: HashMap<u64, Listener>,
    next_port: u16,
    buffer: Vec<u8>,
}

impl Udp {
    pub fn new() -> Self {
        Udp {
            flows: HashMap::new(),
            by_key: HashMap::new(),
            by_peer: HashMap::new(),
            listeners: HashMap::new(),
            next_port: FIRST_PORT,
            buffer: vec![0; MAX_DATAGRAM],
        }
    }

    /// Publishes a port of the guest.
    pub fn publish(
        &mut self,
        cx: &mut Context,
        socket: UdpSocket,
        guest_port: u16,
    ) -> io::Result<()> {
        let id = cx.new_id();
        cx.poll.watch(&socket, Token::Listener(id))?;
        let listener = Listener {
            socket,
            guest_port,
            queued: false,
        };
        self.listeners.insert(id, listener);
        Ok(())
    }

    /// Ends all flows; what is published stays so.
    pub fn reset(&mut self, cx: &mut Context) {
        self.flows.clear();
        self.by_key.clear();
        self.by_peer.clear();
        // The list of those with something to do begins anew.
        let queued = self.listeners.iter().filter(|(_, l)| l.queued);
        cx.ready.extend(queued.map(|(id, _)| Token::Listener(*id)));
        cx.timers.retain(|token| !matches!(token, Token::Udp(_)));
    }

    /// A datagram from the guest.
    pub fn receive(&mut self, cx: &mut Context, ip: &IpIn<'_>) {
        let Ok(udp) = UdpPacket::new_checked(ip.payload) else {
            return;
        };
        let key = Key {
            guest: SocketAddr::new(ip.source, udp.src_port()),
            peer: SocketAddr::new(ip.destination, udp.dst_port()),
        };
        if key.guest.port() == 0 || key.peer.port() == 0 {
            return;
        }
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => match self.open(cx, key, ip) {
                Some(id) => id,
                None => return,
            },
        };
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.used = cx.now;
        let sent = match &flow.way {
            Way::Out(socket) => {
                flow.last.clear();
                let kept = ip.packet.len().min(KEPT);
                flow.last.extend_from_slice(&ip.packet[..kept]);
                socket.send(udp.payload())
            }
            Way::In { listener, peer } => match self.listeners.get(listener) {
                Some(listener) => {
                    flow.answered = true;
                    listener.socket.send_to(udp.payload(), peer)
                }
                None => return,
            },
        };
        // A full socket loses datagrams, as any network may.
        if let Err(error) = sent
            && let Some(why) = as_unreachable(&error)
        {
            // Refused is what an earlier one was: this one was not sent.
            cx.refuse(ip, why);
        }
    }

    fn open(&mut self, cx: &mut Context, key: Key, ip: &IpIn<'_>) -> Option<u64> {
        let to = match cx.guard.check(Protocol::Udp, key.peer, cx.now) {
            Verdict::To(to) => to,
            Verdict::Refused => {
                cx.refuse(ip, Unreachable::Port);
                return None;
            }
            Verdict::Unreachable(why) => {
                cx.refuse(ip, why);
                return None;
            }
            Verdict::Ignored => return None,
        };
        self.make_room(cx);
        let id = cx.new_id();
        let opened = crate::sockets::connect_udp(to).and_then(|socket| {
            cx.poll.watch(&socket, Token::Udp(id))?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                self.insert(cx, id, key, Way::Out(socket));
                Some(id)
            }
            Err(error) => {
                match as_unreachable(&error) {
                    Some(why) => cx.refuse(ip, why),
                    None => crate::limit::warn(&format!("a UDP flow to {to}: {error}")),
                }
                None
            }
        }
    }

    fn insert(&mut self, cx: &mut Context, id: u64, key: Key, way: Way) {
        if let Way::In { listener, peer } = way {
            self.by_peer.insert((listener, peer), id);
        }
        let flow = Flow {
            key,
            way,
            used: cx.now,
            armed: cx.now + IDLE_UNANSWERED,
            answered: false,
            queued: false,
            last: Vec::new(),
        };
        self.flows.insert(id, flow);
        self.by_key.insert(key, id);
        cx.timers.add(cx.now + IDLE_UNANSWERED, Token::Udp(id));
    }

    fn make_room(&mut self, cx: &mut Context) {
        if self.flows.len() < MAX_FLOWS {
            return;
        }
        let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.remove(cx, id);
            crate::limit::warn(&format!(
                "more than {MAX_FLOWS} UDP flows: the oldest ended"
            ));
        }
    }

    fn remove(&mut self, cx: &mut Context, id: u64) {
        if let Some(flow) = self.flows.remove(&id) {
            // One that is left behind costs memory until it is due, and a guest opens
            // flows faster than that.
            cx.timers.remove(flow.armed, Token::Udp(id));
            self.by_key.remove(&flow.key);
            if let Way::In { listener, peer } = flow.way {
                self.by_peer.remove(&(listener, peer));
            }
        }
    }

    /// A flow's time has come: it ends unless it was used since.
    pub fn expired(&mut self, cx: &mut Context, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let idle = if flow.answered { IDLE } else { IDLE_UNANSWERED };
        let end = flow.used + idle;
        if end > cx.now {
            flow.armed = end;
            cx.timers.add(end, Token::Udp(id));
        } else {
            self.remove(cx, id);
        }
    }

    /// Something happened to a socket.
    pub fn event(&mut self, cx: &mut Context, token: Token, ready: Ready) {
        let queued = match token {
            Token::Udp(id) => self.flows.get_mut(&id).map(|flow| &mut flow.queued),
            Token::Listener(id) => self.listeners.get_mut(&id).map(|l| &mut l.queued),
            _ => None,
        };
        if let Some(queued) = queued
            && ready.readable
            && !std::mem::replace(queued, true)
        {
            cx.ready.push_back(token);
        }
    }

    /// Takes what came from the host, as long as there is room for it.
    pub fn serve(&mut self, cx: &mut Context, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let Way::Out(socket) = &flow.way else {
            return;
        };
        for _ in 0..BATCH {
            if !cx.link.has_room() {
                break;
            }
            match socket.recv(&mut self.buffer) {
                Ok(size) => {
                    flow.used = cx.now;
                    flow.answered = true;
                    let data = self.buffer.get(..size).unwrap_or_default();
                    cx.send(cx.framer.udp(flow.key.peer, flow.key.guest, data));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.queued = false;
                    return;
                }
                Err(error) => {
                    if let Some(why) = as_unreachable(&error) {
                        cx.unreachable(&flow.last, flow.key.guest.ip(), why);
                    }
                }
            }
        }
        cx.ready.push_back(Token::Udp(id));
    }

    /// Takes what came to a published port.
    pub fn serve_listener(&mut self, cx: &mut Context, id: u64) {
        for _ in 0..BATCH {
            if !cx.link.has_room() {
                break;
            }
            let Some(listener) = self.listeners.get_mut(&id) else {
                return;
            };
            let (size, peer) = match listener.socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.queued = false;
                    return;
                }
                // What became of an earlier answer.
                Err(_) => continue,
            };
            let guest_port = listener.guest_port;
            let Some(flow) = self.inward(cx, id, peer, guest_port) else {
                continue;
            };
            let (from, to) = (flow.key.peer, flow.key.guest);
            let data = self.buffer.get(..size).unwrap_or_default();
            cx.send(cx.framer.udp(from, to, data));
        }
        cx.ready.push_back(Token::Listener(id));
    }

    /// The flow of a peer of a published port; made if it is new.
    fn inward(
        &mut self,
        cx: &mut Context,
        listener: u64,
        peer: SocketAddr,
        guest_port: u16,
    ) -> Option<&Flow> {
        let id = match self.by_peer.get(&(listener, peer)) {
            Some(id) => *id,
            None => {
                self.make_room(cx);
                let key = self.free_key(cx, guest_port)?;
                let id = cx.new_id();
                self.insert(cx, id, key, Way::In { listener, peer });
                id
            }
        };
        let flow = self.flows.get_mut(&id)?;
        flow.used = cx.now;
        Some(flow)
    }

    /// A port of the gateway that no flow with this port of the guest has.
    fn free_key(&mut self, cx: &Context, guest_port: u16) -> Option<Key> {
        let guest = SocketAddr::new(cx.addresses.guest.into(), guest_port);
        // More tries than there can be flows.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::link::{Offload, link};
    use crate::packet::Framer;
    use smoltcp::wire::EthernetAddress;

    #[test]
    fn flows_that_made_room_leave_no_timer() {
        let (_card, end) = link().unwrap();
        let framer = Framer {
            gateway: EthernetAddress([2, 0, 0, 0, 0, 1]),
            guest: EthernetAddress([2, 0, 0, 0, 0, 2]),
            offload: Offload::default(),
        };
        let mut cx = Context::new(&Config::default(), 1500, framer, end).unwrap();
        let mut udp = Udp::new();
        for n in 0..3 * MAX_FLOWS {
            let peer = SocketAddr::from(([192, 0, 2, 1], n as u16 + 1));
            assert!(udp.inward(&mut cx, 1, peer, 80).is_some());
        }
        assert_eq!(udp.flows.len(), MAX_FLOWS);
        let mut timers = 0;
        while cx.timers.expired(cx.now + 2 * IDLE).is_some() {
            timers += 1;
        }
        assert_eq!(timers, MAX_FLOWS);
    }
}
