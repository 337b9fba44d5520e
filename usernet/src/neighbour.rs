//! What the guest asks its neighbours: ARP (RFC 826), and neighbour and router
//! discovery (RFC 4861) with the DNS option (RFC 8106). The gateway answers for
//! itself and for the DNS forwarder; other addresses of the network are nobody's.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    NdiscNeighborFlags, NdiscRepr,
};

use crate::context::Context;
use crate::link::Frame;
use crate::packet::{ETHERNET, Framer, IpIn};
use crate::poll::Token;

/// The gateway's link-local address: routers must advertise from one.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
/// Neighbour discovery is valid on its own link only (RFC 4861 §6.1, §7.1).
const ND_HOPS: u8 = 255;
/// How long the gateway may be used, in seconds: the most that the field holds
/// (RFC 8319).
const ROUTER_LIFETIME: u16 = 65535;
/// How often that is said again.
const ADVERTISE: Duration = Duration::from_secs(1800);

/// Answers an ARP request for one of our addresses.
pub fn arp(cx: &Context, bytes: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(bytes) else {
        return;
    };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: guest,
        source_protocol_addr: from,
        target_protocol_addr: asked,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    let ours = asked == cx.addresses.gateway || asked == cx.addresses.dns;
    if !ours || !guest.is_unicast() {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: cx.framer.gateway,
        source_protocol_addr: asked,
        target_hardware_addr: guest,
        target_protocol_addr: from,
    };
    let mut bytes = cx
        .framer
        .frame(guest, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    cx.send(Some(Frame {
        bytes,
        unfinished: None,
    }));
}

/// Answers neighbour and router solicitations; true when the packet was part of
/// neighbour discovery.
pub fn discovery(cx: &Context, ip: &IpIn<'_>) -> bool {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (ip.source, ip.destination) else {
        return false;
    };
    let Ok(packet) = Icmpv6Packet::new_checked(ip.payload) else {
        return true;
    };
    if !packet.msg_type().is_ndisc() && !packet.msg_type().is_mld() {
        return false;
    }
    let ignored = ChecksumCapabilities::ignored();
    let Ok(Icmpv6Repr::Ndisc(message)) = Icmpv6Repr::parse(&from, &to, &packet, &ignored) else {
        return true;
    };
    // An answer to the unspecified address goes to everyone.
    let (answer_to, mac) = match from.is_unspecified() {
        true => (ALL_NODES, ALL_NODES_MAC),
        false => (from, ip.mac),
    };
    let framer = Framer {
        guest: mac,
        ..cx.framer
    };
    match message {
        NdiscRepr::NeighborSolicit { target_addr, .. } => {
            let ours = [cx.addresses.gateway6, cx.addresses.dns6, LINK_LOCAL];
            if !ours.contains(&target_addr) {
                return true;
            }
            let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
            flags.set(NdiscNeighborFlags::SOLICITED, !from.is_unspecified());
            let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags,
                target_addr,
                lladdr: Some(cx.framer.gateway.into()),
            });
            cx.send(framer.icmp6(target_addr, answer_to, ND_HOPS, &advert));
        }
        NdiscRepr::RouterSolicit { .. } => cx.send(advertisement(cx, &framer, answer_to)),
        _ => {}
    }
    true
}

/// Tells the guest of the gateway, unasked, and will again.
pub fn advertise(cx: &mut Context) {
    let framer = Framer {
        guest: ALL_NODES_MAC,
        ..cx.framer
    };
    if cx.link.has_room() {
        cx.send(advertisement(cx, &framer, ALL_NODES));
    }
    cx.timers.add(cx.now + ADVERTISE, Token::Advertise);
}

/// A router advertisement: the prefix, the MTU, and the DNS forwarder. Written by
/// hand for the sake of the last.
fn advertisement(cx: &Context, framer: &Framer, to: Ipv6Addr) -> Option<Frame> {
    let forever = u32::MAX.to_be_bytes();
    let mut body = Vec::with_capacity(96);
    // §4.2: hop limit, no flags, lifetime, reachable time and timer unspecified.
    body.extend([crate::packet::HOPS, 0]);
    body.extend(ROUTER_LIFETIME.to_be_bytes());
    body.extend([0; 8]);
    // Source link-layer address (§4.6.1).
    body.extend([1, 1]);
    body.extend(cx.framer.gateway.as_bytes());
    // Prefix information (§4.6.2): on the link, for autoconfiguration.
    body.extend([3, 4, cx.addresses.prefix_len6, 0xc0]);
    body.extend(forever);
    body.extend(forever);
    body.extend([0; 4]);
    let prefix = cx.addresses.gateway6.segments();
    let [a, b, c, d, ..] = prefix;
    body.extend(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).octets());
    // MTU (§4.6.4).
    body.extend([5, 1, 0, 0]);
    body.extend(u32::from(cx.mtu).to_be_bytes());
    // Recursive DNS server (RFC 8106 §5.1).
    body.extend([25, 3, 0, 0]);
    body.extend(forever);
    body.extend(cx.addresses.dns6.octets());
    framer.icmp6_raw(LINK_LOCAL, to, ND_HOPS, [134, 0], &body)
}
