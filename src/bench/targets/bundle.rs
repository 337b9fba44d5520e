//! The configuration of a container (OCI runtime specification 1.0), as docker's
//! defaults have it: capabilities, masked paths, devices, and the filter of system
//! calls where this machine has that.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::process;

const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The network namespace of a container.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// A new one, with nothing in it.
    Own,
    /// This one.
    In(&'a Path),
    /// That of the kernel that it runs on.
    Host,
}

/// What root of a container may do: what root of a sandbox may.
pub fn capabilities() -> Vec<String> {
    process::capabilities(&[], &[])
}

/// The configuration. `user` is the user of the host that is root inside; none
/// where that is root itself.
pub fn config(
    root: &Path,
    args: &[&str],
    user: Option<(u32, u32)>,
    seccomp: Option<&Value>,
    network: Network<'_>,
) -> Value {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    let mut linux = json!({"maskedPaths": MASKED, "readonlyPaths": READ_ONLY});
    if let Some((uid, gid)) = user {
        namespaces.push("user");
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        linux["uidMappings"] = map(uid);
        linux["gidMappings"] = map(gid);
    } else {
        namespaces.push("cgroup");
        mounts.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        ));
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    let mut namespaces: Vec<_> = namespaces
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    match network {
        Network::Own => namespaces.push(json!({"type": "network"})),
        Network::In(path) => namespaces.push(json!({"type": "network", "path": path})),
        Network::Host => {}
    }
    linux["namespaces"] = namespaces.into();
    if let Some(seccomp) = seccomp {
        linux["seccomp"] = seccomp.clone();
    }
    let all = capabilities();
    let capabilities = json!({"bounding": all, "effective": all, "permitted": all});
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/"],
            "cwd": "/",
            "capabilities": capabilities,
        },
        "root": {"path": root},
        "hostname": "bench",
        "mounts": mounts,
        "linux": linux,
    })
}
