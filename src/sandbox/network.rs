//! A sandbox's network: the card that its machine gets, and what the guest is
//! told of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use devices::virtio::net::{MacAddr, NetSpec};
use thiserror::Error;
use vmm::config::NetConfig;

use super::id::Id;
use super::spec::{Network, NetworkMode, Port, Protocol, Publish};
use super::tap;

/// What the guest calls its card.
pub const INTERFACE: &str = "eth0";
/// What docker's users write in `--add-host` for the host.
pub const HOST_GATEWAY: &str = "host-gateway";

/// What can go wrong with a network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A port that is not free.
    #[error("port {port}: {source}: stop what listens there, or publish another port")]
    Port {
        /// The address, the port and the protocol.
        port: String,
        /// What the host says.
        source: io::Error,
    },
    /// No TAP can be made.
    #[error("network bridge={bridge}: {why}")]
    Bridge {
        /// The bridge.
        bridge: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The default network.
    #[error("network: {0}")]
    User(String),
    /// An address that is none.
    #[error("network: '{0}' is no hardware address")]
    Mac(String),
}

/// The network of a sandbox that is about to run.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The machine's card.
    pub card: Option<NetConfig>,
    /// For the guest.
    pub guest: protocol::Network,
    /// The ports of the host that lead in, each one now a single port.
    pub ports: Vec<Publish>,
}

/// Removes the TAP of a sandbox that has ended. The name is what its state says: one
/// that is not this sandbox's is left alone.
pub fn remove_tap(name: Option<&str>, id: &Id) {
    if let Some(name) = name.filter(|name| *name == tap_name(id))
        && let Err(e) = tap::remove(name)
    {
        log::warn!("TAP {name}: {e}: 'ip link delete {name}' removes it");
    }
}

/// The name of the TAP that a sandbox gets: of no more than 15 bytes.
pub fn tap_name(id: &Id) -> String {
    format!("drupe-{}", &id.as_str()[..8])
}

/// The sandbox's hardware address: of those that nobody was given, by its
/// identifier.
pub fn mac(network: &Network, id: &Id) -> Result<MacAddr, NetworkError> {
    let text = network.mac.clone().unwrap_or_else(|| {
        let digits = id.as_str();
        let pairs = (0..5).map(|n| format!(":{}", &digits[2 * n..2 * n + 2]));
        format!("02{}", pairs.collect::<String>())
    });
    text.parse().map_err(|_| NetworkError::Mac(text))
}

/// Chooses ports and makes what the host has to have.
///
/// # Errors
/// What is not to be had; nothing is left then.
pub fn prepare(network: &Network, id: &Id) -> Result<Prepared, NetworkError> {
    let mut prepared = Prepared {
        guest: names(network),
        ..Prepared::default()
    };
    let mac = mac(network, id)?;
    match &network.mode {
        NetworkMode::None => {}
        NetworkMode::User => {
            prepared.ports = choose_ports(&network.publish)?;
            super::usernet::fill(&mut prepared, network, mac)?;
        }
        NetworkMode::Tap(name) => {
            prepared.card = Some(card(name, mac));
            prepared.guest.interfaces.push(foreign(network, mac));
        }
        NetworkMode::Bridge(bridge) => {
            let name = tap_name(id);
            tap::make(&name, bridge).map_err(|e| NetworkError::Bridge {
                bridge: bridge.clone(),
                why: explain(&e),
            })?;
            prepared.card = Some(card(&name, mac));
            prepared.guest.interfaces.push(foreign(network, mac));
        }
    }
    Ok(prepared)
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "may not make a TAP: that needs CAP_NET_ADMIN (run drupe as root), or use --network user"
                .to_owned()
        }
        Some(libc::ENODEV) => "there is no such bridge: 'ip link add NAME type bridge' makes one".to_owned(),
        Some(libc::EOPNOTSUPP) => "this interface is no bridge".to_owned(),
        _ => error.to_string(),
    }
}

fn card(tap: &str, mac: MacAddr) -> NetConfig {
    NetConfig::Tap(NetSpec {
        mac: Some(mac),
        ..NetSpec::new(tap)
    })
}

/// An interface in a network of the host's: what its DHCP server says, or what
/// the user does.
fn foreign(network: &Network, mac: MacAddr) -> protocol::Interface {
    protocol::Interface {
        mac: mac.to_string(),
        name: INTERFACE.to_owned(),
        addresses: network.ip.clone().into_iter().collect(),
        gateways: network.gateway.iter().map(ToString::to_string).collect(),
        dhcp: network.ip.is_none(),
        mtu: None,
    }
}

/// The names, of which every kind of network has some.
fn names(network: &Network) -> protocol::Network {
    protocol::Network {
        interfaces: Vec::new(),
        dns: network.dns.iter().map(ToString::to_string).collect(),
        search: network.search.clone(),
        options: network.options.clone(),
        hosts: network.hosts.clone(),
    }
}

