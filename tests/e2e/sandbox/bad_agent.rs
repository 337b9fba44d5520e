//! Sandboxes whose agent has been taken over (`guest-images/bad-agent`): drupe's
//! commands end with one line, nothing is written where it does not belong, and
//! another sandbox runs on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use super::{Home, IMAGE};
use crate::guest::host;

/// The most that an error takes, however much the agent has to say.
const MAX_ERROR: usize = 9000;
/// The most that a sandbox's output takes on the disk; a log is rotated.
const MAX_LOG: u64 = 64 << 20;
/// For commands that the agent keeps from ending: the user gives up.
const GIVES_UP: &str = "3";

/// Puts the bad agent in the place of the one in the initramfs that drupe keeps in
/// its data directory. The rest of the file stays, and so does its length, by which
/// drupe knows it.
fn take_over(home: &Home) {
    let directory = home.path().join("home/initramfs");
    let mut files = fs::read_dir(directory).unwrap();
    let path = files.next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    let name = bytes.windows(5).position(|w| w == b"init\0").unwrap();
    let elf = bytes[name..].windows(4).position(|w| w == b"\x7fELF");
    let start = name + elf.unwrap();
    let end = start + bad_agent::PROGRAM.len();
    assert!(
        end < bytes.len(),
        "the bad agent is larger than the good one"
    );
    bytes[start..end].copy_from_slice(bad_agent::PROGRAM);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

/// One line for a terminal, that blames somebody.
fn assert_one_line(what: &str, output: &Output) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "{what} went well");
    assert_eq!(error.lines().count(), 1, "{what}: {error}");
    assert!(error.len() < MAX_ERROR, "{what}: {} bytes", error.len());
    assert!(error.starts_with("drupe: "), "{what}: {error}");
    let line = error.trim_end_matches('\n');
    assert!(!line.contains(char::is_control), "{what}: {error:?}");
    println!("{what}: {}", line.chars().take(160).collect::<String>());
}

/// Runs a command that would not end by itself, and ends it: what it was asked to
/// pass on, the agent ignores.
fn given_up(home: &Home, args: &[&str]) {
    let drupe = home.command(args);
    let mut command = std::process::Command::new("timeout");
    command
        .args(["--kill-after", "1", GIVES_UP])
        .arg(drupe.get_program())
        .args(drupe.get_args())
        .envs(drupe.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert!(!command.status().unwrap().success(), "{args:?}");
}

/// Everything below a directory.
fn walk(path: &Path, look: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        look(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, look);
        }
    }
}

