//! Where a guest's flow may go: what is closed always, and the policy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::closed::{Closed, closed};
use crate::config::{Addresses, Config};
use crate::packet::Unreachable;
use crate::policy::{Action, Destination, Name, NamePattern, Policy, Protocol};

/// The most addresses whose names are remembered.
const MAX_ADDRESSES: usize = 4096;
/// The most names of one address: thousands can share one at a large host.
const MAX_NAMES: usize = 64;
/// A name counts at least this long: programs look one up and connect later.
const MIN_TTL: Duration = Duration::from_secs(60);
/// And at most this long, whatever its owner says.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// What is to become of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may go, to this address of the host's side.
    To(SocketAddr),
    /// Nothing listens there, as the guest sees it.
    Refused,
    /// It gets no further than the gateway.
    Unreachable(Unreachable),
    /// Not worth an answer.
    Ignored,
}

/// Decides on flows and look-ups.
#[derive(Debug)]
pub struct Guard {
    addresses: Addresses,
    host_loopback: bool,
    metadata: bool,
    policy: Policy,
    /// Only kept when the policy has names.
    names: Option<Names>,
}

impl Guard {
    pub fn new(config: &Config) -> Self {
        Guard {
            addresses: config.addresses(),
            host_loopback: config.host_loopback,
            metadata: config.metadata,
            policy: config.policy.clone(),
            names: config.policy.has_names().then(Names::default),
        }
    }

    /// Decides on a flow to `to`; for echo requests its port has no meaning.
    pub fn check(&self, protocol: Protocol, to: SocketAddr, now: Instant) -> Verdict {
        let addr = to.ip();
        let host = if self.addresses.is_gateway(addr) {
            if !self.host_loopback {
                return Verdict::Refused;
            }
            match addr {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            }
        } else if self.addresses.is_dns(addr) {
            return Verdict::Refused;
        } else if self.addresses.is_local(addr) {
            return Verdict::Unreachable(Unreachable::Host);
        } else {
            match closed(addr) {
                None => {}
                Some(Closed::Metadata) if self.metadata => {}
                Some(Closed::Metadata | Closed::Loopback) => {
                    return Verdict::Unreachable(Unreachable::Prohibited);
                }
                Some(Closed::NotUnicast) => return Verdict::Ignored,
            }
            addr
        };
        let destination = Destination {
            protocol,
            addr,
            port: (protocol != Protocol::Icmp).then_some(to.port()),
        };
        let named = |addr, pattern: &NamePattern| {
            let names = self.names.as_ref();
            names.is_some_and(|names| names.any(addr, pattern, now))
        };
        match self.policy.decide(destination, named) {
            Action::Allow => Verdict::To(SocketAddr::new(host, to.port())),
            Action::Deny => Verdict::Unreachable(Unreachable::Prohibited),
        }
    }

    /// True when the guest may look a name up.
    pub fn resolves(&self, name: &Name) -> bool {
        self.policy.resolves(name)
    }

    /// Remembers that the forwarder found `addr` for `name`.
    pub fn learn(&mut self, name: &Name, addr: IpAddr, ttl: Duration, now: Instant) {
        if let Some(names) = &mut self.names {
            names.insert(name, addr, now + ttl.clamp(MIN_TTL, MAX_TTL), now);
        }
    }
}

/// The names under which addresses were found, with the end of their validity.
#[derive(Debug, Default)]
struct Names(HashMap<IpAddr, Vec<(Name, Instant)>>);

impl Names {
    fn any(&self, addr: IpAddr, pattern: &NamePattern, now: Instant) -> bool {
        let names = self.0.get(&addr).map(Vec::as_slice).unwrap_or_default();
        let alive = names.iter().filter(|(_, end)| *end > now);
        alive
            .map(|(name, _)| name)
            .any(|name| pattern.matches(name))
    }

