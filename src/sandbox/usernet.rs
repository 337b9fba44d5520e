//! The default network: a sandbox reaches the world through sockets of its
//! monitor, and needs no privilege of the host's.

use std::net::{IpAddr, SocketAddr};

use devices::virtio::net::{MacAddr, NetLimits};
use protocol::Interface;
use usernet::{Addresses, Config, Policy, Resolver};
use vmm::config::{NetConfig, UserNetSpec};

use super::network::{INTERFACE, NetworkError, Prepared};
use super::spec::{self, Network, Publish};

/// Where name servers listen (RFC 1035 §4.2).
const DNS: u16 = 53;

/// Fills in the card and what the guest is told of it.
///
/// # Errors
/// A policy or a subnet that makes no sense.
pub fn fill(prepared: &mut Prepared, network: &Network, mac: MacAddr) -> Result<(), NetworkError> {
    let config = config(network, &prepared.ports).map_err(NetworkError::User)?;
    let at = config.addresses();
    let mut interface = Interface {
        mac: mac.to_string(),
        name: INTERFACE.to_owned(),
        addresses: vec![format!("{}/{}", at.guest, at.prefix_len)],
        gateways: vec![at.gateway.to_string()],
        dhcp: false,
        mtu: None,
    };
    // Its forwarder answers for the name servers that were given, too: a policy
    // by names works in no other way.
    prepared.guest.dns = vec![at.dns.to_string()];
    if config.ipv6 {
        let guest = format!("{}/{}", at.guest6, at.prefix_len6);
        interface.addresses.push(guest);
        interface.gateways.push(at.gateway6.to_string());
    }
    prepared.guest.interfaces.push(interface);
    prepared.card = Some(NetConfig::User(UserNetSpec {
        user: config,
        mac: Some(mac),
        mtu: None,
        limits: NetLimits::default(),
    }));
    Ok(())
}

/// The network in the back end's terms.
fn config(network: &Network, ports: &[Publish]) -> Result<Config, String> {
    let options = &network.user;
    let defaults = Config::default();
    let subnet = options.subnet.as_deref().map(str::parse).transpose();
    let dns = network.dns.iter().map(|ip| SocketAddr::new(*ip, DNS));
    let config = Config {
        subnet: subnet
            .map_err(|e| format!("subnet: {e}"))?
            .unwrap_or(defaults.subnet),
        ipv6: !options.no_ipv6,
        host_loopback: options.host_loopback,
        metadata: options.metadata,
        policy: policy(&network.policy)?,
        publish: ports.iter().map(publish).collect(),
        dns: dns.map(Resolver).collect(),
    };
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

fn publish(port: &Publish) -> usernet::Publish {
    usernet::Publish {
        host_ip: port.ip,
        host_port: port.first,
        guest_port: port.to.port,
        protocol: match port.to.protocol {
            spec::Protocol::Tcp => usernet::Protocol::Tcp,
            spec::Protocol::Udp => usernet::Protocol::Udp,
        },
    }
}

fn policy(rules: &[String]) -> Result<Policy, String> {
    match rules.is_empty() {
        true => Ok(Policy::default()),
        false => rules.join(",").parse().map_err(|e| format!("{e}")),
    }
}

/// Checks what can be of a network before there is a sandbox.
///
/// # Errors
/// The first thing that makes no sense.
pub fn check(network: &Network) -> Result<(), String> {
    config(network, &network.publish).map(drop)
}

/// The gateway, as the guest sees it.
///
/// # Errors
/// A subnet that makes no sense.
pub fn gateway(network: &Network) -> Result<IpAddr, String> {
    Ok(addresses(network)?.0.gateway.into())
}

/// The guest's addresses and the gateways, IPv4 and IPv6.
///
/// # Errors
/// A subnet that makes no sense.
pub fn addresses(network: &Network) -> Result<(Addresses, bool), String> {
    let config = config(network, &[])?;
    Ok((config.addresses(), config.ipv6))
}

/// The ports as they are open now: the host has chosen where it was left to it.
/// One without an address is open for IPv4 and IPv6.
pub fn opened(ports: &[Publish], open: &[usernet::Published]) -> Vec<Publish> {
    let mut ports = ports.to_vec();
    for (port, open) in ports.iter_mut().zip(open) {
        (port.first, port.last) = (open.host.port(), open.host.port());
        if open.host.is_ipv4() {
            // This host has no IPv6.
            port.ip = port.ip.or(Some(open.host.ip()));
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::id::Id;
    use crate::sandbox::network::prepare;
    use crate::sandbox::spec::{Port, Protocol, UserOptions};

    #[test]
    fn the_guest_is_told_what_the_back_end_does() {
        let network = Network {
            publish: vec![Publish {
                ip: None,
                first: 8080,
                last: 8080,
                to: Port {
                    port: 80,
                    protocol: Protocol::Udp,
                },
            }],
            dns: vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()],
            policy: vec!["allow:*.debian.org:443".into(), "deny".into()],
            ..Network::default()
        };
        let prepared = prepare(&network, &Id::random().unwrap()).unwrap();
        let Some(NetConfig::User(card)) = prepared.card else {
            panic!("no card");
        };
        assert_eq!(card.user.publish[0].to_string(), "8080:80/udp");
        assert_eq!(card.user.policy.rules.len(), 1);
        assert_eq!(card.user.dns.len(), 2);
        let guest = prepared.guest;
        assert_eq!(
            guest.interfaces[0].addresses,
            ["10.0.2.15/24", "fd00::15/64"]
        );
        assert_eq!(guest.interfaces[0].gateways, ["10.0.2.2", "fd00::2"]);
        assert_eq!(guest.dns, ["10.0.2.3"]);
        assert_eq!(
            Some(card.mac.unwrap().to_string()),
            Some(guest.interfaces[0].mac.clone())
        );
    }

    #[test]
    fn a_port_is_where_the_host_has_opened_it() {
        let port = Publish {
            ip: None,
            first: 0,
            last: 0,
            to: Port {
                port: 80,
                protocol: Protocol::Tcp,
            },
        };
        for (host, shown) in [
            ("[::]:8080", vec!["0.0.0.0:8080", "[::]:8080"]),
            ("0.0.0.0:8080", vec!["0.0.0.0:8080"]),
        ] {
            let open = usernet::Published {
                publish: publish(&port),
                host: host.parse().unwrap(),
            };
            let opened = opened(&[port], &[open]);
            assert_eq!(crate::sandbox::network::outside(&opened[0]), shown);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_early() {
        let with = |change: fn(&mut Network)| {
            let mut network = Network::default();
            change(&mut network);
            check(&network)
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert!(with(|n| n.policy = vec!["permit".into()]).is_err());
        assert!(with(|n| n.policy = vec!["deny".into(), "allow:*".into()]).is_err());
        let subnet = |text: &str| {
            let network = Network {
                user: UserOptions {
                    subnet: Some(text.into()),
                    ..UserOptions::default()
                },
                ..Network::default()
            };
            check(&network)
                .and_then(|()| gateway(&network))
                .map(|ip| ip.to_string())
        };
        assert_eq!(subnet("192.168.9.0/24"), Ok("192.168.9.2".to_owned()));
        assert!(subnet("10.0.0.0/30").is_err() && subnet("x").is_err());
    }
}
