//! A sandbox as plain data: all that its monitor needs to make it, settled when
//! it is created. `configs/ID/config.json` in drupe's directory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use devices::virtio::DeviceLimits;
use protocol::{Rlimit, TmpfsTop};
use serde::{Deserialize, Serialize};
use vmm::config::ByteSize;

use super::log;
use super::time::Time;
use crate::cgroup::Rates;

/// The version of that file that this program writes. It reads no newer one.
pub const VERSION: u32 = 1;

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spec {
    /// [`VERSION`] when it was written.
    pub version: u32,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created: Time,
    /// What its root is made of.
    pub image: Image,
    /// What runs in it.
    pub process: Process,
    /// The machine.
    pub machine: Machine,
    /// The guest's host name.
    pub hostname: String,
    /// What is mounted over the root, in this order.
    pub mounts: Vec<Mount>,
    /// The root is read-only.
    pub read_only: bool,
    /// Every device is there, `/proc` and `/sys` can be written to.
    pub privileged: bool,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// The network.
    pub network: Network,
    /// The signal that asks the process to end.
    pub stop_signal: i32,
    /// Seconds that it then has.
    pub stop_timeout: u32,
    /// What people attach to it.
    pub labels: BTreeMap<String, String>,
    /// It is removed when it has ended.
    pub auto_remove: bool,
    /// What its monitor keeps from itself.
    #[serde(default)]
    pub confine: confine::Mode,
    /// How much each of its disks and shares and its network card may do.
    #[serde(default)]
    pub limits: DeviceLimits,
    /// How much of the host its monitor may use.
    #[serde(default)]
    pub cgroup: CgroupWishes,
    /// How much of its process's output is kept.
    #[serde(default)]
    pub log: log::Limits,
}

/// The image that a sandbox was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// As it was asked for.
    pub name: String,
    /// The digest of its config.
    pub id: String,
    /// The disk images of its layers, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// The sandbox's own process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Process {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// As the image and Docker write it; empty is root.
    pub user: String,
    /// Further groups.
    pub groups: Vec<String>,
    /// It has a terminal.
    pub terminal: bool,
    /// Its standard input is open.
    pub stdin: bool,
    /// Its standard input ends when the first client that was attached to it
    /// leaves.
    pub stdin_once: bool,
    /// As `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    /// No program gains privileges.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// It is the child of a small init.
    pub init: bool,
}

/// The virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// vCPUs.
    pub cpus: u8,
    /// Guest memory.
    pub memory: ByteSize,
    /// Changes to the root go to a disk of this size, and outlive a stop; else
    /// to guest memory, and do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<ByteSize>,
    /// `/dev/shm`.
    pub shm_size: ByteSize,
    /// A kernel's file or its name in the store; the best of the store when not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
}

/// Something mounted over the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Where, absolute.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
}

/// What can be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "type")]
pub enum Source {
    /// A directory or a file of the host.
    Bind {
        /// Absolute, without links.
        path: PathBuf,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// It was made for this sandbox alone, and goes with it.
        anonymous: bool,
        /// When it is empty, first copy to it what the image has there.
        populate: bool,
    },
    /// Guest memory.
    Tmpfs {
        /// At most this much.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
        /// Its top directory.
        #[serde(default)]
        top: TmpfsTop,
    },
}

/// A sandbox's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// How it reaches the world.
    pub mode: NetworkMode,
    /// What is different about the default network.
    pub user: UserOptions,
    /// Ports of the host that lead in.
    pub publish: Vec<Publish>,
    /// Ports that the image says it serves.
    pub expose: Vec<Port>,
    /// Name servers in place of drupe's.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options of `resolv.conf`.
    pub options: Vec<String>,
    /// Lines of `/etc/hosts`.
    pub hosts: Vec<(String, String)>,
    /// What may be reached: rules, in order.
    pub policy: Vec<String>,
    /// Its address on a bridge or a TAP, with the length of its prefix; by DHCP
    /// when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The gateway there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Its hardware address; one made from its identifier when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What can be different about the default network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UserOptions {
    /// The gateway leads to the host's own loopback.
    pub host_loopback: bool,
    /// Link-local addresses and the metadata services of clouds can be reached.
    pub metadata: bool,
    /// There is no IPv6.
    pub no_ipv6: bool,
    /// Another IPv4 network than usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
}

/// How a sandbox reaches the world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Through sockets of the monitor.
    #[default]
    User,
    /// Not at all.
    None,
    /// By a TAP that exists.
    Tap(String),
    /// By a TAP of its own on this bridge.
    Bridge(String),
}

/// Which protocol a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As Docker writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A port of the host that leads to one of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Publish {
    /// The host's address; every one of the host's when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The first port of the host that will do; 0 for any.
    pub first: u16,
    /// The last one that will do.
    pub last: u16,
    /// The sandbox's.
    pub to: Port,
}

/// What a sandbox's monitor may use of the host, as far as it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CgroupWishes {
    /// It has no group.
    #[serde(default)]
    pub disabled: bool,
    /// Microseconds of processor time in a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u64>,
    /// That period, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Its weight, as docker counts it: 1024 is what others have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Its weight at the disks, 10 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<u16>,
    /// What it may do on the host's disks. One without rates had some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceWish>,
}

/// What a sandbox may do on a disk of the host, whatever is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeviceWish {
    /// The disk, as /dev/sda.
    pub path: PathBuf,
    /// In a second.
    pub rates: Rates,
}

impl CgroupWishes {
    /// Something cannot be had without a group.
    pub fn needs_group(&self) -> bool {
        self.cpu_quota.is_some()
            || self.cpu_shares.is_some()
            || self.blkio_weight.is_some()
            || self.devices.iter().any(|wish| !wish.rates.is_none())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small sandbox, for tests.
    pub fn spec(name: &str) -> Spec {
        Spec {
            version: VERSION,
            name: name.to_owned(),
            created: Time::now(),
            image: Image {
                name: "image:tag".into(),
                id: "sha256:00".into(),
                layers: vec!["/images/layer".into()],
            },
            process: Process {
                args: vec!["sh".into()],
                env: vec!["PATH=/bin".into()],
                cwd: "/".into(),
                user: String::new(),
                groups: Vec::new(),
                terminal: false,
                stdin: true,
                stdin_once: true,
                capabilities: Vec::new(),
                no_new_privileges: false,
                rlimits: Vec::new(),
                init: false,
            },
            machine: Machine {
                cpus: 1,
                memory: ByteSize(512 << 20),
                disk_size: None,
                shm_size: ByteSize(64 << 20),
                kernel: None,
            },
            hostname: "host".into(),
            mounts: vec![Mount {
                source: Source::Tmpfs {
                    size: None,
                    top: TmpfsTop {
                        mode: Some(0o1777),
                        ..TmpfsTop::default()
                    },
                },
                target: "/tmp".into(),
                read_only: false,
            }],
            read_only: false,
            privileged: false,
            sysctls: BTreeMap::new(),
            network: Network::default(),
            stop_signal: libc::SIGTERM,
            stop_timeout: 10,
            labels: BTreeMap::new(),
            auto_remove: false,
            confine: confine::Mode::On,
            limits: DeviceLimits::default(),
            cgroup: CgroupWishes::default(),
            log: log::Limits::default(),
        }
    }

    #[test]
    fn the_same_sandbox_goes_through_json() {
        let spec = spec("x");
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
        let odd = text.replacen("\"version\"", "\"versions\"", 1);
        assert!(serde_json::from_str::<Spec>(&odd).is_err());
    }
}
