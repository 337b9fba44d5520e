//! How long the threads of vCPUs were on a processor inside `KVM_RUN`: the guest,
//! and what KVM does for it. The kernel's tracer says so, each call and each
//! switch of threads; it takes root, and costs each call some hundred
//! instructions, of which about half fall to either side.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// `linux/kvm.h`.
const KVM_RUN: &str = "ae80";
/// What drupe's threads of vCPUs are called.
const VCPU: &str = "vcpu";

/// A ring of the tracer of our own, which others do not see.
pub struct Tracer(PathBuf);

impl Tracer {
    /// Begins to note.
    ///
    /// # Errors
    /// When there is no tracer, or it is not for us.
    pub fn start() -> io::Result<Self> {
        let ring = PathBuf::from(format!(
            "/sys/kernel/tracing/instances/drupe-bench-{}",
            std::process::id()
        ));
        fs::create_dir(&ring)?;
        let tracer = Tracer(ring);
        let ioctl = format!("id == {}", libc::SYS_ioctl);
        let switches = format!("prev_comm ~ \"{VCPU}*\" || next_comm ~ \"{VCPU}*\"");
        for (file, text) in [
            ("buffer_size_kb", "8192"),
            ("trace_clock", "mono"),
            ("events/raw_syscalls/sys_enter/filter", ioctl.as_str()),
            ("events/raw_syscalls/sys_exit/filter", ioctl.as_str()),
            ("events/sched/sched_switch/filter", switches.as_str()),
            ("events/raw_syscalls/sys_enter/enable", "1"),
            ("events/raw_syscalls/sys_exit/enable", "1"),
            ("events/sched/sched_switch/enable", "1"),
        ] {
            fs::write(tracer.0.join(file), text)?;
        }
        Ok(tracer)
    }

    /// Milliseconds up to now.
    ///
    /// # Errors
    /// When the trace cannot be read, or has lost something.
    pub fn stop(self) -> io::Result<f64> {
        fs::write(self.0.join("tracing_on"), "0")?;
        let trace = fs::read_to_string(self.0.join("trace"))?;
        match trace.contains("LOST") {
            true => Err(io::Error::other("the trace is not whole")),
            false => Ok(inside_ms(&trace)),
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// How it stands with a thread.
#[derive(Default)]
struct Thread {
    /// In the call.
    inside: bool,
    /// In the call, and on a processor: since when.
    since: Option<f64>,
}

/// Adds up what `  vcpu0-486 [000] ..... 8001.133765: sys_enter: NR 16 (e, ae80, 0,`
/// and its like say.
fn inside_ms(trace: &str) -> f64 {
    let mut threads: HashMap<&str, Thread> = HashMap::new();
    let mut seconds = 0.0;
    for line in trace.lines() {
        let Some((at, event, rest)) = parse(line) else {
            continue;
        };
        let mut leave = |thread: &mut Thread| {
            seconds += thread.since.take().map_or(0.0, |since| at - since);
        };
        match event {
            "sys_enter" if rest.contains(KVM_RUN) => {
                let thread = threads.entry(task(line)).or_default();
                (thread.inside, thread.since) = (true, Some(at));
            }
            "sys_exit" => {
                let thread = threads.entry(task(line)).or_default();
                thread.inside = false;
                leave(thread);
            }
            "sched_switch" => {
                leave(threads.entry(task(line)).or_default());
                let next = rest.split("next_pid=").nth(1).unwrap_or_default();
                let next = next.split(' ').next().unwrap_or_default();
                if let Some(thread) = threads.get_mut(next)
                    && thread.inside
                {
                    thread.since = Some(at);
                }
            }
            _ => {}
        }
    }
    seconds * 1e3
}

/// Of a line: when, what, and the rest.
fn parse(line: &str) -> Option<(f64, &str, &str)> {
    let (_, line) = line.split_once("] ")?;
    let (_, line) = line.trim_start().split_once(' ')?;
    let (at, line) = line.trim_start().split_once(": ")?;
    let (event, rest) = line.split_once(": ")?;
    Some((at.parse().ok()?, event, rest))
}

/// The identifier of the thread that a line is about.
fn task(line: &str) -> &str {
    let head = line.split(" [").next().unwrap_or_default().trim_end();
    head.rsplit('-').next().unwrap_or_default()
}
