//! The host's kernel kills a monitor for want of memory.

use std::fs;

use crate::guest::host;
use crate::sandbox::{Home, IMAGE};

/// Makes the host's kernel look for somebody to kill: it takes the process that
/// was named for it.
fn run_out_of_memory(pid: i64) {
    fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
    fs::write("/proc/sysrq-trigger", "f").unwrap();
}

#[test]
fn a_monitor_that_is_killed_for_want_of_memory_leaves_nothing_and_is_told() {
    if !super::in_the_lab() {
        return;
    }
    let home = Home::new();
    let volume = ["volume", "create", "kept"];
    home.ok(&volume);
    let script = "echo before >> /data/file; sync; sleep 1000";
    home.detached("victim", "-v kept:/data", script);
    home.detached("neighbour", "", "sleep 1000");
    let written = || home.drupe(&["exec", "victim", "cat", "/data/file"]).stdout;
    home.until("what it writes", || written() == b"before\n");

    let pid = home.inspect("victim")["State"]["Pid"].as_i64().unwrap();
    run_out_of_memory(pid);
    home.until("its end", || {
        home.inspect("victim")["State"]["Running"] == false
    });
    let log = host("dmesg", &[]);
    assert!(
        log.contains(&format!("Killed process {pid} ")),
        "somebody else was killed"
    );

    let state = home.inspect("victim")["State"].clone();
    assert_eq!(state["ExitCode"], 255);
    assert_eq!(state["OOMKilled"], true);
    let error = state["Error"].as_str().unwrap();
    assert!(
        error.contains("memory") && error.contains("kernel log"),
        "{error}"
    );
    assert_eq!(home.ok(&["wait", "victim"]), "255");
    assert!(home.ok(&["ps", "-a"]).contains("Exited (255)"));
    // Nobody else has noticed; what was flushed is there; nothing is in the way.
    assert_eq!(home.ok(&["exec", "neighbour", "echo", "alive"]), "alive");
    home.ok(&["start", "victim"]);
    home.until("both lines", || written() == b"before\nbefore\n");
    home.ok(&["rm", "-f", "victim", "neighbour"]);
    let left = fs::read_dir(home.path().join("home/sandboxes")).unwrap();
    assert_eq!(left.count(), 0);
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "kept:/data",
        IMAGE,
        "cat",
        "/data/file",
    ];
    assert_eq!(home.ok(&run), "before\nbefore");
}
