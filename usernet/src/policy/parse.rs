//! Policies as text.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use super::{Action, MAX_RULES, Policy, Ports, Protocol, Rule, Target};

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A rule that does not begin with an action.
    #[error("'{0}' is no rule: write 'allow' or 'deny', or 'allow:TARGET[:PORTS][/PROTOCOL]'")]
    Action(String),
    /// Something after a bare `allow` or `deny`.
    #[error("'{0}' stands behind the rule for everything else, which must be the last")]
    AfterDefault(String),
    /// A target that is neither address, block, nor name.
    #[error("'{0}' {1}")]
    Target(String, &'static str),
    /// Ports that are no ports.
    #[error("'{0}' is not a list of ports: write '443', '80+443' or '8000-8080'")]
    Ports(String),
    /// A protocol of another name.
    #[error("'{0}' is no protocol: write 'tcp', 'udp' or 'icmp'")]
    Protocol(String),
    /// Ports for a protocol without.
    #[error("'{0}' has ports, which icmp does not know")]
    IcmpPorts(String),
    /// Too many rules.
    #[error("a policy has at most {MAX_RULES} rules, this one {0}")]
    TooMany(usize),
}

/// `RULE,RULE,...`, each `allow` or `deny`, then `:TARGET[:PORTS][/PROTOCOL]`. A
/// target is `*`, an address, a block (`10.0.0.0/8`, `[fd00::/8]`) or a name
/// (`example.org`, `*.example.org`); ports are `443`, `80+443`, `8000-8080` or `*`.
///
/// A bare `allow` or `deny` at the end is for what no rule matches. Without it,
/// that is denied if any rule allows something, and else allowed: a list of what is
/// allowed means that the rest is not.
impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut rules = Vec::new();
        let mut default = None;
        for item in text.split(',').map(str::trim) {
            if default.is_some() {
                return Err(PolicyError::AfterDefault(item.to_owned()));
            }
            match item.split_once(':') {
                None => default = Some(action(item, item)?),
                Some((word, rest)) => rules.push(rule(action(word, item)?, rest)?),
            }
        }
        let allows = rules.iter().any(|rule: &Rule| rule.action == Action::Allow);
        let policy = Policy {
            default: default.unwrap_or(if allows { Action::Deny } else { Action::Allow }),
            rules,
        };
        policy.validate()?;
        Ok(policy)
    }
}

impl Policy {
    /// Checks what the types do not: for a policy that came from JSON.
    ///
    /// # Errors
    /// When there are too many rules, or one about echo requests has ports.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.rules.len() > MAX_RULES {
            return Err(PolicyError::TooMany(self.rules.len()));
        }
        let odd = |rule: &&Rule| rule.protocol == Some(Protocol::Icmp) && !rule.ports.is_empty();
        match self.rules.iter().find(odd) {
            Some(rule) => Err(PolicyError::IcmpPorts(rule.to_string())),
            None => Ok(()),
        }
    }
}

fn action(word: &str, item: &str) -> Result<Action, PolicyError> {
    match word {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        _ => Err(PolicyError::Action(item.to_owned())),
    }
}

fn rule(action: Action, text: &str) -> Result<Rule, PolicyError> {
    let (target, rest) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((inside, rest)) => (inside, rest),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let mut target = target;
    let (ports, protocol) = match rest.strip_prefix(':') {
        Some(rest) if !text.starts_with('[') && rest.contains(':') => {
            let why = "is no rule: an IPv6 address stands in brackets, as in '[2001:db8::/32]:443'";
            return Err(PolicyError::Target(text.to_owned(), why));
        }
        Some(rest) => match rest.split_once('/') {
            Some((ports, protocol)) => (ports, Some(protocol)),
            None => (rest, None),
        },
        None if rest.is_empty() => match target.rsplit_once('/') {
            // A number there is the length of a prefix.
            Some((before, protocol)) if protocol.starts_with(|c: char| c.is_alphabetic()) => {
                target = before;
                ("*", Some(protocol))
            }
            _ => ("*", None),
        },
        None => match rest.strip_prefix('/') {
            Some(protocol) => ("*", Some(protocol)),
            None => return Err(PolicyError::Ports(rest.to_owned())),
        },
    };
    let protocol = protocol.map(str::parse).transpose()?;
    let ports = match ports {
        "*" => Vec::new(),
        list => list
            .split('+')
            .map(str::parse)
            .collect::<Result<_, PolicyError>>()?,
    };
    Ok(Rule {
        action,
        target: target.parse()?,
        ports,
        protocol,
    })
}

impl FromStr for Target {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text == "*" {
            return Ok(Target::Any);
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Target::Net(addr.into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Target::Net(net.trunc()));
        }
        // What looks like an address must not be taken for a name.
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if numeric || text.contains(['/', ':']) {
            let why = "is neither an address nor a block such as '10.0.0.0/8'";
            return Err(PolicyError::Target(text.to_owned(), why));
        }
        let name = text.parse();
        name.map(Target::Name)
            .map_err(|why| PolicyError::Target(text.to_owned(), why))
    }
}

impl FromStr for Ports {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let bad = || PolicyError::Ports(text.to_owned());
        let port = |text: &str| match text.parse::<u16>() {
            // `parse` would take a sign as well.
            Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
            _ => Err(bad()),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(bad());
        }
        Ok(Ports(first..=last))
    }
}

impl FromStr for Protocol {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "icmp" => Ok(Protocol::Icmp),
            _ => Err(PolicyError::Protocol(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

impl TryFrom<String> for Ports {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> String {
        ports.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Any => f.write_char('*'),
            Target::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{}", net.addr())
            }
            Target::Net(net) => write!(f, "{net}"),
            Target::Name(pattern) => write!(f, "{pattern}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        match first == last {
            true => write!(f, "{first}"),
            false => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Net(IpNet::V6(_)) => write!(f, "{}:[{}]", self.action, self.target)?,
            _ => write!(f, "{}:{}", self.action, self.target)?,
        }
        for (n, ports) in self.ports.iter().enumerate() {
            f.write_char(if n == 0 { ':' } else { '+' })?;
            write!(f, "{ports}")?;
        }
        match self.protocol {
            Some(protocol) if self.ports.is_empty() => write!(f, ":*/{protocol}"),
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

/// As [`Policy::from_str`] reads it.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            write!(f, "{rule},")?;
        }
        write!(f, "{}", self.default)
    }
}
