//! The DNS forwarder: takes the guest's queries over UDP and TCP, asks the host's
//! resolvers the same way, and passes their answers on. What it finds is what the
//! rules about names go by.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::context::{Context, StreamMessage, random};
use crate::poll::{Ready, Token};
use crate::sockets;

pub mod message;
pub mod resolvers;

use message::{Query, Rcode};
use resolvers::Resolvers;

pub use resolvers::{PORT, Resolver};

/// The most queries under way: each is a socket.
const MAX_QUERIES: usize = 256;
/// The longest query.
const MAX_QUERY: usize = 4096;
/// How long one resolver has time before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the last one has: less than the guest's own patience would be no use.
const LAST_PATIENCE: Duration = Duration::from_secs(8);
/// The largest message: what two bytes of length can say.
const MAX_MESSAGE: usize = 65535;

/// Whoever waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// A datagram came from here to there.
    Datagram(SocketAddr, SocketAddr),
    /// It came by a TCP connection.
    Stream(u64),
}

#[derive(Debug)]
enum Way {
    Udp(UdpSocket),
    /// What is to be sent, what of it was, and what came.
    Tcp {
        stream: TcpStream,
        out: Vec<u8>,
        sent: usize,
        come: Vec<u8>,
    },
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    query: Query,
    /// The query as it goes out, with a number of ours.
    message: Vec<u8>,
    id: u16,
    way: Option<Way>,
    /// The resolvers to ask, and which of them is asked.
    resolvers: Vec<SocketAddr>,
    asked: usize,
    deadline: Instant,
}

/// What became of a step.
enum Step {
    Wait,
    Answer(Vec<u8>),
    /// This resolver gives none.
    Failed,
}

/// The forwarder.
#[derive(Debug)]
pub struct Forwarder {
    pending: HashMap<u64, Pending>,
    resolvers: Resolvers,
    buffer: Vec<u8>,
}

impl Forwarder {
    pub fn new(resolvers: Resolvers) -> Self {
        Forwarder {
            pending: HashMap::new(),
            resolvers,
            buffer: vec![0; MAX_MESSAGE],
        }
    }

    /// Forgets all queries.
    pub fn reset(&mut self, cx: &mut Context) {
        self.pending.clear();
        cx.queries.clear();
        cx.answers.clear();
        cx.timers.retain(|token| !matches!(token, Token::Query(_)));
    }

    /// A query in a datagram.
    pub fn datagram(&mut self, cx: &mut Context, guest: SocketAddr, us: SocketAddr, data: &[u8]) {
        self.ask(cx, Asker::Datagram(guest, us), data);
    }

    /// Queries that came by connections.
    pub fn streams(&mut self, cx: &mut Context) {
        while let Some(query) = cx.queries.pop_front() {
            self.ask(cx, Asker::Stream(query.flow), &query.message);
        }
    }

    fn ask(&mut self, cx: &mut Context, asker: Asker, data: &[u8]) {
        let query = match message::query(data) {
            Ok(query) => query,
            Err(rcode) => {
                // Whoever asks by a connection waits for as many answers.
                let rcode = match asker {
                    Asker::Stream(_) => rcode.or(Some(Rcode::FormErr)),
                    Asker::Datagram(..) => rcode,
                };
                if let Some(rcode) = rcode {
                    reply(cx, asker, message::refusal(data, None, rcode));
                }
                return;
            }
        };
        let refuse = |cx: &mut Context, rcode| {
            reply(
                cx,
                asker,
                message::refusal(data, Some(&query.question), rcode),
            );
        };
        if data.len() > MAX_QUERY {
            return refuse(cx, Rcode::FormErr);
        }
        if !cx.guard.resolves(&query.name) {
            return refuse(cx, Rcode::Refused);
        }
        if self.pending.len() >= MAX_QUERIES {
            crate::limit::warn(&format!("more than {MAX_QUERIES} DNS queries at once"));
            return refuse(cx, Rcode::ServFail);
        }
        let id = random() as u16;
        let mut message = data.to_vec();
        message[..2].copy_from_slice(&id.to_be_bytes());
        let pending = Pending {
            asker,
            query,
            message,
            id,
            way: None,
            resolvers: self.resolvers.list(cx.now).to_vec(),
            asked: 0,
            deadline: cx.now,
        };
        let token = cx.new_id();
        self.pending.insert(token, pending);
        self.ask_next(cx, token);
    }

    /// Asks the resolver whose turn it is, or the first after it that can be
    /// asked; gives up when there is none.
    fn ask_next(&mut self, cx: &mut Context, token: u64) {
        let Some(pending) = self.pending.get_mut(&token) else {
            return;
        };
        while let Some(&resolver) = pending.resolvers.get(pending.asked) {
            match pending.begin(cx, resolver, token) {
                Ok(way) => {
                    pending.way = Some(way);
                    let last = pending.asked + 1 == pending.resolvers.len();
                    let patience = if last { LAST_PATIENCE } else { PATIENCE };
                    pending.deadline = cx.now + patience;
                    cx.timers.add(pending.deadline, Token::Query(token));
                    return;
                }
                Err(error) => {
                    crate::limit::warn(&format!("cannot ask the resolver {resolver}: {error}"));
                    pending.asked += 1;
                }
            }
        }
        if let Some(pending) = self.pending.remove(&token) {
            let mut message = pending.message;
            message[..2].copy_from_slice(&pending.query.id.to_be_bytes());
            let answer = message::refusal(&message, Some(&pending.query.question), Rcode::ServFail);
            reply(cx, pending.asker, answer);
        }
    }

