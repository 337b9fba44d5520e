//! Frames taken apart and put together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Packet,
    Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpPacket, UdpPacket, UdpRepr,
};

use crate::link::{Frame, Offload, Unfinished};

/// Size of an Ethernet header.
pub const ETHERNET: usize = 14;
/// The hop limit of packets to the guest, which is one hop away.
pub const HOPS: u8 = 64;
/// How much of a refused packet an ICMP message quotes, with its IP header: the
/// least that every receiver understands (RFC 792; RFC 4443 §3.1 allows more).
const QUOTED: usize = 128;
/// Where TCP and UDP have their checksums.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// What the guest put into a frame.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A whole IP packet.
    Ip(IpIn<'a>),
    /// An ARP packet.
    Arp(&'a [u8]),
    /// Nothing to act upon: another protocol, a fragment, or malformed.
    Nothing,
}

/// An IP packet from the guest.
#[derive(Debug, Clone, Copy)]
pub struct IpIn<'a> {
    /// The hardware address that it came from.
    pub mac: EthernetAddress,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// What is inside.
    pub protocol: IpProtocol,
    /// What follows the headers.
    pub payload: &'a [u8],
    /// All of it, from the IP header to its end.
    pub packet: &'a [u8],
}

/// Takes a frame of the guest apart. `mac` is the gateway's address; frames for
/// others are nothing to us.
pub fn parse(bytes: &[u8], mac: EthernetAddress) -> Parsed<'_> {
    let Ok(frame) = EthernetFrame::new_checked(bytes) else {
        return Parsed::Nothing;
    };
    let to = frame.dst_addr();
    if to != mac && !to.is_multicast() && !to.is_broadcast() {
        return Parsed::Nothing;
    }
    let from = frame.src_addr();
    let inside = bytes.get(ETHERNET..).unwrap_or_default();
    let ip = match frame.ethertype() {
        EthernetProtocol::Arp => return Parsed::Arp(inside),
        EthernetProtocol::Ipv4 => parse4(inside, from),
        EthernetProtocol::Ipv6 => parse6(inside, from),
        _ => None,
    };
    // Someone must be there to answer to.
    match ip {
        Some(ip) if from.is_unicast() => Parsed::Ip(ip),
        _ => Parsed::Nothing,
    }
}

/// Fragments are dropped: with the MTU on offer there is no reason for any.
fn parse4(bytes: &[u8], mac: EthernetAddress) -> Option<IpIn<'_>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    if ip.version() != 4 || ip.header_len() < 20 || ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    Some(IpIn {
        mac,
        source: ip.src_addr().into(),
        destination: ip.dst_addr().into(),
        protocol: ip.next_header(),
        payload: bytes.get(ip.header_len().into()..ip.total_len().into())?,
        packet: bytes.get(..ip.total_len().into())?,
    })
}

/// Packets with extension headers are dropped: no TCP, UDP or echo request has any
/// that would outlive the first hop.
fn parse6(bytes: &[u8], mac: EthernetAddress) -> Option<IpIn<'_>> {
    let ip = Ipv6Packet::new_checked(bytes).ok()?;
    if ip.version() != 6 {
        return None;
    }
    Some(IpIn {
        mac,
        source: ip.src_addr().into(),
        destination: ip.dst_addr().into(),
        protocol: ip.next_header(),
        payload: bytes.get(ip.header_len()..ip.total_len())?,
        packet: bytes.get(..ip.total_len())?,
    })
}

/// Puts frames for the guest together.
#[derive(Debug, Clone, Copy)]
pub struct Framer {
    /// The gateway's hardware address.
    pub gateway: EthernetAddress,
    /// The guest's.
    pub guest: EthernetAddress,
    /// What the guest takes.
    pub offload: Offload,
}

