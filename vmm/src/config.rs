//! What a VM is made of, as plain data: from the command line or from JSON, the
//! same type, validated in one place before anything is opened.

use std::path::PathBuf;

use devices::spec::{SpecError, objects, optional_object};
use devices::virtio::blk::DiskSpec;
use devices::virtio::fs::FsSpec;
use devices::virtio::vsock::VsockSpec;
use serde::de;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::net::{NetConfig, UserNetSpec};
pub use devices::size::ByteSize;

/// The most vCPUs that a VM may have.
pub const MAX_CPUS: u8 = 32;
/// The least guest memory: Linux itself wants more, a bare-metal guest may not.
pub const MIN_MEMORY: ByteSize = ByteSize(1 << 20);
/// The most guest memory: what the reserved physical address space can hold
/// below 2^40, the least that 64-bit CPUs with virtualization address.
pub const MAX_MEMORY: ByteSize = ByteSize(512 << 30);
/// Bytes of kernel command line: `COMMAND_LINE_SIZE` of x86 less the final NUL.
pub const MAX_COMMAND_LINE: usize = 2047;

/// What is wrong with a [`VmConfig`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// There is no kernel.
    #[error("kernel: the name is empty: give --kernel FILE, or a \"kernel\" in the configuration")]
    NoKernel,
    /// One disk is attached twice, and one of the two would be written to.
    #[error("disk '{}' is given twice: attach it once, or both times with 'readonly'", .0.display())]
    DiskTwice(PathBuf),
    /// The number of vCPUs.
    #[error("cpus: {0} is out of range: give 1 to {MAX_CPUS}")]
    Cpus(u8),
    /// The memory's size.
    #[error("memory: {0} is out of range: give {MIN_MEMORY} to {MAX_MEMORY}")]
    Memory(ByteSize),
    /// The memory's size is not a whole number of pages.
    #[error("memory: {0} is not a multiple of {1}")]
    MemoryUnit(ByteSize, ByteSize),
    /// The command line's length.
    #[error(
        "append: the kernel command line is {0} bytes long, the kernel takes {MAX_COMMAND_LINE}"
    )]
    CommandLine(usize),
    /// The command line's text.
    #[error("append: the kernel command line may hold printable ASCII only")]
    CommandLineText,
    /// A device's description.
    #[error(transparent)]
    Device(#[from] SpecError),
    /// Two shares that the guest could not tell apart.
    #[error("share: tag '{0}' is given twice: give each share a tag of its own")]
    ShareTag(String),
}

/// How an ELF kernel is entered. A bzImage always takes the Linux protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootProtocol {
    /// PVH when the kernel has the note, the Linux protocol otherwise.
    #[default]
    Auto,
    /// The Linux 64-bit boot protocol.
    Linux,
    /// PVH: 32-bit entry with `hvm_start_info`.
    Pvh,
}

/// Where the guest's console goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// The serial port is drupe's standard input and output.
    #[default]
    On,
    /// There is a serial port with nothing behind it.
    Off,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmConfig {
    /// The kernel: a bzImage or an ELF vmlinux. Empty in a description that leaves
    /// it to the command line.
    #[serde(default)]
    pub kernel: PathBuf,
    /// An initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel command line.
    #[serde(default)]
    pub append: String,
    /// How an ELF kernel is entered.
    #[serde(default)]
    pub boot_protocol: BootProtocol,
    /// vCPUs, 1 to [`MAX_CPUS`].
    #[serde(default = "default_cpus", deserialize_with = "cpus")]
    pub cpus: u8,
    /// Guest memory.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// Back guest memory with 2 MiB pages from the host's pool.
    #[serde(default)]
    pub hugepages: bool,
    /// Put guest memory into a memfd, which other processes can map.
    #[serde(default)]
    pub shared_memory: bool,
    /// Let the guest run guests of its own, where the host's KVM can.
    #[serde(default)]
    pub nested: bool,
    /// The console.
    #[serde(default)]
    pub console: Console,
    /// Disks, /dev/vda first.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "objects"
    )]
    pub disks: Vec<DiskSpec>,
    /// Network interfaces, eth0 first.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "objects"
    )]
    pub nets: Vec<NetConfig>,
    /// Directories and files of the host for the guest, by virtio-fs.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "objects"
    )]
    pub shares: Vec<FsSpec>,
    /// Sockets between guest and host.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_object"
    )]
    pub vsock: Option<VsockSpec>,
}

fn default_cpus() -> u8 {
    1
}

/// A number that no `u8` holds is out of the same range as one that does.
fn cpus<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    let n = u64::deserialize(d)?;
    u8::try_from(n)
        .map_err(|_| de::Error::custom(format!("cpus: {n} is out of range: give 1 to {MAX_CPUS}")))
}

fn default_memory() -> ByteSize {
    ByteSize(512 << 20)
}

