//! What goes no further than the gateway: ARP, neighbour discovery, DHCP, echo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::*;

use super::guest::{Guest, MAC, Packet};
use crate::packet::{ETHERNET, Framer};
use crate::stack::GATEWAY_MAC;

fn arp(guest: &Guest, asked: &str) {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(MAC),
        source_protocol_addr: "10.0.2.15".parse().unwrap(),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: asked.parse().unwrap(),
    };
    let framer = guest.framer();
    let mut bytes = framer.frame(
        EthernetAddress::BROADCAST,
        EthernetProtocol::Arp,
        request.buffer_len(),
    );
    request.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    guest.card().send(bytes);
}

#[test]
fn arp_is_answered_for_the_gateway_and_the_resolver_alone() {
    let guest = Guest::new(|_| {});
    for asked in ["10.0.2.2", "10.0.2.3"] {
        arp(&guest, asked);
        let frame = guest.frame();
        let reply = ArpPacket::new_checked(&frame[ETHERNET..]).unwrap();
        assert_eq!(reply.operation(), ArpOperation::Reply);
        assert_eq!(reply.source_hardware_addr(), GATEWAY_MAC.as_bytes());
        assert_eq!(
            reply.source_protocol_addr(),
            asked.parse::<Ipv4Addr>().unwrap().octets()
        );
    }
    for asked in ["10.0.2.15", "10.0.2.1", "8.8.8.8"] {
        arp(&guest, asked);
    }
    guest.silence();
}

/// Sends an ICMPv6 message and returns the one that comes back.
fn icmp6(guest: &Guest, from: &str, to: &str, mac: [u8; 6], repr: &Icmpv6Repr<'_>) -> Vec<u8> {
    let framer = Framer {
        guest: EthernetAddress(mac),
        ..guest.framer()
    };
    guest.send(framer.icmp6(from.parse().unwrap(), to.parse().unwrap(), 255, repr));
    guest.frame()
}

fn parse6(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, &[u8]) {
    let ip = Ipv6Packet::new_checked(&frame[ETHERNET..]).unwrap();
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let icmp = Icmpv6Packet::new_checked(&frame[ETHERNET + 40..]).unwrap();
    assert_eq!(ip.hop_limit(), 255);
    Icmpv6Repr::parse(&from, &to, &icmp, &ChecksumCapabilities::default())
        .expect("the checksum is right");
    (from, to, &frame[ETHERNET + 40..])
}

#[test]
fn neighbours_are_found() {
    let guest = Guest::new(|_| {});
    for asked in ["fd00::2", "fd00::3", "fe80::2"] {
        let target: Ipv6Addr = asked.parse().unwrap();
        let solicit = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: Some(EthernetAddress(MAC).into()),
        });
        let mac = [0x33, 0x33, 0xff, 0, 0, target.octets()[15]];
        let group = format!("ff02::1:ff00:{:x}", target.octets()[15]);
        let frame = icmp6(&guest, "fe80::1234", &group, mac, &solicit);
        let (from, to, message) = parse6(&frame);
        assert_eq!((from, to.to_string().as_str()), (target, "fe80::1234"));
        assert_eq!(message[0], 136);
        assert_eq!(message[8..24], target.octets());
        assert_eq!(message[24..26], [2, 1]);
        assert_eq!(message[26..32], *GATEWAY_MAC.as_bytes());
    }
    // The guest's look whether its own address is free must find nobody.
    let probe = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: "fd00::15".parse().unwrap(),
        lladdr: None,
    });
    let framer = guest.framer();
    guest.send(framer.icmp6(
        Ipv6Addr::UNSPECIFIED,
        "ff02::1:ff00:15".parse().unwrap(),
        255,
        &probe,
    ));
    guest.silence();
}

#[test]
fn the_router_tells_prefix_mtu_and_resolver() {
    let guest = Guest::with_mtu(1500, |_| {});
    let solicit = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    let frame = icmp6(
        &guest,
        "fe80::1",
        "ff02::2",
        [0x33, 0x33, 0, 0, 0, 2],
        &solicit,
    );
    let (from, to, message) = parse6(&frame);
    assert_eq!(
        (from.to_string(), to.to_string()),
        ("fe80::2".into(), "fe80::1".into())
    );
    assert_eq!(message[0], 134);
    assert_eq!(message[6..8], [0xff, 0xff]);
    let mut options = &message[16..];
    let mut seen = Vec::new();
    while let [kind, len, ..] = *options {
        let (option, rest) = options.split_at(usize::from(len) * 8);
        seen.push(kind);
        match kind {
            1 => assert_eq!(option[2..], *GATEWAY_MAC.as_bytes()),
            3 => {
                assert_eq!(option[2..4], [64, 0xc0]);
                assert_eq!(option[16..], "fd00::".parse::<Ipv6Addr>().unwrap().octets());
            }
            5 => assert_eq!(option[4..], 1500u32.to_be_bytes()),
            25 => assert_eq!(option[8..], "fd00::3".parse::<Ipv6Addr>().unwrap().octets()),
            _ => panic!("option {kind}"),
        }
        options = rest;
    }
    assert_eq!(seen, [1, 3, 5, 25]);

    let without = Guest::new(|c| c.ipv6 = false);
    let framer = without.framer();
    without.send(framer.icmp6(
        "fe80::1".parse().unwrap(),
        "ff02::2".parse().unwrap(),
        255,
        &solicit,
    ));
    without.silence();
}

