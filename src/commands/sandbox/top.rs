//! `drupe top`.

use protocol::{ProcessInfo, Reply, Request};

use super::table::{json, table};
use crate::cli::Format;
use crate::cli::sandbox::TopArgs;
use crate::commands::units::binary;
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::error::SandboxError;
use crate::sandbox::ops;
use crate::sandbox::store::Store;
use crate::sandbox::time::{Time, rough};

/// Lists the processes of a sandbox.
///
/// # Errors
/// When it does not run.
pub fn run(args: &TopArgs) -> Result<Exit, Failure> {
    let sandbox = Store::open()?.find(&args.sandbox)?;
    let list = match ops::ask_agent(&sandbox, &Request::Processes)? {
        Reply::Processes(list) => list,
        reply => {
            let why = crate::sandbox::agent::unexpected(&reply).to_string();
            return Err(SandboxError::Refused(why).into());
        }
    };
    match args.format {
        Format::Json => json(&list),
        Format::Text => print(&text(&list, Time::now())),
    }
}

fn text(list: &[ProcessInfo], now: Time) -> String {
    let head = [
        "USER", "PID", "PPID", "TIME", "RSS", "STARTED", "TTY", "COMMAND",
    ];
    let rows = list.iter().map(|process| {
        let seconds = process.cpu_ns / 1_000_000_000;
        let age = std::time::Duration::from_secs(now.seconds().saturating_sub(process.started));
        [
            process.user.clone(),
            process.pid.to_string(),
            process.ppid.to_string(),
            format!(
                "{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            ),
            binary(process.rss),
            format!("{} ago", rough(age)),
            process.tty.clone(),
            process.command.clone(),
        ]
    });
    table(head, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_listed() {
        let now = Time::now();
        let process = ProcessInfo {
            user: "root".into(),
            pid: 1,
            ppid: 0,
            cpu_ns: 3_723_000_000_000,
            rss: 2 << 20,
            started: now.seconds() - 120,
            tty: "?".into(),
            command: "sh -c 'x\ny'".into(),
        };
        let text = text(&[process], now);
        let line = text.lines().nth(1).unwrap();
        for part in ["root", "01:02:03", "2.00MiB", "2 minutes ago", "x\\ny"] {
            assert!(line.contains(part), "{line}");
        }
    }
}
