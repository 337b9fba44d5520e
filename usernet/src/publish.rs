//! Ports of the guest that are reached through ports of the host.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::policy::Protocol;
use crate::sockets;
use crate::stack::Stack;

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Publish {
    /// The host's address to listen on; all of them, IPv4 and IPv6, when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port; 0 lets the host choose.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// TCP or UDP.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
}

/// A published port that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// What was asked for.
    pub publish: Publish,
    /// Where the host listens, with the port that it chose.
    pub host: SocketAddr,
}

/// Why a text is no published port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// Not of the form.
    #[error("is not of the form '[HOST_IP:][HOST_PORT:]GUEST_PORT[/PROTOCOL]'")]
    Form,
    /// A port out of range.
    #[error("has '{0}', which is not a port: give 1 to 65535")]
    Port(String),
    /// An address that is none.
    #[error("has '{0}', which is not an IP address; an IPv6 address stands in brackets")]
    Address(String),
    /// A protocol without ports, or none at all.
    #[error("has '{0}', which cannot be published: give tcp or udp")]
    Protocol(String),
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// `[HOST_IP:][HOST_PORT:]GUEST_PORT[/tcp|/udp]`. Without a host port, or with 0,
/// the host chooses one.
impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (rest, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((_, other)) => return Err(PublishError::Protocol(other.to_owned())),
        };
        let (host, guest) = match rest.rsplit_once(':') {
            None => ("", rest),
            Some((host, guest)) => (host, guest),
        };
        let (ip, host_port) = match host.strip_prefix('[') {
            Some(inside) => {
                let (ip, port) = inside.split_once(']').ok_or(PublishError::Form)?;
                let port = match port {
                    "" => "",
                    port => port.strip_prefix(':').ok_or(PublishError::Form)?,
                };
                (Some(ip), port)
            }
            None => match host.rsplit_once(':') {
                Some((ip, _)) if ip.contains(':') => {
                    return Err(PublishError::Address(ip.to_owned()));
                }
                Some((ip, port)) => (Some(ip), port),
                // One part only: a port, unless it can be no port.
                None if host.contains('.') => (Some(host), ""),
                None => (None, host),
            },
        };
        let host_ip = match ip {
            None => None,
            Some(ip) => Some(
                ip.parse()
                    .map_err(|_| PublishError::Address(ip.to_owned()))?,
            ),
        };
        let host_port = match host_port {
            "" | "0" => 0,
            text => port(text)?,
        };
        Ok(Publish {
            host_ip,
            host_port,
            guest_port: port(guest)?,
            protocol,
        })
    }
}

fn port(text: &str) -> Result<u16, PublishError> {
    match text.parse::<u16>() {
        // `parse` would take a sign as well.
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(PublishError::Port(text.to_owned())),
    }
}

/// As [`Publish::from_str`] reads it.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            None => {}
        }
        write!(
            f,
            "{}:{}/{}",
            self.host_port, self.guest_port, self.protocol
        )
    }
}

/// Opens a published port.
pub(crate) fn open(publish: &Publish, stack: &mut Stack) -> Result<Published, crate::Error> {
    let Publish {
        host_ip,
        host_port,
        guest_port,
        protocol,
    } = *publish;
    let failed = |e| failed(publish, e);
    let host = match protocol {
        Protocol::Udp => {
            let socket = sockets::listen_udp(host_ip, host_port).map_err(failed)?;
            let host = socket.local_addr().map_err(failed)?;
            let done = stack.udp.publish(&mut stack.cx, socket, guest_port);
            done.map_err(crate::Error::SetUp)?;
            host
        }
        Protocol::Tcp | Protocol::Icmp => {
            let socket = sockets::listen_tcp(host_ip, host_port).map_err(failed)?;
            let host = socket.local_addr().map_err(failed)?;
            let done = stack.tcp.publish(&mut stack.cx, socket, guest_port);
            done.map_err(crate::Error::SetUp)?;
            host
        }
    };
    Ok(Published {
        publish: *publish,
        host,
    })
}

fn failed(publish: &Publish, error: io::Error) -> crate::Error {
    use crate::Error;
    let port = match publish.host_ip {
        Some(ip) => SocketAddr::new(ip, publish.host_port).to_string(),
        None => publish.host_port.to_string(),
    };
    let port = format!("{port}/{}", publish.protocol);
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::InUse(port),
        io::ErrorKind::PermissionDenied => Error::Permission(port),
        io::ErrorKind::AddrNotAvailable => {
            Error::NoAddress(publish.host_ip.map(|ip| ip.to_string()).unwrap_or(port))
        }
        _ if sockets::is_exhausted(&error) => Error::SetUp(error),
        _ => Error::Publish(port, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_published_port() {
        for (text, canonical) in [
            ("80", "0:80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("0:80/udp", "0:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:0:80/tcp"),
            ("127.0.0.1:80", "127.0.0.1:0:80/tcp"),
            ("[::1]:8080:80/udp", "[::1]:8080:80/udp"),
            ("[::1]::80", "[::1]:0:80/tcp"),
        ] {
            let publish: Publish = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(publish.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Publish>().unwrap(), publish);
            let json = serde_json::to_string(&publish).unwrap();
            assert_eq!(serde_json::from_str::<Publish>(&json).unwrap(), publish);
        }
        for text in [
            "",
            ":",
            "0",
            "a",
            "80:",
            "70000:80",
            "80:70000",
            "80:0",
            "+80",
            "80/icmp",
            "80/",
            "1.2.3:1:80",
            "::1:80:80",
            "[::1:80",
            "[::1]80:80",
            "[x]:1:1",
        ] {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }
}
