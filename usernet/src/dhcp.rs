//! A DHCP server (RFC 2131) that has one address to give.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, UdpPacket,
};

use crate::context::Context;
use crate::packet::{Framer, IpIn};

/// The server's port.
pub const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// For how long, in seconds: a day. The address is nobody else's anyway.
const LEASE: u32 = 86400;
/// Interface MTU (RFC 2132 §5.1).
const OPTION_MTU: u8 = 26;

/// True for packets that this server is to look at: the guest has no address yet,
/// or renews its lease.
pub fn is_request(ip: &IpIn<'_>, cx: &Context) -> bool {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (ip.source, ip.destination) else {
        return false;
    };
    let asks = from.is_unspecified() || from == cx.addresses.guest;
    let us = to.is_broadcast() || to == cx.addresses.gateway;
    let udp = UdpPacket::new_checked(ip.payload);
    asks && us && udp.is_ok_and(|udp| udp.dst_port() == SERVER_PORT)
}

/// Answers a request.
pub fn serve(cx: &Context, ip: &IpIn<'_>) {
    let Ok(udp) = UdpPacket::new_checked(ip.payload) else {
        return;
    };
    let Ok(packet) = DhcpPacket::new_checked(udp.payload()) else {
        return;
    };
    let Ok(request) = DhcpRepr::parse(&packet) else {
        return;
    };
    let us = cx.addresses.gateway;
    if request.server_identifier.is_some_and(|server| server != us) {
        return;
    }
    let guest = cx.addresses.guest;
    let kind = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            match wanted == guest {
                true => DhcpMessageType::Ack,
                false => DhcpMessageType::Nak,
            }
        }
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return,
    };
    let gives = kind != DhcpMessageType::Nak;
    let leases = gives && request.message_type != DhcpMessageType::Inform;
    let mtu = cx.mtu.to_be_bytes();
    let options = [DhcpOption {
        kind: OPTION_MTU,
        data: &mtu,
    }];
    let servers = [cx.addresses.dns].into_iter().collect();
    let mask = u32::MAX << (32 - u32::from(cx.addresses.prefix_len));
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: if leases { guest } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: gives.then_some(us),
        subnet_mask: gives.then_some(Ipv4Addr::from(mask)),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(us),
        parameter_request_list: None,
        dns_servers: gives.then_some(servers),
        max_size: None,
        lease_duration: leases.then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if gives { &options } else { &[] },
    };
    let mut bytes = vec![0; reply.buffer_len()];
    if reply
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
        .is_err()
    {
        return;
    }
    // §4.1: to an address that the client has; else to all if it asks for that, or
    // must be told that it has none; else to the address that it is to get.
    let (to, mac) = if !request.client_ip.is_unspecified() && gives {
        (request.client_ip, ip.mac)
    } else if request.broadcast || !gives {
        (Ipv4Addr::BROADCAST, EthernetAddress::BROADCAST)
    } else {
        (guest, ip.mac)
    };
    let framer = Framer {
        guest: mac,
        ..cx.framer
    };
    let from = SocketAddr::new(us.into(), SERVER_PORT);
    cx.send(framer.udp(from, SocketAddr::new(to.into(), CLIENT_PORT), &bytes));
}