impl Framer {
    /// A frame of this type with room for `len` bytes behind the header.
    pub fn frame(&self, to: EthernetAddress, kind: EthernetProtocol, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET + len];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_src_addr(self.gateway);
        frame.set_dst_addr(to);
        frame.set_ethertype(kind);
        bytes
    }

    /// A frame for an IP packet of `len` bytes to the guest.
    pub fn ip_frame(&self, v6: bool, len: usize) -> Vec<u8> {
        let kind = match v6 {
            true => EthernetProtocol::Ipv6,
            false => EthernetProtocol::Ipv4,
        };
        self.frame(self.guest, kind, len)
    }

    /// A UDP datagram; `None` when it is too long for one.
    pub fn udp(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> Option<Frame> {
        let repr = UdpRepr {
            src_port: from.port(),
            dst_port: to.port(),
        };
        let len = repr.header_len() + data.len();
        let ip = ip_repr(from.ip(), to.ip(), IpProtocol::Udp, len)?;
        let mut bytes = self.ip_frame(from.is_ipv6(), ip.buffer_len());
        let inside = &mut bytes[ETHERNET..];
        ip.emit(&mut *inside, &ip_checksum_only());
        let mut udp = UdpPacket::new_unchecked(&mut inside[ip.header_len()..]);
        let put = |payload: &mut [u8]| payload.copy_from_slice(data);
        repr.emit(
            &mut udp,
            &ip.src_addr(),
            &ip.dst_addr(),
            data.len(),
            put,
            &ip_checksum_only(),
        );
        Some(self.finish(bytes, None))
    }

    /// Makes a frame with a TCP segment or a UDP datagram, without a checksum,
    /// ready for the guest.
    pub fn finish(&self, mut bytes: Vec<u8>, segment_size: Option<u16>) -> Frame {
        let Some(checksum) = self.checksum_place(&bytes) else {
            return Frame {
                bytes,
                unfinished: None,
            };
        };
        let Place {
            start,
            field,
            source,
            destination,
            protocol,
            header_size,
        } = checksum;
        let at = start + field;
        let len = bytes.len() - start;
        let pseudo = pseudo_header(source, destination, protocol, len);
        if self.offload.checksum {
            let sum = fold(pseudo);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            return Frame {
                bytes,
                unfinished: Some(Unfinished {
                    checksum_start: start as u16,
                    checksum_offset: field as u16,
                    segment_size,
                    header_size: header_size as u16,
                }),
            };
        }
        bytes[at..at + 2].fill(0);
        let sum = match !fold(pseudo + sum(&bytes[start..])) {
            // To UDP, zero says that there is none (RFC 768).
            0 => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Frame {
            bytes,
            unfinished: None,
        }
    }

    fn checksum_place(&self, bytes: &[u8]) -> Option<Place> {
        let v6 = bytes.get(12..14)? == [0x86, 0xdd];
        let ip = match v6 {
            true => parse6(&bytes[ETHERNET..], self.guest)?,
            false => parse4(&bytes[ETHERNET..], self.guest)?,
        };
        let start = bytes.len() - ip.payload.len();
        let (field, header) = match ip.protocol {
            IpProtocol::Tcp => (
                TCP_CHECKSUM,
                TcpPacket::new_checked(ip.payload).ok()?.header_len().into(),
            ),
            IpProtocol::Udp if ip.payload.len() >= 8 => (UDP_CHECKSUM, 8),
            _ => return None,
        };
        Some(Place {
            start,
            field: field.into(),
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol.into(),
            header_size: start + header,
        })
    }

    /// An ICMP or ICMPv6 message that `refused` did not get through.
    pub fn unreachable(&self, gateway: IpAddr, refused: &[u8], why: Unreachable) -> Option<Frame> {
        let quote = |header: usize| refused.get(header..refused.len().min(QUOTED));
        if let IpAddr::V4(gateway) = gateway {
            let ip = Ipv4Packet::new_checked(refused).ok()?;
            let repr = Icmpv4Repr::DstUnreachable {
                reason: why.v4(),
                header: Ipv4Repr::parse(&ip, &ChecksumCapabilities::ignored()).ok()?,
                // The header is written anew, without options.
                data: quote(ip.header_len().into())?,
            };
            return self.icmp4(gateway, ip.src_addr(), &repr);
        }
        let IpAddr::V6(gateway) = gateway else {
            return None;
        };
        let ip = Ipv6Packet::new_checked(refused).ok()?;
        let repr = Icmpv6Repr::DstUnreachable {
            reason: why.v6(),
            header: Ipv6Repr::parse(&ip).ok()?,
            data: quote(ip.header_len())?,
        };
        self.icmp6(gateway, ip.src_addr(), HOPS, &repr)
    }

    /// An ICMP message.
    pub fn icmp4(&self, from: Ipv4Addr, to: Ipv4Addr, repr: &Icmpv4Repr<'_>) -> Option<Frame> {
        let ip = ip_repr(from.into(), to.into(), IpProtocol::Icmp, repr.buffer_len())?;
        let mut bytes = self.ip_frame(false, ip.buffer_len());
        let inside = &mut bytes[ETHERNET..];
        ip.emit(&mut *inside, &ChecksumCapabilities::default());
        let mut icmp = Icmpv4Packet::new_unchecked(&mut inside[ip.header_len()..]);
        repr.emit(&mut icmp, &ChecksumCapabilities::default());
        Some(Frame {
            bytes,
            unfinished: None,
        })
    }

    /// An ICMPv6 message.
    pub fn icmp6(
        &self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        hops: u8,
        repr: &Icmpv6Repr<'_>,
    ) -> Option<Frame> {
        let mut message = vec![0; repr.buffer_len()];
        let mut icmp = Icmpv6Packet::new_unchecked(&mut message[..]);
        repr.emit(&from, &to, &mut icmp, &ChecksumCapabilities::ignored());
        let (head, body) = message.split_at_checked(4)?;
        self.icmp6_raw(from, to, hops, [head[0], head[1]], body)
    }

    /// An ICMPv6 message of its type and code and what follows the checksum.
    pub fn icmp6_raw(
        &self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        hops: u8,
        [kind, code]: [u8; 2],
        body: &[u8],
    ) -> Option<Frame> {
        let ip = Ipv6Repr {
            src_addr: from,
            dst_addr: to,
            next_header: IpProtocol::Icmpv6,
            payload_len: 4 + body.len(),
            hop_limit: hops,
        };
        if ip.payload_len > usize::from(u16::MAX) {
            return None;
        }
        let mut bytes = self.ip_frame(true, ip.buffer_len() + ip.payload_len);
        let inside = &mut bytes[ETHERNET..];
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *inside));
        let icmp = &mut inside[ip.buffer_len()..];
        icmp[0] = kind;
        icmp[1] = code;
        icmp[4..].copy_from_slice(body);
        let protocol = IpProtocol::Icmpv6.into();
        let sum = pseudo_header(from.into(), to.into(), protocol, icmp.len()) + sum(icmp);
        icmp[2..4].copy_from_slice(&(!fold(sum)).to_be_bytes());
        Some(Frame {
            bytes,
            unfinished: None,
        })
    }
}

