//! The process that has a machine is confined: looked at from outside, by what
//! the kernel says of it. Guests of a few instructions are enough.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::bare_metal::{NEWLINE, POWER_OFF, elf};

/// drupe as root or as nobody, as it is for who runs this.
fn drupe(ordinary: bool) -> Command {
    let program = env!("CARGO_BIN_EXE_drupe");
    if !ordinary {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(program);
    command
}

/// Users to try: an ordinary one only where that may use KVM.
fn users() -> Vec<bool> {
    let mode = fs::metadata("/dev/kvm").unwrap().permissions().mode();
    match mode & 0o006 {
        0o006 => vec![false, true],
        _ => vec![false],
    }
}

fn kernel(dir: &Path, code: &[u8]) -> PathBuf {
    let path = dir.join("kernel");
    fs::write(&path, elf(code)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A machine whose guest has begun.
struct Running(Child);

impl Running {
    fn start(ordinary: bool, dir: &Path, more: &[&str]) -> Self {
        let mut child = drupe(ordinary)
            .args(["boot", "--memory", "64M", "--kernel"])
            .arg(kernel(dir, NEWLINE))
            .args(more)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        Running(child)
    }

    fn proc(&self, path: &str) -> PathBuf {
        format!("/proc/{}/{path}", self.0.id()).into()
    }

    /// Each thread's name, and its `/proc/PID/task/TID`.
    fn threads(&self) -> Vec<(String, PathBuf)> {
        let tasks = fs::read_dir(self.proc("task")).unwrap();
        let tasks = tasks.map(|task| task.unwrap().path());
        tasks
            .map(|task| {
                let name = fs::read_to_string(task.join("comm")).unwrap();
                (name.trim().to_owned(), task)
            })
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn field(task: &Path, name: &str) -> String {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

fn namespace(task: &Path, kind: &str) -> PathBuf {
    fs::read_link(task.join("ns").join(kind)).unwrap()
}

#[test]
fn every_thread_is_confined_before_the_guest_runs() {
    for ordinary in users() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Running::start(ordinary, dir.path(), &[]);
        let threads = vm.threads();
        let names: Vec<_> = threads.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["drupe", "vcpu0", "console", "spawner"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for (name, task) in &threads {
            assert_eq!(field(task, "NoNewPrivs"), "1", "{name}");
            assert_eq!(field(task, "Seccomp"), "2", "{name}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(field(task, set), "0000000000000000", "{name} {set}");
            }
            for kind in ["user", "mnt", "net", "ipc", "uts", "cgroup"] {
                let own = namespace(Path::new("/proc/self"), kind);
                assert_ne!(namespace(task, kind), own, "{name} {kind}");
            }
        }
        // The working directory, as the name of an empty directory, and no more.
        let mut at = vm.proc("root");
        for part in dir.path().components().skip(1) {
            let entries: Vec<_> = fs::read_dir(&at).unwrap().map(|e| e.unwrap()).collect();
            assert_eq!(entries.len(), 1, "{entries:?}");
            at = at.join(part);
            assert_eq!(entries[0].path(), at);
        }
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
        let limits = fs::read_to_string(vm.proc("limits")).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}

#[test]
fn the_network_is_left_to_the_thread_that_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let vm = Running::start(false, dir.path(), &["--net", "user"]);
    let own = namespace(Path::new("/proc/self"), "net");
    for (name, task) in vm.threads() {
        let kept = namespace(&task, "net") == own;
        assert_eq!(kept, name == "spawner", "{name}");
    }
}

fn ends(ordinary: bool, dir: &Path, more: &[&str]) -> Output {
    drupe(ordinary)
        .args(["-v", "boot", "--memory", "64M", "--kernel"])
        .arg(kernel(dir, POWER_OFF))
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn strict_runs_where_all_layers_are_and_refuses_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let output = ends(false, dir.path(), &["--confine", "strict"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let doctor = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["doctor", "--format", "json"])
        .output()
        .unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    match doctor.contains("all layers: ") {
        true => assert!(output.status.success(), "{stderr}"),
        false => assert!(stderr.contains("--confine=strict: no "), "{stderr}"),
    }
    // Shares that root serves are at odds with a user namespace.
    let share = format!("{},tag=t", dir.path().display());
    // SAFETY: geteuid has no effects.
    if unsafe { libc::geteuid() } == 0 {
        let output = ends(
            false,
            dir.path(),
            &["--confine", "strict", "--share", &share],
        );
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("--confine=strict: no user namespace"),
            "{stderr}"
        );
        let output = ends(false, dir.path(), &["--share", &share]);
        assert!(output.status.success());
    }
}

#[test]
fn off_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vm = Running::start(false, dir.path(), &["--confine", "off"]);
    for (name, task) in vm.threads() {
        assert_eq!(field(&task, "Seccomp"), "0", "{name}");
        for kind in ["user", "mnt", "net"] {
            let own = namespace(Path::new("/proc/self"), kind);
            assert_eq!(namespace(&task, kind), own, "{name} {kind}");
        }
    }
}
