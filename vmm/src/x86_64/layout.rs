//! Where things lie in guest physical memory and on the port bus.
//!
//! ```text
//! 0x0000_0500  GDT                        0x0000_6000  PVH start info, modules, memory map
//! 0x0000_7000  zero page                  0x0000_9000  page tables (6 pages)
//! 0x0002_0000  kernel command line        0x0009_fc00  end of conventional memory
//! 0x000e_0000  ACPI tables (RSDP first)   0x0010_0000  the kernel and everything else
//! 0xc000_0000  gap: virtio windows at 0xd000_0000, I/O APIC, local APIC, KVM's pages
//! 0x1_0000_0000  the rest of memory
//! ```

use vm_memory::GuestAddress;

/// Global descriptor table for the boot CPU.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `hvm_start_info` and what it points to.
pub const PVH_INFO: GuestAddress = GuestAddress(0x6000);
/// The zero page, `struct boot_params`.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// The boot CPU's top page table; the others follow.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// End of conventional memory: above it stood the extended BIOS data area.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The RSDP, in the range that a kernel scans for it, then the other tables.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// End of the range for ACPI tables.
pub const ACPI_TABLES_END: u64 = 0x10_0000;
/// Start of high memory, where kernels are loaded.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);
/// The 32-bit gap for devices: memory stops here and goes on at 4 GiB.
pub const GAP_START: u64 = 0xc000_0000;
/// End of the gap.
pub const GAP_END: u64 = 1 << 32;

/// First virtio-mmio window; each is [`devices::virtio::mmio::WINDOW_SIZE`] long.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Interrupt line of the first virtio device; each has one of its own.
pub const FIRST_VIRTIO_GSI: u32 = 5;
/// Last line that a virtio device can have: the I/O APIC has 24 pins and the
/// last is [`EVENT_GSI`].
pub const LAST_VIRTIO_GSI: u32 = 22;
/// The generic event device's line.
pub const EVENT_GSI: u32 = 23;
/// The serial port's line.
pub const SERIAL_GSI: u32 = 4;

/// The I/O APIC's registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// KVM's identity map page for real mode, and the TSS behind it: four pages.
pub const KVM_IDENTITY_MAP: u64 = 0xfeff_c000;
/// Three pages for KVM's TSS.
pub const KVM_TSS: usize = 0xfeff_d000;

/// First serial port.
pub const SERIAL_PORT: u64 = 0x3f8;
/// ACPI's power registers.
pub const ACPI_PORT: u64 = 0x600;
