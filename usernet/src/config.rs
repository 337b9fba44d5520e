//! The description of a network, as plain data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dns::Resolver;
use crate::policy::{Policy, PolicyError};
use crate::publish::Publish;

/// The MTU to give the guest when nothing speaks against it: the largest IPv4
/// packet, less what is kept free so that it is a multiple of 16. No segmentation
/// is needed for full speed then, and no datagram is ever cut into fragments.
pub const DEFAULT_MTU: u16 = 65520;
/// The smallest MTU: what IPv6 needs (RFC 8200 §5).
pub const MIN_MTU: u16 = 1280;
/// The most ports that one network publishes: each is a socket.
pub const MAX_PUBLISHED: usize = 1024;
/// The most resolvers to ask, one after the other.
pub const MAX_RESOLVERS: usize = 8;

/// The block of IPv6 addresses, of which the guest chooses its own: fd00::/64.
const PREFIX6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);
/// Place of the gateway in both blocks.
const GATEWAY: u8 = 2;
/// Place of the DNS forwarder.
const DNS: u8 = 3;
/// Place of the guest.
const GUEST: u8 = 15;
/// Place of the guest in the IPv6 block, to look the same.
const GUEST6: u8 = 0x15;
/// The smallest block in which the guest's place is one: 32 addresses.
const LONGEST_PREFIX: u8 = 27;
/// The largest block.
const SHORTEST_PREFIX: u8 = 8;

/// A network for one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The guest's IPv4 network: /8 to /27. Hosts of the outside in this block
    /// cannot be reached.
    pub subnet: Ipv4Net,
    /// Whether the guest has IPv6.
    pub ipv6: bool,
    /// Whether the gateway's address stands for the host's loopback (127.0.0.1 and
    /// ::1): whatever listens there can be reached by the guest.
    pub host_loopback: bool,
    /// Whether link-local addresses and the metadata services of clouds can be
    /// reached: they may hand out the host's credentials.
    pub metadata: bool,
    /// What else the guest may reach.
    pub policy: Policy,
    /// Ports of the guest that are reached through the host's.
    pub publish: Vec<Publish>,
    /// The resolvers to forward DNS queries to; the host's own (`/etc/resolv.conf`)
    /// when empty.
    pub dns: Vec<Resolver>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24),
            ipv6: true,
            host_loopback: false,
            metadata: false,
            policy: Policy::default(),
            publish: Vec::new(),
            dns: Vec::new(),
        }
    }
}

/// What is wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The size or place of the guest's network.
    #[error(
        "subnet: {0} is not a network of private size: give a /{SHORTEST_PREFIX} to /{LONGEST_PREFIX} of unicast addresses"
    )]
    Subnet(Ipv4Net),
    /// Too many ports.
    #[error("publish: {0} ports are published, {MAX_PUBLISHED} can be")]
    TooManyPorts(usize),
    /// A port that says nothing.
    #[error("publish: {0}: only TCP and UDP ports from 1 up can be published")]
    Publish(Publish),
    /// Too many resolvers.
    #[error("dns: {0} resolvers are given, {MAX_RESOLVERS} can be")]
    TooManyResolvers(usize),
    /// The policy.
    #[error("policy: {0}")]
    Policy(#[from] PolicyError),
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let size = SHORTEST_PREFIX..=LONGEST_PREFIX;
        let network = self.subnet.network();
        if !size.contains(&self.subnet.prefix_len())
            || crate::closed::closed(network.into()).is_some()
        {
            return Err(ConfigError::Subnet(self.subnet));
        }
        if self.publish.len() > MAX_PUBLISHED {
            return Err(ConfigError::TooManyPorts(self.publish.len()));
        }
        let odd = |p: &&Publish| p.guest_port == 0 || p.protocol == crate::Protocol::Icmp;
        if let Some(publish) = self.publish.iter().find(odd) {
            return Err(ConfigError::Publish(*publish));
        }
        if self.dns.len() > MAX_RESOLVERS {
            return Err(ConfigError::TooManyResolvers(self.dns.len()));
        }
        Ok(self.policy.validate()?)
    }

    /// The addresses of this network.
    pub fn addresses(&self) -> Addresses {
        let network = u32::from(self.subnet.network());
        let at = |place: u8| Ipv4Addr::from(network | u32::from(place));
        let at6 = |place: u8| Ipv6Addr::from(u128::from(PREFIX6) | u128::from(place));
        Addresses {
            guest: at(GUEST),
            gateway: at(GATEWAY),
            dns: at(DNS),
            prefix_len: self.subnet.prefix_len(),
            guest6: at6(GUEST6),
            gateway6: at6(GATEWAY),
            dns6: at6(DNS),
            prefix_len6: 64,
        }
    }
}

