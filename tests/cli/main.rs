//! The program from outside, as far as no VM is needed: what it prints, and the
//! status that it ends with.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use proptest::prelude::*;

mod bench;
mod sandboxes;

fn drupe<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drupe"));
    command.args(args).env("DRUPE_KERNELS", "/nonexistent");
    // Relative names, of a socket for one, belong to no place of importance.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null()).output().unwrap()
}

fn words(line: &str) -> Output {
    drupe(line.split_whitespace())
}

/// The one line on standard error that says what is wrong.
fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches('\n').count(), 1, "not one line: {text}");
    assert!(
        text.starts_with("drupe: ") && text.ends_with('\n'),
        "{text}"
    );
    assert!(output.stdout.is_empty(), "{text}");
    text
}

#[test]
fn every_bad_input_gets_one_line_and_its_status() {
    let long = "a".repeat(3000);
    let append = format!("boot --kernel /dev/null --append {long}");
    for (line, status, expected) in [
        ("", 2, "'drupe' wants a command: see 'drupe --help'"),
        ("bot", 2, "'bot'"),
        // Not 'ps', which is spelled alike.
        ("push web", 2, "no command 'push': make images with"),
        ("-v container ls", 2, "no command 'container': the commands"),
        ("--frobnicate", 2, "--frobnicate"),
        ("boot", 2, "--kernel"),
        ("boot --kernel", 2, "--kernel"),
        ("boot --kernel a --kernel b", 2, "--kernel"),
        ("boot --kernel /dev/null trailing", 2, "trailing"),
        ("boot --kernel /dev/null --cpus 0", 2, "cpus"),
        ("boot --kernel /dev/null --cpus 33", 2, "cpus"),
        ("boot --kernel /dev/null --cpus -1", 2, "-1"),
        ("boot --kernel /dev/null --cpus many", 2, "--cpus"),
        ("boot --kernel /dev/null --memory 0", 2, "memory"),
        ("boot --kernel /dev/null --memory 1P", 2, "--memory"),
        ("boot --kernel /dev/null --memory 1048577", 2, "memory"),
        (
            "boot --kernel /dev/null --memory 3M --hugepages",
            2,
            "memory",
        ),
        ("boot --kernel /dev/null --console tty", 2, "--console"),
        (
            "boot --kernel /dev/null --boot-protocol uefi",
            2,
            "--boot-protocol",
        ),
        ("boot --kernel /dev/null --stop-timeout -1", 2, "-1"),
        ("boot --kernel /dev/null --stop-timeout x", 2, "seconds"),
        ("boot --kernel /dev/null --net tap0", 2, "'tap=tap0'"),
        (
            "boot --kernel /dev/null --net user,publish=99999:1",
            2,
            "publish: '99999:1' has '99999', which is not a port",
        ),
        (
            "boot --kernel /dev/null --stop-timeout 9999999999",
            2,
            "--stop-timeout",
        ),
        ("boot --kernel /dev/null --vsock ,cid=3", 2, "vsock"),
        ("boot --kernel /dev/null --vsock s,cid=2", 2, "cid"),
        (
            "boot --config /nonexistent/vm.json",
            2,
            "/nonexistent/vm.json",
        ),
        ("boot --config /", 2, "--config /"),
        ("boot --config /dev/null", 2, "--config /dev/null"),
        ("boot --kernel no-such-kernel", 2, "'no-such-kernel'"),
        (&append, 2, "append"),
        ("doctor --check everything", 2, "--check"),
        ("doctor --format xml", 2, "--format"),
        ("kernel", 2, "'drupe kernel' wants a command"),
        ("kernel burn", 2, "'burn'"),
        ("kernel list --store /dev/null", 1, "/dev/null"),
        ("kernel build --fragment", 2, "--fragment"),
    ] {
        let output = words(line);
        let text = error_line(&output);
        assert_eq!(output.status.code(), Some(status), "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
    }
}

/// With a KVM or without one.
#[test]
fn a_bad_kernel_touches_nothing() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("v");
    // Nobody listens on it any more: a VM that started would replace it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let before = fs::metadata(&socket).unwrap();
    let line = format!("boot --kernel /dev/null --vsock {}", socket.display());
    let output = words(&line);
    assert_eq!(output.status.code(), Some(1));
    error_line(&output);
    let after = fs::metadata(&socket).unwrap();
    assert_eq!(
        (before.ino(), before.ctime_nsec()),
        (after.ino(), after.ctime_nsec())
    );
}

