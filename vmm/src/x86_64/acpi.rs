//! The ACPI tables (ACPI 6.5), hardware-reduced: MADT, FADT, and a DSDT that
//! declares the virtio devices, the serial port, the panic device and the power
//! button with its generic event device. A stock kernel finds all of them here.

use acpi_tables::aml::And;
use acpi_tables::aml::{
    Device, EISAName, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule,
    IO, If, Interrupt, Local, Memory32Fixed, Method, Name, Notify, OpRegion, OpRegionSpace,
    Package, Path, ResourceTemplate, Scope, Store,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use devices::GuestMemory;
use devices::power::{PVPANIC_PORT, acpi as registers};
use devices::virtio::mmio::WINDOW_SIZE;
use vm_memory::{Address, Bytes};

use super::layout;
use crate::error::Error;
use crate::machine::VirtioSlot;

const OEM: [u8; 6] = *b"DRUPE ";
const OEM_TABLE: [u8; 8] = *b"DRUPEVM ";
const OEM_REVISION: u32 = 1;
/// Size of the RSDP, rounded up so that the tables behind it are aligned.
const RSDP_ROOM: u64 = 64;

/// Bits of the FADT's `IAPC_BOOT_ARCH` (§5.2.9.3): there is no VGA and no CMOS
/// clock; that the legacy-devices and 8042 bits are clear says the same of those.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;

/// Writes the tables for `cpus` vCPUs and the devices in `slots`.
pub(crate) fn write_tables(mem: &GuestMemory, cpus: u8, slots: &[VirtioSlot]) -> Result<(), Error> {
    let base = layout::ACPI_TABLES.raw_value();
    let mut tables = Vec::new();
    // Appends a table and says where it will lie.
    let mut place = |table: &[u8]| {
        tables.resize(tables.len().next_multiple_of(16), 0);
        let at = base + RSDP_ROOM + tables.len() as u64;
        tables.extend_from_slice(table);
        at
    };
    let dsdt = place(&dsdt(slots));
    let fadt = place(&bytes(&fadt(dsdt)));
    let madt = place(&bytes(&madt(cpus)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt));

    let room = layout::ACPI_TABLES_END - base - RSDP_ROOM;
    if tables.len() as u64 > room {
        return Err(Error::AcpiTables(tables.len()));
    }
    mem.write_slice(&bytes(&Rsdp::new(OEM, xsdt)), layout::ACPI_TABLES)
        .map_err(Error::BootData)?;
    mem.write_slice(&tables, layout::ACPI_TABLES.unchecked_add(RSDP_ROOM))
        .map_err(Error::BootData)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(offset: u64) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        layout::ACPI_PORT + offset,
    )
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // The power button is a device in the DSDT, not a fixed one.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    fadt.reset_reg = port(registers::RESET);
    fadt.reset_value = registers::RESET_VALUE;
    fadt.sleep_control_reg = port(registers::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(registers::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"DRUPE\0\0\0").into();
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let mut madt = MADT::new(
        OEM,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(layout::LOCAL_APIC),
    );
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt
}

fn dsdt(slots: &[VirtioSlot]) -> Vec<u8> {
    let mut aml = Vec::new();
    for (n, slot) in slots.iter().enumerate() {
        virtio(n, slot, &mut aml);
    }
    serial(&mut aml);
    panic_device(&mut aml);
    power_button(&mut aml);
    let mut body = Scope::raw("\\_SB_".into(), aml);
    // Type of the S5 state for the sleep control register.
    let s5 = registers::S5;
    Name::new("_S5_".into(), &Package::new(vec![&s5, &s5, &0u8, &0u8])).to_aml_bytes(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt.as_slice().to_vec()
}

/// A virtio-mmio device: `LNRO0005` is what Linux's driver binds to.
fn virtio(n: usize, slot: &VirtioSlot, aml: &mut Vec<u8>) {
    let name = format!("VR{n:02X}");
    Device::new(
        name.as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &(n as u32)),
            // DMA is coherent.
            &Name::new("_CCA".into(), &aml::ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, slot.base as u32, WINDOW_SIZE as u32),
                    &edge(slot.gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn serial(aml: &mut Vec<u8>) {
    let port = layout::SERIAL_PORT as u16;
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 1, devices::serial::PORTS as u8),
                    &edge(layout::SERIAL_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn panic_device(aml: &mut Vec<u8>) {
    let port = PVPANIC_PORT as u16;
    Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(port, port, 1, 1)]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// The power button, and the generic event device that reads why it was
/// interrupted and notifies the button (§5.6.9).
fn power_button(aml: &mut Vec<u8>) {
    Device::new(
        "PWRB".into(),
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))],
    )
    .to_aml_bytes(aml);
    let events = layout::ACPI_PORT + registers::EVENTS;
    let pressed = registers::POWER_BUTTON;
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&edge(layout::EVENT_GSI)]),
            ),
            &OpRegion::new(
                "EVTR".into(),
                OpRegionSpace::SystemIO,
                &(events as u16),
                &aml::ONE,
            ),
            &Field::new(
                "EVTR".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("EVTS")),
                    &And::new(&Local(1), &Local(0), &pressed),
                    &If::new(
                        &Equal::new(&Local(1), &pressed),
                        vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &0x80u8)],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, b| sum.wrapping_add(*b))
    }

    fn read(mem: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn table(mem: &GuestMemory, at: u64) -> Vec<u8> {
        let len: u32 = mem.read_obj(GuestAddress(at + 4)).unwrap();
        let bytes = read(mem, at, len as usize);
        assert_eq!(sum(&bytes), 0, "checksum of {:?}", &bytes[..4]);
        bytes
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_adds_up() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let slots: Vec<_> = (0..18)
            .map(|n| VirtioSlot {
                base: 0xd000_0000 + n * 0x1000,
                gsi: 5 + n as u32,
            })
            .collect();
        write_tables(&mem, 32, &slots).unwrap();
        let rsdp = read(&mem, 0xe_0000, 36);
        assert_eq!((&rsdp[..8], sum(&rsdp)), (&b"RSD PTR "[..], 0));
        let u64_at = |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
        let xsdt = table(&mem, u64_at(&rsdp, 24));
        let (fadt, madt) = (
            table(&mem, u64_at(&xsdt, 36)),
            table(&mem, u64_at(&xsdt, 44)),
        );
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        assert_eq!(madt.len(), 44 + 32 * 8 + 12);
        let dsdt = table(&mem, u64_at(&fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(dsdt.windows(8).filter(|w| w == b"LNRO0005").count(), 18);
    }
}
