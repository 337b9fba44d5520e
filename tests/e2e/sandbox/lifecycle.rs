//! Sandboxes that run by themselves, from their creation to their removal.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Background, Home, IMAGE};

#[test]
fn a_detached_sandbox_is_watched_and_ended() {
    let home = Home::new();
    let script = "trap 'echo bye; exit 0' TERM; echo hello; echo oops >&2; \
                  while :; do sleep 0.1; done";
    let id = home.detached("web", "--label tier=front", script);
    assert_eq!(id.len(), 64);
    home.refused(
        &["run", "-d", "--name", "web", IMAGE],
        125,
        "'web' is in use",
    );
    assert_eq!(home.ok(&["ps", "-q"]), id[..12]);
    assert_eq!(
        home.ok(&["ps", "-q", "--no-trunc", "--filter", "label=tier=front"]),
        id
    );
    assert_eq!(home.ok(&["ps", "-q", "--filter", "status=exited"]), "");
    let list: serde_json::Value =
        serde_json::from_str(&home.ok(&["ps", "--format", "json"])).unwrap();
    assert_eq!(list[0]["Names"], "web");
    home.until("its log", || home.ok(&["logs", "web"]).contains("hello"));
    let logs = home.drupe(&["logs", "web"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "hello\n");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "oops\n");
    assert!(home.ok(&["logs", "-t", "web"]).starts_with("20"));

    // Beside it.
    let output = home.drupe(&[
        "exec",
        "-e",
        "X=1",
        "web",
        "sh",
        "-c",
        "echo $X $(hostname); exit 4",
    ]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("1 {}\n", &id[..12])
    );
    home.refused(&["exec", "web", "no-such-program"], 127, "no-such-program");
    home.ok(&[
        "exec",
        "-d",
        "web",
        "sh",
        "-c",
        "sleep 0.1; echo made > /tmp/made",
    ]);
    home.until("what was started beside it", || {
        home.drupe(&["exec", "web", "cat", "/tmp/made"]).stdout == b"made\n"
    });
    let mut command = home.command(&["exec", "-i", "web", "wc", "-c"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Background(command.spawn().unwrap());
    child
        .0
        .stdin
        .take()
        .unwrap()
        .write_all(&[0; 100_000])
        .unwrap();
    let mut count = String::new();
    std::io::Read::read_to_string(&mut child.0.stdout.take().unwrap(), &mut count).unwrap();
    assert_eq!(count.trim(), "100000");

    let top = home.ok(&["top", "web"]);
    assert!(top.contains("trap"), "{top}");
    let stats = home.ok(&["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert!(stats[0]["PIDs"].as_u64().unwrap() >= 1, "{stats}");
    assert!(stats[0]["Memory"].as_u64().unwrap() > 0, "{stats}");

    home.ok(&["rename", "web", "front"]);
    home.refused(&["rm", "front"], 1, "is running");
    assert_eq!(home.ok(&["stop", "front"]), "front");
    assert_eq!(home.ok(&["wait", "front"]), "0");
    assert!(home.ok(&["logs", "front"]).ends_with("bye"));
    assert_eq!(home.inspect("front")["State"]["Status"], "exited");
    home.refused(&["exec", "front", "true"], 125, "not running");
    // Again, as often as one likes.
    home.ok(&["start", "front"]);
    assert_eq!(home.ok(&["restart", "front"]), "front");
    assert_eq!(home.inspect("front")["State"]["Running"], true);
    assert_eq!(home.ok(&["kill", "front"]), "front");
    assert_eq!(home.ok(&["wait", "front"]), "137");
    home.ok(&["rm", "front"]);
    assert_eq!(home.ok(&["ps", "-aq"]), "");
    let events = home.ok(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "type=sandbox",
    ]);
    for action in [
        "create",
        "start",
        "exec_start",
        "rename",
        "stop",
        "die",
        "kill",
        "destroy",
    ] {
        assert!(
            events.contains(&format!(" sandbox {action} ")),
            "{action}:\n{events}"
        );
    }
}

#[test]
fn after_a_crash_everything_is_known() {
    let home = Home::new();
    home.detached(
        "crash",
        "--disk-size 64M",
        "echo before >> /kept; sync; sleep 1000",
    );
    home.until("what it writes", || {
        home.drupe(&["exec", "crash", "cat", "/kept"]).stdout == b"before\n"
    });
    home.crash("crash");
    assert_eq!(home.ok(&["ps", "-q"]), "");
    let state = home.inspect("crash")["State"].clone();
    assert_eq!(
        (&state["Status"], &state["ExitCode"]),
        (&"exited".into(), &255.into())
    );
    assert!(state["Error"].as_str().unwrap().contains("died"));
    home.refused(&["stop", "nonesuch"], 1, "nonesuch");
    home.ok(&["stop", "crash"]);
    // Its disk is as it was, and its sockets are in nobody's way.
    home.ok(&["start", "crash"]);
    home.until("both lines", || {
        home.drupe(&["exec", "crash", "cat", "/kept"]).stdout == b"before\nbefore\n"
    });
    home.ok(&["rm", "-f", "crash"]);
}

#[test]
fn a_monitor_and_its_keeper_end_together() {
    let home = Home::new();
    let state = |name: &str| {
        let pid = home.inspect(name)["State"]["Pid"].as_i64().unwrap() as i32;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> Vec<i32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let numbers = line.unwrap().split_whitespace();
            numbers.map(|number| number.parse().unwrap()).collect()
        };
        // It is the first process of a namespace, below its keeper's.
        let numbers = field("NSpid:");
        assert_eq!(numbers[numbers.len() - 2..], [pid, 1]);
        (pid, field("PPid:")[0])
    };
    // SAFETY: kill has no memory effects.
    let kill = |pid| assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    let gone = |pid: i32| !Path::new(&format!("/proc/{pid}")).exists();

    // Nobody has to come by: what the monitor cannot do any more its keeper does.
    let id = home.detached("once", "--rm -v /data", "sleep 1000");
    let (monitor, keeper) = state("once");
    let group = fs::read_to_string(format!("/proc/{monitor}/cgroup")).unwrap();
    let record = fs::read_to_string(home.path().join("home/cgroups").join(&id)).unwrap();
    // Where a test before this one took the controllers away there is none.
    assert_eq!(
        group.contains(&id),
        !record.contains("none"),
        "{group} {record}"
    );
    kill(monitor);
    home.until("the keeper's end", || gone(keeper));
    for directory in ["sandboxes", "names", "configs", "cgroups"] {
        let path = home.path().join("home").join(directory);
        let left = fs::read_dir(&path).unwrap().flatten();
        let left = left.map(|entry| entry.file_name().into_string().unwrap());
        // The lock of the names.
        let left: Vec<_> = left.filter(|name| name != ".lock").collect();
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
    assert_eq!(home.ok(&["volume", "ls", "-q"]), "");
    let group = format!("/sys/fs/cgroup/drupe-{id}");
    assert!(!Path::new(&group).exists(), "{group}");
    let events = fs::read_to_string(home.path().join("home/events/log")).unwrap();
    let actions = events.lines().filter(|line| line.contains(&id));
    let actions: Vec<_> = actions
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["action"].clone())
        .collect();
    assert_eq!(actions, ["create", "start", "die", "destroy"]);

    home.detached("twice", "", "sleep 1000");
    let (monitor, keeper) = state("twice");
    kill(keeper);
    home.until("the monitor's end", || gone(monitor));
    let state_of = |name: &str| home.inspect(name)["State"].clone();
    let ended = state_of("twice");
    assert_eq!(ended["ExitCode"], 255);
    assert!(ended["FinishedAt"].as_str() > ended["StartedAt"].as_str());
    let events = home.ok(&["events", "--since", "1h", "--until", "0s"]);
    let last = events.lines().last().unwrap();
    assert!(
        last.contains("sandbox die") && last.contains("twice"),
        "{events}"
    );
    // Asked to end, the keeper passes it on.
    home.ok(&["start", "twice"]);
    let (monitor, keeper) = state("twice");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(keeper, libc::SIGTERM) }, 0);
    home.until("both ends", || gone(keeper) && gone(monitor));
    assert_eq!(home.inspect("twice")["State"]["Status"], "exited");
    // One that was stopped is made to go on.
    home.ok(&["start", "twice"]);
    let (monitor, keeper) = state("twice");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(keeper, libc::SIGSTOP) }, 0);
    home.ok(&["stop", "-t", "0", "twice"]);
    home.until("both ends", || gone(keeper) && gone(monitor));
    home.ok(&["rm", "twice"]);
}

