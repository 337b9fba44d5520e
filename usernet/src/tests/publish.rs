use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use smoltcp::wire::UdpPacket;

use super::guest::{Guest, PATIENCE};
use super::pattern;
use crate::{Config, Error, UserNet};

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn connections_come_in() {
    let mut guest = Guest::new(|c| c.publish = vec!["127.0.0.1::80".parse().unwrap()]);
    let host = guest.net.published()[0].host;
    assert_ne!(host.port(), 0);
    for _ in 0..3 {
        let handle = guest.listen(80);
        let client = thread::spawn(move || {
            let mut stream = connect(host);
            stream.write_all(&pattern(1 << 20)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        assert!(guest.read_to_end(handle).unwrap() == pattern(1 << 20));
        // They come from the gateway.
        let peer = guest.tcp(handle).remote_endpoint().unwrap();
        assert_eq!(peer.addr.to_string(), "10.0.2.2");
        guest.write(handle, b"thanks");
        guest.tcp(handle).close();
        guest.until("closed", |g| (!g.tcp(handle).is_open()).then_some(()));
        assert_eq!(client.join().unwrap(), b"thanks");
    }
}

#[test]
fn all_addresses_of_the_host_are_published() {
    let mut guest = Guest::new(|c| c.publish = vec!["80".parse().unwrap()]);
    let port = guest.net.published()[0].host.port();
    let mut addrs = vec!["127.0.0.1"];
    if TcpListener::bind("[::1]:0").is_ok() {
        addrs.push("::1");
    }
    for addr in addrs {
        let handle = guest.listen(80);
        let mut stream = connect(SocketAddr::new(addr.parse().unwrap(), port));
        stream.write_all(b"x").unwrap();
        assert_eq!(guest.read_exact(handle, 1), b"x");
    }
}

#[test]
fn a_guest_that_does_not_listen_resets() {
    let mut guest = Guest::new(|c| c.publish = vec!["127.0.0.1::80".parse().unwrap()]);
    let mut stream = connect(guest.net.published()[0].host);
    let client = thread::spawn(move || stream.read(&mut [0]).unwrap_err().kind());
    guest.until("reset", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn datagrams_come_in_and_their_answers_go_out() {
    let guest = Guest::new(|c| c.publish = vec!["127.0.0.1::53/udp".parse().unwrap()]);
    let host = guest.net.published()[0].host;
    let clients: Vec<_> = (0..3)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let framer = guest.framer();
    for round in 0..2u8 {
        for (n, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(&[n as u8, round], host).unwrap();
            let packet = guest.packet();
            assert_eq!(packet.udp(), [n as u8, round]);
            assert_eq!(packet.source.to_string(), "10.0.2.2");
            let udp = UdpPacket::new_checked(&packet.payload[..]).unwrap();
            assert_eq!(udp.dst_port(), 53);
            let (from, to) = (
                SocketAddr::new(packet.destination, 53),
                SocketAddr::new(packet.source, udp.src_port()),
            );
            guest.send(framer.udp(from, to, &[n as u8, round, 9]));
            let mut room = [0; 9];
            let (len, peer) = client.recv_from(&mut room).unwrap();
            assert_eq!((&room[..len], peer), (&[n as u8, round, 9][..], host));
        }
    }
}

/// A guest that takes nothing for a while, and is reset then, finds the ports open.
#[test]
fn published_ports_outlive_resets() {
    let guest = Guest::new(|c| c.publish = vec!["127.0.0.1::53/udp".parse().unwrap()]);
    let host = guest.net.published()[0].host;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..2000u16 {
        client.send_to(&n.to_be_bytes(), host).unwrap();
    }
    thread::sleep(std::time::Duration::from_millis(50));
    guest.card().reset(crate::Offload::default());
    while guest
        .frame_within(std::time::Duration::from_millis(100))
        .is_some()
    {}
    client.send_to(b"hello", host).unwrap();
    assert_eq!(guest.packet().udp(), b"hello");
}

#[test]
fn ports_that_cannot_be_had_are_named() {
    let error = |publish: &str| {
        let config = Config {
            publish: vec![publish.parse().unwrap()],
            ..Config::default()
        };
        UserNet::open(&config, 1500, super::guest::MAC).unwrap_err()
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    assert_eq!(
        error(&format!("127.0.0.1:{port}:80")).to_string(),
        format!(
            "network: the port 127.0.0.1:{port}/tcp of this host is in use: stop what uses it, or publish another"
        )
    );
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = error(&format!("127.0.0.1:{port}:80/udp"));
    assert!(matches!(in_use, Error::InUse(_)), "{in_use}");
    let nowhere = error("192.0.2.1:0:80").to_string();
    assert!(
        nowhere.starts_with("network: this host has no address 192.0.2.1: "),
        "{nowhere}"
    );
    // What was open before is free again.
    let config = Config {
        publish: vec![
            "127.0.0.1::80".parse().unwrap(),
            format!("127.0.0.1:{port}:80/udp").parse().unwrap(),
        ],
        ..Config::default()
    };
    UserNet::open(&config, 1500, super::guest::MAC).unwrap_err();
    drop(taken);
    let net = UserNet::open(&config, 1500, super::guest::MAC).unwrap();
    let host = net.published()[1].host;
    drop(net);
    UdpSocket::bind(host).unwrap();
}