/// Standard error is a pipe that is full and that nobody reads.
#[test]
fn an_error_that_nobody_reads_holds_nothing_up() {
    use std::io::Write;
    let (reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: no memory is involved.
    let size = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&writer), libc::F_GETPIPE_SZ) };
    writer
        .write_all(&vec![0; usize::try_from(size).unwrap()])
        .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .arg("frobnicate")
        .stderr(writer)
        .spawn()
        .unwrap();
    for _ in 0..600 {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(2));
            return drop(reader);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    panic!("drupe waits for a reader");
}

#[test]
fn bytes_that_are_no_text_are_refused_in_one_line() {
    let bad = OsStr::from_bytes(b"\xff\xfe");
    let output = drupe([OsStr::new("boot"), OsStr::new("--append"), bad]);
    assert_eq!(output.status.code(), Some(2));
    error_line(&output);
    // A file's name may be any bytes.
    let output = drupe([OsStr::new("boot"), OsStr::new("--kernel"), bad]);
    assert_eq!(output.status.code(), Some(2));
    assert!(error_line(&output).contains("no such file"));
    let output = drupe(["boot", "--kernel", "/dev/null", "--x\ny\x1b[2J"]);
    assert!(!error_line(&output).trim_end().contains(char::is_control));
}

#[test]
fn verbose_gives_the_causes() {
    let output = words("-v boot --kernel k --config /nonexistent");
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].starts_with("drupe:   because: No such file"));
}

#[test]
fn help_and_version_go_to_standard_output() {
    for line in [
        "--help",
        "--version",
        "boot --help",
        "doctor --help",
        "kernel --help",
        "kernel fetch --help",
        "kernel build --help",
        "kernel list --help",
    ] {
        let output = words(line);
        assert!(output.status.success(), "{line}");
        assert!(
            output.stderr.is_empty() && !output.stdout.is_empty(),
            "{line}"
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            line == "--version" || text.contains("Example"),
            "{line}: {text}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["boot", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(stderr, "");

    let output = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .arg("--help")
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error_line(&output).contains("standard output"));
}

#[test]
fn kernels_are_listed_and_what_is_broken_is_left_out() {
    let store = tempfile::tempdir().unwrap();
    let kernel = store.path().join("good");
    fs::create_dir(&kernel).unwrap();
    fs::create_dir(store.path().join("broken")).unwrap();
    fs::write(kernel.join("kernel"), "").unwrap();
    let json = r#"{"name": "good", "version": "6.12", "source": "s", "flavour": "stock",
        "kernel": "kernel", "initrd": null, "inputs": "0"}"#;
    fs::write(kernel.join("kernel.json"), json).unwrap();
    let path = store.path().to_str().unwrap();

    let output = drupe(["kernel", "list", "--store", path]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains(&format!("good  stock    6.12     {path}/good/kernel")));
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.starts_with("drupe: warning: kernel ") && warning.contains("/broken: "));

    let output = drupe(["kernel", "list", "--format", "json", "--store", path]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value[0]["name"], "good");
    assert_eq!(value.as_array().unwrap().len(), 1);
}

