//! Control groups, versions 1 and 2: what the host gives a process and all of its
//! threads at most. Knows nothing of sandboxes.
//!
//! A group is made beside this process's own, or, by root with version 2, at the
//! top: there groups have either processes or groups in them.

mod device;
mod host;
mod rates;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use device::DeviceLimit;
pub use host::{Host, advise};
pub use rates::Rates;

/// Microseconds of a period unless it is said: the kernel's.
pub const DEFAULT_PERIOD: u64 = 100_000;
/// The share of processor time of who asked for none.
const DEFAULT_SHARES: u64 = 1024;
/// The same of a disk's time, as Docker counts it.
const DEFAULT_BLKIO_WEIGHT: u16 = 500;
/// Version 1's file for it.
const BLKIO_WEIGHT: &str = "blkio.weight";
/// The same of the BFQ scheduler, and what it has for who asked for none.
const BFQ_WEIGHT: &str = "blkio.bfq.weight";
const DEFAULT_BFQ_WEIGHT: &str = "100";

/// Why there is no group, or not that limit.
#[derive(Debug, Error)]
pub enum Error {
    /// Nothing of the kind is there, or this user may not.
    #[error("{0}")]
    Unavailable(String),
    /// A controller that is not there.
    #[error("the host has no cgroup controller '{0}' for this process")]
    NoController(&'static str),
    /// What has no such limits.
    #[error("{} {why}", path.display())]
    Device {
        /// What was named.
        path: PathBuf,
        /// What it is, and what to do.
        why: String,
    },
    /// A file.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// What a group may use. What is none is as if it had not been said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, page cache included.
    pub memory: Option<u64>,
    /// Threads.
    pub pids: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota: Option<u64>,
    /// That period, in microseconds.
    pub cpu_period: Option<u64>,
    /// Its share when processors are scarce: 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// Its share when disks are, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// What it may do on single disks of the host.
    pub devices: Vec<DeviceLimit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    V1,
    V2,
}

/// A controller's files, and what is to be written to one of them.
type Setting = (&'static str, &'static str, String);

/// A limit that is not asked for is written as its default if `all`.
fn settings(version: Version, limits: &Limits, all: bool) -> Vec<Setting> {
    let v2 = version == Version::V2;
    let mut list: Vec<Setting> = Vec::new();
    let mut put = |controller, file, value| list.push((controller, file, value));
    if let Some(bytes) = limits.memory {
        let file = if v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        put("memory", file, bytes.to_string());
    }
    if let Some(count) = limits.pids {
        put("pids", "pids.max", count.to_string());
    }
    let period = limits.cpu_period.unwrap_or(DEFAULT_PERIOD);
    match (limits.cpu_quota, v2) {
        (None, _) if !all => {}
        (None, true) => put("cpu", "cpu.max", format!("max {period}")),
        (Some(quota), true) => put("cpu", "cpu.max", format!("{quota} {period}")),
        (quota, false) => {
            put("cpu", "cpu.cfs_period_us", period.to_string());
            let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
            put("cpu", "cpu.cfs_quota_us", quota);
        }
    }
    if limits.cpu_shares.is_some() || all {
        let shares = limits.cpu_shares.unwrap_or(DEFAULT_SHARES);
        match v2 {
            true => put("cpu", "cpu.weight", weight_of_shares(shares).to_string()),
            false => put("cpu", "cpu.shares", shares.to_string()),
        }
    }
    if limits.blkio_weight.is_some() || all {
        let weight = limits.blkio_weight.unwrap_or(DEFAULT_BLKIO_WEIGHT);
        match v2 {
            true => put("io", "io.weight", weight_of_blkio(weight).to_string()),
            false => put("blkio", BLKIO_WEIGHT, weight.to_string()),
        }
    }
    let devices = limits.devices.iter();
    list.extend(devices.flat_map(|device| device.settings(version, all)));
    list
}

/// Version 1 counts 2 to 262144, version 2 counts 1 to 10000; as systemd, runc and
/// crun turn one into the other, save that the usual one stays the usual one.
fn weight_of_shares(shares: u64) -> u64 {
    match shares.clamp(2, 262_144) {
        DEFAULT_SHARES => 100,
        shares => 1 + (shares - 2) * 9999 / 262_142,
    }
}

/// The same for disks: 10 to 1000, and 1 to 10000.
fn weight_of_blkio(weight: u16) -> u64 {
    match weight.clamp(10, 1000) {
        DEFAULT_BLKIO_WEIGHT => 100,
        weight => 1 + (u64::from(weight) - 10) * 9999 / 990,
    }
}

/// The controllers that limits need.
fn controllers(version: Version, limits: &Limits) -> Vec<&'static str> {
    let mut names: Vec<_> = settings(version, limits, false)
        .into_iter()
        .map(|(controller, ..)| controller)
        .collect();
    names.dedup();
    names
}