impl VmConfig {
    /// A VM with this kernel and the defaults for the rest.
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        VmConfig {
            kernel: kernel.into(),
            initrd: None,
            append: String::new(),
            boot_protocol: BootProtocol::default(),
            cpus: default_cpus(),
            memory: default_memory(),
            hugepages: false,
            shared_memory: false,
            nested: false,
            console: Console::default(),
            disks: Vec::new(),
            nets: Vec::new(),
            shares: Vec::new(),
            vsock: None,
        }
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.kernel.as_os_str().is_empty() {
            return Err(ConfigError::NoKernel);
        }
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return Err(ConfigError::Memory(self.memory));
        }
        let unit = ByteSize(if self.hugepages { 2 << 20 } else { 4096 });
        if !self.memory.bytes().is_multiple_of(unit.bytes()) {
            return Err(ConfigError::MemoryUnit(self.memory, unit));
        }
        if self.append.len() > MAX_COMMAND_LINE {
            return Err(ConfigError::CommandLine(self.append.len()));
        }
        if !self.append.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(ConfigError::CommandLineText);
        }
        self.disks.iter().try_for_each(DiskSpec::validate)?;
        for (n, disk) in self.disks.iter().enumerate() {
            let before = self.disks[..n].iter();
            let mut same =
                before.filter(|other| other.layers.is_empty() && other.path == disk.path);
            if same.any(|other| !(other.readonly && disk.readonly)) {
                return Err(ConfigError::DiskTwice(disk.path.clone()));
            }
        }
        self.nets.iter().try_for_each(NetConfig::validate)?;
        self.shares.iter().try_for_each(FsSpec::validate)?;
        for (n, share) in self.shares.iter().enumerate() {
            if self.shares[..n].iter().any(|s| s.tag == share.tag) {
                return Err(ConfigError::ShareTag(share.tag.clone()));
            }
        }
        self.vsock.iter().try_for_each(VsockSpec::validate)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_config_goes_through_json() {
        let config: VmConfig =
            serde_json::from_str(r#"{"kernel": "k", "memory": "2G", "cpus": 4}"#).unwrap();
        assert_eq!(config.memory, ByteSize(2 << 30));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<VmConfig>(r#"{"kernel": "k", "cpu": 4}"#).is_err());
    }

    #[test]
    fn json_that_means_nothing_is_refused_with_what_would() {
        for (json, expected) in [
            (r#""memory": 1.5"#, "expected a size"),
            (r#""memory": null"#, "expected a size"),
            (r#""memory": -1"#, "expected a size"),
            (r#""memory": "1.5.5G""#, "write it as 512M"),
            (r#""cpus": 256"#, "256 is out of range: give 1 to 32"),
            (r#""disks": [["d", true, 1, null]]"#, "expected an object"),
            (r#""nets": [["t"]]"#, "expected an object"),
            (r#""vsock": ["s", 3]"#, "expected an object"),
            (r#""cpus": 1, "cpus": 2"#, "duplicate field `cpus`"),
            (
                r#""disks": [{"path": "a", "path": "b"}]"#,
                "duplicate field `path`",
            ),
        ] {
            let text = format!(r#"{{"kernel": "k", {json}}}"#);
            let error = serde_json::from_str::<VmConfig>(&text)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(expected) && error.contains("line 1"),
                "{json}: {error}"
            );
        }
        let text = r#"{"kernel": "k", "vsock": null, "memory": 1048576}"#;
        let config: VmConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.vsock, config.memory), (None, ByteSize(1 << 20)));
    }

    #[test]
    fn what_no_machine_could_be_is_refused() {
        let with = |change: fn(&mut VmConfig)| {
            let mut config = VmConfig::new("k");
            change(&mut config);
            config.validate().err().map(|e| e.to_string())
        };
        assert_eq!(with(|_| ()), None);
        assert!(with(|c| c.cpus = 0).unwrap().contains("1 to 32"));
        assert!(with(|c| c.cpus = 33).is_some());
        assert!(with(|c| c.memory = ByteSize(4096)).is_some());
        assert!(with(|c| c.memory = ByteSize(u64::MAX)).is_some());
        assert!(with(|c| c.memory = ByteSize((1 << 30) + 1)).is_some());
        assert!(with(|c| c.append = "x".repeat(2048)).is_some());
        assert!(with(|c| c.append = "a\nb".into()).is_some());
        assert!(with(|c| c.kernel = "".into()).unwrap().contains("kernel"));
        let disk = |readonly| DiskSpec {
            readonly,
            ..DiskSpec::new("d")
        };
        let mut config = VmConfig::new("k");
        for (first, second, ok) in [
            (true, true, true),
            (false, true, false),
            (false, false, false),
        ] {
            config.disks = vec![disk(first), DiskSpec::new("e"), disk(second)];
            assert_eq!(config.validate().is_ok(), ok);
        }
        let twice = with(|c| c.shares = vec![FsSpec::new("a", "t"), FsSpec::new("b", "t")]);
        assert!(twice.unwrap().contains("tag 't' is given twice"));
    }
}
