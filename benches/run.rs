//! `drupe run` of a command that does nothing, against `podman run` of the same
//! image: without a network, and with the one that each gives by default.
//!
//! Runs where a KVM can run Linux, with time counted in instructions where that
//! is the lab (`make bench` sees to it), in pairs, of which the first is dropped.
//! Two figures say what of it is the host's:
//! - drupe's own work: the processor time of all of drupe's processes and threads
//!   (`getrusage(2)`), less what its vCPUs' threads spent inside `KVM_RUN`
//!   (`common/kvm_run.rs`). It has all of the kernel's work for drupe in it, from
//!   `exec` on, and nothing that the guest made KVM do.
//! - The same, less only the time in which the guest's instructions ran, by the
//!   kernel's tick (`/proc/self/stat`): with what KVM does for the guest, page
//!   faults above all.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[path = "../tests/common/bare_metal.rs"]
mod bare_metal;
mod common;

use common::children::Children;
use common::kvm_run::Tracer;
use common::podman::Podman;
use common::{median, verdict};

const PAIRS: usize = 5;
const IMAGE: &str = "bench";
/// Drupe's own work outside the guest, in ms.
const BUDGET_HOST_MS: f64 = 30.0;

struct Case {
    name: &'static str,
    options: &'static [&'static str],
    budget: f64,
}

const CASES: [Case; 2] = [
    Case {
        name: "without a network",
        options: &["--network", "none"],
        budget: 0.6,
    },
    Case {
        name: "with the default network",
        options: &[],
        budget: 0.4,
    },
];

/// A run whose steps were noted.
#[derive(Default)]
struct Steps {
    agent: Vec<f64>,
    first: Vec<f64>,
    exit: Vec<f64>,
}

fn main() -> io::Result<()> {
    let Some(stage) = common::stage() else {
        println!("run: left out: `make bench` prepares it and says where it can run");
        return Ok(());
    };
    // Monitors outlive who started them.
    Children::adopt()?;
    let drupe = Drupe::new(&stage);
    let podman = Podman::new(&stage.join("bin/podman"), &stage.join("podman"))?;
    let tar = image(&stage)?;
    common::output(drupe.command(&["import"]).arg(&tar).arg(IMAGE))?;
    if let Err(e) = common::output(podman.command(&["import", "--quiet"]).arg(&tar).arg(IMAGE)) {
        println!("run: left out: there is no podman to compare with: {e}");
        return Ok(());
    }
    for case in &CASES {
        measure(&drupe, &podman, case)?;
    }
    Ok(())
}

fn measure(drupe: &Drupe, podman: &Podman, case: &Case) -> io::Result<()> {
    let (mut ours, mut theirs, mut steps) = (Vec::new(), Vec::new(), Steps::default());
    let (mut freed, mut cpu_ms, mut guest_ms) = (Vec::new(), 0.0, 0.0);
    for pair in 0..=PAIRS {
        let args = ["run", "--rm"].iter().chain(case.options);
        let args: Vec<&str> = args.copied().chain([IMAGE, "true"]).collect();
        let p = common::time(&mut podman.command(&args))?;
        Children::reap()?;
        let before = Children::now()?;
        let start = Instant::now();
        let d = common::time(&mut drupe.command(&args))?;
        Children::reap()?;
        let all = start.elapsed().as_secs_f64();
        let after = Children::now()?;
        if pair > 0 {
            theirs.push(p);
            ours.push(d);
            freed.push(all - d);
            cpu_ms += after.cpu_ms - before.cpu_ms;
            guest_ms += after.guest_ms - before.guest_ms;
        }
    }
    for _ in 0..PAIRS {
        drupe.steps(case, &mut steps)?;
    }
    let (d, p) = (median(&mut ours), median(&mut theirs));
    let (name, budget, ratio) = (case.name, case.budget, d / p);
    println!(
        "run: {name}: drupe {d:.3} s, podman {p:.3} s, ratio {ratio:.2} (n={PAIRS}), budget {budget}: {}",
        verdict(ratio <= budget)
    );
    println!("run: {name}: all, in s: drupe {ours:.3?}, podman {theirs:.3?}");
    println!(
        "run: {name}: the agent is up after {:.3} s, the workload's first byte is out after {:.3} s, exit after {:.3} s (with -v and without --rm); the last of drupe's processes has ended {:.3} s after the exit",
        median(&mut steps.agent),
        median(&mut steps.first),
        median(&mut steps.exit),
        median(&mut freed),
    );
    let pairs = PAIRS as f64;
    println!(
        "run: {name}: drupe's processes took {:.1} ms of CPU, the guest {:.1} ms of that by the tick: {:.1} ms with KVM's work for the guest",
        cpu_ms / pairs,
        guest_ms / pairs,
        (cpu_ms - guest_ms) / pairs,
    );
    own_work(drupe, case)
}

