//! Sandboxes one after another, and many at a time: nothing is left of them.
//!
//! `make soak` asks for five hundred, and for thirty at a time; a run of all
//! tests for a few.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::sandbox::{Home, IMAGE};

/// The first number of those that live at once.
const AT_RANDOM: usize = 1_000_000;

/// A number of the environment.
fn number(name: &str, otherwise: usize) -> usize {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// What must be the same afterwards: each by its name, or a count.
#[derive(Debug, PartialEq, Eq)]
struct Things {
    processes: Vec<String>,
    mounts: usize,
    interfaces: BTreeSet<String>,
    cgroups: usize,
    /// In drupe's own directory: sandboxes, names, volumes, holds, temporary files.
    files: BTreeSet<String>,
    shared_memory: usize,
    namespaces: usize,
}

/// What grows and shrinks by itself, in KiB: within bounds.
#[derive(Debug, Clone, Copy)]
struct Memory {
    free: i64,
    slab: i64,
}

fn below(path: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        into.insert(path.display().to_string());
        if path.is_dir() && !path.is_symlink() {
            below(&path, into);
        }
    }
}

impl Things {
    fn now(home: &Home) -> Self {
        let mut processes = Vec::new();
        let mut namespaces = BTreeSet::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if name("comm").starts_with("drupe") {
                processes.push(name("cmdline").replace('\0', " "));
            }
            for link in fs::read_dir(entry.path().join("ns"))
                .into_iter()
                .flatten()
                .flatten()
            {
                namespaces.extend(fs::read_link(link.path()));
            }
        }
        let mut files = BTreeSet::new();
        let root = home.path().join("home");
        for directory in [
            "sandboxes",
            "configs",
            "cgroups",
            "names",
            "volumes",
            "images/holds",
            "images/tmp",
        ] {
            below(&root.join(directory), &mut files);
        }
        let mut groups = BTreeSet::new();
        below(Path::new("/sys/fs/cgroup"), &mut groups);
        let count = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
        Things {
            processes,
            mounts: fs::read_to_string("/proc/mounts").unwrap().lines().count(),
            interfaces: fs::read_dir("/sys/class/net")
                .unwrap()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect(),
            cgroups: groups
                .iter()
                .filter(|path| path.ends_with("/cgroup.procs"))
                .count(),
            files,
            shared_memory: count("/dev/shm"),
            namespaces: namespaces.len(),
        }
    }
}

impl Memory {
    fn now() -> Self {
        // Only root may.
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let value = |name: &str| -> i64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Memory {
            free: value("MemFree:"),
            slab: value("Slab:"),
        }
    }
}

/// A number like a random one: the same in each run.
fn mixed(n: usize) -> usize {
    let n = (n as u64)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ n >> 29) as usize
}

/// Who lives here, and how.
struct Soak {
    home: Home,
    /// How many more may start at once: emulated, each takes a processor for long,
    /// and a guest that does not come up in three minutes is given up.
    starts: Mutex<usize>,
    started: Condvar,
}

impl Soak {
    /// Starts something when it is its turn.
    fn start<T>(&self, start: impl FnOnce() -> T) -> T {
        let free = self.starts.lock().unwrap();
        let mut free = self.started.wait_while(free, |free| *free == 0).unwrap();
        *free -= 1;
        drop(free);
        let result = start();
        *self.starts.lock().unwrap() += 1;
        self.started.notify_one();
        result
    }

