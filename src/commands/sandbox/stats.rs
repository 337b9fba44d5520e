//! `drupe stats`.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use protocol::{Reply, Request, Stats};
use serde::Serialize;

use super::table::table;
use crate::cli::Format;
use crate::cli::sandbox::StatsArgs;
use crate::commands::units::{binary, decimal};
use crate::commands::{Failure, json, print_on};
use crate::exit::Exit;
use crate::sandbox::error::SandboxError;
use crate::sandbox::ops;
use crate::sandbox::state::Status;
use crate::sandbox::store::{Sandbox, Store};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What a sandbox uses, for programs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    #[serde(rename = "CPUPercent")]
    cpu_percent: f64,
    memory: u64,
    memory_limit: u64,
    memory_percent: f64,
    net_received: u64,
    net_sent: u64,
    block_read: u64,
    block_written: u64,
    #[serde(rename = "PIDs")]
    pids: u64,
}

/// What was seen of a sandbox the last time.
struct Seen {
    sandbox: Sandbox,
    name: String,
    last: Option<(Instant, Stats)>,
}

/// Prints what sandboxes use.
///
/// # Errors
/// One that is named and does not run.
pub fn run(args: &StatsArgs) -> Result<Exit, Failure> {
    let store = Store::open()?;
    let mut seen = Vec::new();
    for name in &args.sandboxes {
        let sandbox = store.find(name)?;
        ops::need_running(&sandbox)?;
        seen.push(watch(sandbox));
    }
    let all = args.sandboxes.is_empty();
    let again = !args.no_stream;
    loop {
        if all {
            running(&store, &mut seen)?;
        }
        // A share of a CPU is that of a time: two looks make one line.
        if seen.iter().any(|s| s.last.is_none()) {
            look(&mut seen);
            thread::sleep(INTERVAL);
        }
        let rows = look(&mut seen);
        let text = match args.format {
            Format::Json => json(&rows)?,
            Format::Text => text(&rows, again && io::stdout().is_terminal()),
        };
        let read = print_on(&text)?;
        if !again || !read || (!all && seen.is_empty()) {
            return Ok(Exit::Success);
        }
        thread::sleep(INTERVAL);
    }
}

fn watch(sandbox: Sandbox) -> Seen {
    Seen {
        name: sandbox.label(),
        sandbox,
        last: None,
    }
}

/// Adds those that have come to run.
fn running(store: &Store, seen: &mut Vec<Seen>) -> Result<(), SandboxError> {
    for (sandbox, _, state) in ops::list(store)? {
        if state.status == Status::Running && !seen.iter().any(|s| s.sandbox.id == sandbox.id) {
            seen.push(watch(sandbox));
        }
    }
    Ok(())
}

/// Asks each sandbox; those that run no more are forgotten.
fn look(seen: &mut Vec<Seen>) -> Vec<Row> {
    let mut rows = Vec::new();
    seen.retain_mut(|seen| {
        let Ok(Reply::Stats(stats)) = ops::ask_agent(&seen.sandbox, &Request::Stats) else {
            return false;
        };
        let now = Instant::now();
        let cpu = seen.last.as_ref().map(|(then, before)| {
            let used = stats.cpu_ns.saturating_sub(before.cpu_ns) as f64;
            100.0 * used / (now - *then).as_nanos().max(1) as f64
        });
        rows.push(row(seen, &stats, cpu.unwrap_or_default()));
        seen.last = Some((now, stats));
        true
    });
    rows
}

fn row(seen: &Seen, stats: &Stats, cpu_percent: f64) -> Row {
    let total = stats.memory_total.max(1) as f64;
    let hundredths = |value: f64| (value * 100.0).round() / 100.0;
    Row {
        id: seen.sandbox.id.to_string(),
        name: seen.name.clone(),
        cpu_percent: hundredths(cpu_percent),
        memory: stats.memory,
        memory_limit: stats.memory_total,
        memory_percent: hundredths(100.0 * stats.memory as f64 / total),
        net_received: stats.net_received,
        net_sent: stats.net_sent,
        block_read: stats.block_read,
        block_written: stats.block_written,
        pids: stats.pids,
    }
}

fn text(rows: &[Row], clear: bool) -> String {
    let head = [
        "SANDBOX ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ];
    let rows = rows.iter().map(|row| {
        [
            row.id.chars().take(crate::sandbox::id::SHORT).collect(),
            row.name.clone(),
            format!("{:.2}%", row.cpu_percent),
            format!("{} / {}", binary(row.memory), binary(row.memory_limit)),
            format!("{:.2}%", row.memory_percent),
            format!("{} / {}", decimal(row.net_received), decimal(row.net_sent)),
            format!(
                "{} / {}",
                decimal(row.block_read),
                decimal(row.block_written)
            ),
            row.pids.to_string(),
        ]
    });
    let clear = if clear { CLEAR } else { "" };
    format!("{clear}{}", table(head, rows))
}