/// The addresses of a network: what a guest without DHCP has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The guest's; packets with another are dropped.
    pub guest: Ipv4Addr,
    /// The gateway's.
    pub gateway: Ipv4Addr,
    /// The DNS forwarder's.
    pub dns: Ipv4Addr,
    /// The length of the network's prefix.
    pub prefix_len: u8,
    /// An address for a guest that does not make one up itself; any in the prefix
    /// will do.
    pub guest6: Ipv6Addr,
    /// The gateway's.
    pub gateway6: Ipv6Addr,
    /// The DNS forwarder's.
    pub dns6: Ipv6Addr,
    /// The length of the prefix.
    pub prefix_len6: u8,
}

impl Addresses {
    /// True for addresses of the guest's own networks.
    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX << (32 - self.prefix_len);
                u32::from(addr) & mask == u32::from(self.gateway) & mask
            }
            IpAddr::V6(addr) => addr.segments()[..4] == self.gateway6.segments()[..4],
        }
    }

    /// True for the gateway's addresses.
    pub(crate) fn is_gateway(&self, addr: IpAddr) -> bool {
        addr == IpAddr::V4(self.gateway) || addr == IpAddr::V6(self.gateway6)
    }

    /// True for the forwarder's addresses.
    pub(crate) fn is_dns(&self, addr: IpAddr) -> bool {
        addr == IpAddr::V4(self.dns) || addr == IpAddr::V6(self.dns6)
    }

    /// True for what the guest may send from.
    pub(crate) fn is_guest(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(v4) => v4 == self.guest,
            IpAddr::V6(_) => self.is_local(addr) && !self.is_gateway(addr) && !self.is_dns(addr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_their_addresses() {
        let config: Config = serde_json::from_str("{}").unwrap();
        assert_eq!(config, Config::default());
        config.validate().unwrap();
        let a = config.addresses();
        assert_eq!(a.guest.to_string(), "10.0.2.15");
        assert_eq!(a.gateway.to_string(), "10.0.2.2");
        assert_eq!(a.dns.to_string(), "10.0.2.3");
        assert_eq!(a.guest6.to_string(), "fd00::15");
        for (addr, guest) in [
            ("10.0.2.15", true),
            ("10.0.2.16", false),
            ("10.0.2.2", false),
            ("fd00::1234", true),
            ("fd00::2", false),
            ("fd00:0:0:1::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(a.is_guest(addr.parse().unwrap()), guest, "{addr}");
        }
        assert!(a.is_local("10.0.2.99".parse().unwrap()));
        assert!(!a.is_local("10.0.3.99".parse().unwrap()));
    }

    #[test]
    fn what_is_refused() {
        let subnet = |text: &str| Config {
            subnet: text.parse().unwrap(),
            ..Config::default()
        };
        subnet("172.16.0.0/27").validate().unwrap();
        subnet("10.0.0.0/8").validate().unwrap();
        for text in [
            "10.0.2.0/28",
            "0.0.0.0/8",
            "127.0.0.0/24",
            "224.0.0.0/24",
            "10.0.0.0/7",
        ] {
            let error = subnet(text).validate().unwrap_err();
            assert_eq!(error, ConfigError::Subnet(text.parse().unwrap()));
        }
        let config = Config {
            publish: vec!["80".parse().unwrap(); MAX_PUBLISHED + 1],
            ..Config::default()
        };
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .starts_with("publish: 1025 ports")
        );
        assert!(serde_json::from_str::<Config>(r#"{"subnets":[]}"#).is_err());
    }
}
