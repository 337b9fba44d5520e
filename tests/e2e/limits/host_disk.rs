//! A disk of the host behind a share: what the share may do, and what the sandbox's
//! group may do on the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{group, read};
use crate::faults::is_real_root;
use crate::guest::host;
use crate::sandbox::{Home, IMAGE};

const MIB: u64 = 1 << 20;
/// 3 MiB at 1 MiB in a second, of which at most one passes at once.
const LEAST: Duration = Duration::from_millis(1900);

/// A file system on a block device. Both go with it.
struct HostDisk {
    device: String,
    directory: TempDir,
}

impl HostDisk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::File::create(&file).unwrap().set_len(64 * MIB).unwrap();
        let file = file.to_str().unwrap();
        let device = host("losetup", &["--find", "--show", file]);
        let disk = HostDisk {
            device: device.trim().to_owned(),
            directory,
        };
        host("mkfs.ext4", &["-q", &disk.device]);
        fs::create_dir(disk.mount()).unwrap();
        let mount = disk.mount();
        host("mount", &[&disk.device, mount.to_str().unwrap()]);
        disk
    }

    fn mount(&self) -> PathBuf {
        self.directory.path().join("mount")
    }
}

impl Drop for HostDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.mount()).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// Writes 3 MiB to the share, and to the disk under it.
fn write(home: &Home) -> Duration {
    let start = Instant::now();
    let file = "of=/data/file";
    let dd = [
        "dd",
        "if=/dev/zero",
        file,
        "bs=64k",
        "count=48",
        "conv=fsync",
    ];
    home.ok(&[&["exec", "shares"], &dd[..]].concat());
    start.elapsed()
}

fn rates(group: &Path) -> String {
    read(group.join("io.max"))
}

#[test]
fn a_share_and_the_disk_under_it_have_limits() {
    if !is_real_root() {
        return;
    }
    let disk = HostDisk::new();
    let home = Home::new();
    let volume = format!("{}:/data", disk.mount().display());
    let options = format!("--memory 96M -v {volume}");
    let id = home.detached("shares", &options, "sleep 100000");
    let group = group(&id);
    eprintln!("written without a limit: 3 MiB in {:?}", write(&home));

    // The share's own limit.
    home.ok(&["update", "--share-bps", "1M", "shares"]);
    let time = write(&home);
    eprintln!("written to a share of 1 MiB in a second: 3 MiB in {time:?}");
    assert!(time >= LEAST, "{time:?}");
    assert_eq!(home.inspect("shares")["Limits"]["share"]["bw"], "1M");

    // The disk's.
    let wanted = format!("{}:1mb", disk.device);
    home.ok(&[
        "update",
        "--share-bps",
        "none",
        "--device-write-bps",
        &wanted,
        "shares",
    ]);
    let written = rates(&group);
    assert!(written.contains("rbps=max wbps=1048576"), "{written}");
    let time = write(&home);
    eprintln!("written to a disk of 1 MiB in a second: 3 MiB in {time:?}");
    assert!(time >= LEAST, "{time:?}");
    let device = &home.inspect("shares")["Cgroup"]["Devices"][0];
    assert_eq!(device["rates"]["write-bps"], MIB, "{device}");

    // And none; of what is no disk, one line.
    let none = format!("{}:none", disk.device);
    home.ok(&["update", "--device-write-bps", &none, "shares"]);
    assert_eq!(rates(&group), "");
    eprintln!("written without a limit again: 3 MiB in {:?}", write(&home));
    let no_disk = ["--device-read-iops", "/dev/null:7"];
    let update = [&["update"], &no_disk[..], &["shares"]].concat();
    home.refused(&update, 1, "/dev/null is no block device");
    let run = [&["run", "--rm"], &no_disk[..], &[IMAGE, "true"]].concat();
    home.refused(&run, 125, "/dev/null is no block device");
    home.ok(&["rm", "-f", "shares"]);
}
