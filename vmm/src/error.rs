//! Why a VM cannot be made or go on.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::{ByteSize, ConfigError};

/// What was asked of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum KvmStep {
    CreateVm,
    Platform,
    Memory,
    Irqfd,
    Ioeventfd,
    Coalesced,
    CreateVcpu,
    Cpuid,
    Msrs,
    LocalApic,
    Fpu,
    Registers,
}

impl KvmStep {
    fn what(self) -> &'static str {
        match self {
            KvmStep::CreateVm => "create a VM",
            KvmStep::Platform => "set up the interrupt controllers",
            KvmStep::Memory => "give the VM its memory",
            KvmStep::Irqfd => "connect a device's interrupt",
            KvmStep::Ioeventfd => "connect a device's queue",
            KvmStep::Coalesced => "collect the console's output",
            KvmStep::CreateVcpu => "create a vCPU",
            KvmStep::Cpuid => "describe the CPU",
            KvmStep::Msrs => "set the CPU's model-specific registers",
            KvmStep::LocalApic => "set up a local APIC",
            KvmStep::Fpu => "set up the FPU",
            KvmStep::Registers => "set the CPU's registers",
        }
    }
}

/// An error of this crate. Each message is one line that names the thing and
/// what to do about it.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no `/dev/kvm`.
    #[error(
        "/dev/kvm does not exist: this host offers no hardware virtualization; `drupe doctor` says more"
    )]
    NoKvm,
    /// `/dev/kvm` may not be opened.
    #[error(
        "/dev/kvm: permission denied: add yourself to the group kvm (`usermod -aG kvm USER`) and log in again"
    )]
    KvmPermission,
    /// `/dev/kvm` cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened: {0}")]
    KvmOpen(#[source] io::Error),
    /// KVM is too old.
    #[error("this host's KVM lacks {0}: a newer host kernel is needed")]
    KvmLacks(&'static str),
    /// A call of KVM failed.
    #[error("KVM cannot {}: {source}", step.what())]
    Kvm {
        /// What was tried.
        step: KvmStep,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// The CPUID table does not fit.
    #[error("the CPUID of {0} vCPUs is larger than KVM takes")]
    CpuidTooLarge(u8),
    /// Guest memory cannot be had.
    #[error(
        "memory: {size} cannot be allocated: {source}: give less with --memory, or raise the limits that 'ulimit -a' shows"
    )]
    Memory {
        /// How much.
        size: ByteSize,
        /// Why not.
        source: io::Error,
    },
    /// Huge pages cannot be had.
    #[error(
        "memory: {size} in huge pages cannot be allocated: {source}; reserve them in /proc/sys/vm/nr_hugepages"
    )]
    HugePages {
        /// How much.
        size: ByteSize,
        /// Why not.
        source: io::Error,
    },
    /// A file cannot be opened or read.
    #[error("{what} {}: {source}: give a regular file that you may read", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel cannot be loaded.
    #[error("kernel {}: {why}", path.display())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The initrd cannot be loaded.
    #[error("initrd {}: {why}", path.display())]
    Initrd {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// What the kernel is told at boot does not fit into guest memory.
    #[error("memory: too little to boot a kernel in: {0}")]
    BootData(#[source] vm_memory::GuestMemoryError),
    /// The ACPI tables outgrew their range.
    #[error("the ACPI tables take {0} bytes, more than there is room for")]
    AcpiTables(usize),
    /// More devices than interrupt lines.
    #[error("{asked} virtio devices are too many: there is room for {most}")]
    TooManyDevices {
        /// How many were asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// A device cannot be made.
    #[error(transparent)]
    Device(Box<dyn std::error::Error + Send + Sync>),
    /// Something of the host's ran out: descriptors, threads.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn kvm(step: KvmStep, source: kvm_ioctls::Error) -> Self {
        Error::Kvm { step, source }
    }

    pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Host { what, source }
    }
}
