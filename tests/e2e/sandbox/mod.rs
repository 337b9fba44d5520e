//! Sandboxes, as a user has them: a data directory of one's own, an image, and
//! `drupe`'s commands.

mod bad_agent;
mod lifecycle;
mod many;
mod nested;
mod postgres;
mod refusal;
mod run;
mod volumes;
mod web;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::guest::{DRUPE, PATIENCE, debian, host, tuned};

/// What the image is called.
pub const IMAGE: &str = "busybox";

/// A data directory of drupe's, with an image in it.
pub struct Home {
    dir: TempDir,
}

impl Home {
    /// With busybox.
    pub fn new() -> Self {
        let home = Home {
            dir: tempfile::tempdir().unwrap(),
        };
        home.import(image(), IMAGE, &[]);
        home
    }

    /// With an image of Debian's packages, which `guest-images/image/build` makes,
    /// by the same name; `changes` say how it runs.
    pub fn with(name: &str, changes: &[&str]) -> Self {
        let home = Home {
            dir: tempfile::tempdir().unwrap(),
        };
        home.import(&debian(name), name, changes);
        home
    }

    fn import(&self, tar: &Path, name: &str, changes: &[&str]) {
        let mut args = vec!["import", "--quiet"];
        args.extend(changes.iter().flat_map(|change| ["-c", *change]));
        args.extend([tar.to_str().unwrap(), name]);
        self.ok(&args);
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `drupe` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(DRUPE);
        command.args(args);
        command.env("DRUPE_HOME", self.dir.path().join("home"));
        command.env("DRUPE_KERNELS", tuned().parent().unwrap());
        command.current_dir(self.dir.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn drupe(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it to its end, which has to be a good one, and returns what it
    /// printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.drupe(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            self.explain(&output)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// Runs a command in a sandbox without a network, and returns what it
    /// printed.
    pub fn run(&self, options: &str, script: &str) -> String {
        let output = self.run_output(options, script);
        assert!(
            output.status.success(),
            "{options} {script}: {}",
            self.explain(&output)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    pub fn run_output(&self, options: &str, script: &str) -> Output {
        let mut args = vec!["run", "--rm", "--network", "none"];
        args.extend(options.split_whitespace());
        args.extend([IMAGE, "sh", "-c", script]);
        self.drupe(&args)
    }

    /// Starts one that runs by itself.
    pub fn detached(&self, name: &str, options: &str, script: &str) -> String {
        let mut args = vec!["run", "-d", "--network", "none", "--name", name];
        args.extend(options.split_whitespace());
        args.extend([IMAGE, "sh", "-c", script]);
        self.ok(&args)
    }

    /// Fails, with this status and one line that says this.
    pub fn refused(&self, args: &[&str], status: i32, text: &str) {
        let output = self.drupe(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
        assert!(error.contains(text), "{args:?}: {error}");
    }

    /// What `inspect` says.
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.ok(&["inspect", name]);
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    /// Kills the monitor of a sandbox, and waits until everybody knows.
    pub fn crash(&self, name: &str) {
        let pid = self.inspect(name)["State"]["Pid"].as_i64().unwrap();
        // SAFETY: kill has no memory effects.
        assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
        self.until("its end", || {
            self.inspect(name)["State"]["Running"] == false
        });
    }

    /// Waits until this is so.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let limit = Instant::now() + PATIENCE;
        while !so() {
            assert!(Instant::now() < limit, "never: {what}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What went wrong, with what the monitors and the guests' kernels said.
    pub fn explain(&self, output: &Output) -> String {
        let mut text = format!(
            "{}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let sandboxes = fs::read_dir(self.dir.path().join("home/sandboxes"));
        for entry in sandboxes.into_iter().flatten().flatten() {
            let kept = self.dir.path().join("home/configs");
            for path in [
                kept.join(entry.file_name()).join("state.json"),
                entry.path().join("monitor.log"),
                entry.path().join("console.log"),
            ] {
                let content = fs::read(&path).unwrap_or_default();
                text += &format!(
                    "\n--- {}\n{}",
                    path.display(),
                    String::from_utf8_lossy(&content)
                );
            }
        }
        text
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What a failed test leaves running would disturb the next one.
        let list = self.drupe(&["ps", "-aq"]);
        for id in String::from_utf8_lossy(&list.stdout).lines() {
            self.drupe(&["rm", "-f", id]);
        }
    }
}

/// A child that is ended with the test.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The tar of a root file system: busybox, and some accounts.
fn image() -> &'static Path {
    static IMAGE: OnceLock<(TempDir, std::path::PathBuf)> = OnceLock::new();
    let (_, path) = IMAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let path = |name: &str| root.join(name);
        for name in ["bin", "etc", "tmp", "root", "data", "usr/bin", "srv"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::copy("/bin/busybox", path("bin/busybox")).expect("tools/deps installs busybox-static");
        for applet in host("/bin/busybox", &["--list"]).lines() {
            if applet != "busybox" {
                symlink("busybox", path("bin").join(applet)).unwrap();
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/data:/bin/sh\n";
        fs::write(path("etc/passwd"), passwd).unwrap();
        fs::write(path("etc/group"), "root:x:0:\nweb:x:34:\n").unwrap();
        fs::write(path("etc/os-release"), "ID=busybox\n").unwrap();
        fs::write(path("srv/from-image"), "image\n").unwrap();
        fs::write(path("bin/no-program"), "text\n").unwrap();
        fs::set_permissions(path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let tar = dir.path().join("image.tar");
        let (root, to) = (root.display().to_string(), tar.display().to_string());
        host(
            "tar",
            &["-C", &root, "--owner=0", "--group=0", "-cf", &to, "."],
        );
        (dir, tar)
    });
    path
}