/// Settles on one port of the host for each published one: the first that is
/// free where several will do.
fn choose_ports(publish: &[Publish]) -> Result<Vec<Publish>, NetworkError> {
    let mut chosen: Vec<Publish> = Vec::new();
    for publish in publish {
        let taken = |port: u16| {
            chosen.iter().any(|c| {
                (c.first, c.to.protocol) == (port, publish.to.protocol)
                    && (c.ip == publish.ip || c.ip.is_none() || publish.ip.is_none())
            })
        };
        let mut last_error = io::Error::from(io::ErrorKind::AddrInUse);
        let candidates = publish.first..=publish.last;
        let single = candidates.len() == 1;
        let port =
            candidates
                .filter(|port| single || !taken(*port))
                .find_map(|port| match single {
                    // Whoever listens there in the end finds out, or chooses.
                    true => Some(port),
                    false => free_port(publish, port).map_err(|e| last_error = e).ok(),
                });
        let port = port.ok_or_else(|| NetworkError::Port {
            port: format!(
                "{}/{}",
                outside(publish).join(", "),
                publish.to.protocol.name()
            ),
            source: last_error,
        })?;
        chosen.push(Publish {
            first: port,
            last: port,
            ..*publish
        });
    }
    Ok(chosen)
}

/// Tries a port.
fn free_port(publish: &Publish, port: u16) -> io::Result<u16> {
    let address = SocketAddr::new(publish.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
    Ok(match publish.to.protocol {
        Protocol::Tcp => TcpListener::bind(address)?.local_addr()?.port(),
        Protocol::Udp => UdpSocket::bind(address)?.local_addr()?.port(),
    })
}

/// The host's addresses that lead in: without one that was given, all of both
/// kinds.
pub fn addresses(publish: &Publish) -> Vec<IpAddr> {
    match publish.ip {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    }
}

/// Each address with its port, as people write it: `127.0.0.1:8080`.
pub fn outside(publish: &Publish) -> Vec<String> {
    let range = match publish.first == publish.last {
        true => publish.first.to_string(),
        false => format!("{}-{}", publish.first, publish.last),
    };
    let written = |ip| match ip {
        IpAddr::V6(ip) => format!("[{ip}]:{range}"),
        IpAddr::V4(ip) => format!("{ip}:{range}"),
    };
    addresses(publish).into_iter().map(written).collect()
}

/// The sandbox's side, as people write it: `80/tcp`.
pub fn inside(port: Port) -> String {
    format!("{}/{}", port.port, port.protocol.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(first: u16, last: u16) -> Publish {
        Publish {
            ip: Some(Ipv4Addr::LOCALHOST.into()),
            first,
            last,
            to: Port {
                port: 80,
                protocol: Protocol::Tcp,
            },
        }
    }

    #[test]
    fn a_free_port_is_found_where_several_will_do() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = listener.local_addr().unwrap().port();
        assert_eq!(choose_ports(&[publish(0, 0)]).unwrap()[0].first, 0);
        let range = publish(busy, busy.saturating_add(20));
        let chosen = choose_ports(&[range, range]).unwrap();
        assert!(chosen[0].first > busy && chosen[1].first > chosen[0].first);
        // One that is fixed is left to who will listen.
        assert_eq!(choose_ports(&[publish(busy, busy)]).unwrap()[0].first, busy);
    }

    #[test]
    fn a_sandbox_has_an_address_and_a_tap_of_its_own() {
        let id: Id = "0123456789abcdef".repeat(4).parse().unwrap();
        let mut network = Network::default();
        assert_eq!(mac(&network, &id).unwrap().to_string(), "02:01:23:45:67:89");
        assert_eq!(tap_name(&id), "drupe-01234567");
        network.mac = Some("02:00:00:00:00:01".into());
        assert_eq!(mac(&network, &id).unwrap().to_string(), "02:00:00:00:00:01");
        network.mac = Some("x".into());
        assert!(mac(&network, &id).is_err());
    }

    #[test]
    fn a_network_of_the_hosts_is_asked_or_told() {
        let id = Id::random().unwrap();
        let mut network = Network {
            mode: NetworkMode::Tap("tap0".into()),
            ..Network::default()
        };
        let asked = prepare(&network, &id).unwrap();
        assert!(matches!(asked.card, Some(NetConfig::Tap(card)) if card.tap == "tap0"));
        assert!(asked.guest.interfaces[0].dhcp);
        network.ip = Some("192.168.7.2/24".into());
        network.gateway = Some("192.168.7.1".parse().unwrap());
        let told = prepare(&network, &id).unwrap().guest;
        assert_eq!(told.interfaces[0].addresses, ["192.168.7.2/24"]);
        assert_eq!(told.interfaces[0].gateways, ["192.168.7.1"]);
        assert!(!told.interfaces[0].dhcp);
        network.mode = NetworkMode::None;
        let none = prepare(&network, &id).unwrap();
        assert!(none.card.is_none() && none.guest.interfaces.is_empty());
    }
}