/// Where a checksum is, and what it is over besides the bytes behind `start`.
struct Place {
    start: usize,
    field: usize,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    header_size: usize,
}

/// Why a packet goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// The host has no way to that network.
    Network,
    /// The machine does not answer.
    Host,
    /// Nothing listens at the port.
    Port,
    /// It is not allowed.
    Prohibited,
}

impl Unreachable {
    fn v4(self) -> Icmpv4DstUnreachable {
        match self {
            Unreachable::Network => Icmpv4DstUnreachable::NetUnreachable,
            Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
            Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
            Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        }
    }

    fn v6(self) -> Icmpv6DstUnreachable {
        match self {
            Unreachable::Network => Icmpv6DstUnreachable::NoRoute,
            Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
            Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
            Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        }
    }
}

/// The header of a packet with `len` bytes behind it; `None` when the addresses do
/// not go together or there are too many bytes.
fn ip_repr(from: IpAddr, to: IpAddr, protocol: IpProtocol, len: usize) -> Option<IpRepr> {
    let header = if from.is_ipv6() { 0 } else { 20 };
    if from.is_ipv6() != to.is_ipv6() || header + len > usize::from(u16::MAX) {
        return None;
    }
    Some(IpRepr::new(from.into(), to.into(), protocol, len, HOPS))
}

/// IP headers get their checksum; what is inside is for [`Framer::finish`].
pub fn ip_checksum_only() -> ChecksumCapabilities {
    let mut checksum = ChecksumCapabilities::ignored();
    checksum.ipv4 = smoltcp::phy::Checksum::Tx;
    checksum
}

/// The sum over the pseudo header (RFC 793, RFC 8200 §8.1), not folded.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u64 {
    let addr = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => sum(&addr.octets()),
        IpAddr::V6(addr) => sum(&addr.octets()),
    };
    addr(from) + addr(to) + u64::from(protocol) + len as u64
}