fn dhcp(guest: &Guest, change: impl FnOnce(&mut DhcpRepr<'_>)) -> Option<Vec<u8>> {
    let mut request = DhcpRepr {
        message_type: DhcpMessageType::Discover,
        transaction_id: 0x1234_5678,
        secs: 0,
        client_hardware_address: EthernetAddress(MAC),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    change(&mut request);
    let mut bytes = vec![0; request.buffer_len()];
    request
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
        .unwrap();
    let framer = Framer {
        guest: EthernetAddress::BROADCAST,
        ..guest.framer()
    };
    let from = SocketAddr::new(request.client_ip.into(), 68);
    guest.send(framer.udp(from, "255.255.255.255:67".parse().unwrap(), &bytes));
    let frame = guest.frame_within(std::time::Duration::from_millis(300))?;
    Some(Packet::of(&frame).udp().to_vec())
}

#[test]
fn an_address_is_leased() {
    let guest = Guest::with_mtu(9000, |_| {});
    let guests: Ipv4Addr = "10.0.2.15".parse().unwrap();
    let gateway: Ipv4Addr = "10.0.2.2".parse().unwrap();
    let offer = dhcp(&guest, |_| {}).unwrap();
    let packet = DhcpPacket::new_checked(&offer[..]).unwrap();
    let mtu = packet.options().find(|o| o.kind == 26).unwrap();
    assert_eq!(mtu.data, 9000u16.to_be_bytes());
    let offer = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(offer.message_type, DhcpMessageType::Offer);
    assert_eq!((offer.transaction_id, offer.your_ip), (0x1234_5678, guests));
    assert_eq!(
        (offer.router, offer.server_identifier),
        (Some(gateway), Some(gateway))
    );
    assert_eq!(offer.subnet_mask, Some("255.255.255.0".parse().unwrap()));
    assert_eq!(
        offer.dns_servers.unwrap()[..],
        ["10.0.2.3".parse::<Ipv4Addr>().unwrap()]
    );

    let kind = |reply: Option<Vec<u8>>| {
        let reply = reply?;
        let packet = DhcpPacket::new_checked(&reply[..]).unwrap();
        Some(DhcpRepr::parse(&packet).unwrap().message_type)
    };
    let request = |wanted: Ipv4Addr, server: Ipv4Addr| {
        kind(dhcp(&guest, |r| {
            r.message_type = DhcpMessageType::Request;
            r.requested_ip = Some(wanted);
            r.server_identifier = Some(server);
            r.broadcast = true;
        }))
    };
    assert_eq!(request(guests, gateway), Some(DhcpMessageType::Ack));
    assert_eq!(request(gateway, gateway), Some(DhcpMessageType::Nak));
    // It chose another server.
    assert_eq!(request(guests, guests), None);
    // Renewal.
    let renewed = dhcp(&guest, |r| {
        r.message_type = DhcpMessageType::Request;
        r.client_ip = guests;
    });
    assert_eq!(kind(renewed), Some(DhcpMessageType::Ack));
    assert_eq!(
        kind(dhcp(&guest, |r| r.message_type = DhcpMessageType::Release)),
        None
    );
}

fn echo4(guest: &Guest, to: &str, data: &[u8]) -> Packet {
    let request = Icmpv4Repr::EchoRequest {
        ident: 0x4321,
        seq_no: 7,
        data,
    };
    let framer = guest.framer();
    guest.send(framer.icmp4("10.0.2.15".parse().unwrap(), to.parse().unwrap(), &request));
    guest.packet()
}

#[test]
fn the_gateway_answers_echo_requests() {
    let guest = Guest::new(|_| {});
    for to in ["10.0.2.2", "10.0.2.3"] {
        let reply = echo4(&guest, to, b"12345");
        assert_eq!(reply.source, to.parse::<IpAddr>().unwrap());
        assert_eq!(reply.icmp(), (0, 0));
        assert_eq!(reply.payload[4..], *b"\x43\x21\0\x0712345");
        let icmp = Icmpv4Packet::new_checked(&reply.payload[..]).unwrap();
        assert!(icmp.verify_checksum());
    }
    let request = Icmpv6Repr::EchoRequest {
        ident: 0x4321,
        seq_no: 7,
        data: b"12345",
    };
    let framer = guest.framer();
    guest.send(framer.icmp6(
        "fd00::15".parse().unwrap(),
        "fd00::2".parse().unwrap(),
        64,
        &request,
    ));
    let reply = guest.packet();
    assert_eq!(
        (reply.icmp(), &reply.payload[4..]),
        ((129, 0), &b"\x43\x21\0\x0712345"[..])
    );
    // What is closed is to echo requests, too.
    assert_eq!(echo4(&guest, "127.0.0.1", b"x").icmp(), (3, 13));
    assert_eq!(echo4(&guest, "169.254.169.254", b"x").icmp(), (3, 13));
}

/// The host's own address, if it has one besides loopback: nothing is sent to it.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[test]
fn echo_requests_go_out() {
    let Some(own) = own_address() else {
        eprintln!("this host has no network");
        return;
    };
    let guest = Guest::new(|_| {});
    let reply = echo4(&guest, &own.to_string(), b"12345");
    if crate::sockets::connect_ping(own).is_err() {
        // The host lets nobody: the guest is told.
        assert_eq!(reply.icmp(), (3, 13));
        return;
    }
    assert_eq!((reply.icmp(), reply.source), ((0, 0), own));
    assert_eq!(reply.payload[4..], *b"\x43\x21\0\x0712345");
    let denied = Guest::new(|c| c.policy = "deny:*:*/icmp,allow".parse().unwrap());
    assert_eq!(echo4(&denied, &own.to_string(), b"x").icmp(), (3, 13));
}