#[test]
fn a_script_that_fails_is_an_error_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["kernel", "build", "--fragment", "/nonexistent"])
        .env("TMPDIR", scratch.path())
        .env("DRUPE_KERNELS", scratch.path().join("store"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nonexistent"), "{text}");
    assert!(text.ends_with("the lines above say why\n"), "{text}");
    assert!(!text.contains("drupe-kernel."), "{text}");
    let left = fs::read_dir(scratch.path()).unwrap();
    assert_eq!(
        left.filter(|e| e.as_ref().unwrap().file_name() != "store")
            .count(),
        0
    );
}

/// A build has many processes, which end with it.
#[test]
fn a_kernel_build_that_is_ended_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let (bin, tmp) = (scratch.path().join("bin"), scratch.path().join("tmp"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&tmp).unwrap();
    let pid = scratch.path().join("pid");
    // In the place of a compiler: what the script calls first.
    let apt = format!(
        "#!/bin/sh\nsleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait\n",
        pid.display()
    );
    for name in ["apt-get", "apt-cache"] {
        fs::write(bin.join(name), &apt).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut drupe = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["kernel", "build"])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("TMPDIR", &tmp)
        .env("DRUPE_KERNELS", scratch.path().join("store"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let wait_for = |done: &mut dyn FnMut() -> bool| {
        while !done() {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    wait_for(&mut || pid.exists());
    let sleeper = fs::read_to_string(&pid).unwrap().trim().to_owned();
    let kill = |pid: &str| Command::new("kill").arg(pid).status().unwrap();
    assert!(kill(&drupe.id().to_string()).success());
    assert_eq!(drupe.wait().unwrap().code(), Some(143));
    // Whoever adopts it has to have waited for it, too.
    wait_for(&mut || {
        let stat = fs::read_to_string(format!("/proc/{sleeper}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    let store = fs::read_dir(scratch.path().join("store")).unwrap();
    assert_eq!(store.flatten().filter(|e| e.path().is_dir()).count(), 0);
}

/// Whatever this host is, doctor says it the same way three times.
#[test]
fn doctor_agrees_with_itself() {
    let one = words("doctor --check kvm");
    let line = String::from_utf8(one.stdout).unwrap();
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    let good = line.starts_with("kvm: ok: ");
    assert_eq!(one.status.code(), Some(if good { 0 } else { 1 }), "{line}");

    let all = words("doctor --format json");
    assert_eq!(all.status, one.status);
    let checks: serde_json::Value = serde_json::from_slice(&all.stdout).unwrap();
    let checks = checks.as_array().unwrap();
    assert!(checks.len() >= 10);
    for check in checks {
        assert_eq!(check["status"] == "ok", check["fix"].is_null(), "{check}");
    }
    let missing = checks.iter().any(|c| c["status"] == "missing");
    assert_eq!(missing, !good);

    let text = words("doctor");
    assert_eq!(text.status, one.status);
    assert!(String::from_utf8(text.stdout).unwrap().contains("fix: ") || good);
}

/// Words that reach every corner of the parser, and some that are noise.
fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(&[
            "boot", "doctor", "kernel", "list", "-v", "--kernel", "--config", "--cpus",
            "--memory", "--append", "--console", "--hugepages", "--shared-memory", "--stop-timeout",
            "--boot-protocol", "--initrd", "--vsock", "--disk", "--net", "tap=t", "--share", "--format", "--help", "--version", "json", "off",
            "/dev/null", "/", "1", "2G", "--", "-", "=", "--cpus=", "--memory=1",
        ][..])
        .prop_map(|word| word.as_bytes().to_vec()),
        // No NUL: an argument cannot hold one.
        1 => prop::collection::vec(1_u8.., 0..24),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_arguments_make_it_panic(args in prop::collection::vec(argument(), 0..8)) {
        let args = args.iter().map(|a| OsStr::from_bytes(a));
        let output = drupe(args);
        prop_assert_eq!(output.status.signal(), None);
        prop_assert!(matches!(output.status.code(), Some(0..=2)));
        let text = String::from_utf8_lossy(&output.stderr);
        prop_assert!(!text.contains("panicked"), "{}", text);
        prop_assert!(output.status.success() || !text.contains("\n\n"), "{}", text);
    }
}

#[test]
fn help_is_a_command_too() {
    for (command, option) in [
        ("help", "--help"),
        ("help run", "run --help"),
        ("help volume create", "volume create --help"),
    ] {
        let (command, option) = (words(command), words(option));
        assert_eq!(command.status.code(), Some(0));
        assert_eq!(command.stdout, option.stdout);
        assert!(command.stdout.starts_with(b"A micro-VM") || command.stdout.len() > 100);
    }
    assert_eq!(words("help frob").status.code(), Some(2));
}