/// Prints what drupe itself does for a run.
fn own_work(drupe: &Drupe, case: &Case) -> io::Result<()> {
    let name = case.name;
    let args = ["run", "--rm"].iter().chain(case.options);
    let args: Vec<&str> = args.copied().chain([IMAGE, "true"]).collect();
    let (mut own, mut inside) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let tracer = match Tracer::start() {
            Ok(tracer) => tracer,
            Err(e) => {
                println!("run: {name}: drupe's own work: left out: no tracer: {e}");
                return Ok(());
            }
        };
        let before = Children::now()?;
        common::time(&mut drupe.command(&args))?;
        Children::reap()?;
        let all = Children::now()?.cpu_ms - before.cpu_ms;
        let kvm = tracer.stop()?;
        own.push(all - kvm);
        inside.push(kvm);
    }
    let (own, inside) = (median(&mut own), median(&mut inside));
    println!(
        "run: {name}: drupe's own work, outside KVM_RUN: {own:.1} ms of CPU (inside: {inside:.1} ms), budget {BUDGET_HOST_MS}: {}",
        verdict(own <= BUDGET_HOST_MS)
    );
    Ok(())
}

/// drupe, with everything of its own in memory.
struct Drupe {
    program: PathBuf,
    home: PathBuf,
    kernels: PathBuf,
}

impl Drupe {
    fn new(stage: &Path) -> Self {
        Drupe {
            program: stage.join("bin/drupe"),
            home: stage.join("home"),
            kernels: stage.join("kernels"),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command.env("DRUPE_HOME", &self.home);
        command.env("DRUPE_KERNELS", &self.kernels);
        command
    }

    /// Runs a program whose first act is to write a byte, and notes when the
    /// agent was up, when the byte came, and when it had ended.
    fn steps(&self, case: &Case, steps: &mut Steps) -> io::Result<()> {
        const NAME: &str = "steps";
        let mut command = self.command(&["-v", "run", "--name", NAME]);
        command.args(case.options).args([IMAGE, "mark"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (start, start_us) = (Instant::now(), now_us());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let first = first_byte(&mut child, start)?;
        let status = child.wait()?;
        let exit = start.elapsed().as_secs_f64();
        Children::reap()?;
        let log = self.log()?;
        common::output(&mut self.command(&["rm", NAME]))?;
        if !status.success() {
            return Err(common::failed(&command, status, log.as_bytes()));
        }
        let up = up_us(&log).ok_or_else(|| io::Error::other(format!("no time in: {log}")))?;
        steps.agent.push(up.saturating_sub(start_us) as f64 / 1e6);
        steps.first.push(first);
        steps.exit.push(exit);
        Ok(())
    }

    /// What the only monitor there is had to say.
    fn log(&self) -> io::Result<String> {
        let mut log = String::new();
        for entry in fs::read_dir(self.home.join("sandboxes"))? {
            let path = entry?.path().join("monitor.log");
            log += &fs::read_to_string(path).unwrap_or_default();
        }
        Ok(log)
    }
}

fn first_byte(child: &mut Child, start: Instant) -> io::Result<f64> {
    let mut byte = [0];
    let mut out = child.stdout.take();
    // Without the byte it has failed, and its status says so.
    let _ = out.as_mut().map(|out| out.read(&mut byte)).transpose()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Of the monitor's line `guest up after N us, at M us`: M.
fn up_us(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("guest up"))?;
    let (_, at) = line.rsplit_once(", at ")?;
    at.split(' ').next()?.parse().ok()
}

/// The clock of the monitor's notes.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// The tar of a root with busybox, and a program that shows when it runs.
fn image(stage: &Path) -> io::Result<PathBuf> {
    let root = stage.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(stage.join("bin/busybox"), root.join("bin/busybox"))?;
    for applet in ["sh", "true", "cat", "sleep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    let mark = root.join("bin/mark");
    fs::write(&mark, bare_metal::elf(bare_metal::MARK))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&mark, mode)?;
    let tar = stage.join("image.tar");
    let mut command = Command::new("tar");
    command.args(["--owner=0", "--group=0", "-cf"]).arg(&tar);
    common::output(command.arg("-C").arg(&root).arg("."))?;
    Ok(tar)
}
