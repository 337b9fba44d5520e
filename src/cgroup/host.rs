//! Which control groups this process can make.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, Version, write};

/// Where processes of a group go that is to have groups in it.
const LEAF: &str = "drupe.leaf";
/// How often new processes are moved there: each may have made one meanwhile.
const TRIES: usize = 5;

/// What to do for an ordinary user.
const ADVICE: &str = "run drupe as root, or in a group of your own: \
     systemd-run --user --scope -p Delegate=yes drupe ...";

/// Where groups can be made.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) version: Version,
    /// The directory for each controller; with version 2 one for all.
    bases: Vec<(String, PathBuf)>,
}

impl Host {
    /// Looks at this host.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: why there are none, and what to do.
    pub fn find() -> Result<Self, Error> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|e| Error::io("read", Path::new(path), e))
        };
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let root = rustix::process::geteuid().is_root();
        Self::parse(&mounts, &own, root, |base| {
            let file = base.join("cgroup.controllers");
            fs::read_to_string(file).unwrap_or_default()
        })
    }

    fn parse(
        mounts: &str,
        own: &str,
        root: bool,
        controllers: impl Fn(&Path) -> String,
    ) -> Result<Self, Error> {
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let unified = mounts.iter().find(|mount| mount.controllers.is_none());
        if let Some(mount) = unified {
            let own = own.lines().find_map(|line| line.strip_prefix("0::"));
            let mut base = mount.directory(own.unwrap_or("/"));
            if root {
                base.clone_from(&mount.point);
            } else if base.ends_with(LEAF) {
                base.pop();
            }
            let names = controllers(&base);
            // In a hybrid it may have what version 1 does not.
            if names.split_whitespace().any(|name| name == "memory") {
                let names = names.split_whitespace();
                return Ok(Host {
                    version: Version::V2,
                    bases: names.map(|name| (name.to_owned(), base.clone())).collect(),
                });
            }
        }
        let mut bases = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            for name in names.split(',').filter(|name| !name.is_empty()) {
                let has = |mount: &&Mount| {
                    let all = mount.controllers.as_ref();
                    all.is_some_and(|all| all.iter().any(|n| n == name))
                };
                if let Some(mount) = mounts.iter().find(has) {
                    bases.push((name.to_owned(), mount.directory(path)));
                }
            }
        }
        match bases.is_empty() {
            false => Ok(Host {
                version: Version::V1,
                bases,
            }),
            true => Err(Error::Unavailable(
                "no control groups are mounted, or none for this process".to_owned(),
            )),
        }
    }

    /// Makes a group and removes it again: what a start would run into.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn try_out(&self) -> Result<(), Error> {
        let limits = super::Limits {
            memory: Some(1 << 30),
            pids: Some(16),
            ..super::Limits::default()
        };
        let name = format!("drupe-doctor-{}", std::process::id());
        let group = super::Group::plan(self, &name, &limits)?;
        group.make(self, &limits).map_err(advise)?;
        group.remove().map(drop)
    }

    /// As people call it.
    pub fn version(&self) -> &'static str {
        match self.version {
            Version::V1 => "version 1",
            Version::V2 => "version 2",
        }
    }

    /// Where groups of a controller are made.
    pub(super) fn base(&self, controller: &'static str) -> Result<&Path, Error> {
        let mut bases = self.bases.iter();
        let found = bases.find(|(name, _)| name == controller);
        found
            .map(|(_, path)| path.as_path())
            .ok_or(Error::NoController(controller))
    }

    /// Has groups have these controllers.
    pub(super) fn enable(&self, controllers: &[&'static str]) -> Result<(), Error> {
        let Some((_, base)) = self.bases.first() else {
            return Ok(());
        };
        if self.version == Version::V1 {
            return Ok(());
        }
        let path = base.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let missing: Vec<_> = controllers
            .iter()
            .filter(|name| !enabled.split_whitespace().any(|known| known == **name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let wanted = missing.join(" ");
        for _ in 0..TRIES {
            match write(&path, &wanted) {
                // There are processes in it.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                    move_processes(base)?;
                }
                written => return written,
            }
        }
        write(&path, &wanted)
    }

    /// Version 2 in a directory.
    #[cfg(test)]
    pub fn made_up(base: &Path) -> Self {
        let names = "memory pids cpu io";
        fs::write(base.join("cgroup.subtree_control"), names).unwrap();
        let names = names.split(' ');
        Host {
            version: Version::V2,
            bases: names
                .map(|name| (name.to_owned(), base.to_owned()))
                .collect(),
        }
    }
}

/// The same error, with what to do about it if it is one of permissions.
pub fn advise(error: Error) -> Error {
    match error {
        Error::Io { path, source, .. }
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Error::Unavailable(format!(
                "this user may make no control groups ({}: {source}): {ADVICE}",
                path.display()
            ))
        }
        error => error,
    }
}

