//! Sandboxes, images and volumes, as far as no VM is needed.

use super::{Command, Output, Stdio, error_line};
use std::fs::{self, File};

/// A directory for drupe's data, with which nothing else has to do.
fn at_home(home: &std::path::Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drupe"));
    command.args(line.split_whitespace());
    command
        .env("DRUPE_HOME", home)
        .env("DRUPE_KERNELS", "/nonexistent");
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn bad_input_about_sandboxes_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    for (line, status, expected) in [
        ("run", 125, "IMAGE"),
        ("run --frobnicate image", 125, "--frobnicate"),
        // Not '--cpus', which is spelled alike.
        (
            "run --gpus all image",
            125,
            "no option '--gpus': no device of the host's",
        ),
        ("run --name a/b image", 125, "'a/b'"),
        ("run --cpus 0.001 image", 125, "give 0.01 to 32"),
        ("run --pull never nonesuch", 125, "nonesuch"),
        (
            "run --pull never --cidfile /nonexistent/x nonesuch",
            125,
            "--cidfile",
        ),
        ("run --env-file /nonexistent/x nonesuch", 125, "--env-file"),
        ("run -p 80:99999 image", 125, "99999"),
        ("run --network host image", 125, "network"),
        ("run -it image", 125, "no terminal"),
        ("create --pull never nonesuch", 125, "nonesuch"),
        ("exec nonesuch true", 125, "no such sandbox: nonesuch"),
        ("exec nonesuch", 125, "COMMAND"),
        ("start nonesuch", 1, "no such sandbox"),
        ("start --frobnicate", 2, "--frobnicate"),
        ("start -ai --frobnicate", 125, "--frobnicate"),
        ("start -a nonesuch", 125, "no such sandbox"),
        ("start -a one two", 125, "only one"),
        (
            "run --disk-size 100T image",
            125,
            "100T is too large: give 16M to 15T",
        ),
        (
            "run --stop-timeout x image",
            125,
            "'x' is no number of seconds",
        ),
        // One letter is no name, as with docker.
        (
            "run -v v:/d image",
            125,
            "'v' is no name of a volume: begin with a letter or a digit, go on with those, '_', '.' or '-', 2 to 128",
        ),
        ("run --env =x image", 125, "NAME=VALUE"),
        ("create --sysctl a image", 125, "NAME=VALUE"),
        ("create --label =a image", 125, "NAME=VALUE"),
        ("events --filter a", 2, "NAME=VALUE"),
        (
            "run localhost:1/nonesuch",
            125,
            "no image 'localhost:1/nonesuch' in the store, and none to be had: localhost:1: ",
        ),
        (
            "run --platform linux/s390x localhost:1/nonesuch",
            125,
            "is for linux/s390x and this is a machine for",
        ),
        ("attach nonesuch", 125, "no such sandbox"),
        ("stop nonesuch", 1, "no such sandbox"),
        ("restart -t 1 nonesuch", 1, "no such sandbox"),
        ("kill -s FROB nonesuch", 2, "FROB"),
        ("rm nonesuch", 1, "no such sandbox"),
        ("logs --since soon nonesuch", 2, "--since"),
        ("logs nonesuch", 1, "no such sandbox"),
        ("ps --filter colour=red", 2, "colour"),
        ("cp a b", 2, "SANDBOX:PATH"),
        ("cp a:/x b:/y", 2, "host"),
        ("cp nonesuch:/x .", 1, "no such sandbox"),
        ("wait nonesuch", 1, "no such sandbox"),
        ("port nonesuch 80", 1, "no such sandbox"),
        ("rename nonesuch new", 1, "no such sandbox"),
        ("volume rm nonesuch", 1, "no such volume"),
        ("volume create --size 1M small", 2, "--size"),
        ("volume create a/b", 1, "a/b"),
        ("volume prune", 2, "-f"),
        ("system prune", 2, "-f"),
        ("completions csh", 2, "csh"),
        ("man /dev/null/x", 1, "/dev/null"),
    ] {
        let output = at_home(home.path(), line);
        let error = error_line(&output);
        assert_eq!(output.status.code(), Some(status), "{line}: {error}");
        assert!(error.contains(expected), "{line}: {error}");
        let sandboxes = fs::read_dir(home.path().join("sandboxes"));
        assert_eq!(sandboxes.map_or(0, Iterator::count), 0, "{line}");
        let volumes = fs::read_dir(home.path().join("volumes"));
        assert_eq!(volumes.map_or(0, Iterator::count), 0, "{line}");
    }
}

