//! What `-p` and `--expose` take, as Docker has it.

use std::net::IpAddr;
use std::str::FromStr;

use crate::sandbox::spec::{Port, Protocol, Publish};

/// `-p`: `[[IP:][HOST]:]SANDBOX[/PROTOCOL]`, where both may be ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishFlag(pub Vec<Publish>);

/// `--expose`: `PORT[-PORT][/PROTOCOL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExposeFlag(pub Vec<Port>);

impl FromStr for PublishFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = protocol(text)?;
        let (rest, inside) = match ports.rsplit_once(':') {
            Some((rest, inside)) => (Some(rest), inside),
            None => (None, ports),
        };
        let (ip, host) = match rest {
            None => (None, ""),
            Some(rest) => match rest.rsplit_once(':') {
                // An IPv6 address has brackets, and the port stands behind.
                Some((ip, host)) if !host.ends_with(']') => (Some(ip), host),
                Some(_) => (Some(rest), ""),
                None => (None, rest),
            },
        };
        let ip = ip.map(address).transpose()?;
        let (first, last) = range(inside)?;
        let inside = first..=last;
        let outside = match host {
            "" => None,
            host => Some(range_with_zero(host)?),
        };
        let publish = |first, last, port| Publish {
            ip,
            first,
            last,
            to: Port { port, protocol },
        };
        let count = usize::from(last - first) + 1;
        let list = match outside {
            None => inside.map(|port| publish(0, 0, port)).collect(),
            // Any of them, for one.
            Some((from, to)) if count == 1 => vec![publish(from, to, first)],
            Some((from, to)) if usize::from(to - from) + 1 == count => (from..=to)
                .zip(inside)
                .map(|(host, port)| publish(host, host, port))
                .collect(),
            Some(_) => return Err(format!("'{text}': the two ranges are of different length")),
        };
        Ok(PublishFlag(list))
    }
}

impl FromStr for ExposeFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = protocol(text)?;
        let (first, last) = range(ports)?;
        let ports = (first..=last).map(|port| Port { port, protocol });
        Ok(ExposeFlag(ports.collect()))
    }
}

fn protocol(text: &str) -> Result<(&str, Protocol), String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((ports, Protocol::Tcp)),
        "udp" => Ok((ports, Protocol::Udp)),
        _ => Err(format!("'{protocol}' cannot be published: give tcp or udp")),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let parsed = bare.unwrap_or(text).parse::<IpAddr>();
    match parsed {
        Ok(ip) if ip.is_ipv4() || bare.is_some() => Ok(ip),
        _ => Err(format!(
            "'{text}' is no address: write it as 127.0.0.1 or [::1]"
        )),
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok((first, last)),
        false => Err(format!(
            "'{text}' is no range: the first port is the lower one"
        )),
    }
}

/// A range, or 0 for any port.
fn range_with_zero(text: &str) -> Result<(u16, u16), String> {
    match text {
        "0" => Ok((0, 0)),
        text => range(text),
    }
}

fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if port > 0 && digits => Ok(port),
        _ => Err(format!("'{text}' is no port: give 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, first and last port of the host, the sandbox's, the protocol.
    type Row = (Option<String>, u16, u16, u16, &'static str);

    fn parse(text: &str) -> Result<Vec<Row>, String> {
        let list = text.parse::<PublishFlag>()?.0.into_iter();
        Ok(list
            .map(|p| {
                (
                    p.ip.map(|ip| ip.to_string()),
                    p.first,
                    p.last,
                    p.to.port,
                    p.to.protocol.name(),
                )
            })
            .collect())
    }

    #[test]
    fn every_form_of_a_published_port() {
        let ip = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("80", vec![(None, 0, 0, 80, "tcp")]),
            ("8080:80", vec![(None, 8080, 8080, 80, "tcp")]),
            ("0:80", vec![(None, 0, 0, 80, "tcp")]),
            (":80", vec![(None, 0, 0, 80, "tcp")]),
            ("53:53/udp", vec![(None, 53, 53, 53, "udp")]),
            ("53:53/UDP", vec![(None, 53, 53, 53, "udp")]),
            (
                "127.0.0.1:8080:80",
                vec![(ip("127.0.0.1"), 8080, 8080, 80, "tcp")],
            ),
            ("127.0.0.1::80", vec![(ip("127.0.0.1"), 0, 0, 80, "tcp")]),
            ("[::1]:8080:80", vec![(ip("::1"), 8080, 8080, 80, "tcp")]),
            ("[::1]::80", vec![(ip("::1"), 0, 0, 80, "tcp")]),
            (
                "8000-8001:80-81",
                vec![(None, 8000, 8000, 80, "tcp"), (None, 8001, 8001, 81, "tcp")],
            ),
            (
                "80-81",
                vec![(None, 0, 0, 80, "tcp"), (None, 0, 0, 81, "tcp")],
            ),
            ("8000-8009:80", vec![(None, 8000, 8009, 80, "tcp")]),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "x",
            "0",
            "80:",
            "65536",
            "80:0",
            "-1",
            "+1",
            "81-80",
            "80/icmp",
            "80/",
            "1.2.3:1:80",
            "::1:80:80",
            "8000-8002:80-81",
            "1:2:3:4",
            "[127.0.0.1:80:80",
            "80:80-81",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exposed_ports() {
        let ports = "80-81/udp".parse::<ExposeFlag>().unwrap().0;
        assert_eq!(ports.len(), 2);
        assert_eq!(
            ports[1],
            Port {
                port: 81,
                protocol: Protocol::Udp
            }
        );
        assert!("8080:80".parse::<ExposeFlag>().is_err());
    }
}
