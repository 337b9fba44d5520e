//! The gateway: takes frames, events and times to whoever they are for.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use smoltcp::wire::{EthernetAddress, IpProtocol, UdpPacket};

use crate::config::Config;
use crate::context::Context;
use crate::dns::resolvers::Resolvers;
use crate::dns::{Forwarder, PORT as DNS_PORT};
use crate::link::{News, Offload, StackEnd};
use crate::packet::{Framer, IpIn, Parsed, parse};
use crate::ping::Ping;
use crate::poll::Token;
use crate::tcp::Tcp;
use crate::udp::Udp;
use crate::{dhcp, neighbour};

/// The gateway's hardware address: administered locally.
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
/// Frames of the guest taken before events have their turn.
const FRAMES: usize = 256;
/// Things done before events have their turn.
const TASKS: usize = 256;

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There will be more.
    On,
    /// The card is gone.
    Over,
}

/// The whole stack.
pub struct Stack {
    pub cx: Context,
    pub tcp: Tcp,
    pub udp: Udp,
    ping: Ping,
    dns: Forwarder,
    /// Frames taken from the wire and not looked at yet.
    inbox: VecDeque<Vec<u8>>,
    /// The wire may have more.
    more: bool,
}

impl Stack {
    /// Makes a stack for a guest whose card has this hardware address at first.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(config: &Config, mtu: u16, guest: [u8; 6], link: StackEnd) -> io::Result<Self> {
        let framer = Framer {
            gateway: GATEWAY_MAC,
            guest: EthernetAddress(guest),
            offload: Offload::default(),
        };
        let mut cx = Context::new(config, mtu, framer, link)?;
        if cx.ipv6 {
            // The first one is asked for.
            cx.timers
                .add(cx.now + Duration::from_secs(1800), Token::Advertise);
        }
        Ok(Stack {
            tcp: Tcp::new(&cx),
            udp: Udp::new(),
            ping: Ping::new(),
            dns: Forwarder::new(Resolvers::new(&config.dns)),
            inbox: VecDeque::new(),
            more: false,
            cx,
        })
    }

    /// Waits for something to do, for no longer than `limit`, and does a part of it.
    ///
    /// # Errors
    /// When the process cannot wait for events.
    pub fn turn(&mut self, limit: Option<Duration>) -> io::Result<Turn> {
        let events = self.cx.poll.wait(self.patience(limit))?;
        self.cx.now = Instant::now();
        for (token, ready) in events {
            match token {
                Token::Link => {
                    self.cx.link.quiet();
                    self.more = true;
                }
                Token::Tcp(id) => self.tcp.event(&mut self.cx, id, ready),
                Token::Udp(_) => self.udp.event(&mut self.cx, token, ready),
                Token::Ping(id) => self.ping.event(&mut self.cx, id, ready),
                Token::Query(id) => self.dns.event(&mut self.cx, id, ready),
                Token::Listener(id) => {
                    // It is one of either kind.
                    self.tcp.accept(&mut self.cx, id);
                    self.udp.event(&mut self.cx, token, ready);
                }
                Token::Advertise => {}
            }
        }
        match self.cx.link.news() {
            News::Nothing => {}
            News::Reset(offload) => self.reset(offload),
            News::Closed => return Ok(Turn::Over),
        }
        self.take();
        self.timers();
        for _ in 0..TASKS {
            if self.cx.ready.is_empty() || !self.cx.link.has_room() {
                break;
            }
            self.task();
        }
        self.dns.streams(&mut self.cx);
        self.tcp.answers(&mut self.cx);
        Ok(Turn::On)
    }

    /// How long to wait: not at all when something can be done.
    fn patience(&self, limit: Option<Duration>) -> Option<Duration> {
        let frames = self.more || !self.inbox.is_empty();
        let busy = frames && self.cx.link.has_reserve()
            || !self.cx.ready.is_empty() && self.cx.link.has_room();
        if busy {
            return Some(Duration::ZERO);
        }
        let first = self.cx.timers.first();
        let wait = first.map(|at| at.saturating_duration_since(Instant::now()));
        match (wait, limit) {
            (Some(wait), Some(limit)) => Some(wait.min(limit)),
            (wait, limit) => wait.or(limit),
        }
    }

    /// Takes what the guest sent.
    fn take(&mut self) {
        for _ in 0..FRAMES {
            if self.inbox.is_empty() && self.more {
                self.inbox = self.cx.link.take();
                self.more = !self.inbox.is_empty();
            }
            if self.inbox.is_empty() || !self.cx.link.has_reserve() {
                return;
            }
            if let Some(frame) = self.inbox.pop_front() {
                self.frame(&frame);
            }
        }
    }

    fn reset(&mut self, offload: Offload) {
        self.inbox.clear();
        self.more = true;
        self.cx.ready.clear();
        self.tcp.reset(&mut self.cx, offload);
        self.udp.reset(&mut self.cx);
        self.ping.reset(&mut self.cx);
        self.dns.reset(&mut self.cx);
    }

    fn timers(&mut self) {
        while let Some(token) = self.cx.timers.expired(self.cx.now) {
            match token {
                Token::Tcp(id) => self.tcp.expired(&mut self.cx, id),
                Token::Udp(id) => self.udp.expired(&mut self.cx, id),
                Token::Ping(id) => self.ping.expired(&mut self.cx, id),
                Token::Query(id) => self.dns.expired(&mut self.cx, id),
                Token::Listener(id) => self.tcp.rested(&mut self.cx, id),
                Token::Advertise => neighbour::advertise(&mut self.cx),
                Token::Link => {}
            }
        }
    }

    fn task(&mut self) {
        match self.cx.ready.pop_front() {
            Some(Token::Tcp(id)) => self.tcp.serve(&mut self.cx, id),
            Some(Token::Udp(id)) => self.udp.serve(&mut self.cx, id),
            Some(Token::Ping(id)) => self.ping.serve(&mut self.cx, id),
            Some(Token::Listener(id)) => self.udp.serve_listener(&mut self.cx, id),
            _ => {}
        }
    }

    /// One frame of the guest.
    fn frame(&mut self, bytes: &[u8]) {
        match parse(bytes, GATEWAY_MAC) {
            Parsed::Arp(packet) => neighbour::arp(&self.cx, packet),
            Parsed::Ip(ip) => self.packet(&ip),
            Parsed::Nothing => {}
        }
    }

    fn packet(&mut self, ip: &IpIn<'_>) {
        let cx = &mut self.cx;
        if ip.source.is_ipv6() && !cx.ipv6 {
            return;
        }
        if ip.protocol == IpProtocol::Udp && dhcp::is_request(ip, cx) {
            return dhcp::serve(cx, ip);
        }
        if ip.protocol == IpProtocol::Icmpv6 && neighbour::discovery(cx, ip) {
            return;
        }
        // Nobody else's packets pass.
        if !cx.addresses.is_guest(ip.source) {
            return;
        }
        cx.framer.guest = ip.mac;
        match ip.protocol {
            IpProtocol::Tcp => self.tcp.receive(cx, ip),
            IpProtocol::Udp => match query(cx, ip) {
                Some(udp) => {
                    let guest = (ip.source, udp.src_port()).into();
                    let us = (ip.destination, DNS_PORT).into();
                    self.dns.datagram(cx, guest, us, udp.payload());
                }
                None => self.udp.receive(cx, ip),
            },
            IpProtocol::Icmp if ip.source.is_ipv4() => self.ping.receive(cx, ip),
            IpProtocol::Icmpv6 if ip.source.is_ipv6() => self.ping.receive(cx, ip),
            _ => {}
        }
    }
}

/// A datagram for the forwarder.
fn query<'a>(cx: &Context, ip: &IpIn<'a>) -> Option<UdpPacket<&'a [u8]>> {
    if !cx.addresses.is_dns(ip.destination) {
        return None;
    }
    let udp = UdpPacket::new_checked(ip.payload).ok()?;
    (udp.dst_port() == DNS_PORT && udp.src_port() != 0).then_some(udp)
}
