//! Destinations that no policy opens: the host's loopback, the metadata services
//! of clouds, and what is no single machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds outside the link-local blocks: they hand out
/// credentials to whoever runs on the machine.
const METADATA: [IpAddr; 7] = [
    // Amazon EC2.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // The credentials of a pod of Amazon EKS.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    // Google Compute Engine.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Scaleway.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    // Azure.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Why an address is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is this host's own by another spelling.
    Loopback,
    /// Link-local, or a metadata service: opened by an option.
    Metadata,
    /// Not one machine's address.
    NotUnicast,
}

/// Why `addr` is closed; `None` when it is not.
pub fn closed(addr: IpAddr) -> Option<Closed> {
    if METADATA.contains(&addr) {
        return Some(Closed::Metadata);
    }
    match addr {
        IpAddr::V4(v4) => closed4(v4),
        IpAddr::V6(v6) => closed6(v6),
    }
}

fn closed4(addr: Ipv4Addr) -> Option<Closed> {
    // To connect to 0.0.0.0 reaches this host (RFC 1122 §3.2.1.3 leaves it to it).
    if addr.is_loopback() || addr.octets()[0] == 0 {
        Some(Closed::Loopback)
    } else if addr.is_link_local() {
        Some(Closed::Metadata)
    } else if addr.octets()[0] >= 224 {
        // Multicast, reserved, and broadcast.
        Some(Closed::NotUnicast)
    } else {
        None
    }
}

fn closed6(addr: Ipv6Addr) -> Option<Closed> {
    if addr.is_multicast() {
        return Some(Closed::NotUnicast);
    }
    // fe80::/10, and fec0::/10, which was for sites.
    if addr.segments()[0] & 0xff80 == 0xfe80 {
        return Some(Closed::Metadata);
    }
    match addr.segments() {
        // Mapped and compatible addresses, `::` and `::1` among them: a socket
        // would leave by IPv4. No packet has one.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => Some(Closed::Loopback),
        // As what is inside.
        _ => closed(inside(addr)?.into()),
    }
}

/// The IPv4 address that an IPv6 one stands for on a host with a way there:
/// translated (RFC 6052, RFC 8215) or tunnelled (RFC 3056).
pub fn inside(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match addr.segments() {
        [0x64, 0xff9b, 0 | 1, .., high, low] | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_and_what_is_not() {
        use Closed::{Loopback, Metadata, NotUnicast};
        for (addr, expected) in [
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("0.0.0.0", Some(Loopback)),
            ("0.1.2.3", Some(Loopback)),
            ("169.254.169.254", Some(Metadata)),
            ("169.254.0.1", Some(Metadata)),
            ("168.63.129.16", Some(Metadata)),
            ("224.0.0.1", Some(NotUnicast)),
            ("240.0.0.1", Some(NotUnicast)),
            ("255.255.255.255", Some(NotUnicast)),
            ("::", Some(Loopback)),
            ("::1", Some(Loopback)),
            ("::7f00:1", Some(Loopback)),
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:8.8.8.8", Some(Loopback)),
            ("64:ff9b::127.0.0.1", Some(Loopback)),
            ("64:ff9b::a9fe:a9fe", Some(Metadata)),
            ("64:ff9b:1::a9fe:a9fe", Some(Metadata)),
            ("2002:7f00:1::1", Some(Loopback)),
            ("fe80::1", Some(Metadata)),
            ("febf::1", Some(Metadata)),
            ("fec0::1", Some(Metadata)),
            ("fd00:ec2::254", Some(Metadata)),
            ("fd00:ec2::23", Some(Metadata)),
            ("fd20:ce::254", Some(Metadata)),
            ("fd00:42::42", Some(Metadata)),
            ("ff02::1", Some(NotUnicast)),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("8.8.8.8", None),
            ("128.0.0.1", None),
            ("2001:db8::1", None),
            ("fd00:ec2::253", None),
            ("64:ff9b::808:808", None),
            ("2002:808:808::1", None),
        ] {
            assert_eq!(closed(addr.parse().unwrap()), expected, "{addr}");
        }
    }
}
