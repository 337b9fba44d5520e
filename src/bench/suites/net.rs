//! Streams between the workload and this machine.

use super::super::error::Result;
use super::super::method::{self, Quantity};
use super::super::peer::Peer;
use super::super::results::{
    Better::{Less, More},
    Suite,
};
use super::super::targets::Network;
use super::{Bench, Size, counted};

pub const ABOUT: &str = "one TCP connection between the workload and this machine";
/// Milliseconds for each.
const BUDGET: &str = "500";
const SIZE: Size = Size {
    network: true,
    ..Size::DEFAULT
};

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "out",
        title: "Throughput out of the target",
        unit: "B/s",
        better: More,
        how: "One TCP connection from the workload to drupe, which listens on this machine and reads: writes of 128 KiB for 500 ms and more, until drupe says that all has arrived, timed inside by the target's own monotonic clock. Connections are opened inside on every target. The suite's description says by what way.",
    },
    Quantity {
        name: "in",
        title: "Throughput into the target",
        unit: "B/s",
        better: More,
        how: "The same with drupe writing 128 KiB at a time and the workload reading, from the first byte on, for 500 ms and more.",
    },
    Quantity {
        name: "round-trip",
        title: "Round trip of a byte",
        unit: "s",
        better: Less,
        how: "A byte to drupe and back on one connection without Nagle's delay, one after the other, for 500 ms and more; the time of one.",
    },
    Quantity {
        name: "connect",
        title: "Opening a connection",
        unit: "s",
        better: Less,
        how: "connect(2) until it has succeeded, one after the other, each used for a byte and closed before the next, which is not timed; 200 of them, or as many as fit into 500 ms of connecting; the time of one.",
    },
];

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs);
    // Made when a target's turn comes, and kept: they are no part of a run.
    let mut ways: Vec<Option<(Network, Peer)>> = names.iter().map(|_| None).collect();
    method::rounds(suite, &names, &QUANTITIES, (1, runs), |at| {
        let (network, peer) = match &mut ways[at] {
            Some(way) => way,
            none => {
                let network = bench.places[at].target.network()?;
                let peer = Peer::listen(network.listen)?;
                none.insert((network, peer))
            }
        };
        let (host, port) = (network.host.to_string(), peer.port().to_string());
        let output = bench.run(at, &["net", &host, &port, BUDGET], SIZE)?.output;
        let value = |quantity: &Quantity| {
            let seconds = counted(&output, quantity.name)?;
            Ok((
                quantity.name,
                match quantity.unit {
                    "B/s" => 1.0 / seconds,
                    _ => seconds,
                },
            ))
        };
        QUANTITIES.iter().map(value).collect()
    })?;
    for (name, way) in names.iter().zip(&ways) {
        if let Some((network, _)) = way {
            suite.about += &format!("; {name}: {}", network.about);
        }
    }
    Ok(())
}
