use std::net::UdpSocket;
use std::time::Duration;

use super::guest::Guest;
use super::pattern;

fn server() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(super::guest::PATIENCE))
        .unwrap();
    let to = format!("10.0.2.2:{}", socket.local_addr().unwrap().port());
    (socket, to)
}

#[test]
fn datagrams_go_out_and_their_answers_come_in() {
    let guest = Guest::on_loopback();
    let (socket, to) = server();
    for size in [0, 1, 1400, 65000] {
        let data = pattern(size);
        let framer = guest.framer();
        let from = "10.0.2.15:5000".parse().unwrap();
        guest.send(framer.udp(from, to.parse().unwrap(), &data));
        let mut room = vec![0; 65536];
        let (n, peer) = socket.recv_from(&mut room).unwrap();
        assert!(room[..n] == data);
        socket.send_to(&data, peer).unwrap();
        // Nobody else can answer.
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"me too", peer).unwrap();
        let packet = guest.packet();
        assert_eq!(packet.source.to_string(), "10.0.2.2");
        assert!(packet.udp() == data);
        guest.silence();
    }
}

#[test]
fn a_port_without_a_listener_is_unreachable() {
    let guest = Guest::on_loopback();
    let (socket, to) = server();
    drop(socket);
    let packet = guest.exchange("10.0.2.15:5000", &to, b"anyone?");
    assert_eq!(packet.icmp(), (3, 3));
    // It quotes the datagram: its IP header, and its ports.
    assert_eq!(packet.payload[28..30], 5000u16.to_be_bytes());
}

#[test]
fn what_is_closed_is_prohibited() {
    let guest = Guest::new(|_| {});
    for (to, answer) in [
        ("127.0.0.1:53", (3, 13)),
        ("169.254.169.254:80", (3, 13)),
        ("0.0.0.0:80", (3, 13)),
        ("10.0.2.2:80", (3, 3)),
        ("10.0.2.77:80", (3, 1)),
    ] {
        assert_eq!(
            guest.exchange("10.0.2.15:1", to, b"x").icmp(),
            answer,
            "{to}"
        );
    }
    for to in ["[::1]:53", "[::ffff:127.0.0.1]:53", "[fd00:ec2::254]:80"] {
        assert_eq!(
            guest.exchange("[fd00::15]:1", to, b"x").icmp(),
            (1, 1),
            "{to}"
        );
    }
    let framer = guest.framer();
    for to in ["224.0.0.251:5353", "255.255.255.255:9", "10.0.2.255:9"] {
        guest.send(framer.udp("10.0.2.15:1".parse().unwrap(), to.parse().unwrap(), b"x"));
    }
    // The network's own broadcast address is nobody's.
    assert_eq!(guest.packet().icmp(), (3, 1));
    guest.silence();
}

#[test]
fn policies_hold_for_datagrams() {
    let (socket, to) = server();
    let port = socket.local_addr().unwrap().port();
    let guest = Guest::new(|c| {
        c.host_loopback = true;
        c.policy = format!("allow:10.0.2.2:{port}/udp").parse().unwrap();
    });
    let framer = guest.framer();
    let from = "10.0.2.15:1".parse().unwrap();
    guest.send(framer.udp(from, to.parse().unwrap(), b"yes"));
    let mut room = [0; 9];
    assert_eq!(socket.recv(&mut room).unwrap(), 3);
    for to in ["10.0.2.2:1", "192.0.2.1:1", "8.8.8.8:53"] {
        assert_eq!(
            guest.exchange("10.0.2.15:1", to, b"no").icmp(),
            (3, 13),
            "{to}"
        );
    }
}

#[test]
fn more_flows_than_there_may_be() {
    let guest = Guest::on_loopback();
    let (socket, to) = server();
    let framer = guest.framer();
    let mut room = [0; 9];
    let mut peers = Vec::new();
    for port in 1..2000u16 {
        let from = format!("10.0.2.15:{port}").parse().unwrap();
        guest.send(framer.udp(from, to.parse().unwrap(), &port.to_be_bytes()));
        let (n, peer) = socket.recv_from(&mut room).unwrap();
        assert_eq!(room[..n], port.to_be_bytes());
        peers.push(peer);
    }
    // The last lives, the first is gone.
    socket.send_to(b"x", peers[0]).unwrap();
    socket.send_to(b"last", peers[1998]).unwrap();
    assert_eq!(guest.packet().udp(), b"last");
    assert_eq!(guest.frame_within(Duration::from_millis(50)), None);
}
