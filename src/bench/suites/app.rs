//! Real applications: PostgreSQL with pgbench, and nginx with ab, of an image that
//! the user gives.

use std::net::{Ipv4Addr, TcpListener};

use super::super::error::{Context, Error, Result};
use super::super::method::{self, Quantity, Sample};
use super::super::results::{
    Better::{Less, More},
    Suite,
};
use super::super::work::Entry;
use super::{Bench, Size, all_cpus};

pub const ABOUT: &str = "a database and a web server of the image, each with its load beside it inside the target, on all CPUs";
/// What runs on every target, and where it is in the image's root.
const SCRIPT: &[u8] = include_bytes!("app.sh");
const PATH: &str = "drupe-bench-app";
/// Why it is left out where there is no image.
pub const NO_IMAGE: &str = "it runs an image: make one with 'guest-images/image/build app' of drupe's sources, and give it with --image (docs/bench.md)";

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "transactions",
        title: "PostgreSQL, transactions per second",
        unit: "1/s",
        better: More,
        how: "pgbench's tps without the time to connect: initdb, postgres with its defaults (fsync too) on the target's root, pgbench -i -s 1, then pgbench -c 4 -j 1 -T 3, TPC-B-like, over a Unix socket. Server and load run inside the target, machines have as many virtual CPUs as this machine has, 1 GiB, and an ext4 disk.",
    },
    Quantity {
        name: "transaction",
        title: "PostgreSQL, latency of a transaction",
        unit: "s",
        better: Less,
        how: "pgbench's latency average. Same runs.",
    },
    Quantity {
        name: "requests",
        title: "nginx, requests per second",
        unit: "1/s",
        better: More,
        how: "ab -k -c 8 -t 3: requests for a file of 1 KiB over 8 connections that are kept, to nginx with one worker and no access log, on the loopback interface inside the target. No request failed. Same runs.",
    },
    Quantity {
        name: "request",
        title: "nginx, latency of a request",
        unit: "s",
        better: Less,
        how: "ab's mean time per request. Same runs.",
    },
];

/// What has to be in the image's root beside its own files.
pub fn entries() -> Vec<Entry> {
    vec![Entry::file(PATH, SCRIPT.to_vec())]
}

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let (names, runs) = (bench.names(), bench.runs);
    let size = Size {
        cpus: all_cpus() as u32,
        memory_mib: 1024,
        disk: true,
        ..Size::DEFAULT
    };
    let script = format!("/{PATH}");
    method::rounds(suite, &names, &QUANTITIES, (1, runs), |at| {
        let port = free_port()?.to_string();
        let args = ["exec", "/bin/sh", &script, &port];
        said(&bench.run(at, &args, size)?.output)
    })
}

/// A port of the loopback interface that nobody listens on: a process of the host
/// has it in common with all the others.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.context(|| "a free port".into())?.port())
}

/// What pgbench and ab have said.
fn said(output: &str) -> Result<Sample> {
    let number = |start: &str| {
        let rest = output.lines().find_map(|line| line.strip_prefix(start));
        let word = rest.and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse::<f64>().ok())
            .ok_or_else(|| {
                Error::Failed(format!(
                    "no line \"{start}\" among what pgbench and ab said: {}",
                    crate::output::one_line(output.lines().last().unwrap_or("nothing"))
                ))
            })
    };
    let failed = number("Failed requests:")?;
    if failed > 0.0 || output.contains("Non-2xx responses:") {
        return Err(Error::Failed("nginx did not answer every request".into()));
    }
    Ok(vec![
        ("transactions", number("tps =")?),
        ("transaction", number("latency average =")? / 1e3),
        ("requests", number("Requests per second:")?),
        ("request", number("Time per request:")? / 1e3),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "number of failed transactions: 0 (0.000%)\r
latency average = 22.500 ms\r
initial connection time = 382.969 ms\r
tps = 179.692612 (without initial connection time)\r
Failed requests:        0\r
Requests per second:    7068.01 [#/sec] (mean)\r
Time per request:       1.132 [ms] (mean)\r
Time per request:       0.141 [ms] (mean, across all concurrent requests)\r
";

    #[test]
    fn what_the_load_generators_say_is_read() {
        let sample = said(SAID).unwrap();
        assert_eq!(
            sample,
            [
                ("transactions", 179.692_612),
                ("transaction", 0.022_5),
                ("requests", 7068.01),
                ("request", 0.001_132),
            ]
        );
        for (from, to) in [
            ("tps", "tips"),
            ("requests:        0", "requests:        1"),
            ("Failed", "Non-2xx responses: 5\nFailed"),
        ] {
            assert!(said(&SAID.replace(from, to)).is_err(), "{to}");
        }
        assert!(said("").unwrap_err().to_string().ends_with("nothing"));
    }
}
