//! A guest under test: drupe with a kernel, the test root disk and a script.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a guest may take for anything. It is a limit for what hangs, not a
/// measurement: under software emulation a second on metal takes a minute.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// The program under test: the one that `tests/run-e2e` built as users do, and
/// not the one that was built along with these tests.
pub const DRUPE: &str = match option_env!("DRUPE_E2E_PROGRAM") {
    Some(program) => program,
    None => env!("CARGO_BIN_EXE_drupe"),
};

fn prepared(variable: &str) -> PathBuf {
    let path = env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run this by tests/run-e2e"));
    PathBuf::from(path)
}

/// Debian's cloud kernel: its directory in the kernel store.
pub fn stock() -> PathBuf {
    prepared("DRUPE_E2E_STOCK")
}

/// The tuned kernel's directory.
pub fn tuned() -> PathBuf {
    prepared("DRUPE_E2E_TUNED")
}

/// The Debian root disk. Shared between tests: attach it read-only, or copy it.
pub fn rootfs() -> PathBuf {
    prepared("DRUPE_E2E_ROOTFS")
}

/// The tar of a root file system of Debian's packages: `web`, `postgres` or
/// `containers`.
pub fn debian(name: &str) -> PathBuf {
    prepared(&format!("DRUPE_E2E_{}", name.to_uppercase()))
}

/// A guest to be started.
pub struct Guest {
    command: Command,
    append: String,
    /// Scratch files of this guest; gone with it.
    pub dir: TempDir,
    /// Files that drupe gets open, if it runs as somebody who may not get there.
    passed: Option<Vec<fs::File>>,
}

impl Guest {
    /// The tuned kernel, entered as drupe chooses.
    pub fn tuned() -> Self {
        Self::with_kernel(&tuned().join("kernel"))
    }

    /// Debian's cloud kernel as it comes, with its initrd.
    pub fn stock() -> Self {
        Self::with_kernel(&stock().join("kernel")).initrd(&stock().join("initrd"))
    }

    /// Any kernel.
    pub fn with_kernel(kernel: &Path) -> Self {
        let mut command = Command::new(DRUPE);
        command.arg("boot").arg("--kernel").arg(kernel);
        Guest {
            command,
            append: "console=ttyS0 panic=-1 quiet".into(),
            dir: tempfile::tempdir().unwrap(),
            passed: None,
        }
    }

    /// Runs drupe without any capability, as for an ordinary user: its files are
    /// still root's, who has made them.
    pub fn unprivileged(mut self) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
            .arg(self.command.get_program())
            .args(self.command.get_args());
        self.command = command;
        self
    }

    /// The tuned kernel, run by nobody with an ordinary user's limits. This
    /// process must be root.
    pub fn tuned_by_nobody() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let mut command = Command::new("prlimit");
        command.args(["--nofile=1024:524288", "--", "setpriv"]);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args([DRUPE, "boot"]);
        let mut guest = Guest {
            command,
            passed: Some(Vec::new()),
            ..Self::tuned()
        };
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(guest.dir.path(), readable).unwrap();
        let kernel = guest.visible(&tuned().join("kernel"));
        guest.arg("--kernel").arg(kernel)
    }

    /// A path by which drupe gets to this file.
    fn visible(&mut self, path: &Path) -> PathBuf {
        let Some(passed) = &mut self.passed else {
            return path.to_owned();
        };
        let file = fs::File::open(path).unwrap();
        let fd = file.as_raw_fd();
        // SAFETY: an open descriptor, which stays open as long as the guest.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
        passed.push(file);
        format!("/proc/self/fd/{fd}").into()
    }

    /// Keeps drupe and all of its threads to this CPU.
    pub fn on_cpu(mut self, cpu: usize) -> Self {
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", &cpu.to_string()])
            .arg(self.command.get_program())
            .args(self.command.get_args());
        self.command = command;
        self
    }

    pub fn initrd(self, path: &Path) -> Self {
        self.arg("--initrd").arg(path)
    }

    /// One more argument of `drupe boot`.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// One more disk, with these further options.
    pub fn disk(self, path: &Path, options: &str) -> Self {
        self.arg("--disk")
            .arg(format!("{}{options}", path.display()))
    }

    /// Several, split at blanks.
    pub fn args(mut self, args: &str) -> Self {
        self.command.args(args.split_whitespace());
        self
    }

    /// Adds to the kernel command line.
    pub fn append(mut self, text: &str) -> Self {
        self.append = format!("{} {text}", self.append);
        self
    }

    /// Boots the Debian root, which runs this script and powers off. Attach
    /// further disks after this: they are /dev/vdc and on.
    pub fn script(mut self, script: &str) -> Self {
        let path = self.dir.path().join("script");
        let mut text = format!("{script}\n").into_bytes();
        text.resize(text.len().next_multiple_of(512), b'\n');
        fs::write(&path, text).unwrap();
        let root = self.visible(&rootfs());
        self.arg("--disk")
            .arg(format!("{},readonly", root.display()))
            .arg("--disk")
            .arg(format!("{},readonly,id=script", path.display()))
            .append("root=/dev/vda ro rootfstype=ext4 init=/usr/lib/drupe/run-script")
    }

    /// An empty disk of this size, attached with these further options.
    pub fn data_disk(self, bytes: u64, options: &str) -> (Self, PathBuf) {
        let path = self.dir.path().join("data");
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        let disk = format!("{}{options}", path.display());
        (self.arg("--disk").arg(disk), path)
    }

    /// Runs drupe by way of another program.
    pub fn wrapped(mut self, wrap: impl FnOnce(&Command) -> Command) -> Self {
        self.command = wrap(&self.command);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let mut child = self
            .command
            .arg("--append")
            .arg(&self.append)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("drupe starts");
        let console = Text::default();
        let errors = Text::default();
        let readers = vec![
            console.follow(child.stdout.take().unwrap()),
            errors.follow(child.stderr.take().unwrap()),
        ];
        Running {
            input: child.stdin.take(),
            child,
            console,
            errors,
            readers,
            dir: Some(self.dir),
        }
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }
}