/// Whose memory was not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// What the group may have.
    OwnLimit,
    /// The host's.
    Host,
}

/// A group, by its directories: one, or with version 1 one for each controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    version: Version,
    directories: Vec<PathBuf>,
}

impl Group {
    /// The group of this name, which is to be made, with these limits.
    ///
    /// # Errors
    /// [`Error::NoController`].
    pub fn plan(host: &Host, name: &str, limits: &Limits) -> Result<Self, Error> {
        let version = host.version;
        let mut directories = Vec::new();
        for controller in controllers(version, limits) {
            let base = host.base(controller)?;
            directories.push(base.join(name));
        }
        if version == Version::V1 {
            // Limits may come later, and the process is not moved any more then.
            let others = ["cpu", "blkio"].into_iter();
            let bases = others.filter_map(|controller| host.base(controller).ok());
            for directory in bases.map(|base| base.join(name)) {
                if !directories.contains(&directory) {
                    directories.push(directory);
                }
            }
        }
        directories.dedup();
        Ok(Group {
            version,
            directories,
        })
    }

    /// Makes it.
    ///
    /// # Errors
    /// The host's; nothing of it is left then.
    pub fn make(&self, host: &Host, limits: &Limits) -> Result<(), Error> {
        let made = host
            .enable(&controllers(self.version, limits))
            .and_then(|()| self.make_directories())
            .and_then(|()| self.write(&settings(self.version, limits, false)));
        if made.is_err() {
            // What is left of it is empty.
            let _ = self.remove();
        }
        made
    }

    fn make_directories(&self) -> Result<(), Error> {
        for directory in &self.directories {
            match fs::create_dir(directory) {
                // Of an earlier start, which died.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(|e| Error::io("make", directory, e))?,
            }
        }
        Ok(())
    }

    /// From now on these limits hold.
    ///
    /// # Errors
    /// The host's.
    pub fn set(&self, host: &Host, limits: &Limits) -> Result<(), Error> {
        host.enable(&controllers(self.version, limits))?;
        let mut wanted = settings(self.version, limits, true);
        // The defaults of what is not there hold anyway.
        let asked = settings(self.version, limits, false);
        wanted.retain(|setting| asked.contains(setting) || self.find(setting).is_some());
        self.write(&wanted)
    }

    fn write(&self, settings: &[Setting]) -> Result<(), Error> {
        for setting in settings {
            let (path, value) = self.find(setting).ok_or(Error::NoController(setting.0))?;
            write(&path, value)?;
        }
        Ok(())
    }

