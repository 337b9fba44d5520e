//! The network of ordinary sockets: the input is the guest, and how the programs on
//! the host at the other end of its connections behave.
//!
//! Nothing leaves this process: the policy lets the guest reach two sockets of it
//! on loopback, and the only resolver is a third.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::OnceLock;

use usernet::fuzzing::Bench;
use usernet::{Config, Offload};

use crate::Input;

const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// The largest frame that a card takes, by virtio 1.2 §5.1.6.3.1.
const MAX_FRAME: usize = 65550;
/// Steps of one input.
const MAX_STEPS: usize = 256;
/// Turns after which the stack must have come to rest.
const MAX_TURNS: usize = 10_000;

/// What an input does next.
mod step {
    pub const FRAME: u8 = 0;
    pub const IPV4: u8 = 1;
    pub const TCP: u8 = 2;
    pub const ANSWER: u8 = 3;
    pub const UDP: u8 = 4;
    pub const DNS: u8 = 5;
    pub const RESOLVE: u8 = 6;
    pub const HOST: u8 = 7;
    pub const DRAIN: u8 = 8;
    pub const RESET: u8 = 9;
    pub const COUNT: u8 = 11;
}

/// The host's side, kept from one input to the next.
struct Host {
    tcp: TcpListener,
    udp: UdpSocket,
    resolver: UdpSocket,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let host = Host {
            tcp: TcpListener::bind("127.0.0.1:0").expect("loopback is there"),
            udp: UdpSocket::bind("127.0.0.1:0").expect("loopback is there"),
            resolver: UdpSocket::bind("127.0.0.1:0").expect("loopback is there"),
        };
        host.tcp.set_nonblocking(true).expect("a socket is one");
        host.udp.set_nonblocking(true).expect("a socket is one");
        host.resolver
            .set_nonblocking(true)
            .expect("a socket is one");
        host
    })
}

struct Bed {
    bench: Bench,
    tcp_port: u16,
    udp_port: u16,
    streams: Vec<TcpStream>,
    /// Of the last TCP segment to the guest: ports, sequence and acknowledgement.
    last: [u8; 12],
    udp_from: Option<std::net::SocketAddr>,
}

fn bed(choice: u8) -> Bed {
    let host = host();
    let port = |addr: std::io::Result<std::net::SocketAddr>| addr.expect("it is bound").port();
    let (tcp_port, udp_port) = (port(host.tcp.local_addr()), port(host.udp.local_addr()));
    let resolver = port(host.resolver.local_addr());
    let policy = format!(
        "allow:10.0.2.2:{tcp_port}/tcp,allow:10.0.2.2:{udp_port}/udp,allow:*.example:{tcp_port}/tcp"
    );
    let config = Config {
        host_loopback: true,
        policy: policy.parse().expect("it is a policy"),
        dns: vec![
            format!("127.0.0.1:{resolver}")
                .parse()
                .expect("it is an address"),
        ],
        ..Config::default()
    };
    let mtu = if choice & 1 == 0 { 65520 } else { 1500 };
    let bench = Bench::open(&config, mtu, GUEST_MAC).expect("there are descriptors");
    let offload = Offload {
        checksum: choice & 2 != 0,
        tso4: choice & 4 != 0,
    };
    bench.card.reset(offload);
    Bed {
        bench,
        tcp_port,
        udp_port,
        streams: Vec::new(),
        last: [0; 12],
        udp_from: None,
    }
}

/// An Ethernet frame with an IPv4 packet.
fn ipv4(protocol: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&GATEWAY_MAC[..], &GUEST_MAC, &[8, 0]].concat();
    let len = (20 + payload.len()).min(65535) as u16;
    frame.extend([0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 2, 15]);
    frame.extend(to);
    frame.extend(payload);
    frame
}

