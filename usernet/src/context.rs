//! What all parts of the stack share.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use rustix::io::Errno;

use crate::config::{Addresses, Config};
use crate::guard::Guard;
use crate::link::{Frame, StackEnd};
use crate::packet::{Framer, IpIn, Unreachable};
use crate::poll::{Poll, Timers, Token};

/// A DNS query or answer of one of the guest's TCP connections.
#[derive(Debug)]
pub struct StreamMessage {
    /// The connection.
    pub flow: u64,
    /// The message, without its length.
    pub message: Vec<u8>,
}

#[derive(Debug)]
pub struct Context {
    pub link: StackEnd,
    pub poll: Poll,
    pub timers: Timers,
    pub guard: Guard,
    pub framer: Framer,
    pub addresses: Addresses,
    pub ipv6: bool,
    pub mtu: u16,
    /// The time of this turn.
    pub now: Instant,
    /// Who has something to do, each once: they note it themselves.
    pub ready: VecDeque<Token>,
    /// From connections to the forwarder.
    pub queries: VecDeque<StreamMessage>,
    /// From the forwarder to connections.
    pub answers: VecDeque<StreamMessage>,
    next_id: u64,
}

impl Context {
    pub fn new(config: &Config, mtu: u16, framer: Framer, link: StackEnd) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.watch(link.event(), Token::Link)?;
        Ok(Context {
            link,
            poll,
            timers: Timers::default(),
            guard: Guard::new(config),
            framer,
            addresses: config.addresses(),
            ipv6: config.ipv6,
            mtu,
            now: Instant::now(),
            ready: VecDeque::new(),
            queries: VecDeque::new(),
            answers: VecDeque::new(),
            next_id: 0,
        })
    }

    /// A number that was not used before.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The gateway's address of the same kind as `other`.
    pub fn gateway(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.addresses.gateway.into(),
            IpAddr::V6(_) => self.addresses.gateway6.into(),
        }
    }

    /// Sends a frame that could be made.
    pub fn send(&self, frame: Option<Frame>) {
        if let Some(frame) = frame {
            self.link.send(frame);
        }
    }

    /// Tells the guest that a packet did not get through.
    pub fn unreachable(&self, refused: &[u8], source: IpAddr, why: Unreachable) {
        let gateway = self.gateway(source);
        self.send(self.framer.unreachable(gateway, refused, why));
    }

    /// The same for a packet that is at hand.
    pub fn refuse(&self, ip: &IpIn<'_>, why: Unreachable) {
        self.unreachable(ip.packet, ip.source, why);
    }
}

/// What an error of a socket is to the guest: `None` when it is silence.
pub fn as_unreachable(error: &io::Error) -> Option<Unreachable> {
    let errno = Errno::from_io_error(error)?;
    match errno {
        Errno::CONNREFUSED => Some(Unreachable::Port),
        Errno::NETUNREACH | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL => Some(Unreachable::Network),
        Errno::ACCESS | Errno::PERM => Some(Unreachable::Prohibited),
        Errno::TIMEDOUT | Errno::MSGSIZE | Errno::AGAIN => None,
        _ if crate::sockets::is_exhausted(error) => None,
        _ => Some(Unreachable::Host),
    }
}

/// A number that others cannot guess: each state has keys of its own, made from
/// the system's randomness.
pub fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}