    fn insert(&mut self, name: &Name, addr: IpAddr, end: Instant, now: Instant) {
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&addr) {
            self.make_room(now);
        }
        let names = self.0.entry(addr).or_default();
        if let Some(known) = names.iter_mut().find(|(known, _)| known == name) {
            known.1 = known.1.max(end);
            return;
        }
        if names.len() >= MAX_NAMES {
            let oldest = names.iter().enumerate().min_by_key(|(_, (_, end))| *end);
            if let Some((n, _)) = oldest {
                names.swap_remove(n);
            }
        }
        names.push((name.clone(), end));
    }

    /// Forgets what is over; if nothing is, the half that will be first.
    fn make_room(&mut self, now: Instant) {
        let last = |names: &[(Name, Instant)]| names.iter().map(|(_, end)| *end).max();
        self.0
            .retain(|_, names| last(names).is_some_and(|end| end > now));
        if self.0.len() < MAX_ADDRESSES {
            return;
        }
        let mut ends: Vec<_> = self.0.values().filter_map(|names| last(names)).collect();
        ends.sort_unstable();
        if let Some(&middle) = ends.get(ends.len() / 2) {
            self.0
                .retain(|_, names| last(names).is_some_and(|end| end > middle));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(change: impl FnOnce(&mut Config)) -> Guard {
        let mut config = Config::default();
        change(&mut config);
        Guard::new(&config)
    }

    fn name(text: &str) -> Name {
        Name::from_labels(text.split('.').map(str::as_bytes))
    }

    const OUT: Verdict = Verdict::Unreachable(Unreachable::Prohibited);

    #[test]
    fn closed_by_default_and_opened_by_options() {
        let now = Instant::now();
        let closed = guard(|_| {});
        let open = guard(|c| {
            c.host_loopback = true;
            c.metadata = true;
        });
        let to = |text: &str| Verdict::To(text.parse().unwrap());
        for (addr, by_default, opened) in [
            ("10.0.2.2:80", Verdict::Refused, to("127.0.0.1:80")),
            ("[fd00::2]:80", Verdict::Refused, to("[::1]:80")),
            ("10.0.2.3:80", Verdict::Refused, Verdict::Refused),
            (
                "10.0.2.9:80",
                Verdict::Unreachable(Unreachable::Host),
                Verdict::Unreachable(Unreachable::Host),
            ),
            ("127.0.0.1:80", OUT, OUT),
            ("[::1]:80", OUT, OUT),
            ("[::ffff:127.0.0.1]:80", OUT, OUT),
            ("0.0.0.0:80", OUT, OUT),
            ("169.254.169.254:80", OUT, to("169.254.169.254:80")),
            ("[fd00:ec2::254]:80", OUT, to("[fd00:ec2::254]:80")),
            ("239.1.1.1:80", Verdict::Ignored, Verdict::Ignored),
            ("192.0.2.1:80", to("192.0.2.1:80"), to("192.0.2.1:80")),
        ] {
            let addr: SocketAddr = addr.parse().unwrap();
            assert_eq!(closed.check(Protocol::Tcp, addr, now), by_default, "{addr}");
            assert_eq!(open.check(Protocol::Tcp, addr, now), opened, "{addr}");
        }
    }

    #[test]
    fn what_is_closed_stays_so_whatever_the_policy_says() {
        let mut guard = guard(|c| c.policy = "allow:*,allow:a.example".parse().unwrap());
        let now = Instant::now();
        let metadata = "169.254.169.254:80".parse().unwrap();
        // A name that its owner points there.
        guard.learn(
            &name("a.example"),
            "169.254.169.254".parse().unwrap(),
            MAX_TTL,
            now,
        );
        assert_eq!(guard.check(Protocol::Tcp, metadata, now), OUT);
    }

    #[test]
    fn names_count_for_as_long_as_they_live() {
        let mut guard = guard(|c| c.policy = "allow:*.example:443".parse().unwrap());
        let now = Instant::now();
        let to: SocketAddr = "192.0.2.1:443".parse().unwrap();
        assert_eq!(guard.check(Protocol::Tcp, to, now), OUT);
        guard.learn(&name("a.example"), to.ip(), Duration::ZERO, now);
        assert_eq!(guard.check(Protocol::Tcp, to, now), Verdict::To(to));
        let other = SocketAddr::new(to.ip(), 80);
        assert_eq!(guard.check(Protocol::Tcp, other, now), OUT);
        assert_eq!(guard.check(Protocol::Tcp, to, now + MIN_TTL), OUT);
        guard.learn(&name("a.example"), to.ip(), Duration::MAX, now);
        let late = now + MAX_TTL - Duration::from_secs(1);
        assert_eq!(guard.check(Protocol::Tcp, to, late), Verdict::To(to));
        assert_eq!(guard.check(Protocol::Tcp, to, now + MAX_TTL), OUT);
    }

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        let now = Instant::now();
        let addr = |n: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
        for n in 0..MAX_ADDRESSES as u32 * 2 {
            let end = now + MIN_TTL + Duration::from_secs(n.into());
            names.insert(&name("a.example"), addr(n), end, now);
            assert!(names.0.len() <= MAX_ADDRESSES);
        }
        assert!(names.0.contains_key(&addr(MAX_ADDRESSES as u32 * 2 - 1)));
        for n in 0..MAX_NAMES * 2 {
            let end = now + MIN_TTL + Duration::from_secs(n as u64);
            names.insert(&name(&format!("n{n}.example")), addr(1), end, now);
        }
        let last: NamePattern = format!("n{}.example", MAX_NAMES * 2 - 1).parse().unwrap();
        assert!(names.any(addr(1), &last, now));
        assert_eq!(names.0[&addr(1)].len(), MAX_NAMES);
    }
}
