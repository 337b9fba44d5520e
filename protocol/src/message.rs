//! The messages, as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

/// What drupe asks of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make the sandbox's root, mounts and network. Once, first of all.
    /// Answer: [`Reply::Done`].
    Setup(Box<Setup>),
    /// Start a process. Answer: [`Reply::Started`]; the connection then carries
    /// its streams and its exit.
    Start(Box<Process>),
    /// Send a signal to a process. Answer: [`Reply::Done`], also when it has
    /// ended already.
    Signal {
        /// From [`Reply::Started`].
        process: u32,
        /// The number, as Linux has it on this architecture.
        signal: i32,
    },
    /// Tell a process with a terminal the size of its window.
    Resize {
        /// From [`Reply::Started`].
        process: u32,
        /// The new size.
        size: WindowSize,
    },
    /// What the sandbox uses. Answer: [`Reply::Stats`].
    Stats,
    /// Its processes. Answer: [`Reply::Processes`].
    Processes,
    /// Unpack a tar archive, which follows in [`FrameKind::Stdin`] frames.
    /// Answer: [`Reply::Done`], behind the archive.
    ///
    /// [`FrameKind::Stdin`]: crate::FrameKind::Stdin
    PutArchive(Archive),
    /// Pack up a file or a directory. Answer: [`Reply::Entry`]; the archive
    /// follows in [`FrameKind::Stdout`] frames.
    ///
    /// [`FrameKind::Stdout`]: crate::FrameKind::Stdout
    GetArchive(Archive),
    /// Look at a path, links at its end not followed. Answer: [`Reply::Entry`].
    Stat(Archive),
    /// Write everything to the disks and switch the machine off. No answer.
    PowerOff,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// The process runs.
    Started {
        /// Names it from now on.
        process: u32,
    },
    /// An answer.
    Stats(Stats),
    /// An answer.
    Processes(Vec<ProcessInfo>),
    /// An answer.
    Entry(Entry),
    /// It could not be done.
    Failed(Failure),
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line that names the thing; of a longer one than [`MAX_MESSAGE`](crate::MAX_MESSAGE) the rest
    /// is lost on the way.
    #[serde(deserialize_with = "bounded")]
    pub message: String,
    /// For a process: 127 when there is no such program, 126 when it cannot be
    /// executed, 125 for everything else. Never 0: who says so is taken for 125.
    #[serde(deserialize_with = "not_zero")]
    pub status: u8,
}

fn not_zero<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    Ok(match u8::deserialize(from)? {
        0 => 125,
        status => status,
    })
}

fn bounded<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(crate::shorten)
}

/// A sandbox as its guest is to make it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Host name, for `uname` and `/etc/hostname`.
    pub hostname: String,
    /// The root file system.
    pub root: Root,
    /// What is mounted over it, in this order.
    pub mounts: Vec<Mount>,
    /// Interfaces and names. The loopback interface is always up.
    pub network: Network,
    /// Kernel parameters, as `net.ipv4.ip_forward`.
    pub sysctls: BTreeMap<String, String>,
    /// `/dev/shm`, in bytes.
    pub shm_size: u64,
    /// The host's time of day, in nanoseconds since 1970, for guests without a
    /// clock of their own.
    pub time: u64,
    /// `/proc` and `/sys` are writable and every device is there.
    pub privileged: bool,
}

/// The root: the image's layers under one that can be written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The serial of the disk that holds the layers, each an EROFS in a
    /// partition of its own, the lowest first. Empty for an image of no layers.
    pub layers_disk: String,
    /// How many partitions.
    pub layers: u32,
    /// Where changes go.
    pub writable: Writable,
    /// Mount the finished root read-only (`--read-only`).
    pub read_only: bool,
}

/// Where changes to the root go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Writable {
    /// Guest memory, at most this many bytes.
    Tmpfs {
        /// The limit.
        size: u64,
    },
    /// The disk with this serial. Formatted as ext4 by drupe.
    Disk {
        /// The serial.
        serial: String,
    },
}

/// Something mounted over the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where, absolute; made where it is not there. Links in it are followed
    /// inside the root.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
}

/// What can be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountSource {
    /// A directory of the host, by virtio-fs.
    Share {
        /// The device's tag.
        tag: String,
        /// Mount this file of it alone, not the whole.
        file: Option<String>,
    },
    /// A named volume.
    Disk(DiskMount),
    /// Guest memory.
    Tmpfs {
        /// At most this many bytes.
        size: Option<u64>,
        /// Its top directory.
        top: TmpfsTop,
    },
}