/// As with `rm -f`, and with docker: it is said, and it is no failure.
#[test]
fn what_is_not_there_is_removed_by_force() {
    let home = tempfile::tempdir().unwrap();
    for (line, expected) in [
        ("rm -f nonesuch", "no such sandbox: nonesuch"),
        ("rmi -f nonesuch", "no image 'nonesuch'"),
    ] {
        let output = at_home(home.path(), line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(error_line(&output).contains(expected), "{line}");
    }
}

/// What a shell does that completes a name.
#[test]
fn bash_completes_names() {
    let home = tempfile::tempdir().unwrap();
    for name in ["data", "dates", "other"] {
        let line = format!("volume create --size 16M {name}");
        assert_eq!(at_home(home.path(), &line).status.code(), Some(0));
    }
    let program = env!("CARGO_BIN_EXE_drupe");
    let complete = |words: &str| {
        let script = format!(
            "source <('{program}' completions bash)\nCOMP_WORDS=('{program}' {words})\n\
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _drupe_with_names '{program}' \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).env("DRUPE_HOME", home.path());
        let output = bash.stdin(Stdio::null()).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("volume rm da"), "data\ndates\n");
    assert_eq!(complete("volume rm -f da"), "data\ndates\n");
    assert!(complete("volume r").contains("rm\n"));
    assert!(complete("volume rm -").contains("--force\n"));
    // Behind an option that takes a value there is none.
    assert!(!complete("run --name da").contains("data"));
    assert!(!complete("stop da").contains("data"));

    // Bash parts words at colons, and puts what is completed behind the last.
    let root = home.path().join("root.tar");
    let mut tar = tar::Builder::new(File::create(&root).unwrap());
    tar.append_dir("etc", home.path()).unwrap();
    tar.finish().unwrap();
    for name in ["web:1.0", "web:1.1", "localhost:5000/web:2"] {
        let line = format!("import {} {name}", root.display());
        assert_eq!(at_home(home.path(), &line).status.code(), Some(0));
    }
    assert_eq!(complete("run we"), "web:1.0\nweb:1.1\n");
    assert_eq!(complete("run web :"), "1.0\n1.1\n");
    assert_eq!(complete("run web : 1.0"), "1.0\n");
    assert_eq!(complete("rmi localhost : 5000/w"), "5000/web:2\n");
    assert_eq!(complete("rmi localhost : 5000/web :"), "2\n");
    // A value with a colon is still an option's.
    assert!(!complete("run -v /a : we").contains("web"));
}

#[test]
fn an_empty_home_lists_nothing() {
    let home = tempfile::tempdir().unwrap();
    for line in [
        "ps --format json",
        "volume ls --format json",
        "stats --no-stream --format json",
    ] {
        let output = at_home(home.path(), line);
        assert!(output.status.success(), "{line}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\n", "{line}");
    }
    let output = at_home(home.path(), "ps");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("SANDBOX ID"));
    assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), 1);
    assert!(at_home(home.path(), "system df").status.success());
    assert!(
        at_home(home.path(), "events --since 1h --until 0s")
            .status
            .success()
    );
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let run = |line: &str| {
        let output = at_home(home.path(), line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("volume create --size 64M --label a=b data"), "data\n");
    assert_eq!(run("volume create data"), "data\n");
    let anonymous = run("volume create --size 64M");
    assert_eq!(anonymous.trim().len(), 64);
    let list: serde_json::Value = serde_json::from_str(&run("volume ls --format json")).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let shown: serde_json::Value = serde_json::from_str(&run("inspect data")).unwrap();
    assert_eq!(shown[0]["Size"], 64 << 20);
    assert_eq!(shown[0]["Labels"]["a"], "b");
    assert!(run("volume prune -f").contains(anonymous.trim()));
    assert_eq!(run("volume ls -q"), "data\n");
    assert_eq!(run("volume rm data"), "data\n");
    assert_eq!(run("volume rm -f data"), "");
    let events = run("events --since 1h --until 0s --format json");
    assert_eq!(events.matches("\"volume\"").count(), 4, "{events}");
}

