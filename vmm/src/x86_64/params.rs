//! What the kernel is told at boot: the command line, and the zero page (Linux
//! boot protocol) or `hvm_start_info` (PVH).

use devices::GuestMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::layout;
use super::loader::Initrd;
use crate::error::Error;

/// Types of a memory map entry (ACPI 6.5 §15.1, table 15.6), for both protocols.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// A loader without an id of its own (boot.rst, `type_of_loader`).
const UNDEFINED_LOADER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HDRS: u32 = u32::from_le_bytes(*b"HdrS");
/// `LOADED_HIGH`: the protected-mode code is at 1 MiB.
const LOADED_HIGH: u8 = 1;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;

const PVH_MAGIC: u32 = 0x336e_c578;

/// Base, length and type of each piece of guest memory.
fn memory_map(mem: &GuestMemory) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::CONVENTIONAL_END, RAM),
        (
            layout::ACPI_TABLES.raw_value(),
            layout::ACPI_TABLES_END - layout::ACPI_TABLES.raw_value(),
            RESERVED,
        ),
    ];
    for region in mem.iter() {
        let start = region.start_addr().raw_value();
        let end = start + region.len();
        let start = if start == 0 {
            layout::HIGH_MEMORY.raw_value()
        } else {
            start
        };
        if end > start {
            map.push((start, end - start, RAM));
        }
    }
    map
}

pub(super) fn write_command_line(mem: &GuestMemory, text: &str) -> Result<(), Error> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    mem.write_slice(&bytes, layout::COMMAND_LINE)
        .map_err(Error::BootData)
}

/// Writes the zero page; `header` is the bzImage's, if it is one.
pub(super) fn write_zero_page(
    mem: &GuestMemory,
    header: Option<setup_header>,
    command_line: usize,
    initrd: Option<Initrd>,
) -> Result<(), Error> {
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HDRS,
            kernel_alignment: KERNEL_ALIGNMENT,
            loadflags: LOADED_HIGH,
            ..Default::default()
        }),
        acpi_rsdp_addr: layout::ACPI_TABLES.raw_value(),
        ..Default::default()
    };
    params.hdr.type_of_loader = UNDEFINED_LOADER;
    // Below 1 MiB.
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE.raw_value() as u32;
    params.hdr.cmdline_size = command_line as u32;
    // Below 4 GiB, where `load_initrd` puts it. Without one, whatever the file
    // says there is none.
    params.hdr.ramdisk_image = initrd.map_or(0, |i| i.address.raw_value() as u32);
    params.hdr.ramdisk_size = initrd.map_or(0, |i| i.size as u32);
    let mut table = params.e820_table;
    let map = memory_map(mem);
    for (entry, (addr, size, kind)) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: *addr,
            size: *size,
            r#type: *kind,
        };
    }
    params.e820_table = table;
    params.e820_entries = map.len() as u8;
    mem.write_obj(params, layout::ZERO_PAGE)
        .map_err(Error::BootData)
}

/// Writes `hvm_start_info`, version 1, with its module list and memory map
/// (Xen's public/arch-x86/hvm/start_info.h).
pub(super) fn write_pvh_info(mem: &GuestMemory, initrd: Option<Initrd>) -> Result<(), Error> {
    let modules = layout::PVH_INFO.unchecked_add(size_of::<hvm_start_info>() as u64);
    let memmap = modules.unchecked_add(size_of::<hvm_modlist_entry>() as u64);
    let map = memory_map(mem);
    let info = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: modules.raw_value(),
        cmdline_paddr: layout::COMMAND_LINE.raw_value(),
        rsdp_paddr: layout::ACPI_TABLES.raw_value(),
        memmap_paddr: memmap.raw_value(),
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    mem.write_obj(info, layout::PVH_INFO)
        .map_err(Error::BootData)?;
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.address.raw_value(),
            size: initrd.size,
            ..Default::default()
        };
        mem.write_obj(module, modules).map_err(Error::BootData)?;
    }
    for (n, (addr, size, type_)) in map.into_iter().enumerate() {
        let entry = hvm_memmap_table_entry {
            addr,
            size,
            type_,
            reserved: 0,
        };
        let at = GuestAddress(memmap.raw_value() + (n * size_of_val(&entry)) as u64);
        mem.write_obj(entry, at).map_err(Error::BootData)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(size: u64) -> GuestMemory {
        GuestMemory::from_ranges(&super::super::memory_regions(size)).unwrap()
    }

    #[test]
    fn the_map_leaves_out_the_holes() {
        let map = memory_map(&memory(128 << 20));
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, RAM),
                (0xe_0000, 0x2_0000, RESERVED),
                (0x10_0000, 127 << 20, RAM)
            ]
        );
        let map = memory_map(&memory(4 << 30));
        assert_eq!(map.last(), Some(&(1 << 32, 1 << 30, RAM)));
        assert_eq!(memory_map(&memory(1 << 20)).len(), 2);
    }

    #[test]
    fn both_protocols_find_command_line_initrd_and_tables() {
        let mem = memory(8 << 20);
        let initrd = Initrd {
            address: GuestAddress(0x40_0000),
            size: 1234,
        };
        write_command_line(&mem, "console=ttyS0").unwrap();
        write_zero_page(&mem, None, 13, Some(initrd)).unwrap();
        let page: boot_params = mem.read_obj(layout::ZERO_PAGE).unwrap();
        let (image, size) = (page.hdr.ramdisk_image, page.hdr.ramdisk_size);
        assert_eq!((image, size), (0x40_0000, 1234));
        assert_eq!(page.e820_entries, 3);
        let rsdp = page.acpi_rsdp_addr;
        assert_eq!(rsdp, 0xe_0000);

        let leftover = Some(page.hdr);
        write_zero_page(&mem, leftover, 13, None).unwrap();
        let page: boot_params = mem.read_obj(layout::ZERO_PAGE).unwrap();
        let (image, size) = (page.hdr.ramdisk_image, page.hdr.ramdisk_size);
        assert_eq!((image, size), (0, 0));

        write_pvh_info(&mem, Some(initrd)).unwrap();
        let info: hvm_start_info = mem.read_obj(layout::PVH_INFO).unwrap();
        let module: hvm_modlist_entry = mem.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x40_0000, 1234));
        assert_eq!(info.memmap_entries, 3);
        let last: hvm_memmap_table_entry = mem
            .read_obj(GuestAddress(info.memmap_paddr + 2 * 24))
            .unwrap();
        assert_eq!(
            (last.addr, last.size, last.type_),
            (0x10_0000, 7 << 20, RAM)
        );
        let mut text = [0; 14];
        mem.read_slice(&mut text, GuestAddress(info.cmdline_paddr))
            .unwrap();
        assert_eq!(&text, b"console=ttyS0\0");
    }
}
