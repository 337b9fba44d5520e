//! The machine apart from KVM: its CPU, kernel, networking and resources.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use super::{Check, Status};

/// Bit of `CAP_NET_ADMIN` in a capability set.
const CAP_NET_ADMIN: u32 = 12;
/// Less than this and even a small VM pushes something else out, in MiB.
const LITTLE_MEMORY: u64 = 512;
/// Whether the host makes huge pages of free memory, for those who ask.
const TRANSPARENT_HUGE_PAGES: &str = "sys/kernel/mm/transparent_hugepage/enabled";
/// The pool that `--hugepages` takes from.
const HUGE_PAGES: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";

/// The machine, read from the files below a root.
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine that `/` shows, or a made-up one for a test.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Host { root: root.into() }
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    /// The value of `key` in a file of lines `key: value`.
    fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.read(path)?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(k, _)| k.trim() == key)?;
        Some(value.trim().to_owned())
    }

    /// Opens as a VM would; writes nothing.
    fn open(&self, path: &str, read: bool) -> io::Result<()> {
        let path = self.root.join(path);
        let file = OpenOptions::new().read(read).write(true).open(path);
        file.map(drop)
    }

    /// Whether the CPU has a flag of `/proc/cpuinfo`.
    pub fn cpu_flag(&self, flag: &str) -> bool {
        let flags = self.field("proc/cpuinfo", "flags").unwrap_or_default();
        flags.split(' ').any(|f| f == flag)
    }

    /// The CPU.
    pub fn cpu(&self) -> Check {
        let model = self.field("proc/cpuinfo", "model name");
        let model = model.as_deref().unwrap_or("unknown model");
        let mut extensions = ["vmx", "svm"].into_iter();
        let extension = extensions.find(|flag| self.cpu_flag(flag));
        let extension = extension.unwrap_or("shows neither vmx nor svm");
        let nested = if self.cpu_flag("hypervisor") {
            "; this machine is a VM itself, so that VMs in it are nested"
        } else {
            ""
        };
        let arch = std::env::consts::ARCH;
        Check::ok("cpu", format!("{model}, {arch}, {extension}{nested}"))
    }

    /// The kernel.
    pub fn kernel(&self) -> Check {
        let release = self.read("proc/sys/kernel/osrelease").unwrap_or_default();
        Check::ok("kernel", format!("Linux {}", release.trim()))
    }

    /// Everything else.
    pub fn checks(&self) -> Vec<Check> {
        vec![
            self.tun(),
            self.user_namespaces(),
            self.transparent_hugepages(),
            self.hugepages(),
            self.memory(),
        ]
    }

    fn tun(&self) -> Check {
        let warn = |detail: String, fix| Check::bad("tun", Status::Warn, detail, fix);
        let load = "load the module, as root: modprobe tun";
        match self.open("dev/net/tun", true) {
            Ok(()) if self.net_admin() => Check::ok("tun", "/dev/net/tun, and TAPs can be made"),
            Ok(()) => warn(
                "/dev/net/tun, but only root can make a TAP".to_owned(),
                "have root make one for you: ip tuntap add NAME mode tap user USER",
            ),
            Err(e) => warn(
                format!("/dev/net/tun: {e}: no TAP and no bridge; the network 'user' needs none"),
                match e.kind() {
                    io::ErrorKind::PermissionDenied => "as root: chmod 0666 /dev/net/tun",
                    _ => load,
                },
            ),
        }
    }

    fn net_admin(&self) -> bool {
        let set = self.field("proc/self/status", "CapEff").unwrap_or_default();
        u64::from_str_radix(&set, 16).is_ok_and(|set| set & 1 << CAP_NET_ADMIN != 0)
    }

    fn user_namespaces(&self) -> Check {
        let settings = [
            ("user.max_user_namespaces", 0, 10000, "switched off"),
            ("kernel.unprivileged_userns_clone", 0, 1, "for root only"),
            (
                "kernel.apparmor_restrict_unprivileged_userns",
                1,
                0,
                "restricted by AppArmor",
            ),
        ];
        for (name, bad, good, what) in settings {
            let path = format!("proc/sys/{}", name.replacen('.', "/", 1));
            if self.number(&path) == Some(bad) {
                let detail = format!("{what}: without root no namespaces, and no empty root");
                let fix = format!("as root: sysctl {name}={good}");
                return Check::bad("user-namespaces", Status::Warn, detail, fix);
            }
        }
        if self.read("proc/sys/user/max_user_namespaces").is_none() {
            return Check::bad(
                "user-namespaces",
                Status::Warn,
                "the kernel has none: without root no namespaces, and no empty root",
                "use a kernel with CONFIG_USER_NS",
            );
        }
        Check::ok("user-namespaces", "can be made")
    }

    /// What guest memory is made of by default.
    fn transparent_hugepages(&self) -> Check {
        const NAME: &str = "transparent-hugepages";
        let warn = |detail: String, fix| Check::bad(NAME, Status::Warn, detail, fix);
        let setting = self.read(TRANSPARENT_HUGE_PAGES).unwrap_or_default();
        let chosen = setting.split(['[', ']']).nth(1);
        match chosen {
            Some("always" | "madvise") => Check::ok(NAME, "guest memory is made of them"),
            Some(other) => warn(
                format!("{other}: guests run on 4 KiB pages, and slower"),
                "as root: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
            ),
            None => warn(
                "the kernel has none: guests run on 4 KiB pages, and slower".to_owned(),
                "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
            ),
        }
    }

    fn hugepages(&self) -> Check {
        let warn = |detail: String, fix| Check::bad("hugepages", Status::Warn, detail, fix);
        let pool = |name: &str| self.number(&format!("{HUGE_PAGES}/{name}"));
        match (pool("nr_hugepages"), pool("free_hugepages")) {
            (Some(all), Some(free)) if free > 0 => {
                let detail = format!("{free} of {all} pages of 2 MiB are free");
                Check::ok("hugepages", detail)
            }
            (Some(all), _) => warn(
                format!("none of {all} pages of 2 MiB is free: no --hugepages"),
                "as root, 256 for a VM of 512 MiB: sysctl vm.nr_hugepages=256",
            ),
            (None, _) => warn(
                "the kernel has none of 2 MiB: no --hugepages".to_owned(),
                "use a kernel with CONFIG_HUGETLBFS",
            ),
        }
    }

    fn memory(&self) -> Check {
        let mib = |key| {
            let value = self.field("proc/meminfo", key)?;
            let kib: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib / 1024)
        };
        let (Some(all), Some(free)) = (mib("MemTotal"), mib("MemAvailable")) else {
            return Check::bad(
                "memory",
                Status::Warn,
                "/proc/meminfo does not tell",
                "mount /proc",
            );
        };
        let detail = format!("{free} MiB of {all} MiB available");
        if free >= LITTLE_MEMORY {
            return Check::ok("memory", detail);
        }
        let fix = "free some, or give VMs little with --memory";
        Check::bad("memory", Status::Warn, detail, fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::new(root.path());
        (root, host)
    }

    #[test]
    fn an_empty_machine_gets_a_fix_for_everything() {
        let (_root, host) = machine(&[]);
        assert!(host.cpu().detail.starts_with("unknown model"));
        for check in host.checks() {
            assert_eq!(check.status, Status::Warn, "{check:?}");
            assert!(check.fix.is_some(), "{check:?}");
        }
    }

    #[test]
    fn a_machine_with_everything_has_nothing_to_fix() {
        let pool = |name: &str| format!("{HUGE_PAGES}/{name}");
        let (_root, host) = machine(&[
            (
                "proc/cpuinfo",
                "model name\t: M\nflags\t\t: fpu svm hypervisor\n",
            ),
            (
                "proc/meminfo",
                "MemTotal: 2097152 kB\nMemAvailable:  1048576 kB\n",
            ),
            ("proc/self/status", "Name: x\nCapEff:\t000001ffffffffff\n"),
            ("proc/sys/user/max_user_namespaces", "100\n"),
            (TRANSPARENT_HUGE_PAGES, "always [madvise] never\n"),
            (&pool("nr_hugepages"), "4\n"),
            (&pool("free_hugepages"), "3\n"),
            ("dev/net/tun", ""),
        ]);
        let cpu = host.cpu().detail;
        assert!(cpu.starts_with("M, ") && cpu.contains(", svm; this"));
        let checks = host.checks();
        for check in &checks {
            assert_eq!(check.status, Status::Ok, "{check:?}");
        }
        let has = |text: &str| checks.iter().any(|c| c.detail.ends_with(text));
        assert!(has("1024 MiB of 2048 MiB available"));
    }

    #[test]
    fn a_host_without_huge_pages_is_told_how_to_have_them() {
        for (setting, fix) in [
            (
                Some("always madvise [never]\n"),
                "transparent_hugepage/enabled",
            ),
            (None, "CONFIG_TRANSPARENT_HUGEPAGE"),
        ] {
            let files: Vec<_> = setting
                .map(|s| (TRANSPARENT_HUGE_PAGES, s))
                .into_iter()
                .collect();
            let (_root, host) = machine(&files);
            assert!(host.transparent_hugepages().fix.unwrap().ends_with(fix));
        }
    }

    #[test]
    fn each_setting_against_namespaces_is_named() {
        let on = ("proc/sys/user/max_user_namespaces", "9\n");
        for (files, expected) in [
            (
                vec![("proc/sys/user/max_user_namespaces", "0\n")],
                "user.max_user_namespaces=10000",
            ),
            (
                vec![on, ("proc/sys/kernel/unprivileged_userns_clone", "0")],
                "kernel.unprivileged_userns_clone=1",
            ),
        ] {
            let (_root, host) = machine(&files);
            assert!(host.user_namespaces().fix.unwrap().ends_with(expected));
        }
    }
}
