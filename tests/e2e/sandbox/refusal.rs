//! Bad input about images and sandboxes: one line, the right status, nothing
//! lost and nothing left behind. What needs no machine is in `tests/cli/`.

use std::fs;
use std::process::{Command, Stdio};

use super::{Home, IMAGE, image};
use crate::guest::{DRUPE, host, tuned};

#[test]
fn what_cannot_run_is_told_and_leaves_nothing() {
    let home = Home::new();
    let run = |line: &str, text: &str| {
        let mut args = vec!["run", "--rm", "--name", "name"];
        args.extend(line.split(' '));
        home.refused(&args, 125, text);
        // The name is free again.
        assert_eq!(home.ok(&["ps", "-aq"]), "", "{line}");
        for directory in ["sandboxes", "volumes"] {
            let left = fs::read_dir(home.path().join("home").join(directory));
            assert_eq!(left.map_or(0, Iterator::count), 0, "{directory}: {line}");
        }
    };
    // A registry where nobody listens.
    run("--quiet localhost:1/nonesuch true", "localhost:1");
    let tar = image().to_str().unwrap();
    home.ok(&["import", "-q", "--platform", "linux/arm64", tar, "arm"]);
    run("arm true", "arm64");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap();
    run(&format!("-p {busy}:80 {IMAGE} true"), "in use");
    let busy6 = std::net::TcpListener::bind("[::1]:0").unwrap();
    let port = busy6.local_addr().unwrap().port();
    run(&format!("-p [::1]:{port}:80/tcp {IMAGE} true"), "in use");
    run(&format!("-p 192.0.2.1:80:80 {IMAGE} true"), "192.0.2.1");
    run(&format!("--kernel nonesuch {IMAGE} true"), "nonesuch");
    run(&format!("-v ./none:/x {IMAGE} true"), "none");
    run(&format!("--memory 8M {IMAGE} true"), "memory");
    run(
        &format!("--network tap=nosuchtap0 {IMAGE} true"),
        "nosuchtap0",
    );
    run(&format!("--network bridge=nosuch0 {IMAGE} true"), "nosuch0");
}

/// A port below 1024, for a user who may not have one.
#[test]
fn a_privileged_port_is_told() {
    let home = Home::new();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    let run = home.command(&["run", "--rm", "-p", "80:80", IMAGE, "true"]);
    command.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains("no permission") && error.contains("port 80/tcp"),
        "{error}"
    );
    assert_eq!(home.ok(&["ps", "-aq"]), "");
}

/// Whoever comes second waits, and then finds what the first one left.
#[test]
fn two_processes_may_change_one_sandbox() {
    let home = Home::new();
    home.ok(&[
        "create",
        "--name",
        "one",
        "--network",
        "none",
        IMAGE,
        "sleep",
        "1000",
    ]);
    let all = |args: &[&str]| {
        let spawn = |_| {
            let mut command = home.command(args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let children: Vec<_> = (0..4).map(spawn).collect();
        let outputs = children.into_iter().map(|c| c.wait_with_output().unwrap());
        let outputs: Vec<_> = outputs.collect();
        for output in &outputs {
            let errors = String::from_utf8_lossy(&output.stderr);
            let lines = errors.lines().count();
            assert!(lines <= 1, "{args:?}: {output:?}");
            // By force, what is gone already is told, and is as wanted.
            let gone = args.contains(&"-f") && errors.contains("no such sandbox");
            let fine = lines == 0 || gone;
            assert_eq!(output.status.success(), fine, "{args:?}: {output:?}");
        }
        outputs.iter().filter(|o| o.status.success()).count()
    };
    // All of them start it, and it runs once.
    assert!(all(&["start", "one"]) >= 1);
    assert_eq!(home.inspect("one")["State"]["Running"], true);
    let events = home.ok(&["events", "--since", "1h", "--until", "0s"]);
    assert_eq!(events.matches(" sandbox start ").count(), 1, "{events}");
    assert_eq!(home.ok(&["exec", "one", "echo", "well"]), "well");
    // One new name at a time.
    assert_eq!(all(&["rename", "one", "two"]), 1);
    assert!(all(&["rm", "-f", "two"]) >= 1);
    let events = home.ok(&["events", "--since", "1h", "--until", "0s"]);
    assert_eq!(events.matches(" sandbox destroy ").count(), 1, "{events}");
    assert_eq!(home.ok(&["ps", "-aq"]), "");
}

/// No room for a new sandbox, and none for what one that runs writes.
#[test]
fn a_full_disk_loses_nothing() {
    let work = tempfile::tempdir().unwrap();
    let script = format!(
        r#"
        cd '{work}'
        mkdir home
        mount -t tmpfs -o size=16M tmpfs home
        export DRUPE_HOME=$PWD/home DRUPE_KERNELS='{kernels}'
        run() {{ '{DRUPE}' run --network none "$@"; }}
        '{DRUPE}' import -q '{tar}' {IMAGE} >/dev/null
        run -d --name logs {IMAGE} sh -c 'while :; do echo line; sleep 0.1; done' >/dev/null
        run -d --name ends {IMAGE} sh -c 'while [ ! -e /go ]; do sleep 0.1; done; exit 3' >/dev/null
        head -c 16M /dev/zero > home/rest 2>/dev/null && exit 1
        run --name none -v new:/data --disk-size 1G {IMAGE} true && exit 1
        echo status: $?
        # The other one goes on, and so does all that is known of it.
        sleep 1
        echo alive: $('{DRUPE}' exec logs echo yes)
        echo names: $('{DRUPE}' ps -a | grep -c -w none) $('{DRUPE}' ps | grep -c -w logs)
        echo volumes: $('{DRUPE}' volume ls -q | wc -l)
        # What another one ends with is written down where there was room for it.
        '{DRUPE}' exec ends touch /go
        echo ended: $('{DRUPE}' wait ends)
        rm home/rest
        '{DRUPE}' ps -a --filter name=ends | grep -c 'Exited (3)'
        '{DRUPE}' rm ends
        before=$('{DRUPE}' logs logs | wc -l)
        for i in $(seq 300); do
            [ $('{DRUPE}' logs logs | wc -l) -gt $before ] && echo logged: again && break
            sleep 0.1
        done
        '{DRUPE}' rm -f logs
        run --rm {IMAGE} echo again"#,
        work = work.path().display(),
        kernels = tuned().parent().unwrap().display(),
        tar = image().display(),
    );
    let output = host("unshare", &["--mount", "bash", "-euc", &script]);
    assert_eq!(
        output,
        "status: 125\nalive: yes\nnames: 0 1\nvolumes: 0\nended: 3\n1\nends\nlogged: again\nlogs\nagain\n"
    );
}
