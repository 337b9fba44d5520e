//! An address by DHCP: to get one, and to keep it.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketFlags, SocketType, sockopt,
};

use super::Prefix;
use super::dhcp::{self, Answer, Ask, Kind, Lease};
use super::netlink::Netlink;
use crate::error::{Context, Error, Result};
use crate::sys;

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
/// How long servers may take, in turn. A bridge that has just got a port may
/// need some seconds to let anything through.
const WAITS: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Bytes of a server's message: what fits in a packet.
const MAX_MESSAGE: usize = 1500;
/// The least that is waited before a lease is renewed.
const MIN_RENEWAL: Duration = Duration::from_secs(10);

/// Gets an address, gives it to the interface, and sees to it that it is kept.
///
/// # Errors
/// When no server answers, or what the kernel says.
pub fn acquire(index: u32, name: &str, mac: &str) -> Result<Lease> {
    let mac = parse_mac(mac)
        .ok_or_else(|| Error::request(format!("'{mac}' is no interface's address")))?;
    let client = Client {
        index,
        name: name.to_owned(),
        mac,
    };
    let lease = client.ask(None)?;
    client
        .apply(None, &lease)
        .context(|| format!("interface {name}"))?;
    if lease.seconds != u32::MAX {
        let first = lease.clone();
        let keeper = thread::Builder::new().spawn(move || client.keep(first));
        keeper.context(|| "start a thread".into())?;
    }
    Ok(lease)
}

struct Client {
    index: u32,
    name: String,
    mac: [u8; 6],
}

impl Client {
    /// Renews the lease when half of it is over, as long as the guest runs.
    fn keep(&self, mut lease: Lease) {
        loop {
            let half = Duration::from_secs(u64::from(lease.seconds / 2));
            thread::sleep(half.max(MIN_RENEWAL));
            // Otherwise the old one is kept, and tried for again: without an
            // address nothing is better.
            if let Ok(new) = self.ask(Some(&lease))
                && self.apply(Some(&lease), &new).is_ok()
            {
                lease = new;
            }
        }
    }

    fn apply(&self, old: Option<&Lease>, new: &Lease) -> std::result::Result<(), Errno> {
        let prefix = |lease: &Lease| Prefix {
            address: IpAddr::V4(lease.address),
            length: lease.prefix,
        };
        let mut netlink = Netlink::open()?;
        if let Some(old) = old
            && prefix(old) != prefix(new)
        {
            netlink.remove_address(self.index, prefix(old))?;
        }
        netlink.add_address(self.index, prefix(new))?;
        if let Some(mtu) = new.mtu {
            // A device may not be able to have it.
            let _ = netlink.set_link(self.index, None, Some(mtu), true);
        }
        if let Some(gateway) = new.gateway {
            let gateway = IpAddr::V4(gateway);
            let on_link = prefix(new).contains(gateway);
            netlink.set_gateway(self.index, gateway, on_link)?;
        }
        Ok(())
    }

    /// The lease again, or another one.
    fn ask(&self, old: Option<&Lease>) -> Result<Lease> {
        let context = || format!("DHCP on {}", self.name);
        let socket = self.open().context(context)?;
        let mut transaction = [0; 4];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut transaction))
            .context(context)?;
        let transaction = u32::from_ne_bytes(transaction);
        let exchange = |ask: Ask<'_>, wait| self.exchange(&socket, ask, transaction, wait);
        if let Some(old) = old {
            for wait in WAITS {
                match exchange(Ask::Renew(old), wait).context(context)? {
                    Some(answer) if answer.kind == Kind::Ack => return Ok(answer.lease),
                    Some(answer) if answer.kind == Kind::Nak => break,
                    _ => {}
                }
            }
        }
        for wait in WAITS {
            let Some(offer) = exchange(Ask::Discover, wait).context(context)? else {
                continue;
            };
            if offer.kind != Kind::Offer {
                continue;
            }
            let answer = exchange(Ask::Select(&offer.lease), wait).context(context)?;
            if let Some(answer) = answer
                && answer.kind == Kind::Ack
            {
                return Ok(answer.lease);
            }
        }
        Err(Error::request(format!(
            "no DHCP server answers on {}: give it an address, or see to the network",
            self.name
        )))
    }

    fn open(&self) -> std::result::Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_broadcast(&socket, true)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sys::bind_to_device(&socket, &self.name)?;
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        rustix::net::bind(&socket, &any)?;
        Ok(socket)
    }

    /// The first answer that is meant for this client, if one comes in time.
    fn exchange(
        &self,
        socket: &OwnedFd,
        ask: Ask<'_>,
        transaction: u32,
        wait: Duration,
    ) -> std::result::Result<Option<Answer>, Errno> {
        let message = dhcp::message(ask, transaction, self.mac);
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        rustix::net::sendto(socket, &message, SendFlags::empty(), &everybody)?;
        let wanted = match ask {
            Ask::Discover => Kind::Offer,
            _ => Kind::Ack,
        };
        let limit = Instant::now() + wait;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut polled = [PollFd::new(socket, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e),
            }
            let mut bytes = [0; MAX_MESSAGE];
            let received = rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty());
            let (n, _) = match received {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                received => received?,
            };
            let answer = dhcp::parse(&bytes[..n], transaction, self.mac);
            // Servers whose offer was not taken may still be talking.
            if let Some(answer) = answer
                && (answer.kind == wanted || answer.kind == Kind::Nak)
            {
                return Ok(Some(answer));
            }
        }
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Vec<_> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_have_six_parts() {
        assert_eq!(parse_mac("02:0A:00:00:00:ff"), Some([2, 10, 0, 0, 0, 255]));
        for bad in ["", "02:00", "02:00:00:00:00:00:00", "02:00:00:00:00:gg"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
