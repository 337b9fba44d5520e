//! What `--network` and the options that go with it take.

use std::net::IpAddr;
use std::str::FromStr;

use crate::sandbox::network::HOST_GATEWAY;
use crate::sandbox::spec::{NetworkMode, UserOptions};

/// `--network`: `user`, with `host-loopback`, `metadata`, `no-ipv6`,
/// `subnet=NET/LENGTH`; `none`; `tap=NAME` and `bridge=NAME`, with
/// `ip=ADDRESS/LENGTH` and `gateway=ADDRESS`. All take `mac=MAC`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFlag {
    /// Which kind.
    pub mode: NetworkMode,
    /// An address for it.
    pub ip: Option<String>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// A hardware address.
    pub mac: Option<String>,
    /// What is different about the default network.
    pub user: UserOptions,
}

impl FromStr for NetworkFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut options = text.split(',');
        let kind = options.next().unwrap_or_default();
        let named = |name: &str| match (1..libc::IFNAMSIZ).contains(&name.len()) {
            true => Ok(name.to_owned()),
            false => Err(format!(
                "'{name}' is no interface's name: it has 1 to 15 characters"
            )),
        };
        let mode = match kind.split_once('=') {
            None => match kind {
                "user" | "default" => NetworkMode::User,
                "none" => NetworkMode::None,
                "host" => {
                    return Err("'host': a sandbox has a kernel of its own and not the host's network: use user, with -p for ports".to_owned());
                }
                "bridge" | "tap" => {
                    return Err(format!("'{kind}': name it, as in {kind}=NAME, or use user"));
                }
                _ => return Err(bad(kind)),
            },
            Some(("tap", name)) => NetworkMode::Tap(named(name)?),
            Some(("bridge", name)) => NetworkMode::Bridge(named(name)?),
            Some(_) => return Err(bad(kind)),
        };
        let mut flag = NetworkFlag {
            mode,
            ..NetworkFlag::default()
        };
        let user = flag.mode == NetworkMode::User;
        let outside = matches!(flag.mode, NetworkMode::Tap(_) | NetworkMode::Bridge(_));
        for option in options {
            match option.split_once('=') {
                Some(("ip", value)) if outside => flag.ip = Some(prefixed(value)?),
                Some(("gateway" | "gw", value)) if outside => {
                    let parsed = value.parse();
                    flag.gateway = Some(parsed.map_err(|_| format!("'{value}' is no address"))?);
                }
                Some(("mac", value)) if user || outside => flag.mac = Some(mac(value)?),
                Some(("subnet", value)) if user => flag.user.subnet = Some(value.to_owned()),
                None if user && option == "host-loopback" => flag.user.host_loopback = true,
                None if user && option == "metadata" => flag.user.metadata = true,
                None if user && option == "no-ipv6" => flag.user.no_ipv6 = true,
                _ => {
                    let takes = match (user, outside) {
                        (true, _) => "host-loopback, metadata, no-ipv6, subnet=NET, mac=MAC",
                        (_, true) => "ip=ADDRESS, gateway=ADDRESS, mac=MAC",
                        _ => "none",
                    };
                    return Err(format!("unknown option '{option}': {kind} takes {takes}"));
                }
            }
        }
        Ok(flag)
    }
}

fn bad(kind: &str) -> String {
    format!("'{kind}' is no network: it takes user, none, tap=NAME or bridge=NAME")
}

/// An address with the length of its prefix.
///
/// # Errors
/// One line that says what would be right.
pub fn prefixed(text: &str) -> Result<String, String> {
    let bad = || format!("'{text}': write the address with its prefix, as 192.168.1.5/24");
    let (ip, length) = text.split_once('/').ok_or_else(bad)?;
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(length) if length <= most => Ok(text.to_owned()),
        _ => Err(bad()),
    }
}

/// A hardware address.
///
/// # Errors
/// One line that says what would be right.
pub fn mac(text: &str) -> Result<String, String> {
    let parsed = text.parse::<devices::virtio::net::MacAddr>();
    parsed
        .map(|mac| mac.to_string())
        .map_err(|e| format!("'{text}': {e}"))
}

/// `--add-host`: `NAME:ADDRESS`; the address may be [`HOST_GATEWAY`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFlag(pub String, pub String);

impl FromStr for HostFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}': write it as NAME:ADDRESS");
        let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = bare.unwrap_or(address);
        let odd = name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '#');
        if odd || (address != HOST_GATEWAY && address.parse::<IpAddr>().is_err()) {
            return Err(bad());
        }
        Ok(HostFlag(name.to_owned(), address.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_network() {
        let parse = |text: &str| text.parse::<NetworkFlag>();
        for (text, mode) in [
            ("user", NetworkMode::User),
            ("none", NetworkMode::None),
            ("tap=tap0", NetworkMode::Tap("tap0".into())),
            ("bridge=br0", NetworkMode::Bridge("br0".into())),
        ] {
            assert_eq!(parse(text).unwrap().mode, mode, "{text}");
        }
        let full =
            parse("bridge=br0,ip=10.0.0.2/24,gateway=10.0.0.1,mac=02:00:00:00:00:01").unwrap();
        assert_eq!(full.ip.as_deref(), Some("10.0.0.2/24"));
        assert_eq!(full.gateway, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(full.mac.as_deref(), Some("02:00:00:00:00:01"));
        for text in [
            "",
            "host",
            "bridge",
            "tap=",
            "x",
            "x=y",
            "tap=abcdefghijklmnop",
            "tap=t,ip=1.2.3.4",
            "tap=t,ip=1.2.3.4/33",
            "tap=t,what=1",
            "tap=t,mac=x",
            "tap=t,gateway=x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_have_names_and_addresses() {
        let parse = |text: &str| text.parse::<HostFlag>().map(|h| (h.0, h.1));
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(parse("db:10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(parse("db=[::1]"), pair("db", "::1"));
        assert_eq!(parse("db:::1"), pair("db", "::1"));
        assert_eq!(parse("host:host-gateway"), pair("host", "host-gateway"));
        for text in ["", "db", "db:", ":10.0.0.1", "a b:10.0.0.1", "db:x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
