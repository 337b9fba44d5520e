//! What a workload can see and reach of the host: not a time, and found out by
//! trying (`guest-images/workload/src/probes.rs`).

use std::fs;

use super::super::error::{Error, Result};
use super::super::results::{Answer, Cell, Row, Suite, Table};
use super::{Bench, Size};

pub const ABOUT: &str = "what the workload, as root of its target, can see and reach of the host";
const HOW: &str = "Each was tried by the workload, once, and undone. Yes means that it worked on the host's own kernel or on a thing of the host's. Where the target has a kernel of its own (its boot_id is not the host's), what the workload reached is that kernel's and not the host's: no, and the detail says what it got.";

/// What a try shows.
enum Shows {
    /// A text, to be compared with the host's.
    Same(fn() -> String),
    /// Yes or no, of the kernel that the workload has.
    Kernel,
}

/// The tries: the workload's name of each, and what it means.
fn questions() -> [(&'static str, &'static str, Shows); 15] {
    use Shows::{Kernel, Same};
    [
        ("boot-id", "runs on the host's kernel", Same(boot_id)),
        (
            "kernel",
            "sees the host's kernel version",
            Same(|| first_line("/proc/sys/kernel/osrelease")),
        ),
        (
            "memory",
            "sees the host's memory size",
            Same(|| first_line("/proc/meminfo")),
        ),
        ("process", "sees the host's processes", Same(own_stat)),
        (
            "symbols",
            "reads addresses of the host kernel's symbols",
            Kernel,
        ),
        ("sysctl", "writes to /proc/sys of the host's kernel", Kernel),
        (
            "raw-disk",
            "reads a disk of the host through a device node",
            Kernel,
        ),
        ("memory-device", "reads /dev/mem", Kernel),
        ("kernel-log", "reads the host kernel's log (dmesg)", Kernel),
        ("module", "may load a module into the host's kernel", Kernel),
        (
            "user-namespace",
            "makes a user namespace of the host's kernel",
            Kernel,
        ),
        ("mount", "mounts a file system of the host's kernel", Kernel),
        ("io-uring", "reaches io_uring of the host's kernel", Kernel),
        ("bpf", "reaches bpf of the host's kernel", Kernel),
        (
            "perf",
            "reaches perf_event_open of the host's kernel",
            Kernel,
        ),
    ]
}

/// Runs it.
///
/// # Errors
/// An interruption.
pub fn run(bench: &mut Bench, suite: &mut Suite) -> Result<()> {
    let pid = std::process::id().to_string();
    let mut columns = Vec::new();
    for (at, name) in bench.names().into_iter().enumerate() {
        match bench.run(at, &["probes", &pid], Size::DEFAULT) {
            Ok(ended) if ended.output.contains("boot-id ") => {
                columns.push((name.to_owned(), ended.output));
            }
            Ok(_) => suite.fail(name, Error::Failed("the workload said nothing".into()))?,
            Err(error) => suite.fail(name, error)?,
        }
    }
    let row = |(probe, name, shows): &(&str, &str, Shows)| Row {
        name: (*name).to_owned(),
        cells: columns
            .iter()
            .map(|(_, output)| cell(output, probe, shows, &boot_id()))
            .collect(),
    };
    let rows = questions().iter().map(row).collect();
    suite.tables.push(Table {
        name: "reach".to_owned(),
        title: "What the workload can see and reach of the host".to_owned(),
        how: HOW.to_owned(),
        rows,
        columns: columns.into_iter().map(|(name, _)| name).collect(),
    });
    Ok(())
}

fn cell(output: &str, probe: &str, shows: &Shows, boot_id: &str) -> Cell {
    let answer = |value, detail: String| Cell { value, detail };
    let Some(said) = said(output, probe) else {
        return answer(Answer::Unknown, "it was not tried".into());
    };
    let shared = said_id(output) == boot_id;
    let (verdict, detail) = said.split_once(' ').unwrap_or((said, ""));
    match (shows, verdict) {
        (_, "no") => answer(Answer::No, detail.to_owned()),
        (Shows::Same(of_host), "saw") => {
            // A process's figures change from look to look: its start does not.
            let (seen, host) = (stable(probe, detail), of_host());
            let same = seen == stable(probe, &host);
            let shown: String = seen.chars().take(80).collect();
            answer(if same { Answer::Yes } else { Answer::No }, shown)
        }
        (Shows::Kernel, "yes") if shared => answer(Answer::Yes, "it worked".into()),
        (Shows::Kernel, "yes") => answer(Answer::No, "reaches its own kernel's only".into()),
        _ => answer(Answer::Unknown, said.to_owned()),
    }
}

fn said<'a>(output: &'a str, probe: &str) -> Option<&'a str> {
    output
        .lines()
        .find_map(|line| line.strip_prefix(probe)?.strip_prefix(' '))
        .map(str::trim)
}

fn said_id(output: &str) -> &str {
    said(output, "boot-id")
        .and_then(|said| said.strip_prefix("saw "))
        .unwrap_or_default()
}

/// Of `/proc/PID/stat` the name and the start time (fields 2 and 22); anything
/// else as it is, with blanks alike.
fn stable(probe: &str, text: &str) -> String {
    if probe != "process" {
        return text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let (name, fields) = text.rsplit_once(") ").unwrap_or((text, ""));
    let start = fields.split_whitespace().nth(22 - 3).unwrap_or_default();
    format!("{name}) started {start}")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn boot_id() -> String {
    first_line("/proc/sys/kernel/random/boot_id")
}

fn own_stat() -> String {
    first_line("/proc/self/stat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_kernel_counts() {
        let kernel = |output: &str| cell(output, "bpf", &Shows::Kernel, "id").value;
        assert_eq!(kernel("boot-id saw id\nbpf yes\n"), Answer::Yes);
        assert_eq!(kernel("boot-id saw other\r\nbpf yes\r\n"), Answer::No);
        assert_eq!(kernel("boot-id saw id\nbpf no EPERM\n"), Answer::No);
        assert_eq!(kernel("boot-id saw id\n"), Answer::Unknown);
    }

    #[test]
    fn what_was_seen_is_compared() {
        let same = Shows::Same(|| "MemTotal:   1 kB".into());
        let memory = |output: &str| cell(output, "memory", &same, "id");
        assert_eq!(memory("memory saw MemTotal: 1 kB").value, Answer::Yes);
        let other = memory("memory saw MemTotal:  2 kB");
        assert_eq!(
            (other.value, other.detail.as_str()),
            (Answer::No, "MemTotal: 2 kB")
        );
        let stat = "7 (a b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(stable("process", stat), "7 (a b) started 4711");
    }

    #[test]
    fn this_process_is_known_by_its_start() {
        let stat = own_stat();
        assert_eq!(stable("process", &stat), stable("process", &own_stat()));
    }
}
