//! What a VM is made of, as plain data: from the command line or from JSON, the
//! same type, validated in one place before anything is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use devices::spec::SpecError;
use devices::virtio::blk::DiskSpec;
use devices::virtio::net::NetSpec;
use devices::virtio::vsock::VsockSpec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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
}

/// A number of bytes; written as `512M`, `2G`, `1048576`, with the binary
/// suffixes K, M, G, T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As a number.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a size: write it as 512M or 2G");
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[digits.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number
            .checked_mul(1 << shift)
            .map(ByteSize)
            .ok_or_else(|| format!("'{text}' is more than 64 bits can count"))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(n) => Ok(ByteSize(n)),
            Either::Text(t) => t.parse().map_err(serde::de::Error::custom),
        }
    }
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
    /// The kernel: a bzImage or an ELF vmlinux.
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
    #[serde(default = "default_cpus")]
    pub cpus: u8,
    /// Guest memory.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// Back guest memory with 2 MiB pages from the host's pool.
    #[serde(default)]
    pub hugepages: bool,
    /// Let the guest run guests of its own, where the host's KVM can.
    #[serde(default)]
    pub nested: bool,
    /// The console.
    #[serde(default)]
    pub console: Console,
    /// Disks, /dev/vda first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Network interfaces, eth0 first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetSpec>,
    /// Sockets between guest and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockSpec>,
}

fn default_cpus() -> u8 {
    1
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
            nested: false,
            console: Console::default(),
            disks: Vec::new(),
            nets: Vec::new(),
            vsock: None,
        }
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
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
        self.nets.iter().try_for_each(NetSpec::validate)?;
        self.vsock.iter().try_for_each(VsockSpec::validate)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("2g", 2 << 30),
            ("1GiB", 1 << 30),
            ("3kb", 3 << 10),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "M", "1.5G", "-1M", "12Q", "1 2", "99999999999G", "é"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(3 << 29).to_string(), "1536M");
        assert_eq!(ByteSize(0).to_string(), "0");
    }

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
    }
}
