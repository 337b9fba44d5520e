//! DHCP for IPv4 (RFC 2131 and 2132): the messages of a client, as bytes.

use std::net::Ipv4Addr;

/// Bytes before the options: the fixed fields and the magic cookie.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// Answer to everybody: a client without an address does not hear others.
const BROADCAST: u16 = 0x8000;
/// Name servers that are taken.
const MAX_SERVERS: usize = 8;
/// The longest domain name, in bytes.
const MAX_DOMAIN: usize = 253;

mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const CLIENT: u8 = 61;
    pub const END: u8 = 255;
}

/// The kinds of messages that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A server offers an address.
    Offer,
    /// It is the client's.
    Ack,
    /// It is not.
    Nak,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The kind.
    pub kind: Kind,
    /// The address and its network.
    pub lease: Lease,
}

/// An address, and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of its prefix.
    pub prefix: u8,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The search domain.
    pub domain: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// How long it lasts, in seconds; `u32::MAX` is for ever.
    pub seconds: u32,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    /// Any address.
    Discover,
    /// The one that was offered.
    Select(&'a Lease),
    /// The one that it has, again.
    Renew(&'a Lease),
}

/// A client's message.
pub fn message(ask: Ask<'_>, transaction: u32, mac: [u8; 6]) -> Vec<u8> {
    let own = match ask {
        Ask::Renew(lease) => lease.address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let mut bytes = vec![REQUEST, ETHERNET, mac.len() as u8, 0];
    bytes.extend(transaction.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(BROADCAST.to_be_bytes());
    bytes.extend(own.octets());
    // Addresses of others.
    bytes.extend([0; 12]);
    bytes.extend(mac);
    // The rest of the hardware address, server's name, boot file.
    bytes.resize(FIXED - COOKIE.len(), 0);
    bytes.extend(COOKIE);
    let mut put = |code: u8, value: &[u8]| {
        bytes.extend([code, value.len() as u8]);
        bytes.extend(value);
    };
    let kind = match ask {
        Ask::Discover => 1,
        Ask::Select(_) | Ask::Renew(_) => 3,
    };
    put(option::MESSAGE_TYPE, &[kind]);
    let mut client = vec![ETHERNET];
    client.extend(mac);
    put(option::CLIENT, &client);
    if let Ask::Select(offer) = ask {
        put(option::REQUESTED_ADDRESS, &offer.address.octets());
        put(option::SERVER, &offer.server.octets());
    }
    let wanted = [
        option::SUBNET_MASK,
        option::ROUTER,
        option::DNS,
        option::DOMAIN,
        option::MTU,
    ];
    put(option::PARAMETERS, &wanted);
    bytes.push(option::END);
    bytes
}

/// A server's message, if it is one, and for this client and transaction.
pub fn parse(bytes: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Answer> {
    let ours = *bytes.first()? == REPLY
        && bytes.get(4..8)? == transaction.to_be_bytes()
        && bytes.get(28..34)? == mac
        && bytes.get(FIXED - COOKIE.len()..FIXED)? == COOKIE;
    if !ours {
        return None;
    }
    let mut kind = None;
    let mut lease = Lease {
        address: address(bytes.get(16..20)?)?,
        prefix: 0,
        server: Ipv4Addr::UNSPECIFIED,
        gateway: None,
        dns: Vec::new(),
        domain: None,
        mtu: None,
        seconds: u32::MAX,
    };
    let mut rest = bytes.get(FIXED..)?;
    while let Some((code, after)) = rest.split_first() {
        match *code {
            option::PAD => {
                rest = after;
                continue;
            }
            option::END => break,
            _ => {}
        }
        let (len, after) = after.split_first()?;
        let (value, after) = after.split_at_checked(usize::from(*len))?;
        rest = after;
        match *code {
            option::MESSAGE_TYPE => {
                kind = match value {
                    [2] => Some(Kind::Offer),
                    [5] => Some(Kind::Ack),
                    [6] => Some(Kind::Nak),
                    _ => return None,
                }
            }
            option::SUBNET_MASK => {
                lease.prefix = address(value)?.to_bits().leading_ones() as u8;
            }
            option::SERVER => lease.server = address(value)?,
            option::ROUTER => lease.gateway = value.get(..4).and_then(address),
            option::DNS => {
                let servers = value.chunks_exact(4).filter_map(address);
                lease.dns = servers.take(MAX_SERVERS).collect();
            }
            option::DOMAIN => lease.domain = domain(value),
            option::MTU => {
                lease.mtu = value.try_into().ok().map(|b| u16::from_be_bytes(b).into());
            }
            option::LEASE_TIME => lease.seconds = u32::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    if lease.prefix == 0 {
        // That of its class (RFC 791), when the server gives none.
        lease.prefix = match lease.address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        };
    }
    Some(Answer { kind: kind?, lease })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    Some(bytes.into())
}

/// A domain that can stand in `resolv.conf`.
fn domain(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits = !text.is_empty() && text.len() <= MAX_DOMAIN && text.chars().all(plain);
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn answer(options: &[u8]) -> Vec<u8> {
        let mut bytes = message(Ask::Discover, 77, MAC);
        bytes.truncate(FIXED);
        bytes[0] = REPLY;
        bytes[16..20].copy_from_slice(&[192, 168, 1, 9]);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn a_lease_is_what_the_server_says() {
        let mut options = vec![0, 0, 53, 1, 5, 1, 4, 255, 255, 240, 0, 3, 4, 192, 168, 1, 1];
        options.extend([6, 8, 9, 9, 9, 9, 8, 8, 8, 8, 54, 4, 192, 168, 1, 2]);
        options.extend([51, 4, 0, 0, 14, 16, 26, 2, 5, 120, 99, 1, 1]);
        options.extend(*b"\x0f\x06lan.ex\xff");
        let answer = parse(&answer(&options), 77, MAC).unwrap();
        assert_eq!(answer.kind, Kind::Ack);
        let lease = answer.lease;
        assert_eq!(lease.address, Ipv4Addr::new(192, 168, 1, 9));
        assert_eq!(
            (lease.prefix, lease.seconds, lease.mtu),
            (20, 3600, Some(1400))
        );
        assert_eq!(lease.server, Ipv4Addr::new(192, 168, 1, 2));
        assert_eq!(lease.gateway, Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(lease.dns.len(), 2);
        assert_eq!(lease.domain.as_deref(), Some("lan.ex"));
    }

    #[test]
    fn what_is_for_others_or_broken_is_not_heard() {
        let good = answer(&[53, 1, 2, 255]);
        assert!(parse(&good, 77, MAC).is_some());
        assert!(parse(&good, 78, MAC).is_none());
        assert!(parse(&good, 77, [0; 6]).is_none());
        assert!(parse(&good[..FIXED - 1], 77, MAC).is_none());
        for options in [
            &[53, 2, 2][..],
            &[53],
            &[53, 1, 9],
            &[1, 3, 1, 1, 1],
            &[255],
        ] {
            assert!(parse(&answer(options), 77, MAC).is_none(), "{options:?}");
        }
        let evil = answer(b"\x35\x01\x05\x0f\x05a\nb c\xff");
        assert_eq!(parse(&evil, 77, MAC).unwrap().lease.domain, None);
    }

    #[test]
    fn a_client_asks_for_what_was_offered() {
        let offer = parse(&answer(&[53, 1, 2, 54, 4, 1, 2, 3, 4, 255]), 77, MAC).unwrap();
        let bytes = message(Ask::Select(&offer.lease), 77, MAC);
        let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|w| w == wanted);
        assert!(has(&[53, 1, 3]) && has(&[50, 4, 192, 168, 1, 9]) && has(&[54, 4, 1, 2, 3, 4]));
        assert_eq!(bytes[12..16], [0; 4]);
        let bytes = message(Ask::Renew(&offer.lease), 77, MAC);
        assert_eq!(bytes[12..16], [192, 168, 1, 9]);
        assert!(bytes[10..12] == [0x80, 0] && bytes[28..34] == MAC);
    }

    proptest! {
        #[test]
        fn nothing_panics(options: Vec<u8>) {
            let _ = parse(&answer(&options), 77, MAC);
            let _ = parse(&options, 77, MAC);
        }
    }
}