    /// A query's time has come: the next resolver.
    pub fn expired(&mut self, cx: &mut Context, token: u64) {
        if let Some(pending) = self.pending.get_mut(&token)
            && pending.deadline <= cx.now
        {
            pending.asked += 1;
            self.ask_next(cx, token);
        }
    }

    /// Something happened to a query's socket.
    pub fn event(&mut self, cx: &mut Context, token: u64, ready: Ready) {
        let Some(pending) = self.pending.get_mut(&token) else {
            return;
        };
        match pending.step(ready, &mut self.buffer) {
            Step::Wait => {}
            Step::Failed => {
                cx.timers.remove(pending.deadline, Token::Query(token));
                pending.asked += 1;
                self.ask_next(cx, token);
            }
            Step::Answer(answer) => {
                if let Some(pending) = self.pending.remove(&token) {
                    cx.timers.remove(pending.deadline, Token::Query(token));
                    pending.answer(cx, answer);
                }
            }
        }
    }
}

impl Pending {
    fn begin(&self, cx: &Context, resolver: SocketAddr, token: u64) -> io::Result<Way> {
        if let Asker::Datagram(..) = self.asker {
            let socket = sockets::connect_udp(resolver)?;
            cx.poll.watch(&socket, Token::Query(token))?;
            socket.send(&self.message)?;
            return Ok(Way::Udp(socket));
        }
        let stream = sockets::connect_tcp(resolver)?;
        cx.poll.watch(&stream, Token::Query(token))?;
        let len = u16::try_from(self.message.len()).unwrap_or(u16::MAX);
        Ok(Way::Tcp {
            stream,
            out: [&len.to_be_bytes(), &self.message[..]].concat(),
            sent: 0,
            come: Vec::new(),
        })
    }

    fn step(&mut self, ready: Ready, buffer: &mut [u8]) -> Step {
        let question = self.message.get(self.query.question.clone());
        let question = question.unwrap_or_default();
        match &mut self.way {
            None => Step::Failed,
            Some(Way::Udp(socket)) => loop {
                match socket.recv(buffer) {
                    Ok(size) => {
                        let answer = buffer.get(..size).unwrap_or_default();
                        // Anything else is late, or made up.
                        if message::is_answer(answer, self.id, question) {
                            return Step::Answer(answer.to_vec());
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                    Err(_) => return Step::Failed,
                }
            },
            Some(Way::Tcp {
                stream,
                out,
                sent,
                come,
            }) => {
                if ready.writable && !write_all(stream, out, sent) {
                    return Step::Failed;
                }
                if !ready.readable {
                    return Step::Wait;
                }
                match read_message(stream, come, buffer) {
                    Some(answer) if message::is_answer(&answer, self.id, question) => {
                        Step::Answer(answer)
                    }
                    None if come.len() <= MAX_MESSAGE + 2 && !come_to_end(stream) => Step::Wait,
                    _ => Step::Failed,
                }
            }
        }
    }

    fn answer(self, cx: &mut Context, mut answer: Vec<u8>) {
        for (addr, ttl) in message::addresses(&answer, &self.query.question) {
            cx.guard.learn(&self.query.name, addr, ttl, cx.now);
        }
        answer[..2].copy_from_slice(&self.query.id.to_be_bytes());
        reply(cx, self.asker, answer);
    }
}

/// Sends as much as can be; false when the connection is gone.
fn write_all(stream: &mut TcpStream, out: &[u8], sent: &mut usize) -> bool {
    while *sent < out.len() {
        match stream.write(out.get(*sent..).unwrap_or_default()) {
            Ok(n) => *sent += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Reads what there is; the message, once it is whole.
fn read_message(stream: &mut TcpStream, come: &mut Vec<u8>, buffer: &mut [u8]) -> Option<Vec<u8>> {
    while come.len() < MAX_MESSAGE + 2 {
        match stream.read(buffer) {
            Ok(n) if n > 0 => come.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let (len, rest) = come.split_first_chunk::<2>()?;
    let message = rest.get(..u16::from_be_bytes(*len).into())?;
    Some(message.to_vec())
}

/// True when the other end has closed, or failed: there is an end to be read.
fn come_to_end(stream: &mut TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(n) => n == 0,
        // An interruption says nothing; it is asked again.
        Err(e) => !matches!(
            e.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        ),
    }
}

fn reply(cx: &mut Context, asker: Asker, message: Vec<u8>) {
    match asker {
        // Without room it is lost, as a datagram may be; the guest asks again.
        Asker::Datagram(guest, us) if cx.link.has_room() => {
            cx.send(cx.framer.udp(us, guest, &message));
        }
        Asker::Datagram(..) => {}
        Asker::Stream(flow) => cx.answers.push_back(StreamMessage { flow, message }),
    }
}
