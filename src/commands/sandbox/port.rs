//! `drupe port`.

use std::net::IpAddr;

use serde::Serialize;
use thiserror::Error;

use super::table::json;
use crate::cli::Format;
use crate::cli::sandbox::PortArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::network::{addresses, inside, outside};
use crate::sandbox::ops;
use crate::sandbox::spec::Publish;
use crate::sandbox::store::Store;

#[derive(Debug, Error)]
#[error("sandbox {name}: port {port}/{protocol} is not published: 'drupe run -p' publishes one")]
struct NotPublished {
    name: String,
    port: u16,
    protocol: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    port: u16,
    protocol: &'static str,
    host_ip: String,
    host_port: u16,
}

/// Lists the ports of the host that lead to a sandbox.
///
/// # Errors
/// When it does not run, or the port is not published.
pub fn run(args: &PortArgs) -> Result<Exit, Failure> {
    let sandbox = Store::open()?.find(&args.sandbox)?;
    let mut ports = ops::need_running(&sandbox)?.ports;
    if let Some(wanted) = &args.port {
        ports.retain(|publish| wanted.0.contains(&publish.to));
        if let (true, Some(port)) = (ports.is_empty(), wanted.0.first()) {
            return Err(Failure::runtime(NotPublished {
                name: sandbox.label(),
                port: port.port,
                protocol: port.protocol.name(),
            }));
        }
    }
    if args.format == Format::Json {
        return json(&ports.iter().flat_map(rows).collect::<Vec<_>>());
    }
    print(&text(&ports, args.port.is_none()))
}

/// A line for each address of the host; with `all` ports, it names the sandbox's.
fn text(ports: &[Publish], all: bool) -> String {
    let lines = |publish: &Publish| {
        let inside = inside(publish.to);
        outside(publish).into_iter().map(move |outside| match all {
            true => format!("{inside} -> {outside}\n"),
            false => format!("{outside}\n"),
        })
    };
    ports.iter().flat_map(lines).collect()
}

fn rows(publish: &Publish) -> Vec<Row> {
    let row = |ip: IpAddr| Row {
        port: publish.to.port,
        protocol: publish.to.protocol.name(),
        host_ip: ip.to_string(),
        host_port: publish.first,
    };
    addresses(publish).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spec::{Port, Protocol};

    #[test]
    fn both_kinds_of_addresses_are_told() {
        let publish = |ip: Option<&str>| Publish {
            ip: ip.map(|ip| ip.parse().unwrap()),
            first: 8080,
            last: 8080,
            to: Port {
                port: 80,
                protocol: Protocol::Tcp,
            },
        };
        let all = [publish(None)];
        let lines = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n";
        assert_eq!(text(&all, true), lines);
        assert_eq!(text(&all, false), "0.0.0.0:8080\n[::]:8080\n");
        assert_eq!(rows(&all[0])[1].host_ip, "::");
        let one = [publish(Some("127.0.0.1"))];
        assert_eq!(text(&one, true), "80/tcp -> 127.0.0.1:8080\n");
    }
}