/// The top directory of a tmpfs, and what programs may do there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TmpfsTop {
    /// Its permissions; 1777 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Its owner; root unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Programs in it can be run.
    pub exec: bool,
    /// Set-user-ID programs in it work.
    pub suid: bool,
    /// Device nodes in it work.
    pub dev: bool,
}

/// A disk with a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskMount {
    /// The disk's serial.
    pub serial: String,
    /// When the disk is empty, first copy to it what the image has at the
    /// target, as Docker does with a new named volume.
    pub populate: bool,
}

/// The guest's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Interfaces besides the loopback.
    pub interfaces: Vec<Interface>,
    /// Name servers, for `/etc/resolv.conf`.
    pub dns: Vec<String>,
    /// Search domains, for `/etc/resolv.conf`.
    pub search: Vec<String>,
    /// Options of `/etc/resolv.conf`.
    pub options: Vec<String>,
    /// Further lines of `/etc/hosts`: an address and a name.
    pub hosts: Vec<(String, String)>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Tells which one it is.
    pub mac: String,
    /// What the guest calls it, as `eth0`.
    pub name: String,
    /// Addresses with their prefix's length, IPv4 and IPv6, as `10.0.2.15/24`.
    pub addresses: Vec<String>,
    /// Default gateways, one of each family at most.
    pub gateways: Vec<String>,
    /// Ask for IPv4 address, gateway and name servers by DHCP instead.
    pub dhcp: bool,
    /// Bytes; the device's own when not given.
    pub mtu: Option<u32>,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// It is the sandbox's own, and PID 1 of its PID namespace: when it ends, so
    /// do the others. Once, before any other.
    pub main: bool,
    /// The program, looked for in the `PATH` of `env`, and its arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`. The agent adds `HOME` when there is none, and `TERM` for a
    /// terminal.
    pub env: Vec<String>,
    /// Working directory, made where it is not there. Absolute.
    pub cwd: PathBuf,
    /// `user`, `uid`, `user:group`, `uid:gid`, as Docker reads them with the
    /// root's own `/etc/passwd` and `/etc/group`. Empty is root.
    pub user: String,
    /// Further groups, names or numbers.
    pub groups: Vec<String>,
    /// A pseudo-terminal of this size is standard input, output and error;
    /// everything comes out as standard output.
    pub terminal: Option<WindowSize>,
    /// Standard input is open; else it is at its end.
    pub stdin: bool,
    /// Capabilities, as `CAP_CHOWN`: the bounding set, and for root the
    /// permitted and effective ones.
    pub capabilities: Vec<String>,
    /// No program gains privileges.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Run it as the child of a small init (`--init`), which passes signals on
    /// and reaps orphans. Only for the main process.
    pub init: bool,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// As `RLIMIT_NOFILE`.
    pub kind: String,
    /// The soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// The hard limit; `u64::MAX` for none.
    pub hard: u64,
}

/// A terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its status, or 128 and the number of the signal that ended it.
    pub status: u8,
    /// The guest's kernel killed something of the sandbox for want of memory.
    pub oom_killed: bool,
}

/// What a sandbox uses, seen from inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Time of the sandbox's processes on a CPU, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of the sandbox's processes and their files, in bytes.
    pub memory: u64,
    /// Memory of the guest, in bytes.
    pub memory_total: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Read from and written to disks, in bytes.
    pub block_read: u64,
    /// Likewise.
    pub block_written: u64,
    /// Received by and sent from all interfaces but the loopback, in bytes.
    pub net_received: u64,
    /// Likewise.
    pub net_sent: u64,
}

/// A process, for `top`. As `ps` names and prints the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its user's name or number.
    pub user: String,
    /// In the sandbox.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory, in bytes.
    pub rss: u64,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// Its terminal, or `?`.
    pub tty: String,
    /// Its command line.
    pub command: String,
}

/// A path in the sandbox's root. Links in it never lead out of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Absolute. For [`Request::PutArchive`] the directory to unpack in, which
    /// has to be there; for the others the thing itself.
    pub path: PathBuf,
    /// Follow a link at the path's end.
    pub follow: bool,
    /// Give what is unpacked to root, and not to the archive's owners.
    pub chown_root: bool,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `st_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Where a link leads.
    pub link: Option<String>,
}