#[test]
fn what_nobody_wants_any_more_ends() {
    let home = Home::new();
    // Its output: the first process of a namespace would write it for ever.
    let mut command = home.command(&["run", "--rm", "--network", "none", IMAGE, "yes"]);
    let mut child = Background(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut first = [0; 2];
    let mut output = child.0.stdout.take().unwrap();
    std::io::Read::read_exact(&mut output, &mut first).unwrap();
    drop(output);
    assert_eq!(child.0.wait().unwrap().code(), Some(141));
    home.until("its end", || home.ok(&["ps", "-aq"]).is_empty());

    // A start that is interrupted.
    let mut command = home.command(&["run", "--rm", "--network", "none", IMAGE, "true"]);
    let mut child = Background(command.stderr(Stdio::piped()).spawn().unwrap());
    let sandboxes = home.path().join("home/sandboxes");
    let boots = || {
        let all = fs::read_dir(&sandboxes).into_iter().flatten().flatten();
        all.into_iter()
            .any(|one| one.path().join("vsock.sock").exists())
    };
    // A fast host boots in a tenth of a second.
    let limit = Instant::now() + Duration::from_secs(60);
    while !boots() {
        assert!(Instant::now() < limit, "it never boots");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: kill has no memory effects.
    assert_eq!(unsafe { libc::kill(child.0.id() as i32, libc::SIGINT) }, 0);
    let mut errors = String::new();
    let mut stderr = child.0.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut errors).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130), "{errors}");
    assert_eq!(errors, "drupe: SIGINT before the command had begun\n");
    assert_eq!(home.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_client_comes_and_goes() {
    let home = Home::new();
    home.ok(&[
        "create",
        "-i",
        "--network",
        "none",
        "--name",
        "cat",
        IMAGE,
        "cat",
    ]);
    assert_eq!(home.inspect("cat")["State"]["Status"], "created");
    let mut command = home.command(&["start", "-ai", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Background(command.spawn().unwrap());
    let mut input = child.0.stdin.take().unwrap();
    input.write_all(b"first\n").unwrap();
    home.until("the first line", || home.ok(&["logs", "cat"]) == "first");
    // Another one sees what comes from then on, and does not take the input away.
    let mut command = home.command(&["attach", "--no-stdin", "cat"]);
    command.stdout(Stdio::piped());
    let mut second = Background(command.spawn().unwrap());
    let mut seen = second.0.stdout.take().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    input.write_all(b"second\n").unwrap();
    drop(input);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut seen, &mut text).unwrap();
    assert_eq!(text, "second\n");
    assert!(second.0.wait().unwrap().success());
    let output = child.0.stdout.take().unwrap();
    let text = std::io::read_to_string(output).unwrap();
    assert_eq!(text, "first\nsecond\n");
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn files_are_copied_both_ways() {
    let home = Home::new();
    home.detached(
        "box",
        "",
        "mkdir -p /deep/er; echo inside > /deep/er/file; sleep 1000",
    );
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("site/sub")).unwrap();
    fs::write(at("site/index"), "page").unwrap();
    fs::write(at("site/sub/more"), vec![7; 200_000]).unwrap();
    home.ok(&["cp", "site", "box:/srv"]);
    home.ok(&["cp", "site/.", "box:/data"]);
    home.ok(&["cp", "site/index", "box:/data/renamed"]);
    let list = home.ok(&[
        "exec",
        "box",
        "sh",
        "-c",
        "cd /; ls srv/site data; cat data/renamed; wc -c < srv/site/sub/more",
    ]);
    for part in ["index", "sub", "renamed", "page", "200000"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    home.until("the file", || {
        home.drupe(&["cp", "box:/deep/er/file", "out"])
            .status
            .success()
    });
    assert_eq!(fs::read_to_string(at("out")).unwrap(), "inside\n");
    home.ok(&["cp", "box:/deep", "."]);
    assert_eq!(fs::read_to_string(at("deep/er/file")).unwrap(), "inside\n");
    let tar = home.drupe(&["cp", "box:/srv/site", "-"]).stdout;
    fs::write(at("site.tar"), &tar).unwrap();
    let mut command = home.command(&["cp", "-", "box:/tmp"]);
    command.stdin(fs::File::open(at("site.tar")).unwrap());
    assert!(command.status().unwrap().success());
    assert_eq!(home.ok(&["exec", "box", "cat", "/tmp/site/index"]), "page");
    home.refused(&["cp", "box:/none", "."], 1, "/none");
    home.refused(&["cp", "nothing", "box:/"], 1, "nothing");
    home.refused(&["cp", "site", "box:/etc/passwd"], 1, "over a file");
    home.ok(&["rm", "-f", "box"]);
}

#[test]
fn the_next_one_finds_everything_free() {
    let home = Home::new();
    // The kernel may still be at work on the machine's memory when a run has
    // returned; nothing that has a name may be held by then.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let publish = format!("{}:80", port.local_addr().unwrap());
    drop(port);
    let options = ["--name", "same", "-v", "data:/srv", "-p", &publish];
    for n in 0..3 {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        let script = format!("echo {n} >> /srv/rows; wc -l < /srv/rows");
        args.extend([IMAGE, "sh", "-c", &script]);
        assert_eq!(home.ok(&args).trim(), (n + 1).to_string());
        assert_eq!(home.ok(&["ps", "-aq"]), "");
    }
    let mut args = vec!["run"];
    args.extend(options);
    args.extend([IMAGE, "sh", "-c", "wc -l < /srv/rows"]);
    assert_eq!(home.ok(&args).trim(), "3");
    for _ in 0..2 {
        assert_eq!(home.ok(&["start", "-a", "same"]).trim(), "3");
        assert_eq!(home.inspect("same")["State"]["Status"], "exited");
    }
    home.ok(&["rm", "same"]);
    home.ok(&["volume", "rm", "data"]);
}
