use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;

use smoltcp::socket::tcp::State;

use super::guest::{Guest, PATIENCE};
use crate::Resolver;
use crate::dns::message::testing::{answer, ask};

/// A resolver of this process.
struct Fake(UdpSocket);

impl Fake {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Fake(socket)
    }

    fn resolver(&self) -> Resolver {
        Resolver(self.0.local_addr().unwrap())
    }

    fn query(&self) -> (Vec<u8>, SocketAddr) {
        let mut room = [0; 4096];
        let (len, peer) = self.0.recv_from(&mut room).unwrap();
        (room[..len].to_vec(), peer)
    }

    /// Answers the next query.
    fn answer(&self, addr: [u8; 4], ttl: u32) {
        let (query, peer) = self.query();
        self.0.send_to(&answer(&query, addr, ttl), peer).unwrap();
    }
}

fn send(guest: &Guest, message: &[u8]) {
    let framer = guest.framer();
    let (from, to) = (
        "10.0.2.15:4000".parse().unwrap(),
        "10.0.2.3:53".parse().unwrap(),
    );
    guest.send(framer.udp(from, to, message));
}

#[test]
fn queries_are_forwarded() {
    let fake = Fake::new();
    let guest = Guest::new(|c| c.dns = vec![fake.resolver()]);
    let query = ask(0x1234, "www.debian.org", 1);
    send(&guest, &query);
    let (forwarded, peer) = fake.query();
    // The same but for its number, which others must not guess.
    assert_eq!(forwarded[2..], query[2..]);
    // What does not fit the question is not taken.
    let mut other = answer(&forwarded, [6, 6, 6, 6], 60);
    other[0] ^= 1;
    fake.0.send_to(&other, peer).unwrap();
    let other = answer(&ask(0, "deb.debian.com", 1), [6, 6, 6, 6], 60);
    fake.0.send_to(&other, peer).unwrap();
    fake.0.send_to(&forwarded, peer).unwrap();
    fake.0
        .send_to(&answer(&forwarded, [192, 0, 2, 1], 60), peer)
        .unwrap();
    let packet = guest.packet();
    assert_eq!(packet.source.to_string(), "10.0.2.3");
    assert_eq!(packet.udp(), answer(&query, [192, 0, 2, 1], 60));
    guest.silence();
    // Over IPv6 as well.
    let framer = guest.framer();
    let (from, to) = (
        "[fd00::99]:4000".parse().unwrap(),
        "[fd00::3]:53".parse().unwrap(),
    );
    guest.send(framer.udp(from, to, &query));
    fake.answer([192, 0, 2, 2], 60);
    let packet = guest.packet();
    assert_eq!(packet.destination.to_string(), "fd00::99");
    assert_eq!(packet.udp(), answer(&query, [192, 0, 2, 2], 60));
}

#[test]
fn the_next_resolver_is_asked() {
    let (silent, fake) = (Fake::new(), Fake::new());
    // Nobody listens there, which is known at once.
    let gone = Fake::new().resolver();
    let guest = Guest::new(|c| c.dns = vec![gone, silent.resolver(), fake.resolver()]);
    let query = ask(1, "a.example", 28);
    send(&guest, &query);
    silent.query();
    fake.answer([192, 0, 2, 1], 60);
    assert_eq!(guest.packet().udp(), answer(&query, [192, 0, 2, 1], 60));

    let guest = Guest::new(|c| c.dns = vec![gone]);
    send(&guest, &query);
    let refused = guest.packet();
    assert_eq!(
        (refused.udp()[3] & 15, &refused.udp()[..2]),
        (2, &query[..2])
    );
}

#[test]
fn connections_carry_queries_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let resolver = Resolver(listener.local_addr().unwrap());
    let far = thread::spawn(move || {
        for n in 0..3u8 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut query = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut query).unwrap();
            let mut answer = answer(&query, [192, 0, 2, n], 60);
            // Larger than a datagram may be.
            answer.resize(50_000, 0);
            let len = (answer.len() as u16).to_be_bytes();
            stream.write_all(&len).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    let mut guest = Guest::new(|c| c.dns = vec![resolver]);
    let handle = guest.connect("10.0.2.3:53".parse().unwrap());
    for n in 0..3 {
        let query = ask(n, "a.example", 1);
        let message = [&(query.len() as u16).to_be_bytes(), &query[..]].concat();
        guest.write(handle, &message);
        if n == 2 {
            guest.tcp(handle).close();
        }
        let got = guest.read_exact(handle, 50_002);
        assert_eq!(got[..2], 50_000u16.to_be_bytes());
        let mut expected = answer(&query, [192, 0, 2, n as u8], 60);
        expected.resize(50_000, 0);
        assert!(got[2..] == expected);
    }
    assert_eq!(guest.read_to_end(handle).unwrap(), b"");
    far.join().unwrap();
    // What is no query ends it.
    let handle = guest.connect("10.0.2.3:53".parse().unwrap());
    guest.write(handle, &[0xff; 9]);
    guest.read_to_end(handle).unwrap_err();
}

#[test]
fn names_open_addresses() {
    let fake = Fake::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = SocketAddr::from(([10, 0, 2, 2], listener.local_addr().unwrap().port()));
    let mut guest = Guest::new(|c| {
        c.dns = vec![fake.resolver()];
        c.host_loopback = true;
        c.policy = "allow:*.example".parse().unwrap();
    });
    // Not yet.
    let handle = guest.begin(to);
    guest.wait(std::time::Duration::from_millis(100));
    assert_eq!(guest.tcp(handle).state(), State::SynSent);
    guest.tcp(handle).abort();
    guest.poll();
    // Another name is not asked for at all.
    send(&guest, &ask(1, "a.example.org", 1));
    let refused = guest.packet();
    assert_eq!(refused.udp()[3] & 15, 5);
    send(&guest, &ask(2, "A.Example", 1));
    fake.answer([10, 0, 2, 2], 0);
    guest.packet();
    guest.connect(to);
}

#[test]
fn queries_under_way_are_bounded() {
    let fake = Fake::new();
    let guest = Guest::new(|c| c.dns = vec![fake.resolver()]);
    for n in 0..300 {
        send(&guest, &ask(n, "a.example", 1));
        if n < 256 {
            fake.query();
        }
    }
    for _ in 256..300 {
        assert_eq!(guest.packet().udp()[3] & 15, 2);
    }
    guest.silence();
    // A reset forgets them.
    guest.card().reset(crate::Offload::default());
    send(&guest, &ask(7, "a.example", 1));
    let (query, peer) = fake.query();
    fake.0
        .send_to(&answer(&query, [192, 0, 2, 1], 60), peer)
        .unwrap();
    assert_eq!(guest.packet().udp()[..2], [0, 7]);
}
