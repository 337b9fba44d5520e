//! Echo requests (RFC 792, RFC 4443 §4): the gateway answers those for itself and
//! the DNS forwarder; others go out through the host's own sockets for them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use smoltcp::wire::{Icmpv4Repr, IpProtocol};

use crate::context::{Context, as_unreachable};
use crate::guard::Verdict;
use crate::packet::{HOPS, IpIn, Unreachable};
use crate::policy::Protocol;
use crate::poll::{Ready, Token};

/// The most flows; a new one beyond it ends the one that was silent longest.
const MAX_FLOWS: usize = 64;
/// RFC 5508 REQ-1 asks for a minute.
const IDLE: Duration = Duration::from_secs(60);
/// Answers taken from one socket before the others have their turn.
const BATCH: usize = 16;
/// The largest message.
const MAX_MESSAGE: usize = 65536;
/// Size of an echo message's header.
const HEADER: usize = 8;
const ECHO_REQUEST4: u8 = 8;
const ECHO_REPLY4: u8 = 0;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// Whom the guest asks, and by which number it tells its questions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    guest: IpAddr,
    peer: IpAddr,
    ident: [u8; 2],
}

#[derive(Debug)]
struct Flow {
    key: Key,
    socket: UdpSocket,
    used: Instant,
    /// When its timer is due.
    armed: Instant,
    queued: bool,
}

/// All flows.
#[derive(Debug)]
pub struct Ping {
    flows: HashMap<u64, Flow>,
    by_key: HashMap<Key, u64>,
    buffer: Vec<u8>,
}

impl Ping {
    pub fn new() -> Self {
        Ping {
            flows: HashMap::new(),
            by_key: HashMap::new(),
            buffer: vec![0; MAX_MESSAGE],
        }
    }

    /// Ends all flows.
    pub fn reset(&mut self, cx: &mut Context) {
        self.flows.clear();
        self.by_key.clear();
        cx.timers.retain(|token| !matches!(token, Token::Ping(_)));
    }

    /// An ICMP or ICMPv6 message from the guest.
    pub fn receive(&mut self, cx: &mut Context, ip: &IpIn<'_>) {
        let request = match ip.protocol {
            IpProtocol::Icmp => ECHO_REQUEST4,
            _ => ECHO_REQUEST6,
        };
        let [kind, 0, _, _, ident @ .., _, _] = ip.payload.get(..HEADER).unwrap_or_default() else {
            return;
        };
        let &[first, second] = ident else {
            return;
        };
        if *kind != request {
            return;
        }
        let key = Key {
            guest: ip.source,
            peer: ip.destination,
            ident: [first, second],
        };
        if cx.addresses.is_gateway(key.peer) || cx.addresses.is_dns(key.peer) {
            let rest = ip.payload.get(4..).unwrap_or_default();
            return answer(cx, key, rest);
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
        // The host puts its own number and checksum in.
        if let Err(error) = flow.socket.send(ip.payload)
            && let Some(why) = as_unreachable(&error)
        {
            cx.refuse(ip, why);
        }
    }

    fn open(&mut self, cx: &mut Context, key: Key, ip: &IpIn<'_>) -> Option<u64> {
        let to = SocketAddr::new(key.peer, 0);
        let to = match cx.guard.check(Protocol::Icmp, to, cx.now) {
            Verdict::To(to) => to.ip(),
            Verdict::Unreachable(why) => {
                cx.refuse(ip, why);
                return None;
            }
            Verdict::Refused | Verdict::Ignored => return None,
        };
        if self.flows.len() >= MAX_FLOWS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.remove(cx, id);
            }
        }
        let id = cx.new_id();
        let opened = crate::sockets::connect_ping(to).and_then(|socket| {
            cx.poll.watch(&socket, Token::Ping(id))?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                let flow = Flow {
                    key,
                    socket,
                    used: cx.now,
                    armed: cx.now + IDLE,
                    queued: false,
                };
                self.flows.insert(id, flow);
                self.by_key.insert(key, id);
                cx.timers.add(cx.now + IDLE, Token::Ping(id));
                Some(id)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    crate::limit::warn(
                        "this host lets no ordinary user ping: \
                         `sysctl net.ipv4.ping_group_range='0 2147483647'` changes that",
                    );
                }
                cx.refuse(ip, as_unreachable(&error).unwrap_or(Unreachable::Host));
                None
            }
        }
    }

    fn remove(&mut self, cx: &mut Context, id: u64) {
        if let Some(flow) = self.flows.remove(&id) {
            cx.timers.remove(flow.armed, Token::Ping(id));
            self.by_key.remove(&flow.key);
        }
    }

    /// A flow's time has come: it ends unless it was used since.
    pub fn expired(&mut self, cx: &mut Context, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let end = flow.used + IDLE;
        if end > cx.now {
            flow.armed = end;
            cx.timers.add(end, Token::Ping(id));
        } else {
            self.remove(cx, id);
        }
    }

    /// Something happened to a socket.
    pub fn event(&mut self, cx: &mut Context, id: u64, ready: Ready) {
        if let Some(flow) = self.flows.get_mut(&id)
            && ready.readable
            && !std::mem::replace(&mut flow.queued, true)
        {
            cx.ready.push_back(Token::Ping(id));
        }
    }

    /// Takes the answers that came, as long as there is room for them.
    pub fn serve(&mut self, cx: &mut Context, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let reply = match flow.key.peer {
            IpAddr::V4(_) => ECHO_REPLY4,
            IpAddr::V6(_) => ECHO_REPLY6,
        };
        for _ in 0..BATCH {
            if !cx.link.has_room() {
                break;
            }
            match flow.socket.recv(&mut self.buffer) {
                Ok(size) => {
                    let message = self.buffer.get(..size).unwrap_or_default();
                    if size >= HEADER && message.first() == Some(&reply) {
                        answer(cx, flow.key, message.get(4..).unwrap_or_default());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.queued = false;
                    return;
                }
                // That it does not get there: the guest's own time limit tells it.
                Err(_) => {}
            }
        }
        cx.ready.push_back(Token::Ping(id));
    }
}

/// Sends an echo reply; `rest` is number, sequence and data.
fn answer(cx: &Context, key: Key, rest: &[u8]) {
    let Some((ident_and_seq, data)) = rest.split_at_checked(4) else {
        return;
    };
    let [_, _, seq @ ..] = ident_and_seq else {
        return;
    };
    let frame = match (key.peer, key.guest) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let seq = [seq[0], seq[1]];
            let repr = Icmpv4Repr::EchoReply {
                ident: u16::from_be_bytes(key.ident),
                seq_no: u16::from_be_bytes(seq),
                data,
            };
            cx.framer.icmp4(from, to, &repr)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let body = [&key.ident, seq, data].concat();
            cx.framer.icmp6_raw(from, to, HOPS, [ECHO_REPLY6, 0], &body)
        }
        _ => None,
    };
    cx.send(frame);
}
