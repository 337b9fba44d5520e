//! `drupe port`.

use serde::Serialize;
use thiserror::Error;

use super::table::json;
use crate::cli::Format;
use crate::cli::sandbox::PortArgs;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::network::describe;
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
        return json(&ports.iter().map(row).collect::<Vec<_>>());
    }
    let outside = |publish: &Publish| {
        let text = describe(publish);
        text.split('/').next().unwrap_or_default().to_owned()
    };
    let lines = ports.iter().map(|publish| match args.port {
        Some(_) => format!("{}\n", outside(publish)),
        None => {
            let to = publish.to;
            format!(
                "{}/{} -> {}\n",
                to.port,
                to.protocol.name(),
                outside(publish)
            )
        }
    });
    print(&lines.collect::<String>())
}

fn row(publish: &Publish) -> Row {
    Row {
        port: publish.to.port,
        protocol: publish.to.protocol.name(),
        host_ip: publish
            .ip
            .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
        host_port: publish.first,
    }
}