/// Moves the processes of a group into one below it.
fn move_processes(base: &Path) -> Result<(), Error> {
    let leaf = base.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|e| Error::io("make", &leaf, e))?,
    }
    let path = base.join("cgroup.procs");
    let processes = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    for process in processes.lines() {
        match write(&leaf.join("cgroup.procs"), process) {
            // It has ended.
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// A mounted hierarchy.
struct Mount {
    /// Which part of the hierarchy it shows.
    root: String,
    point: PathBuf,
    /// Its options, the controllers among them; none for version 2.
    controllers: Option<Vec<String>>,
}

impl Mount {
    /// Of a line of `mountinfo` (proc(5)).
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let kind = right.next()?;
        let controllers = match kind {
            "cgroup2" => None,
            "cgroup" => {
                let options = right.nth(1)?.split(',');
                Some(options.map(str::to_owned).collect())
            }
            _ => return None,
        };
        Some(Mount {
            root: root.to_owned(),
            point: point.into(),
            controllers,
        })
    }

    /// Where a group of the hierarchy is seen.
    fn directory(&self, group: &str) -> PathBuf {
        let below = group.strip_prefix(self.root.trim_end_matches('/'));
        let below = below.unwrap_or_default();
        match below.trim_start_matches('/') {
            "" => self.point.clone(),
            below => self.point.join(below),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "35 31 0:32 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
    const V1: &str = "\
24 23 0:21 / /proc rw - proc proc rw
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 /docker/x /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const OWN_V1: &str =
        "9:name=systemd:/\n8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/docker/x/y\n0::/\n";

    #[test]
    fn the_unified_hierarchy_is_taken_where_it_has_controllers() {
        let own = "0::/user.slice/run-1.scope\n";
        let all = |_: &Path| "cpu memory pids\n".to_owned();
        let host = Host::parse(V2, own, false, all).unwrap();
        let base = Path::new("/sys/fs/cgroup/user.slice/run-1.scope");
        assert_eq!(
            (host.version(), host.base("pids").unwrap()),
            ("version 2", base)
        );
        assert!(matches!(host.base("io"), Err(Error::NoController("io"))));
        // Of root's, groups are at the top.
        let host = Host::parse(V2, own, true, all).unwrap();
        assert_eq!(host.base("cpu").unwrap(), Path::new("/sys/fs/cgroup"));
        // One that was moved out of the way is where it was.
        let own = "0::/user.slice/run-1.scope/drupe.leaf\n";
        let host = Host::parse(V2, own, false, all).unwrap();
        assert_eq!(host.base("cpu").unwrap(), base);
    }

    #[test]
    fn each_controller_of_version_1_has_its_place() {
        let none = |_: &Path| "hugetlb\n".to_owned();
        let host = Host::parse(V1, OWN_V1, true, none).unwrap();
        assert_eq!(host.version(), "version 1");
        for (controller, path) in [
            ("memory", "/sys/fs/cgroup/memory/a/b"),
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct/y"),
            ("pids", "/sys/fs/cgroup/pids"),
        ] {
            assert_eq!(host.base(controller).unwrap(), Path::new(path));
        }
        assert!(host.base("blkio").is_err());
        // One that is not limited now is made all the same.
        let limits = super::super::Limits {
            pids: Some(1),
            ..Default::default()
        };
        let group = super::super::Group::plan(&host, "x", &limits).unwrap();
        let paths = ["/sys/fs/cgroup/pids/x", "/sys/fs/cgroup/cpu,cpuacct/y/x"];
        assert_eq!(group.directories(), paths.map(PathBuf::from));
        let nothing = Host::parse("", "", true, none).unwrap_err().to_string();
        assert!(nothing.contains("no control groups"), "{nothing}");
    }
}
