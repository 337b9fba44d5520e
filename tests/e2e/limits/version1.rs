//! Control groups of version 1, as older hosts have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::{GROUPS, read};
use crate::faults::in_the_lab;
use crate::guest::host;
use crate::sandbox::Home;

const HIERARCHIES: [&str; 4] = ["memory", "pids", "cpu,cpuacct", DISKS];
const DISKS: &str = "blkio";

/// The hierarchies of version 1, until it is dropped.
struct Version1 {
    /// The controller of disks is there.
    has_disks: bool,
}

impl Version1 {
    fn enter() -> Self {
        let control = Path::new(GROUPS).join("cgroup.subtree_control");
        for controller in read(&control).split_whitespace() {
            fs::write(&control, format!("-{controller}")).unwrap();
        }
        host("umount", &[GROUPS]);
        host("mount", &["-t", "tmpfs", "tmpfs", GROUPS]);
        let mut version1 = Version1 { has_disks: true };
        for name in HIERARCHIES {
            let directory = Path::new(GROUPS).join(name);
            fs::create_dir(&directory).unwrap();
            // What has gone of version 2 is given up a little later, with what page
            // cache it has.
            let mounted = (0..20).any(|_| {
                let _ = fs::write("/proc/sys/vm/drop_caches", "3");
                thread::sleep(Duration::from_millis(500));
                let mut mount = Command::new("mount");
                mount.args(["-t", "cgroup", "-o", name, "cgroup"]);
                mount.arg(&directory).status().unwrap().success()
            });
            assert!(mounted || name == DISKS, "{name} is in use");
            version1.has_disks &= mounted;
        }
        if !version1.has_disks {
            eprintln!("limits on disks are left out: version 2 does not let go of them");
        }
        version1
    }
}

impl Drop for Version1 {
    fn drop(&mut self) {
        let directories = HIERARCHIES.iter().map(|name| format!("{GROUPS}/{name}"));
        for directory in directories.chain([GROUPS.to_owned()]) {
            let _ = Command::new("umount").arg(directory).status();
        }
        let _ = Command::new("mount")
            .args(["-t", "cgroup2", "cgroup2", GROUPS])
            .status();
    }
}

fn file(id: &str, controller: &str, file: &str) -> PathBuf {
    let group = Path::new(GROUPS)
        .join(controller)
        .join(format!("drupe-{id}"));
    group.join(file)
}

#[test]
fn groups_of_version_1_limit_too() {
    if !in_the_lab() {
        return;
    }
    // Its scheduler brings the weights, if anything does.
    let weights = Command::new("modprobe")
        .arg("bfq")
        .status()
        .unwrap()
        .success();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let device = host(
        "losetup",
        &["--find", "--show", disk.path().to_str().unwrap()],
    );
    let device = device.trim();
    let home = Home::new();
    let version1 = Version1::enter();
    let weights = weights && version1.has_disks;
    let mut options = "--memory 64M --cpu-quota 50000 --cpu-shares 512".to_owned();
    if version1.has_disks {
        options += &format!(" --device-write-bps {device}:1M");
    }
    if weights {
        options += " --blkio-weight 200";
    }
    let id = home.detached("old", &options, "sleep 100000");
    let of = |controller: &str, name: &str| read(file(&id, controller, name));
    assert_eq!(of("pids", "pids.max"), "512");
    assert_eq!(of("cpu,cpuacct", "cpu.cfs_quota_us"), "50000");
    assert_eq!(of("cpu,cpuacct", "cpu.shares"), "512");
    if version1.has_disks {
        let rate = of(DISKS, "blkio.throttle.write_bps_device");
        assert!(rate.ends_with(" 1048576"), "{rate}");
    }
    if weights {
        assert_eq!(of(DISKS, "blkio.bfq.weight"), "200");
    }
    home.ok(&["update", "--cpu-quota", "none", "old"]);
    assert_eq!(of("cpu,cpuacct", "cpu.cfs_quota_us"), "-1");
    if version1.has_disks {
        let none = format!("{device}:none");
        home.ok(&["update", "--device-write-bps", &none, "old"]);
        assert_eq!(of(DISKS, "blkio.throttle.write_bps_device"), "");
    }
    if weights {
        home.ok(&["update", "--blkio-weight", "none", "old"]);
        assert_eq!(of(DISKS, "blkio.bfq.weight"), "100");
    }

    // More memory than the group may have.
    let memory = file(&id, "memory", "memory.limit_in_bytes");
    let limit: u64 = read(&memory).parse().unwrap();
    assert!(limit > 64 << 20 && limit < 256 << 20, "{limit}");
    // What it may give back is given back first: what it has then, it keeps.
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let used: u64 = read(file(&id, "memory", "memory.usage_in_bytes"))
        .parse()
        .unwrap();
    fs::write(&memory, (used + (1 << 20)).to_string()).unwrap();
    home.drupe(&[
        "exec",
        "old",
        "dd",
        "if=/dev/zero",
        "of=/tmp/x",
        "bs=1M",
        "count=24",
    ]);
    home.until("its end", || {
        home.inspect("old")["State"]["Running"] == false
    });
    let state = home.inspect("old")["State"].take();
    let error = state["Error"].as_str().unwrap();
    assert!(error.contains("its cgroup had no more memory"), "{state}");
    assert_eq!(state["OOMKilled"], true);
    home.ok(&["rm", "-f", "old"]);
    home.until("the end of the groups", || {
        HIERARCHIES.iter().all(|name| !file(&id, name, "").exists())
    });
    host("losetup", &["-d", device]);
}
