//! The state that a vCPU starts with: MSRs, local APIC, FPU, and the boot CPU's
//! registers as the Linux 64-bit boot protocol or PVH want them.

use devices::GuestMemory;
use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Address, Bytes, GuestAddress};

use super::{Entry, layout};
use crate::config::BootProtocol;
use crate::error::{Error, KvmStep};

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, memory write-back by default.
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// MSRs that firmware would have set. Their reset values are KVM's.
pub(super) fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
    ];
    let fail = |e| Error::kvm(KvmStep::Msrs, e);
    let msrs = Msrs::from_entries(&entries).map_err(|_| fail(errno(libc::E2BIG)))?;
    match vcpu.set_msrs(&msrs).map_err(fail)? {
        n if n == entries.len() => Ok(()),
        _ => Err(fail(errno(libc::EINVAL))),
    }
}

fn errno(code: i32) -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(code)
}

/// LINT0 takes the legacy controller's interrupts and LINT1 is NMI, as a BIOS
/// leaves them (Intel SDM volume 3A §11.5.1).
pub(super) fn set_lapic(vcpu: &VcpuFd) -> Result<(), Error> {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const MODE_NMI: u32 = 4 << 8;
    const MODE_EXTINT: u32 = 7 << 8;
    let fail = |e| Error::kvm(KvmStep::LocalApic, e);
    let mut lapic = vcpu.get_lapic().map_err(fail)?;
    for (register, mode) in [(LVT_LINT0, MODE_EXTINT), (LVT_LINT1, MODE_NMI)] {
        let bytes = mode.to_le_bytes();
        for (to, from) in lapic.regs[register..].iter_mut().zip(bytes) {
            *to = from as _;
        }
    }
    vcpu.set_lapic(&lapic).map_err(fail)
}

/// The FPU as after `FNINIT`, with SSE exceptions masked.
pub(super) fn set_fpu(vcpu: &VcpuFd) -> Result<(), Error> {
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(|e| Error::kvm(KvmStep::Fpu, e))
}

