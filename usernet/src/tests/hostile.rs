use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::wire::*;

use super::guest::{Guest, MAC, Packet};
use crate::packet::{ETHERNET, ip_checksum_only};

/// A TCP segment by hand.
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    control: TcpControl,
    seq: i32,
    ack: Option<i32>,
) -> Vec<u8> {
    let tcp = TcpRepr {
        src_port: from.port(),
        dst_port: to.port(),
        control,
        seq_number: TcpSeqNumber(seq),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ip = IpRepr::new(
        from.ip().into(),
        to.ip().into(),
        IpProtocol::Tcp,
        tcp.buffer_len(),
        64,
    );
    let kind = match from.is_ipv6() {
        true => EthernetProtocol::Ipv6,
        false => EthernetProtocol::Ipv4,
    };
    let mut bytes = vec![0; ETHERNET + ip.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_src_addr(EthernetAddress(MAC));
    frame.set_dst_addr(crate::stack::GATEWAY_MAC);
    frame.set_ethertype(kind);
    ip.emit(&mut bytes[ETHERNET..], &ip_checksum_only());
    let mut packet = TcpPacket::new_unchecked(&mut bytes[ETHERNET + ip.header_len()..]);
    tcp.emit(
        &mut packet,
        &ip.src_addr(),
        &ip.dst_addr(),
        &ip_checksum_only(),
    );
    bytes
}

fn syn(from: &str, to: &str) -> Vec<u8> {
    segment(
        from.parse().unwrap(),
        to.parse().unwrap(),
        TcpControl::Syn,
        1,
        None,
    )
}

/// The network still works.
fn works(guest: &Guest) {
    let echo = Icmpv4Repr::EchoRequest {
        ident: 1,
        seq_no: 1,
        data: b"still there?",
    };
    let framer = guest.framer();
    let limit = std::time::Instant::now() + super::guest::PATIENCE;
    while !guest.card().has_room() {
        while guest.card().receive().is_some() {}
        assert!(std::time::Instant::now() < limit);
    }
    guest.send(framer.icmp4(
        "10.0.2.15".parse().unwrap(),
        "10.0.2.2".parse().unwrap(),
        &echo,
    ));
    loop {
        let frame = guest.frame();
        if frame.ends_with(b"still there?") && frame[ETHERNET + 20] == 0 {
            return;
        }
    }
}

#[test]
fn closed_destinations_answer_a_syn_at_once() {
    let guest = Guest::new(|_| {});
    for (from, to, answer) in [
        ("10.0.2.15:1", "127.0.0.1:80", (3, 13)),
        ("10.0.2.15:1", "169.254.169.254:80", (3, 13)),
        ("[fd00::15]:1", "[::1]:80", (1, 1)),
        ("[fd00::15]:1", "[fd00:ec2::254]:80", (1, 1)),
    ] {
        guest.card().send(syn(from, to));
        assert_eq!(guest.packet().icmp(), answer, "{to}");
    }
    // The gateway and the resolver are machines on which nothing listens.
    for to in ["10.0.2.2:80", "10.0.2.3:80"] {
        guest.card().send(syn("10.0.2.15:1", to));
        let packet = guest.packet();
        let tcp = TcpPacket::new_checked(&packet.payload[..]).unwrap();
        assert!(tcp.rst() && tcp.ack() && tcp.ack_number() == TcpSeqNumber(2));
    }
}

#[test]
fn a_host_without_a_way_says_so() {
    let guest = Guest::new(|_| {});
    // TEST-NET-3 and the documentation's prefix: no host has a route of its own to
    // them, but a default one may lead there.
    for (from, to, wanted) in [("[fd00::15]:1", "[2001:db8::1]:80", 1)] {
        if std::net::UdpSocket::bind("[::]:0")
            .and_then(|s| s.connect("[2001:db8::1]:80"))
            .is_ok()
        {
            eprintln!("this host has IPv6");
            continue;
        }
        guest.card().send(syn(from, to));
        assert_eq!(guest.packet().icmp().0, wanted, "{to}");
    }
}

#[test]
fn packets_of_others_do_not_pass() {
    let guest = Guest::on_loopback();
    let framer = guest.framer();
    for (from, to) in [
        ("10.0.2.16:1", "10.0.2.2:9"),
        ("127.0.0.1:1", "10.0.2.2:9"),
        ("10.0.2.2:1", "10.0.2.2:9"),
        ("0.0.0.0:1", "10.0.2.2:9"),
        ("255.255.255.255:1", "10.0.2.2:9"),
        ("[fd00::2]:1", "[fd00::2]:9"),
        ("[fe80::1]:1", "[fd00::2]:9"),
        ("[2001:db8::1]:1", "[fd00::2]:9"),
        ("[::]:1", "[fd00::2]:9"),
        ("[::1]:1", "[fd00::2]:9"),
    ] {
        guest.card().send(syn(from, to));
        guest.send(framer.udp(from.parse().unwrap(), to.parse().unwrap(), b"x"));
    }
    guest.silence();
    works(&guest);
}

#[test]
fn a_flood_of_wishes_is_bounded() {
    let guest = Guest::on_loopback();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("10.0.2.2:{}", listener.local_addr().unwrap().port());
    let before = descriptors();
    for port in 1..5000 {
        while !guest.card().has_room() {
            while guest.card().receive().is_some() {}
        }
        guest.card().send(syn(&format!("10.0.2.15:{port}"), &to));
        if port % 50 == 0 {
            // So that the host's queue is not what limits it.
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {}
        }
    }
    works(&guest);
    let after = descriptors();
    assert!(after < before + 1024 + 600, "{before} {after}");
    guest.card().reset(crate::Offload::default());
    works(&guest);
    assert!(descriptors() < before + 600);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Segments that fit no connection, in all combinations of flags.
#[test]
fn odd_segments_are_survived() {
    let guest = Guest::on_loopback();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = SocketAddr::from(([10, 0, 2, 2], port));
    let from = SocketAddr::from(([10, 0, 2, 15], 1000));
    for first in [None, Some(TcpControl::Syn)] {
        for flags in 0..=255u8 {
            if let Some(control) = first {
                guest.card().send(segment(from, to, control, 100, None));
            }
            for seq in [0, 100, 101, 102, 200_000, i32::MIN, i32::MAX, -1] {
                let mut bytes = segment(from, to, TcpControl::None, seq, Some(seq ^ 5));
                bytes[ETHERNET + 20 + 13] = flags;
                guest.card().send(bytes);
            }
            while guest.frame_within(Duration::ZERO).is_some() {}
        }
    }
    works(&guest);
}

#[test]
fn a_guest_that_takes_nothing_is_held_back() {
    let guest = Guest::new(|_| {});
    let echo = Icmpv4Repr::EchoRequest {
        ident: 1,
        seq_no: 1,
        data: &[7; 1000],
    };
    let framer = guest.framer();
    let frame = framer
        .icmp4(
            "10.0.2.15".parse().unwrap(),
            "10.0.2.2".parse().unwrap(),
            &echo,
        )
        .unwrap()
        .bytes;
    let (mut sent, mut stalled) = (0, 0);
    while stalled < 100 {
        if guest.card().has_room() {
            guest.card().send(frame.clone());
            (sent, stalled) = (sent + 1, 0);
        } else {
            std::thread::sleep(Duration::from_millis(1));
            stalled += 1;
        }
        assert!(sent < 10_000, "nothing holds the guest back");
    }
    for n in 0..sent {
        let answer = Packet::of(&guest.frame());
        assert_eq!(answer.payload.len(), 1008, "{n}");
    }
    works(&guest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Frames of anything, and good ones with some bytes changed.
    #[test]
    fn garbage_is_survived(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..50),
        changes in proptest::collection::vec((0usize..90, any::<u8>()), 0..50),
    ) {
        let guest = Guest::new(|c| {
            c.host_loopback = true;
            // Nothing out there is to be bothered.
            c.policy = "allow:10.0.2.2:1,allow:[fd00::2]:1,deny".parse().unwrap();
        });
        let framer = guest.framer();
        let good = [
            syn("10.0.2.15:1", "10.0.2.2:1"),
            syn("[fd00::15]:1", "[fd00::2]:1"),
            framer.udp("10.0.2.15:1".parse().unwrap(), "10.0.2.2:1".parse().unwrap(), b"data").unwrap().bytes,
            framer.udp("10.0.2.15:1".parse().unwrap(), "10.0.2.3:53".parse().unwrap(), &[1; 40]).unwrap().bytes,
            framer.udp("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), &[1; 300]).unwrap().bytes,
        ];
        for (n, frame) in frames.iter().enumerate() {
            let mut header = good[n % good.len()][..ETHERNET].to_vec();
            header.extend(frame);
            guest.card().send(header);
            guest.card().send(frame.clone());
        }
        for (n, (at, value)) in changes.iter().enumerate() {
            let mut frame = good[n % good.len()].clone();
            if let Some(byte) = frame.get_mut(*at) {
                *byte = *value;
            }
            guest.card().send(frame);
        }
        works(&guest);
    }
}
