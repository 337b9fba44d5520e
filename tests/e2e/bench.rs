//! `drupe bench`: what it measures, what it says of what it cannot measure, and
//! what it leaves behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::guest::{DRUPE, PATIENCE, tuned};

/// Its files, apart from those of others, and the control groups that others have.
struct Place(TempDir, Vec<PathBuf>);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap(), control_groups());
        fs::create_dir(place.temporary()).unwrap();
        place
    }

    fn temporary(&self) -> PathBuf {
        self.0.path().join("tmp")
    }

    fn bench(&self, args: &str) -> Command {
        let mut command = Command::new(DRUPE);
        command.arg("bench").args(args.split(' '));
        command.env("DRUPE_KERNELS", tuned().parent().unwrap());
        command.env("TMPDIR", self.temporary());
        command.stdin(Stdio::null());
        command
    }
}

fn results<'a>(suite: &'a Value, figure: &str) -> Vec<(&'a str, usize)> {
    let result = |r: &'a Value| {
        let (low, median, high) = (&r["low"], &r["median"], &r["high"]);
        let ends = [low, median, high].map(|n| n.as_f64().unwrap());
        assert!(ends.is_sorted() && ends[0] > 0.0, "{r}");
        let samples = r["samples"].as_array().unwrap().len();
        (r["target"].as_str().unwrap(), samples)
    };
    of_targets(suite, figure).iter().map(result).collect()
}

fn of_targets<'a>(suite: &'a Value, figure: &str) -> &'a Vec<Value> {
    let figures = suite["figures"].as_array().unwrap();
    let figure = figures.iter().find(|f| f["name"] == figure).unwrap();
    figure["results"].as_array().unwrap()
}

fn median(suite: &Value, figure: &str, target: &str) -> f64 {
    let mut results = of_targets(suite, figure).iter();
    let result = results.find(|r| r["target"] == target).unwrap();
    result["median"].as_f64().unwrap()
}

/// The results of a bench that runs to a good end, and what it says on standard error.
fn measured(command: &mut Command) -> (Value, String) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    (serde_json::from_slice(&output.stdout).unwrap(), errors)
}