    /// The file that a setting is for, and what to write to it.
    fn find<'a>(&self, (_, file, value): &'a Setting) -> Option<(PathBuf, &'a str)> {
        let find = |file: &str| {
            let directories = self.directories.iter();
            let mut paths = directories.map(|directory| directory.join(file));
            paths.find(|path| path.exists())
        };
        match find(file) {
            Some(path) => Some((path, value)),
            // Since Linux 5.0 there is only the scheduler that is called so.
            None if *file == BLKIO_WEIGHT => {
                let usual = value == &DEFAULT_BLKIO_WEIGHT.to_string();
                let value = if usual { DEFAULT_BFQ_WEIGHT } else { value };
                find(BFQ_WEIGHT).map(|path| (path, value))
            }
            None => None,
        }
    }

    /// Its directory, for a process to be born in it: with version 2.
    pub fn open(&self) -> Option<File> {
        match (self.version, &self.directories[..]) {
            (Version::V2, [directory]) => File::open(directory).ok(),
            _ => None,
        }
    }

    /// Puts a process into it, with all its threads.
    ///
    /// # Errors
    /// The host's.
    pub fn add(&self, pid: u32) -> Result<(), Error> {
        let mut all = self.directories.iter();
        all.try_for_each(|directory| write(&directory.join("cgroup.procs"), &pid.to_string()))
    }

    /// Removes it; false when there are still processes in it.
    ///
    /// # Errors
    /// The host's.
    pub fn remove(&self) -> Result<bool, Error> {
        let mut gone = true;
        for directory in &self.directories {
            match fs::remove_dir(directory) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => gone = false,
                removed => removed.map_err(|e| Error::io("remove", directory, e))?,
            }
        }
        Ok(gone)
    }

    /// Whose memory it was that something in it was killed for, if anything was.
    pub fn shortage(&self) -> Option<Shortage> {
        // What the kernel killed in it, and how often it met its own limit.
        let (killed, (limited, word)) = match self.version {
            Version::V1 => ("memory.oom_control", ("memory.failcnt", "")),
            Version::V2 => ("memory.events", ("memory.events", "oom ")),
        };
        if !self.counts(killed, "oom_kill ") {
            return None;
        }
        match self.counts(limited, word) {
            true => Some(Shortage::OwnLimit),
            false => Some(Shortage::Host),
        }
    }

    /// Whether a file of it has more than 0 behind this word.
    fn counts(&self, file: &str, word: &str) -> bool {
        let texts = self.directories.iter();
        let texts = texts.filter_map(|directory| fs::read_to_string(directory.join(file)).ok());
        let mut counts = texts.filter_map(|text| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(word)?.trim().parse::<u64>().ok())
        });
        counts.any(|count| count > 0)
    }

    /// Where it is.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        // At once: each write is a command.
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|e| Error::io("write to", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let limits = Limits {
            memory: Some(1 << 30),
            pids: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: None,
            cpu_shares: Some(2),
            blkio_weight: Some(10),
            devices: Vec::new(),
        };
        let text = |version, limits: &Limits, all| {
            let settings = settings(version, limits, all).into_iter();
            let lines = settings.map(|(_, file, value)| format!("{file}={value}"));
            lines.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(Version::V2, &limits, false),
            "memory.max=1073741824 pids.max=512 cpu.max=50000 100000 cpu.weight=1 io.weight=1"
        );
        assert_eq!(
            text(Version::V1, &limits, false),
            "memory.limit_in_bytes=1073741824 pids.max=512 cpu.cfs_period_us=100000 \
             cpu.cfs_quota_us=50000 cpu.shares=2 blkio.weight=10"
        );
        let none = Limits::default();
        assert_eq!(text(Version::V2, &none, false), "");
        assert_eq!(
            text(Version::V2, &none, true),
            "cpu.max=max 100000 cpu.weight=100 io.weight=100"
        );
        assert_eq!(
            text(Version::V1, &none, true),
            "cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 cpu.shares=1024 blkio.weight=500"
        );
        assert_eq!(
            controllers(Version::V1, &limits),
            ["memory", "pids", "cpu", "blkio"]
        );
        assert!(controllers(Version::V2, &none).is_empty());
        assert_eq!(
            (weight_of_shares(262_144), weight_of_blkio(1000)),
            (10_000, 10_000)
        );
    }

    /// A directory in the place of a hierarchy, whose groups have the files that a
    /// kernel would make.
    #[test]
    fn a_group_is_made_changed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::made_up(dir.path());
        let limits = Limits {
            memory: Some(1 << 20),
            pids: Some(5),
            ..Limits::default()
        };
        let group = Group::plan(&host, "drupe-x", &limits).unwrap();
        let path = dir.path().join("drupe-x");
        // Without the kernel's files it cannot be set, and nothing stays.
        assert!(matches!(
            group.make(&host, &limits),
            Err(Error::NoController("memory"))
        ));
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        for file in ["memory.max", "pids.max", "cgroup.procs", "cpu.max"] {
            fs::write(path.join(file), "").unwrap();
        }
        group.make(&host, &limits).unwrap();
        group.add(42).unwrap();
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap();
        assert_eq!(
            (read("memory.max"), read("cgroup.procs")),
            ("1048576".into(), "42".into())
        );
        assert_eq!(read("cpu.max"), "");
        // Defaults are written where there is a file, and what was asked for must
        // have one.
        group.set(&host, &limits).unwrap();
        assert_eq!(read("cpu.max"), "max 100000");
        let heavy = Limits {
            blkio_weight: Some(10),
            ..limits.clone()
        };
        assert!(matches!(
            group.set(&host, &heavy),
            Err(Error::NoController("io"))
        ));
        assert_eq!(group.shortage(), None);
        for (events, shortage) in [
            ("low 0\noom 3\noom_kill 1\n", Some(Shortage::OwnLimit)),
            ("low 0\noom 0\noom_kill 1\n", Some(Shortage::Host)),
            ("low 0\noom 3\noom_kill 0\n", None),
        ] {
            fs::write(path.join("memory.events"), events).unwrap();
            assert_eq!(group.shortage(), shortage);
        }
        let json = serde_json::to_string(&group).unwrap();
        assert_eq!(serde_json::from_str::<Group>(&json).unwrap(), group);
        fs::remove_dir_all(&path).unwrap();
        assert!(group.remove().unwrap());
    }
}
