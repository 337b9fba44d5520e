//! What a sandbox may use, and that one which uses all of it leaves the others
//! alone. Under emulation nothing is said of how fast something is, only that a
//! limit was never exceeded; what was measured is printed.

mod host_disk;
mod version1;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::guest::PATIENCE;
use crate::sandbox::{Home, IMAGE};

/// Where the control groups of version 2 are.
const GROUPS: &str = "/sys/fs/cgroup";

fn group(id: &str) -> PathBuf {
    Path::new(GROUPS).join(format!("drupe-{id}"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

/// Microseconds of processor time that a group has had.
fn cpu_time(group: &Path) -> u64 {
    let text = read(group.join("cpu.stat"));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    line.unwrap().parse().unwrap()
}

/// Waits until no group of these sandboxes is left.
fn gone(home: &Home, ids: &[&str]) {
    home.until("the end of the control groups", || {
        ids.iter().all(|id| !group(id).exists())
    });
}

fn connect(home: &Home, name: &str, port: &str) -> TcpStream {
    let address = home.ok(&["port", name, port]);
    let stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads for as long, or to as many bytes; how many came.
fn receive(stream: &mut TcpStream, time: Duration, most: usize) -> usize {
    let start = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while total < most && start.elapsed() < time {
        total += stream.read(&mut buffer).unwrap();
    }
    total
}

#[test]
fn limits_hold_and_change_while_it_runs() {
    const RATE: usize = 128 << 10;
    let home = Home::new();
    let limit = RATE.to_string();
    let script = "while :; do nc -l -p 9000 -e cat /dev/zero; done & \
                  while :; do nc -l -p 9001 -e sh -c 'head -c 393216 | wc -c'; done & \
                  while :; do sleep 1; done";
    let id = home.ok(&[
        "run",
        "-d",
        "--name",
        "limited",
        "--memory",
        "96M",
        "--disk-size",
        "64M",
        "--network-tx-bps",
        &limit,
        "--network-rx-bps",
        &limit,
        "--cpu-shares",
        "512",
        "-p",
        "127.0.0.1::9000",
        "-p",
        "127.0.0.1::9001",
        IMAGE,
        "sh",
        "-c",
        script,
    ]);

    // Its group, as it was asked for.
    let group = group(&id);
    let inspect = home.inspect("limited");
    let directories = &inspect["Cgroup"]["Directories"];
    assert_eq!(directories[0], group.to_str().unwrap(), "{inspect}");
    // With it, a thread that KVM has in the kernel.
    let pid = inspect["State"]["Pid"].to_string();
    assert!(
        read(group.join("cgroup.procs"))
            .lines()
            .any(|line| line == pid)
    );
    let memory: u64 = read(group.join("memory.max")).parse().unwrap();
    assert!(memory > 96 << 20 && memory < 256 << 20, "{memory}");
    assert_eq!(read(group.join("pids.max")), "512");
    assert_eq!(read(group.join("cpu.max")), "max 100000");
    let weight = read(group.join("cpu.weight"));
    let used = read(group.join("memory.current"));
    eprintln!("memory: {used} of {memory} bytes; cpu.weight {weight}");

    // What it sends: no more than was there, what came since, and a packet.
    let mut stream = connect(&home, "limited", "9000");
    let start = Instant::now();
    let bytes = receive(&mut stream, Duration::from_secs(4), usize::MAX);
    let most = RATE + (start.elapsed().as_secs_f64() * RATE as f64) as usize + (64 << 10);
    eprintln!(
        "sent: {bytes} bytes in {:?}, {most} allowed",
        start.elapsed()
    );
    assert!(bytes > 0 && bytes <= most, "{bytes} bytes, {most} allowed");
    drop(stream);

    // What it receives: 384 KiB, of which 256 had to be waited for.
    let mut stream = connect(&home, "limited", "9001");
    let start = Instant::now();
    stream.write_all(&vec![1; 384 << 10]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    eprintln!("received: {} bytes in {:?}", answer.trim(), start.elapsed());
    assert_eq!(answer.trim(), "393216");
    assert!(
        start.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        start.elapsed()
    );

    // A disk that is limited from now on: 1 MiB at once, and 2 to be waited for.
    home.ok(&[
        "update",
        "--disk-bps",
        "1M",
        "--network-tx-bps",
        "none",
        "limited",
    ]);
    let start = Instant::now();
    home.ok(&[
        "exec",
        "limited",
        "dd",
        "if=/dev/zero",
        "of=/x",
        "bs=64k",
        "count=48",
        "conv=fsync",
    ]);
    eprintln!("written: 3 MiB in {:?}", start.elapsed());
    assert!(
        start.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        start.elapsed()
    );

    // A network that is no longer: what took 15 seconds does not.
    let mut stream = connect(&home, "limited", "9000");
    let start = Instant::now();
    assert!(receive(&mut stream, PATIENCE, 2 << 20) >= 2 << 20);
    eprintln!("sent without a limit: 2 MiB in {:?}", start.elapsed());
    assert!(
        start.elapsed() < Duration::from_secs(14),
        "{:?}",
        start.elapsed()
    );
    drop(stream);

    // Processors, too; and all of it is there at the next start.
    home.ok(&[
        "update",
        "--cpu-quota",
        "50000",
        "--cpu-shares",
        "none",
        "limited",
    ]);
    assert_eq!(read(group.join("cpu.max")), "50000 100000");
    assert_eq!(read(group.join("cpu.weight")), "100");
    home.refused(&["update", "limited"], 2, "nothing to change");
    home.refused(&["update", "--memory", "1G", "limited"], 2, "--memory");
    let inspect = home.inspect("limited");
    assert_eq!(inspect["Cgroup"]["CpuQuota"], 50_000);
    assert_eq!(inspect["Limits"]["disk"]["bw"], "1M");
    assert_eq!(inspect["Limits"]["net"]["tx-bw"], serde_json::Value::Null);

    home.ok(&["rm", "-f", "limited"]);
    gone(&home, &[&id]);
    // One that ends by itself.
    assert_eq!(home.run("--memory 96M", "echo end"), "end");
    let records = home.path().join("home/cgroups");
    home.until("the end of the last group", || {
        fs::read_dir(&records).unwrap().count() == 0
    });
}

#[test]
fn one_that_uses_all_it_can_leaves_the_others_alone() {
    let home = Home::new();
    let quiet = home.detached("quiet", "--memory 96M", "sleep 100000");
    // It spins, prints without end, and fills its disk.
    let script = "while :; do :; done & \
                  dd if=/dev/zero of=/fill bs=64k 2>/tmp/full; \
                  while yes 'a line of no interest'; do :; done";
    let options = "--memory 96M --disk-size 16M --cpu-quota 50000 --log-opt max-size=64K --log-opt max-file=2";
    let wild = home.detached("wild", options, script);

    let exec = |what: &str| {
        let start = Instant::now();
        assert_eq!(home.ok(&["exec", "quiet", "echo", "here"]), "here");
        let exec = start.elapsed();
        assert_eq!(home.ok(&["ps", "-q"]).lines().count(), 2);
        eprintln!(
            "{what}: exec in {exec:?}, ps in {:?}",
            start.elapsed() - exec
        );
    };
    exec("one spins and prints");
    let full = || home.ok(&["exec", "wild", "cat", "/tmp/full"]);
    home.until("a full disk", || full().contains("No space left"));

    // No more processor time than its quota, and what was left of two periods.
    let group = group(&wild);
    let (before, start) = (cpu_time(&group), Instant::now());
    exec("one is held to half a processor");
    std::thread::sleep(Duration::from_secs(3));
    let (used, elapsed) = (cpu_time(&group) - before, start.elapsed());
    let most = elapsed.as_micros() as u64 / 2 + 100_000;
    eprintln!("processor: {used} us in {elapsed:?}, {most} allowed");
    assert!(used <= most, "{used} us of {most}");

    // What it prints stays small, and is there.
    let directory = home.path().join("home/sandboxes").join(&wild);
    home.until("two files of output", || directory.join("log.1").exists());
    let size = |name: &str| fs::metadata(directory.join(name)).map_or(0, |m| m.len());
    let logs = size("log") + size("log.1");
    eprintln!("log: {logs} bytes of what it printed");
    assert!(logs <= 2 * (64 << 10) + 2 * (128 << 10) && size("log.2") == 0);
    assert!(
        home.ok(&["logs", "--tail", "3", "wild"])
            .contains("no interest")
    );
    let memory: u64 = read(group.join("memory.current")).parse().unwrap();
    let limit: u64 = read(group.join("memory.max")).parse().unwrap();
    assert!(memory <= limit, "{memory} of {limit}");

    // It forks without end.
    home.ok(&["exec", "-d", "wild", "sh", "-c", "f() { f | f & }; f"]);
    for _ in 0..3 {
        exec("one forks without end");
    }
    let threads: u64 = read(group.join("pids.current")).parse().unwrap();
    eprintln!("its monitor has {threads} threads");
    assert!(threads <= 512);

    // A monitor that needs more memory than its group may have is ended by the
    // host's kernel, and drupe says so.
    fs::write(group.join("memory.max"), "24M").unwrap();
    home.until("its end", || {
        home.inspect("wild")["State"]["Running"] == false
    });
    let state = home.inspect("wild")["State"].take();
    let error = state["Error"].as_str().unwrap();
    assert!(error.contains("its cgroup had no more memory"), "{state}");
    assert_eq!(state["OOMKilled"], true);

    // A monitor that is killed leaves a group, and the next command removes it.
    home.crash("quiet");
    home.ok(&["ps", "-a"]);
    gone(&home, &[&quiet, &wild]);
    assert_eq!(
        fs::read_dir(home.path().join("home/cgroups"))
            .unwrap()
            .count(),
        0
    );
}