    /// One life, of one kind or another; `linger` is how long it stays at most.
    fn live(&self, n: usize, linger: Duration) {
        let home = &self.home;
        let name = format!("soak{n}");
        let run = |options: &str, command: &[&str]| {
            let mut args = vec!["run", "-d", "--memory", "96M", "--name", &name];
            args.extend(options.split_whitespace());
            args.push(IMAGE);
            args.extend(command);
            self.start(|| home.ok(&args));
            thread::sleep(linger * (mixed(n) / 5 % 100) as u32 / 100);
        };
        // One after another in turn; those at once at random.
        let kind = if n < AT_RANDOM { n } else { mixed(n) } % 5;
        eprintln!("soak: {n} lives, of kind {kind}");
        match kind {
            0 => assert_eq!(self.start(|| home.run("--memory 96M", "echo end")), "end"),
            1 => {
                let status = self.start(|| home.run_output("--memory 96M", "exit 9").status);
                assert_eq!(status.code(), Some(9));
            }
            // With a network, a port, and a volume of its own; ended by force.
            2 => {
                run("-p 127.0.0.1::80 -v /data", &["sleep", "1000"]);
                assert_eq!(home.ok(&["exec", &name, "echo", "in"]), "in");
                home.ok(&["rm", "-f", "-v", &name]);
            }
            // With a shared directory; stopped, and started once more.
            3 => {
                let share = format!("--network none -v {}:/host", home.path().display());
                let script = "trap 'exit 4' TERM; sleep 1000 & wait";
                run(&share, &["sh", "-c", script]);
                home.ok(&["stop", &name]);
                self.start(|| home.ok(&["start", &name]));
                home.ok(&["kill", &name]);
                // A kill does not wait for the end.
                assert_eq!(home.ok(&["wait", &name]), "137");
                home.ok(&["rm", &name]);
            }
            // Its monitor is killed.
            _ => {
                run("--network none", &["sleep", "1000"]);
                home.crash(&name);
                home.ok(&["rm", &name]);
            }
        }
    }
}

/// What is left when all is over: the last process may still be on its way.
fn settled(home: &Home, before: &Things) {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let now = Things::now(home);
        if now == *before {
            return;
        }
        assert!(
            Instant::now() < limit,
            "left behind:\n{now:#?}\nbefore:\n{before:#?}"
        );
        thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn nothing_is_left_of_sandboxes() {
    let one_by_one = number("DRUPE_SOAK", 5);
    let at_once = number("DRUPE_SOAK_AT_ONCE", 4);
    let seconds = number("DRUPE_SOAK_SECONDS", 0);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let soak = Soak {
        home: Home::new(),
        starts: Mutex::new(2 * processors),
        started: Condvar::new(),
    };
    let home = &soak.home;
    // The first of each kind makes what stays: directories, caches, modules.
    (0..5).for_each(|n| soak.live(n, Duration::ZERO));
    let things = Things::now(home);
    let start = Memory::now();

    let begun = Instant::now();
    (0..one_by_one).for_each(|n| soak.live(n, Duration::ZERO));
    settled(home, &things);
    let middle = Memory::now();
    eprintln!(
        "soak: {one_by_one} one after another in {:?}: nothing left; {:?}",
        begun.elapsed(),
        middle
    );

    // One that lives through it all: what its monitor has must not grow either.
    home.detached("witness", "--memory 96M", "sleep 100000");
    let pid = home.inspect("witness")["State"]["Pid"].as_i64().unwrap();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let resident = || -> i64 {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    for _ in 0..5 {
        home.ok(&["exec", "witness", "true"]);
    }
    let (open, size) = (descriptors(), resident());

    let end = Instant::now() + Duration::from_secs(seconds as u64);
    let next = AtomicUsize::new(AT_RANDOM);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    // Long enough for all to be there at some time.
                    let linger = Duration::from_secs(at_once as u64);
                    soak.live(next.fetch_add(1, Ordering::Relaxed), linger);
                    home.ok(&["exec", "witness", "true"]);
                    if Instant::now() > end {
                        return;
                    }
                }
            });
        }
    });
    let count = next.load(Ordering::Relaxed) - AT_RANDOM;
    home.until("its descriptors", || descriptors() == open);
    let grown = resident() - size;
    // Pages of its guest that it had not touched before are in it, too.
    assert!(
        grown < 24 << 10,
        "its monitor has grown by {grown} KiB in {count} commands"
    );
    home.ok(&["rm", "-f", "witness"]);
    settled(home, &things);
    let last = Memory::now();
    eprintln!(
        "soak: {count} more, {at_once} at a time: nothing left; {last:?}, started with {start:?}"
    );
    if !super::is_real_root() {
        return;
    }
    // Less than a page for each: the kernel's own caches breathe.
    let most = 24 * 1024 + 4 * (one_by_one + count) as i64;
    assert!(last.slab - start.slab < most, "{last:?} after {start:?}");
    assert!(
        start.free - last.free < 2 * most + (32 << 10),
        "{last:?} after {start:?}"
    );
}
