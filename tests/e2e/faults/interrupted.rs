//! Calls that are interrupted and calls that move less than they were asked to:
//! every few of them, in everything that drupe does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::guest::{Guest, host};
use crate::sandbox::{Home, IMAGE};

/// One call of so many; a prime, so that it hits each of a loop's in turn.
const EVERY: &str = "5";

/// The program that does it, see `inject.c`.
fn inject() -> &'static Path {
    static PROGRAM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("inject.c"), dir.path().join("inject"));
        fs::write(&source, include_str!("inject.c")).unwrap();
        let (source, to) = (source.to_str().unwrap(), path.to_str().unwrap());
        host(
            "cc",
            &["-O1", "-Wall", "-Wextra", "-Werror", "-o", to, source],
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    });
    path
}

/// The same command under it.
fn disturbed(command: &Command) -> Command {
    let mut other = Command::new(inject());
    other
        .arg(EVERY)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        other.env(name, value.unwrap_or_default());
    }
    other.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    other
}

/// It disturbs what can be told from here: a program that does not expect it.
#[test]
fn the_injector_interrupts_and_cuts_short() {
    let script = "import os
r, w = os.pipe()
os.write(w, b'x' * 1000)
counts = [len(os.read(r, 10)) for _ in range(20)]
assert 5 in counts and 10 in counts, counts";
    let output = Command::new(inject())
        .args([EVERY, "/usr/bin/python3", "-c", script])
        .output();
    assert!(output.unwrap().status.success());
    let status = Command::new(inject())
        .args(["2", "sh", "-c", "exit 7"])
        .status();
    assert_eq!(status.unwrap().code(), Some(7));
}

#[test]
fn a_machine_takes_calls_that_end_early() {
    let share = tempfile::tempdir().unwrap();
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    fs::write(share.path().join("from-host"), &text).unwrap();
    let fio = "fio --filename=/dev/vdc --direct=1 --ioengine=libaio --verify=crc32c --do_verify=1 \
               --verify_fatal=1 --eta=never --minimal --output=/dev/null";
    let script = format!(
        "set -e
         {fio} --name=odd --rw=randwrite --bsrange=512-64k --blockalign=512 --iodepth=8 --size=1m
         echo verified: yes
         mount -t virtiofs share /mnt
         echo from-host: $(sha256sum < /mnt/from-host)
         cat /mnt/from-host /mnt/from-host > /mnt/to-host
         sync
         seq -f 'number %g' 1 1000"
    );
    let share_option = format!("{},tag=share", share.path().display());
    let (guest, _) = Guest::tuned().script(&script).data_disk(4 << 20, "");
    let guest = guest.arg("--share").arg(share_option);
    let end = guest.wrapped(disturbed).run().succeeded();
    assert_eq!(end.value("verified:"), "yes");
    let from = share.path().join("from-host");
    let sum = host("sha256sum", &[from.to_str().unwrap()]);
    assert_eq!(
        end.value("from-host:").split(' ').next(),
        sum.split(' ').next()
    );
    let copy = fs::read_to_string(share.path().join("to-host")).unwrap();
    assert!(copy == format!("{text}{text}"));
    let numbers = end
        .console
        .lines()
        .filter(|l| l.starts_with("number "))
        .count();
    assert_eq!(numbers, 1000);
}

#[test]
fn sandboxes_take_calls_that_end_early() {
    let home = Home::new();
    let run = |args: &[&str]| -> Output { disturbed(&home.command(args)).output().unwrap() };
    let ok = |args: &[&str]| {
        let output = run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            home.explain(&output)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    // An image comes in, by way of an archive.
    let tar = home.path().join("root.tar");
    let root = home.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let big: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    fs::write(root.join("big"), &big).unwrap();
    host(
        "tar",
        &[
            "-C",
            root.to_str().unwrap(),
            "-czf",
            tar.to_str().unwrap(),
            ".",
        ],
    );
    ok(&["import", "--quiet", tar.to_str().unwrap(), "mine"]);

    // A sandbox of it, its output, its status, commands and files in it.
    let script = "busybox seq 1 5000; busybox sleep 1000";
    let mut args = vec![
        "run",
        "-d",
        "--name",
        "box",
        "mine",
        "/bin/busybox",
        "sh",
        "-c",
    ];
    args.push(script);
    ok(&args);
    let numbers: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    home.until("its output", || ok(&["logs", "box"]) == numbers.trim_end());
    let sum = ok(&["exec", "box", "/bin/busybox", "sha256sum", "/big"]);
    let expected = host("sha256sum", &[root.join("big").to_str().unwrap()]);
    assert_eq!(sum.split(' ').next(), expected.split(' ').next());
    let status = run(&["exec", "box", "/bin/busybox", "sh", "-c", "exit 7"]).status;
    assert_eq!(status.code(), Some(7));
    let copy = home.path().join("copy");
    ok(&["cp", "box:/big", copy.to_str().unwrap()]);
    assert!(fs::read(&copy).unwrap() == big);
    ok(&["cp", copy.to_str().unwrap(), "box:/again"]);
    let sum = ok(&["exec", "box", "/bin/busybox", "sha256sum", "/again"]);
    assert_eq!(sum.split(' ').next(), expected.split(' ').next());
    ok(&["rm", "-f", "box"]);
    assert_eq!(ok(&["ps", "-aq"]), "");

    let mut args = vec!["run", "--rm", "--network", "none", IMAGE];
    args.extend(["sh", "-c", "exit 3"]);
    let output = run(&args);
    let code = output.status.code();
    assert_eq!(code, Some(3), "{}", home.explain(&output));
}
