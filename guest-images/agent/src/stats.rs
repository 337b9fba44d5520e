//! What the sandbox uses, and its processes.

use std::fs;

use protocol::{ProcessInfo, Stats};

use crate::accounts::Accounts;
use crate::error::{Context, Result};
use crate::setup::Sandbox;

/// Processes that are listed.
const MAX_PROCESSES: usize = 4096;
/// Characters of a command line that are listed. With the most processes that
/// stays within what a message may hold.
const MAX_COMMAND: usize = 160;
/// `USER_HZ`: what the kernel counts processes' times in, a second. It is part
/// of the system call interface.
const TICKS: u64 = 100;
/// Bytes of a page on x86-64.
const PAGE: u64 = 4096;
/// The major number of the sandbox's terminals.
const PTS_MAJOR: u32 = 136;

/// Whether the kernel killed something of the sandbox for want of memory.
pub fn oom_killed(sandbox: &Sandbox) -> bool {
    sandbox.cgroup.field("memory.events", "oom_kill") > 0
}

/// The figures. What the kernel does not tell is zero.
pub fn stats(sandbox: &Sandbox) -> Stats {
    let proc = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
    let (net_received, net_sent) = network_bytes(&proc("net/dev"));
    let cgroup = &sandbox.cgroup;
    let (block_read, block_written) = disk_bytes(&cgroup.read("io.stat"));
    Stats {
        cpu_ns: cgroup.field("cpu.stat", "usage_usec").saturating_mul(1000),
        memory: cgroup.number("memory.current"),
        memory_total: total_memory(&proc("meminfo")),
        pids: cgroup.number("pids.current"),
        block_read,
        block_written,
        net_received,
        net_sent,
    }
}

/// Bytes that the sandbox has read from disks and written to them, of `io.stat`.
/// `/proc/diskstats` would count what a new ext4 has a disk make zeroes of, half
/// of the disk at times: that is the kernel's doing and no data.
fn disk_bytes(io_stat: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = io_stat.split_whitespace();
        let values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let numbers = values.map(|value| value.parse().unwrap_or(0_u64));
        numbers.fold(0, u64::saturating_add)
    };
    (sum("rbytes"), sum("wbytes"))
}

/// Bytes received and sent, of all interfaces but the loopback.
fn network_bytes(dev: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in dev.lines() {
        let Some((name, figures)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let mut figures = figures
            .split_whitespace()
            .map(|f| f.parse().unwrap_or(0_u64));
        sum.0 = sum.0.saturating_add(figures.next().unwrap_or(0));
        sum.1 = sum.1.saturating_add(figures.nth(7).unwrap_or(0));
    }
    sum
}

fn total_memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_u64).saturating_mul(1024)
}

/// The sandbox's processes, by their numbers in it.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn processes(sandbox: &Sandbox) -> Result<Vec<ProcessInfo>> {
    let accounts = Accounts::read(&sandbox.root)?;
    let boot = boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default());
    let mut seen = Vec::new();
    for entry in fs::read_dir("/proc")
        .context(|| "read /proc".into())?
        .flatten()
    {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
        // Gone meanwhile.
        let (Some(status), Some(stat)) = (read("status"), read("stat")) else {
            continue;
        };
        let status = String::from_utf8_lossy(&status);
        // Those that are only in the agent's namespace are the kernel's and the
        // agent's.
        let Some(inner) = inner_pid(&status) else {
            continue;
        };
        let Some(stat) = Stat::parse(&String::from_utf8_lossy(&stat)) else {
            continue;
        };
        let uid = effective_uid(&status);
        let command = command(&read("cmdline").unwrap_or_default(), &stat.name);
        let user = match accounts.user_name(uid) {
            Some(name) => name.to_owned(),
            None => uid.to_string(),
        };
        let info = ProcessInfo {
            user,
            pid: inner,
            ppid: stat.parent,
            cpu_ns: stat.cpu.saturating_mul(1_000_000_000 / TICKS),
            rss: stat.rss.saturating_mul(PAGE),
            started: boot.saturating_add(stat.started / TICKS),
            tty: terminal(stat.terminal),
            command,
        };
        seen.push((pid, info));
        if seen.len() == MAX_PROCESSES {
            break;
        }
    }
    Ok(with_inner_parents(seen))
}