fn udp(to: [u8; 4], ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let mut udp = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    udp.extend(((8 + data.len()).min(65535) as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    ipv4(17, to, &udp)
}

impl Bed {
    fn send(&mut self, frame: Vec<u8>) {
        if self.bench.card.has_room() {
            self.bench.card.send(frame);
        }
    }

    /// Lets the stack work until it rests. Times may pass meanwhile, but none of
    /// them soon enough to keep it busy.
    fn turn(&mut self) {
        for _ in 0..4 {
            self.bench.turn().expect("it can wait for events");
        }
    }

    /// Takes what is for the guest.
    fn drain(&mut self, limit: usize) {
        for _ in 0..limit {
            let Some(frame) = self.bench.card.receive() else {
                return;
            };
            let bytes = &frame.bytes;
            assert!((14..=MAX_FRAME).contains(&bytes.len()));
            assert_eq!(bytes[6..12], GATEWAY_MAC);
            if let Some(unfinished) = frame.unfinished {
                let start = usize::from(unfinished.checksum_start);
                let field = start + usize::from(unfinished.checksum_offset);
                assert!(field + 2 <= bytes.len());
                assert!(unfinished.segment_size != Some(0));
            }
            if bytes.len() >= 54 && bytes[12..14] == [8, 0] && bytes[23] == 6 {
                self.last.copy_from_slice(&bytes[34..46]);
            }
        }
    }

    fn step(&mut self, input: &mut Input) {
        match input.u8() % step::COUNT {
            step::FRAME => {
                let len = input.len().min(70_000) as usize;
                let frame = input.bytes(len).to_vec();
                self.send(frame);
            }
            step::IPV4 => {
                let protocol = input.u8();
                let to = input.u32().to_be_bytes();
                let len = input.len().min(4096) as usize;
                let payload = input.bytes(len);
                // Only for addresses that stay in this process.
                self.send(ipv4(protocol, to, payload));
            }
            step::TCP => {
                let from = 1024 + u16::from(input.u8() % 8);
                let to = match input.u8() % 8 {
                    0 => (53, 3),
                    _ => (self.tcp_port, 2),
                };
                let (seq, ack) = (input.u32(), input.u32());
                self.segment(input, (from, to.0), to.1, seq, ack);
            }
            step::ANSWER => {
                // What fits the last segment, or nearly does.
                let last = self.last;
                let word = |at: usize| {
                    u32::from_be_bytes([last[at], last[at + 1], last[at + 2], last[at + 3]])
                };
                let ports = word(0);
                let seq = word(8).wrapping_add(input.u8() as i8 as u32);
                let ack = word(4).wrapping_add(input.u8() as i8 as u32);
                let place = if (ports >> 16) as u16 == 53 { 3 } else { 2 };
                self.segment(input, (ports as u16, (ports >> 16) as u16), place, seq, ack);
            }
            step::UDP => {
                let from = input.u16();
                let to = if input.u8() == 0 {
                    input.u16()
                } else {
                    self.udp_port
                };
                let len = input.len().min(4096) as usize;
                let frame = udp([10, 0, 2, 2], (from, to), input.bytes(len));
                self.send(frame);
            }
            step::DNS => {
                let mut message = vec![0, input.u8(), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
                let len = usize::from(input.u8());
                message.extend(input.bytes(len));
                if input.u8() & 1 == 0 {
                    message.extend(b"\x01a\x07example\0\0\x01\0\x01");
                }
                self.send(udp([10, 0, 2, 3], (5353, 53), &message));
            }
            step::RESOLVE => self.resolve(input),
            step::HOST => self.host(input),
            step::DRAIN => {
                let limit = usize::from(input.u8());
                self.drain(limit);
            }
            step::RESET => self.bench.card.reset(Offload {
                checksum: input.u8() & 1 != 0,
                tso4: input.u8() & 1 != 0,
            }),
            // Echo requests.
            _ => {
                let to = [10, 0, 2, input.u8() % 4];
                let len = input.len().min(4096) as usize;
                let frame = ipv4(1, to, input.bytes(len));
                self.send(frame);
            }
        }
    }

    fn segment(&mut self, input: &mut Input, ports: (u16, u16), place: u8, seq: u32, ack: u32) {
        let (flags, window) = (input.u8(), input.u16());
        let options = usize::from(input.u8() % 11) * 4;
        let len = input.len().min(4096) as usize;
        let mut tcp = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.to_be_bytes());
        tcp.extend([(((20 + options) / 4) << 4) as u8, flags]);
        tcp.extend(window.to_be_bytes());
        tcp.extend([0; 4]);
        let given = input.bytes(options);
        tcp.extend(given);
        tcp.resize(20 + options, 1);
        tcp.extend(input.bytes(len));
        self.send(ipv4(6, [10, 0, 2, place], &tcp));
    }

    /// The resolver answers, rightly or not.
    fn resolve(&mut self, input: &mut Input) {
        let mut query = [0; 4096];
        let Ok((len, peer)) = host().resolver.recv_from(&mut query) else {
            return;
        };
        let mut answer = query[..len].to_vec();
        answer[2] |= 0x80;
        answer[7] = input.u8();
        let extra = usize::from(input.u8());
        answer.extend(input.bytes(extra));
        if input.u8() & 1 == 0 {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 2, 2]);
        }
        let _ = host().resolver.send_to(&answer, peer);
    }

    /// The programs on the host do something.
    fn host(&mut self, input: &mut Input) {
        let host = host();
        while let Ok((stream, _)) = host.tcp.accept() {
            stream.set_nonblocking(true).expect("a socket is one");
            self.streams.push(stream);
        }
        let mut room = vec![0; 65536];
        while let Ok((_, from)) = host.udp.recv_from(&mut room) {
            self.udp_from = Some(from);
        }
        let (what, which) = (input.u8(), usize::from(input.u8()));
        if what % 6 == 5 {
            if let Some(to) = self.udp_from {
                let len = input.len().min(60_000) as usize;
                let _ = host.udp.send_to(&room[..len], to);
            }
            return;
        }
        if self.streams.is_empty() {
            return;
        }
        let at = which % self.streams.len();
        let stream = &mut self.streams[at];
        match what % 6 {
            0 => drop(stream.read(&mut room)),
            1 => {
                let len = input.len().min(65536) as usize;
                match stream.write(&room[..len]) {
                    Err(e) if e.kind() != ErrorKind::WouldBlock => {}
                    _ => {}
                }
            }
            2 => drop(stream.shutdown(std::net::Shutdown::Write)),
            3 => drop(self.streams.swap_remove(at)),
            _ => while matches!(stream.read(&mut room), Ok(n) if n > 0) {},
        }
    }

    /// Whatever was before: the gateway answers the next driver, and says no more
    /// than that.
    fn check(&mut self) {
        self.bench.card.reset(Offload::default());
        self.turn();
        let echo = ipv4(1, [10, 0, 2, 2], b"\x08\0\0\0\0\x01\0\x01still there?");
        self.bench.card.send(echo);
        for _ in 0..MAX_TURNS {
            self.bench.turn().expect("it can wait for events");
            if let Some(frame) = self.bench.card.receive() {
                assert!(frame.bytes.ends_with(b"still there?"));
                assert_eq!(frame.bytes[34], 0);
                return;
            }
        }
        panic!("the gateway does not answer");
    }
}

/// The first byte chooses MTU and offloads; steps follow.
pub fn usernet(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bed = bed(input.u8());
    bed.turn();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        bed.step(&mut input);
        bed.turn();
    }
    bed.check();
    // What is left over is not for the next input.
    bed.streams.clear();
    let mut query = [0; 16];
    while host().resolver.recv_from(&mut query).is_ok() {}
}