/// Enters the kernel: 64-bit with the first GiB mapped one to one (Linux boot
/// protocol, "64-bit boot protocol"), or 32-bit without paging (PVH).
pub(super) fn set_boot_registers(
    vcpu: &VcpuFd,
    mem: &GuestMemory,
    entry: Entry,
) -> Result<(), Error> {
    let fail = |e| Error::kvm(KvmStep::Registers, e);
    let mut sregs = vcpu.get_sregs().map_err(fail)?;
    let mut regs = kvm_regs {
        rflags: 2,
        rip: entry.address.raw_value(),
        ..Default::default()
    };
    match entry.protocol {
        BootProtocol::Pvh => {
            regs.rbx = layout::PVH_INFO.raw_value();
            segments(&mut sregs, false);
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
        BootProtocol::Linux | BootProtocol::Auto => {
            regs.rsi = layout::ZERO_PAGE.raw_value();
            segments(&mut sregs, true);
            write_page_tables(mem)?;
            sregs.cr3 = layout::PAGE_TABLES.raw_value();
            sregs.cr4 = CR4_PAE;
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.efer = EFER_LME | EFER_LMA;
        }
    }
    write_gdt(mem, &mut sregs)?;
    vcpu.set_sregs(&sregs).map_err(fail)?;
    vcpu.set_regs(&regs).map_err(fail)
}

/// `__BOOT_CS` and `__BOOT_DS` where the Linux boot protocol wants them: 0x10
/// and 0x18; and a TSS, since VT-x will not enter a guest without one.
fn segments(sregs: &mut kvm_sregs, long: bool) {
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: 0xb,
        db: (!long).into(),
        l: long.into(),
        ..flat
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: 3,
        db: 1,
        ..flat
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment {
        selector: 0x20,
        type_: 0xb,
        limit: 0x67,
        present: 1,
        ..Default::default()
    };
}

/// Writes the segments above as a table (Intel SDM volume 3A §3.4.5).
fn write_gdt(mem: &GuestMemory, sregs: &mut kvm_sregs) -> Result<(), Error> {
    let table = [
        0,
        0,
        descriptor(&sregs.cs),
        descriptor(&sregs.ds),
        descriptor(&sregs.tr),
        0,
    ];
    write_words(mem, layout::GDT, &table)?;
    sregs.gdt.base = layout::GDT.raw_value();
    sregs.gdt.limit = (table.len() * 8 - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    Ok(())
}

fn descriptor(s: &kvm_segment) -> u64 {
    let limit = u64::from(if s.g == 1 { s.limit >> 12 } else { s.limit });
    let access = u64::from(s.type_)
        | u64::from(s.s) << 4
        | u64::from(s.dpl) << 5
        | u64::from(s.present) << 7;
    let flags = u64::from(s.avl) | u64::from(s.l) << 1 | u64::from(s.db) << 2 | u64::from(s.g) << 3;
    limit & 0xffff
        | (s.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (s.base >> 24 & 0xff) << 56
}

/// Maps the first 4 GiB one to one with 2 MiB pages: a kernel, its command line
/// and an initrd can lie anywhere below.
fn write_page_tables(mem: &GuestMemory) -> Result<(), Error> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const GIB: u64 = 4;
    let page = |n: u64| layout::PAGE_TABLES.unchecked_add(n * 0x1000);
    write_words(mem, page(0), &[page(1).raw_value() | PRESENT_WRITABLE])?;
    let directories: Vec<u64> = (0..GIB)
        .map(|g| page(2 + g).raw_value() | PRESENT_WRITABLE)
        .collect();
    write_words(mem, page(1), &directories)?;
    let pages: Vec<u64> = (0..GIB * 512)
        .map(|n| n << 21 | PRESENT_WRITABLE | LARGE)
        .collect();
    write_words(mem, page(2), &pages)
}

fn write_words(mem: &GuestMemory, at: GuestAddress, words: &[u64]) -> Result<(), Error> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    mem.write_slice(&bytes, at).map_err(Error::BootData)
}

/// The registers in a few lines, for a report of what went wrong.
pub(crate) fn dump_registers(vcpu: &VcpuFd) -> String {
    let (Ok(r), Ok(s)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return "registers cannot be read".to_owned();
    };
    format!(
        "rip={:016x} rsp={:016x} rbp={:016x} rflags={:08x}\n\
         rax={:016x} rbx={:016x} rcx={:016x} rdx={:016x}\n\
         rsi={:016x} rdi={:016x} r8 ={:016x} r9 ={:016x}\n\
         r10={:016x} r11={:016x} r12={:016x} r13={:016x}\n\
         r14={:016x} r15={:016x} cr0={:08x} cr2={:016x}\n\
         cr3={:016x} cr4={:08x} efer={:x} cs={:x} ss={:x}",
        r.rip,
        r.rsp,
        r.rbp,
        r.rflags,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4,
        s.efer,
        s.cs.selector,
        s.ss.selector,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_layout_of_the_manual() {
        let mut sregs = kvm_sregs::default();
        segments(&mut sregs, true);
        assert_eq!(descriptor(&sregs.cs), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&sregs.ds), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&sregs.tr), 0x0000_8b00_0000_0067);
        segments(&mut sregs, false);
        assert_eq!(descriptor(&sregs.cs), 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn four_gigabytes_are_mapped_one_to_one() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_page_tables(&mem).unwrap();
        let entry = |at: u64| mem.read_obj::<u64>(GuestAddress(at)).unwrap();
        let walk = |va: u64| {
            let pdpt = entry(layout::PAGE_TABLES.raw_value()) & !0xfff;
            let pd = entry(pdpt + (va >> 30) * 8) & !0xfff;
            entry(pd + (va >> 21 & 511) * 8)
        };
        for va in [0, 0x20_0000, 0x4000_0000, 0xffe0_0000] {
            assert_eq!(walk(va), va | 0x83);
        }
    }
}