/// Parents by their numbers in the sandbox; 0 for one that is outside.
fn with_inner_parents(seen: Vec<(u32, ProcessInfo)>) -> Vec<ProcessInfo> {
    let inner: std::collections::HashMap<u32, u32> = seen
        .iter()
        .map(|(outer, info)| (*outer, info.pid))
        .collect();
    let mut list: Vec<_> = seen
        .into_iter()
        .map(|(_, mut info)| {
            info.ppid = inner.get(&info.ppid).copied().unwrap_or(0);
            info
        })
        .collect();
    list.sort_by_key(|info| info.pid);
    list
}

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(key))
}

/// The number in the sandbox's PID namespace, the first below the agent's.
fn inner_pid(status: &str) -> Option<u32> {
    field(status, "NSpid:")?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn effective_uid(status: &str) -> u32 {
    let ids = field(status, "Uid:").unwrap_or("");
    let effective = ids.split_whitespace().nth(1);
    effective.and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn boot_time(stat: &str) -> u64 {
    let time = field(stat, "btime ").and_then(|t| t.trim().parse().ok());
    time.unwrap_or(0)
}

/// `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: u32,
    /// User and system, in ticks.
    cpu: u64,
    /// Since the boot, in ticks.
    started: u64,
    /// In pages.
    rss: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, parentheses too.
        let (_, rest) = text.split_once('(')?;
        let (name, rest) = rest.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
        Some(Stat {
            name: name.to_owned(),
            parent: u32::try_from(number(1)?).ok()?,
            terminal: fields.get(4)?.parse::<i32>().ok()? as u32,
            cpu: number(11)?.saturating_add(number(12)?),
            started: number(19)?,
            rss: number(21)?,
        })
    }
}

/// As `ps` names it.
fn terminal(device: u32) -> String {
    let device = u64::from(device);
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    match (device, major) {
        (0, _) => "?".into(),
        (_, PTS_MAJOR) => format!("pts/{minor}"),
        _ => "?".into(),
    }
}

/// As `ps` prints it.
fn command(cmdline: &[u8], name: &str) -> String {
    let words: Vec<_> = cmdline
        .strip_suffix(&[0])
        .unwrap_or(cmdline)
        .split(|b| *b == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let line = match cmdline.is_empty() {
        true => format!("[{name}]"),
        false => words.join(" "),
    };
    line.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(MAX_COMMAND)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_interfaces_are_added_up() {
        let io = "254:0 rbytes=80 wbytes=160 rios=3 wios=4 dbytes=9 dios=1\n\
             254:16 rbytes=2 wbytes=4 rios=1 wios=1 dbytes=0 dios=0\n7:0 rbytes=x\n";
        assert_eq!(disk_bytes(io), (82, 164));
        assert_eq!(disk_bytes(""), (0, 0));
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
             \x20   lo: 99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0\n\
             \x20 eth0: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n eth1:1 1 0 0 0 0 0 0 2\n";
        assert_eq!(network_bytes(dev), (11, 22));
        assert_eq!(
            total_memory("MemTotal:  1000 kB\nMemFree: 1 kB\n"),
            1_024_000
        );
    }

    #[test]
    fn a_process_is_what_proc_says() {
        let text = "77 (a) b) (c) S 5 77 77 34816 77 4194560 1 0 0 0 30 12 0 0 20 0 1 0 900 \
             1000 250 18446744073709551615 1 1 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.name, "a) b) (c");
        assert_eq!(
            (stat.parent, stat.cpu, stat.started, stat.rss),
            (5, 42, 900, 250)
        );
        assert_eq!(terminal(stat.terminal), "pts/0");
        assert_eq!(terminal(0), "?");
        assert_eq!(Stat::parse("77 (x"), None);
        assert_eq!(Stat::parse("77 (x) S 1"), None);
    }

    #[test]
    fn numbers_are_those_of_the_sandbox() {
        let status = "Name:\tsh\nUid:\t1\t33\t1\t1\nNSpid:\t77\t1\nNSpgid:\t1\n";
        assert_eq!(inner_pid(status), Some(1));
        assert_eq!(effective_uid(status), 33);
        assert_eq!(inner_pid("NSpid:\t77\n"), None);
        // A container in the sandbox.
        assert_eq!(inner_pid("NSpid:\t77\t12\t1\n"), Some(12));
    }

    #[test]
    fn command_lines_are_printable() {
        assert_eq!(command(b"sh\0-c\0a\nb\0", "sh"), "sh -c a?b");
        assert_eq!(command(b"", "kworker"), "[kworker]");
        assert_eq!(command(&[b'x'; 999], "x").len(), MAX_COMMAND);
    }
}
