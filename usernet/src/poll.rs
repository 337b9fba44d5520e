//! What the stack waits for: descriptors and times.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Events taken at once.
const EVENTS: usize = 64;

/// Whom an event or a time is about. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// The wire to the card.
    Link,
    /// A TCP connection.
    Tcp(u64),
    /// A UDP flow.
    Udp(u64),
    /// Echo requests.
    Ping(u64),
    /// A DNS query under way.
    Query(u64),
    /// A published port.
    Listener(u64),
    /// The next router advertisement.
    Advertise,
}

const KIND_SHIFT: u32 = 60;

impl Token {
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Token::Link => (0, 0),
            Token::Tcp(id) => (1, id),
            Token::Udp(id) => (2, id),
            Token::Ping(id) => (3, id),
            Token::Query(id) => (4, id),
            Token::Listener(id) => (5, id),
            Token::Advertise => (6, 0),
        };
        kind << KIND_SHIFT | id
    }

    fn decode(data: u64) -> Self {
        let id = data & ((1 << KIND_SHIFT) - 1);
        match data >> KIND_SHIFT {
            1 => Token::Tcp(id),
            2 => Token::Udp(id),
            3 => Token::Ping(id),
            4 => Token::Query(id),
            5 => Token::Listener(id),
            6 => Token::Advertise,
            _ => Token::Link,
        }
    }
}

/// What happened to a descriptor. Errors and hang-ups are both: trying tells.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Something can be read.
    pub readable: bool,
    /// Something can be written.
    pub writable: bool,
}

/// The descriptors. Those that are closed leave by themselves.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        Ok(Poll {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches for changes: an event says that there is more than before.
    pub fn watch(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token.encode()),
            flags,
        )?)
    }

    /// Watches for something to read, for as long as there is any.
    pub fn watch_level(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, fd, data, EventFlags::IN)?)
    }

    /// Stops watching.
    pub fn forget(&self, fd: impl AsFd) {
        // It is not watched then.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, at most as long as given.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<(Token, Ready)>> {
        // Whoever waits for an hour can be woken in between.
        let limit = limit.unwrap_or(Duration::from_secs(3600));
        let limit = Timespec {
            tv_sec: limit.as_secs().min(3600) as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut space = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut space, Some(&limit)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let both = EventFlags::ERR | EventFlags::HUP;
        let events = events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            let ready = Ready {
                readable: flags.intersects(EventFlags::IN | both),
                writable: flags.intersects(EventFlags::OUT | both),
            };
            (Token::decode(data.u64()), ready)
        });
        Ok(events.collect())
    }
}

/// Times at which someone wants to be called.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Instant, Token)>);

impl Timers {
    pub fn add(&mut self, at: Instant, token: Token) {
        self.0.insert((at, token));
    }

    pub fn remove(&mut self, at: Instant, token: Token) {
        self.0.remove(&(at, token));
    }

    /// The next time.
    pub fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes one whose time has come.
    pub fn expired(&mut self, now: Instant) -> Option<Token> {
        let first = self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, token)| token)
    }

    /// Forgets all of the kinds that `which` tells.
    pub fn retain(&mut self, which: impl Fn(Token) -> bool) {
        self.0.retain(|(_, token)| which(*token));
    }
}
