//! The resolvers that queries go to: given ones, or those of the host.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::MAX_RESOLVERS;

/// The port of DNS.
pub const PORT: u16 = 53;
/// How often the host's file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The largest file that is read.
const MAX_FILE: u64 = 64 << 10;

/// A resolver: an address, `192.0.2.1`, or one with a port, `192.0.2.1:5353`,
/// `[2001:db8::1]:53`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resolver(pub SocketAddr);

impl FromStr for Resolver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let addr = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT));
        let addr = addr.or_else(|_| text.parse());
        match addr {
            Ok(addr) if addr.port() != 0 => Ok(Resolver(addr)),
            _ => Err("is not the address of a resolver, such as '192.0.2.1' or '192.0.2.1:53'"),
        }
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            PORT => write!(f, "{}", self.0.ip()),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl TryFrom<String> for Resolver {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("'{text}' {why}"))
    }
}

impl From<Resolver> for String {
    fn from(resolver: Resolver) -> String {
        resolver.to_string()
    }
}

/// The list, kept up to date.
#[derive(Debug)]
pub struct Resolvers {
    list: Vec<SocketAddr>,
    file: Option<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
}

impl Resolvers {
    /// Those given; without any, those in the host's `resolv.conf(5)`.
    pub fn new(given: &[Resolver]) -> Self {
        match given {
            [] => Self::of_file("/etc/resolv.conf".into()),
            given => Resolvers {
                list: given.iter().map(|r| r.0).collect(),
                file: None,
            },
        }
    }

    fn of_file(path: PathBuf) -> Self {
        Resolvers {
            list: Vec::new(),
            file: Some(File {
                path,
                looked: None,
                changed: None,
            }),
        }
    }

    /// The list as it is now. A host that moves to another network writes another.
    pub fn list(&mut self, now: Instant) -> &[SocketAddr] {
        if let Some(file) = &mut self.file
            && let Some(list) = file.look(now)
        {
            self.list = list;
        }
        &self.list
    }
}

impl File {
    /// The file's resolvers, if it changed. If it cannot be read, the last ones
    /// are as good as any.
    fn look(&mut self, now: Instant) -> Option<Vec<SocketAddr>> {
        let recently = |at: Instant| now.saturating_duration_since(at) < LOOK;
        if self.looked.is_some_and(recently) {
            return None;
        }
        let first = self.looked.replace(now).is_none();
        let text = fs::metadata(&self.path).and_then(|meta| {
            let changed = meta.modified()?;
            if Some(changed) == self.changed || meta.len() > MAX_FILE {
                return Ok(None);
            }
            let text = fs::read(&self.path)?;
            self.changed = Some(changed);
            Ok(Some(text))
        });
        match text {
            Ok(Some(text)) => Some(parse(&String::from_utf8_lossy(&text))),
            Err(error) if first => {
                log::warn!("network: {}: {error}", self.path.display());
                Some(parse(""))
            }
            _ => None,
        }
    }
}

/// The `nameserver` lines. Those without any mean this host (`resolv.conf(5)`).
/// Link-local ones need an interface, which a socket of ours has not; they are
/// left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        words.next()?.parse::<IpAddr>().ok()
    });
    let servers = servers.map(|ip| SocketAddr::new(ip, PORT));
    let mut list: Vec<_> = servers.take(MAX_RESOLVERS).collect();
    if list.is_empty() {
        list.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read() {
        let text = "# nameserver 1.1.1.1\nsearch a.b\nnameserver 127.0.0.53\n\
                    nameserver\t2001:db8::1 \nnameserver fe80::1%eth0\nnameserver x\noptions edns0";
        let list: Vec<_> = parse(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(list, ["127.0.0.53:53", "[2001:db8::1]:53"]);
        assert_eq!(parse("")[0].to_string(), "127.0.0.1:53");
        assert_eq!(
            parse(&"nameserver 1.1.1.1\n".repeat(99)).len(),
            MAX_RESOLVERS
        );
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = std::env::temp_dir().join(format!("usernet-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("resolv.conf");
        let mut resolvers = Resolvers::of_file(path.clone());
        let now = Instant::now();
        assert_eq!(resolvers.list(now)[0].to_string(), "127.0.0.1:53");
        fs::write(&path, "nameserver 192.0.2.1").unwrap();
        assert_eq!(resolvers.list(now)[0].to_string(), "127.0.0.1:53");
        assert_eq!(resolvers.list(now + LOOK)[0].to_string(), "192.0.2.1:53");
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            resolvers.list(now + LOOK * 2)[0].to_string(),
            "192.0.2.1:53"
        );
    }

    #[test]
    fn resolvers_as_text() {
        for (text, addr) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            let resolver: Resolver = text.parse().unwrap();
            assert_eq!(resolver.0.to_string(), addr);
            assert_eq!(resolver.to_string(), text);
        }
        for text in ["", "a", "192.0.2.1:0", "192.0.2.1:"] {
            assert!(text.parse::<Resolver>().is_err(), "{text}");
        }
    }
}