/// A program of this name and script.
fn program(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// One target is not installed, and one does not work: the others are measured.
#[test]
fn what_fails_hides_nothing() {
    let place = Place::new();
    let programs = place.0.path().join("bin");
    fs::create_dir(&programs).unwrap();
    program(&programs, "crun", "echo 'crun: broken today' >&2\nexit 1");
    let out = place.0.path().join("out");
    let args = "start isolation --runs 2 --targets host,container,vm,podman --json";
    let output = place
        .bench(args)
        .arg("--out")
        .arg(&out)
        .env("PATH", &programs)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let text = fs::read_to_string(out.join("results.json")).unwrap();
    assert_eq!(text, String::from_utf8(output.stdout).unwrap());
    let all: Value = serde_json::from_str(&text).unwrap();

    let left_out = all["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(left_out[0]["target"], "podman");
    let line = "target podman is left out: podman is not installed: install the package podman";
    assert_eq!(
        errors.lines().filter(|l| l.contains(line)).count(),
        1,
        "{errors}"
    );

    let [start, isolation] = &all["suites"].as_array().unwrap()[..] else {
        panic!("{text}");
    };
    for suite in [start, isolation] {
        let failures = suite["failures"].as_array().unwrap();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0]["target"], "container");
        let why = failures[0]["why"].as_str().unwrap();
        assert!(why.contains("crun: broken today"), "{why}");
    }
    for figure in ["first", "exit", "cpu", "first-cold", "exit-cold"] {
        assert_eq!(results(start, figure), [("host", 2), ("vm", 2)]);
    }
    // A machine has the processor for most of its time, and its monitor, which has
    // the machine, outlives the program that was started.
    let of_vm = |figure| median(start, figure, "vm");
    assert!(of_vm("cpu") > of_vm("exit") / 4.0, "{text}");
    let table = &isolation["tables"][0];
    assert_eq!(table["columns"], serde_json::json!(["host", "vm"]));
    let answers = |name: &str| {
        let rows = table["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        [0, 1].map(|at| row["cells"][at]["value"].as_str().unwrap().to_owned())
    };
    for name in [
        "runs on the host's kernel",
        "sees the host's kernel version",
        "sees the host's processes",
        "writes to /proc/sys of the host's kernel",
        "reads the host kernel's log (dmesg)",
    ] {
        assert_eq!(answers(name), ["yes", "no"], "{name}");
    }
    nothing_is_left(&place);
}

/// Processor time is counted of what has left its parent, its group and its
/// session, too: of who goes on for a tenth of a second of it.
#[test]
fn what_outlives_its_parent_is_counted() {
    const RUNTIME: &str = r#"[ "$3" = run ] || exit 0
echo first
setsid sh -c 'until read -r line </proc/$$/stat; set -- $line; [ $((${14} + ${15})) -ge 10 ]; do :; done' </dev/null >/dev/null &"#;
    let place = Place::new();
    let programs = place.0.path().join("bin");
    fs::create_dir(&programs).unwrap();
    program(&programs, "crun", RUNTIME);
    let path = std::env::var("PATH").unwrap();
    let (all, _) = measured(
        place
            .bench("start --runs 2 --targets host,container --json")
            .env("PATH", format!("{}:{path}", programs.display())),
    );
    let start = &all["suites"][0];
    assert_eq!(start["failures"], serde_json::json!([]));
    assert_eq!(results(start, "cpu"), [("host", 2), ("container", 2)]);
    assert!(median(start, "cpu", "container") >= 0.1, "{all}");
    nothing_is_left(&place);
}

#[test]
fn an_interruption_leaves_nothing() {
    let place = Place::new();
    let interfaces = names("/sys/class/net");
    let errors = place.0.path().join("errors");
    // The machine first, so that it and the container have both been there.
    let mut child = place
        .bench("memory --runs 100 --targets vm,container")
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let bundles = place
        .temporary()
        .join(format!("drupe-bench.{}", child.id()))
        .join("bundles");
    // Several containers run.
    let limit = Instant::now() + PATIENCE;
    while names(&bundles).len() < 3 {
        assert!(
            Instant::now() < limit,
            "{}",
            fs::read_to_string(&errors).unwrap()
        );
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "{}",
            fs::read_to_string(&errors).unwrap()
        );
        thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: kill has no memory effects.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let status = child.wait().unwrap();
    let errors = fs::read_to_string(&errors).unwrap();
    assert_eq!(status.code(), Some(130), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("interrupted by signal 2"), "{errors}");
    nothing_is_left(&place);
    assert_eq!(names("/sys/class/net"), interfaces);
}

/// The same workload speaks with drupe by whatever network its target has: the
/// kernel's, and the monitor's with a container behind it.
#[test]
fn streams_go_both_ways() {
    let place = Place::new();
    let interfaces = names("/sys/class/net");
    let targets = ["container", "vm+container"];
    let (all, _) = measured(
        place
            .bench("net --runs 1 --json --targets")
            .arg(targets.join(",")),
    );
    let suite = &all["suites"][0];
    assert_eq!(suite["failures"], serde_json::json!([]));
    for figure in ["out", "in", "round-trip", "connect"] {
        assert_eq!(results(suite, figure), targets.map(|target| (target, 1)));
    }
    let about = suite["about"].as_str().unwrap();
    for way in [
        "; container: a pair of virtual",
        "; vm+container: drupe's default",
    ] {
        assert!(about.contains(way), "{about}");
    }
    nothing_is_left(&place);
    assert_eq!(names("/sys/class/net"), interfaces);
}

/// The pair that leads into a container goes with it.
#[test]
fn an_interruption_leaves_no_interface() {
    let place = Place::new();
    let interfaces = names("/sys/class/net");
    let mut child = place
        .bench("net --runs 100 --targets container")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let interface = format!("/sys/class/net/drupe-{}", child.id());
    let directory = format!("drupe-bench.{}/bundles", child.id());
    let bundles = place.temporary().join(directory);
    let limit = Instant::now() + PATIENCE;
    while !Path::new(&interface).exists() || names(&bundles).is_empty() {
        assert!(Instant::now() < limit);
        assert_eq!(child.try_wait().unwrap(), None);
        thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: kill has no memory effects.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    nothing_is_left(&place);
    assert_eq!(names("/sys/class/net"), interfaces);
}

/// Without an image the suite is left out, with a line that says how to get one.
#[test]
fn without_an_image_applications_are_left_out() {
    let place = Place::new();
    let args = "isolation app --runs 1 --targets host --json";
    let (all, errors) = measured(&mut place.bench(args));
    let line = "suite app is left out: it runs an image: make one with";
    assert_eq!(
        errors.lines().filter(|l| l.contains(line)).count(),
        1,
        "{errors}"
    );
    assert_eq!(all["left_out"][0]["target"], "suite app");
    assert_eq!(all["suites"].as_array().unwrap().len(), 1);

    // No such file, and one that no suite runs.
    for (args, why) in [
        (
            "app --targets host --image /no/image.tar",
            "--image /no/image.tar: ",
        ),
        (
            "cpu --targets host --image /no/image.tar",
            "name the suite app",
        ),
    ] {
        let output = place.bench(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(why), "{errors}");
    }
    nothing_is_left(&place);
}

/// A small image is unpacked, started and read by chroot and within a machine.
/// Programs of its own stand for PostgreSQL and nginx, which take more than a minute
/// for a sample in a lab. What the load generators say is in a file of the image, and
/// that they have been asked for it in the right way is checked there.
#[test]
fn an_image_runs_on_targets_that_differ_most() {
    const SAID: &str = "latency average = 22.500 ms
tps = 179.5 (without initial connection time)
Failed requests:        0
Requests per second:    7068.25 [#/sec] (mean)
Time per request:       1.125 [ms] (mean)
";
    let place = Place::new();
    let root = place.0.path().join("root");
    let bin = root.join("bin");
    for directory in ["bin", "etc", "lib/x86_64-linux-gnu", "lib64"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("said"), SAID).unwrap();
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\npostgres:x:70:70::/:/bin/sh\n",
    )
    .unwrap();
    // A shell that finds its commands by PATH: busybox's own is content with itself.
    for (from, to) in [
        ("/bin/dash", "bin/sh"),
        ("/bin/busybox", "bin/busybox"),
        (
            "/lib/x86_64-linux-gnu/libc.so.6",
            "lib/x86_64-linux-gnu/libc.so.6",
        ),
        ("/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
    ] {
        fs::copy(from, root.join(to)).unwrap();
    }
    for applet in [
        "cat", "chown", "grep", "head", "id", "mkdir", "rm", "seq", "sleep", "touch",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    let server = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    for (name, script) in [
        ("initdb", ":"),
        ("psql", ":"),
        ("postgres", server),
        ("nginx", server),
        (
            "setpriv",
            "while [ \"${1#--}\" != \"$1\" ]; do shift; done; exec \"$@\"",
        ),
        (
            "pgbench",
            "case $* in *-T*) grep -E 'latency|tps' /said ;; esac",
        ),
        (
            "ab",
            "case $* in *127.0.0.1:*/file) grep request -i /said ;; *) exit 1 ;; esac",
        ),
    ] {
        program(&bin, name, script);
    }
    let tar = place.0.path().join("image.tar");
    let mut command = Command::new("tar");
    command.arg("-cf").arg(&tar).arg("-C").arg(&root).arg(".");
    assert!(command.status().unwrap().success());

    let targets = ["host", "vm+container"];
    let (all, _) = measured(
        place
            .bench("app --runs 1 --json --targets")
            .arg(targets.join(","))
            .arg("--image")
            .arg(&tar),
    );
    let suite = &all["suites"][0];
    assert_eq!(suite["failures"], serde_json::json!([]));
    for (at, name, value) in [
        (0, "transactions", 179.5),
        (1, "transaction", 0.0225),
        (2, "requests", 7068.25),
        (3, "request", 0.001125),
    ] {
        assert_eq!(results(suite, name), targets.map(|target| (target, 1)));
        for result in suite["figures"][at]["results"].as_array().unwrap() {
            assert_eq!(result["median"], value, "{result}");
        }
    }
    nothing_is_left(&place);
}

fn nothing_is_left(place: &Place) {
    let temporary = place.temporary();
    assert_eq!(names(&temporary), [""; 0]);
    let path = temporary.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(path), "{mounts}");
    let ours = |pid: &String| {
        let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        String::from_utf8_lossy(&text).contains(path)
    };
    let processes: Vec<_> = names("/proc")
        .into_iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter(ours)
        .collect();
    assert_eq!(processes, [""; 0]);
    let groups = control_groups();
    let left = groups.iter().filter(|group| !place.1.contains(group));
    assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
}

/// The groups of sandboxes and of a bench's containers.
fn control_groups() -> Vec<PathBuf> {
    let mut groups = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut at = 0;
    while let Some(group) = groups.get(at) {
        let entries = fs::read_dir(group).into_iter().flatten().flatten();
        let found = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.extend(found.map(|entry| entry.path()).collect::<Vec<_>>());
        at += 1;
    }
    groups.retain(|group| {
        let name = group.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("drupe-")
    });
    groups
}

/// What is in a directory, in order; nothing in one that is not there.
fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