#[test]
fn an_agent_that_lies_hurts_nobody_but_its_sandbox() {
    let home = Home::new();
    home.detached("honest", "", "while :; do sleep 1; done");
    take_over(&home);

    // Those that break off before there is a sandbox, all at once.
    let moods = ["garbage", "half", "huge", "unasked", "shouting"];
    let children = moods.map(|mood| {
        let args = [
            "run",
            "--network",
            "none",
            "--name",
            mood,
            "--hostname",
            mood,
        ];
        let mut command = home.command(&args);
        command.args([IMAGE, "true"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for (mood, child) in moods.iter().zip(children) {
        let output = child.wait_with_output().unwrap();
        assert_one_line(&format!("run, {mood}"), &output);
        assert_eq!(output.status.code(), Some(125), "{}", home.explain(&output));
        assert_eq!(home.inspect(mood)["State"]["Running"], false);
        home.ok(&["logs", mood]);
        home.ok(&["rm", mood]);
    }

    home.detached("bad", "--hostname bad", "true");
    home.detached("flood", "--hostname flood", "true");
    let dripping = dripping(&home);
    processes(&home);
    archives(&home);
    figures(&home);
    for (what, child) in dripping {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_one_line(&what, &output);
        assert!(
            error.contains("was not whole after 30 s"),
            "{what}: {error}"
        );
    }

    // The log of the one that floods is bounded, and readable.
    home.ok(&["logs", "--tail", "1", "flood"]);
    let id = home.inspect("flood")["Id"].as_str().unwrap().to_owned();
    let mut kept = 0;
    walk(
        &home.path().join("home/sandboxes").join(&id),
        &mut |_, m| {
            kept += m.blocks() * 512;
        },
    );
    println!("the flood left {kept} bytes");
    assert!(kept < MAX_LOG, "{kept}");
    let pid = home.inspect("flood")["State"]["Pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("State:"), "{status}");

    // No forged name, no forged state; the honest one works, the others go.
    let names = home.ok(&["ps", "--format", "json"]);
    for name in ["honest", "bad", "flood"] {
        assert!(names.contains(&format!("\"{name}\"")), "{names}");
        assert_eq!(home.inspect(name)["State"]["Running"], true, "{name}");
    }
    assert_eq!(home.ok(&["exec", "honest", "echo", "fine"]), "fine");
    home.ok(&["stop", "-t", "1", "bad"]);
    home.ok(&["rm", "bad"]);
    home.ok(&["rm", "-f", "flood"]);
    assert_eq!(home.ok(&["ps", "-aq"]).lines().count(), 1);
    assert_eq!(home.ok(&["exec", "honest", "echo", "fine"]), "fine");
}

/// Commands to which the agent gives a byte now and then of an answer that has no
/// end. They give up by themselves, and side by side.
fn dripping(home: &Home) -> Vec<(String, Child)> {
    fs::create_dir(home.path().join("drips")).unwrap();
    let commands = [
        &["exec", "bad", "drip"][..],
        &["exec", "bad", "dripping"],
        &["cp", "bad:/drip", "drips"],
        &["cp", "bad:/drips", "drips"],
    ];
    let start = |args: &&[&str]| {
        let mut command = home.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        (args.join(" "), command.spawn().unwrap())
    };
    commands.iter().map(start).collect()
}

fn processes(home: &Home) {
    for program in [
        "garbage",
        "half",
        "huge",
        "mute",
        "unasked",
        "verbose",
        "shouting",
        "exits",
        "no-status",
        "unknown",
    ] {
        let output = home.drupe(&["exec", "bad", program]);
        assert_one_line(&format!("exec, {program}"), &output);
    }
    given_up(home, &["exec", "bad", "endless"]);
}

fn archives(home: &Home) {
    let out = home.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(home.path().join("secret"), "secret").unwrap();
    let links = fs::metadata("/etc/passwd").unwrap().nlink();
    for name in [
        "dots", "absolute", "link", "hardlink", "etc", "long", "lies", "noise", "garbage", "half",
        "huge", "unasked", "verbose", "shouting", "mute",
    ] {
        let output = home.drupe(&["cp", &format!("bad:/{name}"), "out"]);
        // Some names lead nowhere and harm nobody.
        if !output.status.success() {
            assert_one_line(&format!("cp, {name}"), &output);
        }
    }
    home.drupe(&["cp", "bad:/device", "out"]);
    for name in ["garbage", "half", "huge", "unasked", "shouting", "mute"] {
        // What it says of a file that it was given cannot be checked.
        let output = home.drupe(&["cp", "secret", &format!("bad:/{name}")]);
        if !output.status.success() {
            assert_one_line(&format!("cp to {name}"), &output);
        }
    }
    given_up(home, &["cp", "bad:/endless", "out"]);
    without_an_end(home);
    // Nothing is beside the destination, and nothing in it is more than a file.
    let secret = home.path().join("secret");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    assert_eq!(fs::metadata("/etc/passwd").unwrap().nlink(), links);
    assert!(!Path::new("/evil").exists());
    walk(home.path(), &mut |path, metadata| {
        let kind = metadata.file_type();
        assert!(
            !kind.is_block_device() && !kind.is_char_device(),
            "{path:?}"
        );
        let inside = path.starts_with(&out);
        assert!(inside || !path.ends_with("evil"), "{path:?}");
        let special = metadata.permissions().mode() & 0o6000;
        assert!(!inside || special == 0, "{path:?}: {special:o}");
    });
}

/// Archives that would fill the disk, or never end: each ends, with one line, while
/// the disk has room, and the file under way is gone.
fn without_an_end(home: &Home) {
    let small = home.path().join("small");
    fs::create_dir(&small).unwrap();
    let to = small.to_str().unwrap();
    host(
        "mount",
        &["-t", "tmpfs", "-o", "size=32M,nr_inodes=8000", "tmpfs", to],
    );
    for (name, why) in [
        (
            "vast",
            "vast/x: what the sandbox sends would leave less than 2 MiB of the disk",
        ),
        (
            "many",
            "what the sandbox sends would leave less than 400 inodes of the disk",
        ),
        ("headers", "over 4194304 bytes of extended headers"),
        ("tail", "goes on behind its end"),
    ] {
        let output = home.drupe(&["cp", &format!("bad:/{name}"), "small"]);
        assert_one_line(&format!("cp, {name}"), &output);
        assert_eq!(output.status.code(), Some(1), "{}", home.explain(&output));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(why), "{error}");
        let disk = rustix::fs::statvfs(&small).unwrap();
        let left = disk.f_bavail * disk.f_frsize;
        println!(
            "cp, {name}: {left} bytes and {} inodes are left",
            disk.f_favail
        );
        assert!(left >= 512 << 10 && disk.f_favail >= 100, "{left}");
        assert!(!small.join("vast/x").exists());
        fs::remove_dir_all(small.join(name)).ok();
    }
    host("umount", &[to]);
}

fn figures(home: &Home) {
    let text = home.ok(&["stats", "--no-stream", "bad"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    let text = home.ok(&["top", "bad"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(control), "{text:?}");
}