#[test]
fn images_are_answered_for_without_a_vm() {
    let home = tempfile::TempDir::new().unwrap();
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drupe"));
        command
            .args(line.split_whitespace())
            .env("DRUPE_HOME", home.path());
        command.stdin(Stdio::null()).output().unwrap()
    };
    for (line, status, expected) in [
        ("pull", 2, "IMAGE"),
        ("pull UPPER", 2, "lower-case"),
        ("pull --platform amd64 a", 2, "OS/ARCH"),
        ("load -i /nonexistent", 1, "/nonexistent"),
        ("load", 1, "standard input: neither"),
        ("import /nonexistent a", 1, "/nonexistent"),
        ("import -c RUN=x - a", 2, "RUN=x"),
        // What should have written the tar may have failed.
        ("import - a", 1, "standard input: empty"),
        (
            "import /proc/self/status a",
            1,
            "/proc/self/status: no tar header",
        ),
        ("rmi a", 1, "no image 'a'"),
        ("tag a b", 1, "no image 'a'"),
        ("tag a", 2, "NAME"),
        ("image", 2, "'drupe image' wants a command"),
        ("image inspect a", 1, "no image 'a'"),
        ("images --format yaml", 2, "yaml"),
    ] {
        let output = run(line);
        let message = error_line(&output);
        assert_eq!(output.status.code(), Some(status), "{line}: {message}");
        assert!(message.contains(expected), "{line}: {message}");
    }
    let out = |line: &str| {
        let output = run(line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        String::from_utf8(output.stdout).unwrap()
    };
    let header = "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n";
    assert_eq!(out("images"), header);
    assert_eq!(out("images --format json"), "[]\n");
    // An empty archive, of nothing but its end, is an empty root.
    let tar = home.path().join("empty.tar");
    std::fs::write(&tar, [0; 1024]).unwrap();
    let id = out(&format!("import {} some/name:1", tar.display()));
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(out("images -q --no-trunc"), id);
    assert_eq!(out("tag some/name:1 other"), "");
    assert!(out("images other").contains("other"));
    assert!(!out("images nothing").contains("other"));
    let inspected = out("image inspect other");
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["RepoTags"][1], "some/name:1");
    // What uses it is told by its name.
    out("create --name mine other true");
    assert_eq!(out("rmi other"), "Untagged: other:latest\n");
    let used = error_line(&run("rmi some/name:1"));
    assert!(used.contains("is used by mine: remove"), "{used}");
    assert_eq!(out("rm mine"), "mine\n");
    let removed = out("rmi some/name:1");
    assert_eq!(removed, format!("Untagged: some/name:1\nDeleted: {id}"));
    // Without an answer nothing is removed, and a script hears of it.
    let unanswered = run("image prune");
    assert!(error_line(&unanswered).contains("without a tag: give -f"));
    assert_eq!(unanswered.status.code(), Some(2));
    assert_eq!(out("image prune -f"), "Total reclaimed space: 0B\n");
}

#[test]
fn a_monitor_keeps_nothing_that_its_starter_had_open() {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    let home = tempfile::tempdir().unwrap();
    // Held open, so that the monitor waits to be told what to do.
    let (_near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (mut end, given) = std::io::pipe().unwrap();
    let mut shell = Command::new("sh");
    let script = r#"exec 3>&2 4>&2 2>/dev/null; exec "$0" sandbox-monitor "$1""#;
    shell.args(["-c", script, env!("CARGO_BIN_EXE_drupe"), &"0".repeat(64)]);
    shell.env("DRUPE_HOME", home.path()).stdin(Stdio::null());
    shell.stdout(OwnedFd::from(far)).stderr(given);
    let mut monitor = shell.spawn().unwrap();
    // This side's copies.
    drop(shell);
    let (told, closed) = channel();
    std::thread::spawn(move || told.send(end.read(&mut [0]).unwrap()));
    assert_eq!(closed.recv_timeout(Duration::from_secs(60)), Ok(0));
    assert!(monitor.try_wait().unwrap().is_none(), "it waits");
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}
