//! What is particular to x86-64: the memory map, how a kernel is entered, the
//! state that a vCPU starts with, the ACPI tables.

mod acpi;
mod cpuid;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod layout;
mod loader;
mod params;
pub mod probe;
mod vcpu_state;

use devices::GuestMemory;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::GuestAddress;

pub(crate) use acpi::write_tables;
pub(crate) use layout::{
    ACPI_PORT, EVENT_GSI, FIRST_VIRTIO_GSI, LAST_VIRTIO_GSI, SERIAL_GSI, SERIAL_PORT,
    VIRTIO_MMIO_BASE,
};
pub(crate) use loader::load;
pub(crate) use vcpu_state::dump_registers;

use crate::config::BootProtocol;
use crate::error::{Error, KvmStep};

/// KVM capabilities that a VM here cannot do without.
pub(crate) const REQUIRED_CAPABILITIES: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// Where and how the boot CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first instruction's guest physical address.
    pub address: GuestAddress,
    /// [`BootProtocol::Linux`] or [`BootProtocol::Pvh`].
    pub protocol: BootProtocol,
}

/// The memory regions for `size` bytes of guest memory: base and length, with
/// the gap for devices below 4 GiB left out.
pub(crate) fn memory_regions(size: u64) -> Vec<(GuestAddress, usize)> {
    let low = size.min(layout::GAP_START);
    let mut regions = vec![(GuestAddress(0), low as usize)];
    if size > low {
        regions.push((GuestAddress(layout::GAP_END), (size - low) as usize));
    }
    regions
}

/// Sets up what belongs to the VM as a whole, before its first vCPU: KVM's own
/// pages and the interrupt controllers, all inside KVM. (A split chip would put
/// the I/O APIC in this process: nothing here needs it before there are more
/// lines than 24.)
pub(crate) fn prepare_vm(vm: &VmFd) -> Result<(), Error> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(|e| Error::kvm(KvmStep::Platform, e))?;
    vm.set_tss_address(layout::KVM_TSS)
        .map_err(|e| Error::kvm(KvmStep::Platform, e))?;
    vm.create_irq_chip()
        .map_err(|e| Error::kvm(KvmStep::Platform, e))
}

/// What every vCPU of a VM has in common.
pub(crate) struct CpuTemplate(cpuid::Template);

impl CpuTemplate {
    /// Asks KVM what the CPU can be.
    pub(crate) fn new(kvm: &Kvm, cpus: u8, nested: bool) -> Result<Self, Error> {
        Ok(CpuTemplate(cpuid::Template::new(kvm, cpus, nested)?))
    }

    /// Gives vCPU `id` the state that it starts with; `entry` is the boot CPU's.
    pub(crate) fn apply(
        &self,
        vcpu: &VcpuFd,
        id: u8,
        mem: &GuestMemory,
        entry: Option<Entry>,
    ) -> Result<(), Error> {
        vcpu.set_cpuid2(&self.0.for_vcpu(id)?)
            .map_err(|e| Error::kvm(KvmStep::Cpuid, e))?;
        vcpu_state::set_msrs(vcpu)?;
        vcpu_state::set_lapic(vcpu)?;
        if let Some(entry) = entry {
            vcpu_state::set_fpu(vcpu)?;
            vcpu_state::set_boot_registers(vcpu, mem, entry)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_split_round_the_gap() {
        assert_eq!(memory_regions(1 << 20), [(GuestAddress(0), 1 << 20)]);
        assert_eq!(memory_regions(3 << 30), [(GuestAddress(0), 3 << 30)]);
        assert_eq!(
            memory_regions(6 << 30),
            [(GuestAddress(0), 3 << 30), (GuestAddress(1 << 32), 3 << 30)]
        );
    }
}
