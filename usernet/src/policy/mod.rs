//! Which connections a guest may open: rules by address, port, protocol and DNS
//! name, the first match counts.
//!
//! A name in a rule stands for the addresses that the network's own DNS forwarder
//! found for it, for as long as the answer lives: the guest cannot make an address
//! match by a resolver of its own. What a policy denies cannot be resolved either,
//! since a query is itself a message to the outside ([`Policy::resolves`]).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod name;
mod parse;
#[cfg(test)]
mod tests;

pub use name::{Name, NamePattern};
pub use parse::PolicyError;

/// The most rules of a policy: each new flow walks them.
pub const MAX_RULES: usize = 1024;

/// What a rule, or the end of the rules, decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Let it through.
    Allow,
    /// Refuse it.
    Deny,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo.
    Icmp,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Everything: `*`.
    Any,
    /// An address or a block of addresses: `10.0.0.0/8`.
    Net(IpNet),
    /// A DNS name, or with `*.` all names below one.
    Name(NamePattern),
}

/// A range of ports, both ends included: `443` or `8000-8080`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports(pub RangeInclusive<u16>);

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// What it decides.
    pub action: Action,
    /// Whom it is about.
    pub target: Target,
    /// Destination ports; all when empty. Echo requests have none: a rule with
    /// ports is not about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
    /// The protocol; all when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// What a guest may reach. As text: [`Policy::from_str`](#impl-FromStr-for-Policy).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// What holds when no rule matches.
    pub default: Action,
    /// The rules, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

impl Default for Policy {
    /// Everything is allowed.
    fn default() -> Self {
        Policy {
            default: Action::Allow,
            rules: Vec::new(),
        }
    }
}

/// Where a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub addr: IpAddr,
    /// The port; none for echo requests.
    pub port: Option<u16>,
}

impl Policy {
    /// Decides on a flow. `named` says whether an address is known by a name that
    /// a pattern matches.
    pub fn decide(&self, to: Destination, named: impl Fn(IpAddr, &NamePattern) -> bool) -> Action {
        let rule = self.rules.iter().find(|rule| {
            rule.is_about(to.protocol, to.port)
                && match &rule.target {
                    Target::Any => true,
                    Target::Net(net) => {
                        net.contains(&to.addr)
                            // What is denied is so by each of its spellings.
                            || rule.action == Action::Deny
                                && inside(to.addr).is_some_and(|addr| net.contains(&addr))
                    }
                    Target::Name(pattern) => named(to.addr, pattern),
                }
        });
        rule.map_or(self.default, |rule| rule.action)
    }

    /// Decides whether a name may be looked up: when some flow to what it stands
    /// for could be allowed by that name. Rules about addresses have no say, as
    /// the addresses are not known yet.
    pub fn resolves(&self, name: &Name) -> bool {
        let rule = self.rules.iter().find(|rule| {
            let about = match &rule.target {
                Target::Any => true,
                Target::Net(_) => false,
                Target::Name(pattern) => pattern.matches(name),
            };
            // A name of which a part is denied must still be found for the rest.
            about && (rule.action == Action::Allow || rule.is_whole())
        });
        rule.map_or(self.default, |rule| rule.action) == Action::Allow
    }

    /// True when a rule is about a name, so that answers must be remembered.
    pub fn has_names(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| matches!(rule.target, Target::Name(_)))
    }
}

/// The IPv4 address that an IPv6 one stands for.
fn inside(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => crate::closed::inside(addr).map(IpAddr::from),
    }
}

impl Rule {
    fn is_whole(&self) -> bool {
        self.ports.is_empty() && self.protocol.is_none()
    }

    fn is_about(&self, protocol: Protocol, port: Option<u16>) -> bool {
        if self.protocol.is_some_and(|p| p != protocol) {
            return false;
        }
        match port {
            _ if self.ports.is_empty() => true,
            Some(port) => self.ports.iter().any(|ports| ports.0.contains(&port)),
            None => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        })
    }
}