/// What a descriptor has said so far.
#[derive(Clone, Default)]
struct Text(Arc<Said>);

#[derive(Default)]
struct Said {
    /// The bytes, and whether that is all.
    text: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Text {
    fn follow(&self, mut from: impl Read + Send + 'static) -> JoinHandle<()> {
        let text = self.clone();
        thread::spawn(move || {
            let mut buf = [0; 4096];
            loop {
                let n = from.read(&mut buf).unwrap_or(0);
                let mut inner = text.0.text.lock().unwrap();
                inner.0.extend_from_slice(&buf[..n]);
                inner.1 = n == 0;
                text.0.more.notify_all();
                if n == 0 {
                    return;
                }
            }
        })
    }

    fn now(&self) -> String {
        String::from_utf8_lossy(&self.0.text.lock().unwrap().0).replace('\r', "")
    }

    /// True when `wanted` has been said; false when the end or the limit came
    /// first.
    fn wait_for(&self, wanted: &str) -> bool {
        let limit = Instant::now() + PATIENCE;
        let mut inner = self.0.text.lock().unwrap();
        loop {
            if String::from_utf8_lossy(&inner.0).contains(wanted) {
                return true;
            }
            let left = limit.saturating_duration_since(Instant::now());
            if inner.1 || left.is_zero() {
                return false;
            }
            inner = self.0.more.wait_timeout(inner, left).unwrap().0;
        }
    }
}

/// A guest that is running; killed when dropped.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    console: Text,
    errors: Text,
    readers: Vec<JoinHandle<()>>,
    dir: Option<TempDir>,
}

/// What the threads of a process are waiting for: each one's name, system call and
/// stack in the kernel.
fn threads_of(pid: u32) -> String {
    let mut text = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
    {
        let path = task.unwrap().path();
        for file in ["comm", "syscall", "stack"] {
            text += &fs::read_to_string(path.join(file)).unwrap_or_default();
        }
    }
    text
}

impl Running {
    /// The process id of drupe.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the console shows `text`.
    pub fn wait_for(&self, text: &str) {
        if !self.console.wait_for(text) {
            panic!(
                "the console never showed {text:?}:\n{}\n{}",
                self.console.now(),
                self.errors.now()
            );
        }
    }

    /// Waits until the console has shown this `count` times and a line's end after
    /// it; the rest of that line.
    pub fn wait_for_count(&self, text: &str, count: usize) -> String {
        let limit = Instant::now() + PATIENCE;
        loop {
            let console = self.console.now();
            let rest = console.split(text).nth(count);
            if let Some((value, _)) = rest.and_then(|rest| rest.split_once('\n')) {
                return value.to_owned();
            }
            assert!(
                Instant::now() < limit,
                "not {count} times {text:?}:\n{console}\n{}",
                self.errors.now()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types on the console.
    pub fn type_line(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
    }

    /// Sends drupe a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for drupe's end.
    pub fn finish(mut self) -> Finished {
        let limit = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > limit {
                panic!(
                    "drupe does not end:\n{}\n{}\n{}",
                    self.console.now(),
                    self.errors.now(),
                    threads_of(self.child.id())
                );
            }
            thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Finished {
            status,
            console: self.console.now(),
            errors: self.errors.now(),
            dir: self.dir.take(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub console: String,
    pub errors: String,
    /// The guest's files are there until the test has looked at them.
    dir: Option<TempDir>,
}

impl Finished {
    /// The script ran, succeeded, and the guest powered off.
    pub fn succeeded(self) -> Self {
        assert!(
            self.status.code() == Some(0) && self.console.contains("drupe-exit: 0"),
            "{}\n{}\n{:?}",
            self.console,
            self.errors,
            self.status
        );
        self
    }

    /// Where the guest's scratch files are.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// The rest of the line behind `key`, which the script printed.
    pub fn value(&self, key: &str) -> &str {
        let value = self
            .console
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(key));
        value
            .unwrap_or_else(|| panic!("no line begins with {key:?}:\n{}", self.console))
            .trim()
    }

    /// The same as a number.
    pub fn number(&self, key: &str) -> u64 {
        let value = self.value(key);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{key} {value} is no number"))
    }
}

/// Runs a program of the host to its end and returns what it printed.
pub fn host(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: tools/deps installs it"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