/// The sum of 16-bit words (RFC 1071), not folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words
        .iter()
        .map(|w| u64::from(u32::from_be_bytes(*w)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum to 16 bits with end-around carry.
fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::IpAddress;

    const GATEWAY: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const GUEST: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

    fn framer(checksum: bool) -> Framer {
        Framer {
            gateway: GATEWAY,
            guest: GUEST,
            offload: Offload {
                checksum,
                tso4: false,
            },
        }
    }

    #[test]
    fn checksums_are_those_of_the_library() {
        for (from, to) in [
            ("10.0.2.2:53", "10.0.2.15:4444"),
            ("[fd00::2]:53", "[fd00::15]:4444"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for size in [0, 1, 2, 3, 4, 5, 1000, 65000] {
                let data: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
                let frame = framer(false).udp(from, to, &data).unwrap();
                let Parsed::Ip(ip) = parse(&frame.bytes, GUEST) else {
                    panic!("no packet");
                };
                let udp = UdpPacket::new_checked(ip.payload).unwrap();
                let (a, b): (IpAddress, IpAddress) = (ip.source.into(), ip.destination.into());
                assert!(udp.verify_checksum(&a, &b), "{size}");
                assert_eq!(udp.payload(), data);

                let frame = framer(true).udp(from, to, &data).unwrap();
                let unfinished = frame.unfinished.unwrap();
                let start = usize::from(unfinished.checksum_start);
                let at = start + usize::from(unfinished.checksum_offset);
                let mut bytes = frame.bytes;
                let complete = !fold(sum(&bytes[start..]));
                bytes[at..at + 2].copy_from_slice(&complete.to_be_bytes());
                let udp = UdpPacket::new_checked(&bytes[start..]).unwrap();
                assert!(udp.verify_checksum(&a, &b), "{size}");
            }
            assert!(framer(true).udp(from, to, &[0; 65536]).is_none());
        }
    }

    #[test]
    fn what_is_no_packet_for_us() {
        let framer = framer(false);
        let (from, to) = (
            "10.0.2.2:1".parse().unwrap(),
            "10.0.2.15:2".parse().unwrap(),
        );
        let good = framer.udp(from, to, b"data").unwrap().bytes;
        assert!(matches!(parse(&good, GUEST), Parsed::Ip(_)));
        let nothing = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(matches!(parse(&bad, GUEST), Parsed::Nothing), "{at}");
        };
        nothing(0, 4); // another's address
        nothing(6, 1); // from a group
        nothing(12, 0x81); // VLAN
        nothing(14, 0x65); // version 6
        nothing(14, 0x44); // a header too short
        nothing(16, 0xff); // longer than the frame
        nothing(20, 0x20); // more fragments
        nothing(21, 1); // a later fragment
        for len in 0..good.len() {
            assert!(
                matches!(parse(&good[..len], GUEST), Parsed::Nothing),
                "{len}"
            );
        }
        // Padding is no part of it.
        let mut padded = good.clone();
        padded.resize(100, 7);
        let Parsed::Ip(ip) = parse(&padded, GUEST) else {
            panic!("no packet");
        };
        assert_eq!(ip.packet, &good[ETHERNET..]);
    }

    #[test]
    fn refusals_quote_what_was_refused() {
        let framer = framer(false);
        for (from, to, gateway) in [
            ("10.0.2.15:1", "8.8.8.8:2", "10.0.2.2"),
            ("[fd00::15]:1", "[2001:db8::1]:2", "fd00::2"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let sent = framer.udp(from, to, &[7; 1000]).unwrap().bytes;
            let refused = &sent[ETHERNET..];
            let gateway = gateway.parse().unwrap();
            let frame = framer
                .unreachable(gateway, refused, Unreachable::Port)
                .unwrap();
            let Parsed::Ip(ip) = parse(&frame.bytes, GUEST) else {
                panic!("no packet");
            };
            assert_eq!((ip.source, ip.destination), (gateway, from.ip()));
            let header = if from.is_ipv6() { 40 } else { 20 };
            assert_eq!(ip.payload[8 + header..], refused[header..QUOTED]);
            assert!(
                framer
                    .unreachable(gateway, &refused[..7], Unreachable::Host)
                    .is_none()
            );
        }
    }
}
