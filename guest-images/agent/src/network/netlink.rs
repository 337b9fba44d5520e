//! The few messages of `rtnetlink(7)` that set up an interface.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Prefix;
use crate::sys;

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address can be used at once.
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
/// The gateway is on the link although no address of it says so.
const RTNH_F_ONLINK: u32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Bytes of a message's header.
const HEADER: usize = 16;
/// Bytes of an answer: an error repeats the request.
const MAX_ANSWER: usize = 4096;

/// A connection to the kernel's network configuration.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, Errno> {
        rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map(Netlink)
    }

    /// Changes an interface's name and MTU, and brings it up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_link(
        &mut self,
        index: u32,
        name: Option<&str>,
        mtu: Option<u32>,
        up: bool,
    ) -> Result<(), Errno> {
        self.request(link(index, name, mtu, up))
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&mut self, index: u32, prefix: Prefix) -> Result<(), Errno> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(address(RTM_NEWADDR, flags, index, prefix))
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_address(&mut self, index: u32, prefix: Prefix) -> Result<(), Errno> {
        self.request(address(RTM_DELADDR, 0, index, prefix))
    }

    /// Makes `gateway` the way to everywhere. `on_link` when an address of the
    /// interface is in its network.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_gateway(&mut self, index: u32, to: IpAddr, on_link: bool) -> Result<(), Errno> {
        self.request(gateway(index, to, on_link))
    }

    fn request(&mut self, message: Message) -> Result<(), Errno> {
        let bytes = message.finish();
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &bytes, SendFlags::empty()))?;
        let mut answer = [0; MAX_ANSWER];
        let (n, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())
        })?;
        parse_answer(&answer[..n])
    }
}

/// The kernel's answer to a request that asked for one.
fn parse_answer(bytes: &[u8]) -> Result<(), Errno> {
    let kind = bytes.get(4..6).and_then(|b| b.try_into().ok());
    let code = bytes
        .get(HEADER..HEADER + 4)
        .and_then(|b| b.try_into().ok());
    match (kind.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(sys::errno(error.checked_neg().unwrap_or(0))),
        _ => Err(Errno::PROTO),
    }
}

fn link(index: u32, name: Option<&str>, mtu: Option<u32>, up: bool) -> Message {
    let flags = if up { IFF_UP } else { 0 };
    // struct ifinfomsg: family, pad, type, index, flags, change
    let mut message = Message::new(RTM_NEWLINK, 0)
        .bytes(&[0; 4])
        .u32(index)
        .u32(flags)
        .u32(flags);
    if let Some(name) = name {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        message = message.attribute(IFLA_IFNAME, &bytes);
    }
    if let Some(mtu) = mtu {
        message = message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    message
}

fn address(kind: u16, flags: u16, index: u32, prefix: Prefix) -> Message {
    let bytes = octets(prefix.address);
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    let message = Message::new(kind, flags)
        .bytes(&[family(prefix.address), prefix.length, 0, 0])
        .u32(index)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    match prefix.address {
        IpAddr::V4(own) if prefix.length < 31 => {
            let broadcast = own.to_bits() | u32::MAX >> prefix.length;
            message.attribute(IFA_BROADCAST, &broadcast.to_be_bytes())
        }
        IpAddr::V4(_) => message,
        IpAddr::V6(_) => message.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()),
    }
}

fn gateway(index: u32, to: IpAddr, on_link: bool) -> Message {
    let flags = if on_link { 0 } else { RTNH_F_ONLINK };
    // struct rtmsg: family, destination's length, source's length, TOS, table,
    // protocol, scope, type, flags
    Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
        .bytes(&[
            family(to),
            0,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            0,
            RTN_UNICAST,
        ])
        .u32(flags)
        .attribute(RTA_GATEWAY, &octets(to))
        .attribute(RTA_OIF, &index.to_ne_bytes())
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// A message that is being written. All numbers are in the machine's order.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let message = Message(Vec::with_capacity(128)).u32(0);
        message
            .bytes(&kind.to_ne_bytes())
            .bytes(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes())
            // Sequence and port: there is one request at a time.
            .bytes(&[0; 8])
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_ne_bytes())
    }

    fn attribute(self, kind: u16, value: &[u8]) -> Self {
        let len = (value.len() + 4) as u16;
        let mut message = self
            .bytes(&len.to_ne_bytes())
            .bytes(&kind.to_ne_bytes())
            .bytes(value);
        message.0.resize(message.0.len().next_multiple_of(4), 0);
        message
    }

    fn finish(mut self) -> Vec<u8> {
        let len = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&len);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let bytes = link(7, Some("eth0"), Some(1500), true).finish();
        assert_eq!(bytes[..8], [52, 0, 0, 0, 16, 0, 5, 0]);
        assert_eq!(bytes[20..32], [7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[32..44], *b"\x09\0\x03\0eth0\0\0\0\0");
        assert_eq!(bytes[44..], [8, 0, 4, 0, 0xdc, 5, 0, 0]);

        let prefix = |text| Prefix::parse(text).unwrap();
        let bytes = address(RTM_NEWADDR, 0, 2, prefix("10.0.2.15/24")).finish();
        assert_eq!(bytes[16..24], [2, 24, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[24..32], [8, 0, 2, 0, 10, 0, 2, 15]);
        assert_eq!(bytes[40..], [8, 0, 4, 0, 10, 0, 2, 255]);
        let bytes = address(RTM_NEWADDR, 0, 2, prefix("fd00::2/64")).finish();
        assert_eq!(bytes[16..18], [10, 64]);
        assert_eq!(bytes[bytes.len() - 8..], [8, 0, 8, 0, 2, 0, 0, 0]);

        let bytes = gateway(2, "10.0.2.2".parse().unwrap(), false).finish();
        assert_eq!(bytes[16..28], [2, 0, 0, 0, 254, 4, 0, 1, 4, 0, 0, 0]);
        assert_eq!(
            bytes[28..],
            [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 2, 0, 0, 0]
        );
    }

    #[test]
    fn answers_are_errors_or_none() {
        let answer = |code: i32| {
            let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(code.to_ne_bytes());
            parse_answer(&bytes)
        };
        assert_eq!(answer(0), Ok(()));
        assert_eq!(answer(-17), Err(Errno::EXIST));
        assert!(answer(i32::MIN).is_err());
        assert_eq!(parse_answer(&[]), Err(Errno::PROTO));
        assert_eq!(parse_answer(&[0; 40]), Err(Errno::PROTO));
    }
}
