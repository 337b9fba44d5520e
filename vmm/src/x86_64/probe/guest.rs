//! The throw-away guest: its code, its tables and its first registers.

use std::arch::global_asm;

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

pub(super) const HAS_POPCNT: u32 = 1;
pub(super) const HAS_CX16: u32 = 2;
pub(super) const HAS_RDTSCP: u32 = 4;
pub(super) const HAS_FSGSBASE: u32 = 8;
pub(super) const HAS_XSAVE: u32 = 16;
pub(super) const HAS_SMAP: u32 = 32;

const PORT_STEP: u8 = 0x10;
const PORT_FAULT: u8 = 0x11;
const PORT_DONE: u8 = 0x12;
const MAGIC: u8 = 0xd5;
/// At [`PORT_FAULT`]: no exception, the instruction's result was wrong.
const WRONG_RESULT: u8 = 0xff;

/// Offsets in the kernel part, as `guest.S` lays it out.
const VECTORS: u64 = 32;
const STUB_SIZE: u64 = 8;
const INT3_HANDLER: u64 = VECTORS * STUB_SIZE;
const ENTRY: u64 = INT3_HANDLER + 16;
const BREAKPOINT: u64 = 3;

/// Guest-physical addresses; the same virtually.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
const GDT: u64 = 0x5000;
const TSS: u64 = 0x5100;
const IDT: u64 = 0x5200;
const CODE: u64 = 0x6000;
const USER_CODE: u64 = 0x8000;
const USER_DATA: u64 = 0x9000;
const DATA: u64 = 0xa000;
const STACK_TOP: u64 = 0xc000;
const MEMORY_SIZE: u64 = 0x1_0000;
const PAGE: u64 = 0x1000;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x30;
const TSS_SIZE: u32 = 104;
/// Null, kernel code and data, 32-bit user code (`sysret` counts from it), user
/// data and 64-bit user code. The TSS's descriptor is never read: its register
/// is loaded from outside.
const GDT_ENTRIES: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// What the guest was doing. The numbers are those that it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// The first instruction in 64-bit mode.
    Start = 1,
    /// `int3` and the return from its handler.
    Int3 = 2,
    /// `popcnt`.
    Popcnt = 3,
    /// `cmpxchg16b`.
    Cmpxchg16b = 4,
    /// `rdtscp`.
    Rdtscp = 5,
    /// `wrgsbase` and `rdgsbase`.
    Fsgsbase = 6,
    /// `xsetbv`, `xsave` and `xrstor`.
    Xsave = 7,
    /// `stac` and `clac`.
    Stac = 8,
    /// `wrmsr` and `rdmsr` of the system call registers.
    Msr = 9,
    /// `iretq` to user mode, and `syscall` there.
    Syscall = 10,
    /// `sysretq`, and a second `syscall`.
    Sysret = 11,
}

impl Step {
    const ALL: [Step; 11] = [
        Step::Start,
        Step::Int3,
        Step::Popcnt,
        Step::Cmpxchg16b,
        Step::Rdtscp,
        Step::Fsgsbase,
        Step::Xsave,
        Step::Stac,
        Step::Msr,
        Step::Syscall,
        Step::Sysret,
    ];

    /// The instruction, or the group of them, for a reader.
    pub fn name(self) -> &'static str {
        match self {
            Step::Start => "first instruction",
            Step::Int3 => "int3",
            Step::Popcnt => "popcnt",
            Step::Cmpxchg16b => "cmpxchg16b",
            Step::Rdtscp => "rdtscp",
            Step::Fsgsbase => "wrgsbase",
            Step::Xsave => "xsave",
            Step::Stac => "stac",
            Step::Msr => "wrmsr",
            Step::Syscall => "syscall from user mode",
            Step::Sysret => "sysret",
        }
    }
}

/// What the guest said with a port write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    Step(Step),
    Exception(u8),
    WrongResult,
    Done,
}

/// Reads a port write of the guest; `None` for one that it does not make.
pub(super) fn report(port: u16, value: u8) -> Option<Report> {
    match u8::try_from(port).ok()? {
        PORT_STEP => {
            let mut steps = Step::ALL.into_iter();
            steps.find(|s| *s as u8 == value).map(Report::Step)
        }
        PORT_FAULT if value == WRONG_RESULT => Some(Report::WrongResult),
        PORT_FAULT => Some(Report::Exception(value)),
        PORT_DONE if value == MAGIC => Some(Report::Done),
        _ => None,
    }
}

global_asm!(
    include_str!("guest.S"),
    port_step = const PORT_STEP,
    port_fault = const PORT_FAULT,
    port_done = const PORT_DONE,
    magic = const MAGIC,
    wrong_result = const WRONG_RESULT,
    has_popcnt = const HAS_POPCNT,
    has_cx16 = const HAS_CX16,
    has_rdtscp = const HAS_RDTSCP,
    has_fsgsbase = const HAS_FSGSBASE,
    has_xsave = const HAS_XSAVE,
    has_smap = const HAS_SMAP,
    start = const Step::Start as u8,
    int3 = const Step::Int3 as u8,
    popcnt = const Step::Popcnt as u8,
    cmpxchg16b = const Step::Cmpxchg16b as u8,
    rdtscp = const Step::Rdtscp as u8,
    fsgsbase = const Step::Fsgsbase as u8,
    xsave = const Step::Xsave as u8,
    stac = const Step::Stac as u8,
    msr = const Step::Msr as u8,
    syscall = const Step::Syscall as u8,
    sysret = const Step::Sysret as u8,
);

unsafe extern "C" {
    static drupe_probe_start: u8;
    static drupe_probe_user: u8;
    static drupe_probe_end: u8;
}

/// The kernel part and the user part of the guest's code.
fn code() -> (&'static [u8], &'static [u8]) {
    let start = &raw const drupe_probe_start;
    let user = &raw const drupe_probe_user;
    let end = &raw const drupe_probe_end;
    // SAFETY: guest.S lays the three symbols out in this order in one read-only
    // section, so that the bytes between them are initialized and never change.
    unsafe {
        (
            std::slice::from_raw_parts(start, user.byte_offset_from(start).unsigned_abs()),
            std::slice::from_raw_parts(user, end.byte_offset_from(user).unsigned_abs()),
        )
    }
}

/// Makes the guest's memory, fills it and gives it to `vm`. It has to be kept
/// for as long as a vCPU may run.
pub(super) fn memory(vm: &VmFd) -> Result<GuestMemoryMmap<()>, String> {
    let memory = filled()?;
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|e| format!("guest memory: {e}"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_SIZE,
        userspace_addr: host as u64,
    };
    // SAFETY: the region is the whole of one mapping of this size, which the
    // caller keeps for as long as a vCPU may run.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|e| format!("KVM_SET_USER_MEMORY_REGION: {e}"))?;
    Ok(memory)
}

fn filled() -> Result<GuestMemoryMmap<()>, String> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE as usize)])
        .map_err(|e| format!("guest memory: {e}"))?;
    let words = |at: u64, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        memory
            .write_slice(&bytes, GuestAddress(at))
            .map_err(|e| format!("guest memory: {e}"))
    };
    // Present, writable, user, accessed, dirty; a page is the user's only when
    // every level says so.
    words(PML4, &[PDPT | 0x67])?;
    words(PDPT, &[PD | 0x67])?;
    words(PD, &[PT | 0x67])?;
    let pages: Vec<u64> = (0..MEMORY_SIZE)
        .step_by(PAGE as usize)
        .map(|page| match page {
            USER_CODE | USER_DATA => page | 0x67,
            _ => page | 0x63,
        })
        .collect();
    words(PT, &pages)?;
    words(GDT, &GDT_ENTRIES)?;
    // The first stack pointer of the TSS stands at offset 4.
    words(TSS, &[STACK_TOP << 32, STACK_TOP >> 32])?;
    for vector in 0..VECTORS {
        let handler = CODE
            + match vector {
                BREAKPOINT => INT3_HANDLER,
                _ => vector * STUB_SIZE,
            };
        // A 64-bit interrupt gate (type 14), present; the handlers lie below 64 KiB.
        let gate = handler | u64::from(KERNEL_CODE) << 16 | 0x8e << 40;
        words(IDT + vector * 16, &[gate, 0])?;
    }
    let (kernel, user) = code();
    for (at, part, room) in [
        (CODE, kernel, USER_CODE - CODE),
        (USER_CODE, user, USER_DATA - USER_CODE),
    ] {
        if part.len() as u64 > room {
            return Err("guest memory: the code does not fit".to_owned());
        }
        memory
            .write_slice(part, GuestAddress(at))
            .map_err(|e| format!("guest memory: {e}"))?;
    }
    Ok(memory)
}

/// Puts the vCPU at the guest's entry, in 64-bit mode with paging.
pub(super) fn set_registers(vcpu: &VcpuFd, features: u32) -> Result<(), String> {
    let mut sregs = vcpu
        .get_sregs()
        .map_err(|e| format!("KVM_GET_SREGS: {e}"))?;
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: KERNEL_CODE,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: KERNEL_DATA,
        type_: 0x3,
        l: 0,
        db: 1,
        ..code
    };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: TSS,
        limit: TSS_SIZE - 1,
        selector: TSS_SELECTOR,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    let table = |base, size: u64| kvm_dtable {
        base,
        limit: (size - 1) as u16,
        ..Default::default()
    };
    sregs.gdt = table(GDT, size_of_val(&GDT_ENTRIES) as u64);
    sregs.idt = table(IDT, VECTORS * 16);
    // PE, MP, ET, NE, WP, PG; PAE, OSFXSR, OSXMMEXCPT; SCE, LME, LMA, NXE.
    sregs.cr0 = 0x8001_0033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd01;
    vcpu.set_sregs(&sregs)
        .map_err(|e| format!("KVM_SET_SREGS: {e}"))?;
    let regs = kvm_regs {
        rip: CODE + ENTRY,
        rsp: STACK_TOP,
        rflags: 2,
        rdi: USER_CODE,
        rsi: USER_DATA + PAGE,
        r12: USER_DATA,
        r13: DATA,
        r15: u64::from(features),
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(|e| format!("KVM_SET_REGS: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_laid_out_as_the_offsets_say() {
        let (kernel, user) = code();
        for vector in 0..VECTORS {
            let at = (vector * STUB_SIZE) as usize;
            assert_eq!(
                kernel[at..at + 5],
                [0xb0, vector as u8, 0xe6, PORT_FAULT, 0xf4]
            );
        }
        let handler = &kernel[INT3_HANDLER as usize..];
        assert_eq!(handler[..4], [0x41, 0x83, 0xce, 1], "or r14d, 1");
        let entry = &kernel[ENTRY as usize..];
        assert_eq!(entry[..4], [0xb0, Step::Start as u8, 0xe6, PORT_STEP]);
        assert_eq!(user[..5], [0xbb, 1, 0, 0, 0], "mov ebx, 1");
    }

    #[test]
    fn the_guest_fits_its_memory() {
        let memory = filled().unwrap();
        let gate: u64 = memory
            .read_obj(GuestAddress(IDT + BREAKPOINT * 16))
            .unwrap();
        assert_eq!(gate & 0xffff, CODE + INT3_HANDLER);
        let user: u64 = memory.read_obj(GuestAddress(PT + 8 * 8)).unwrap();
        assert_eq!(user, USER_CODE | 0x67);
        let kernel: u64 = memory.read_obj(GuestAddress(PT + 6 * 8)).unwrap();
        assert_eq!(kernel, CODE | 0x63);
    }

    #[test]
    fn reports_are_told_apart() {
        for step in Step::ALL {
            assert_eq!(
                report(u16::from(PORT_STEP), step as u8),
                Some(Report::Step(step))
            );
        }
        assert_eq!(report(0x10, 200), None);
        assert_eq!(report(0x11, 6), Some(Report::Exception(6)));
        assert_eq!(report(0x11, 0xff), Some(Report::WrongResult));
        assert_eq!(report(0x12, MAGIC), Some(Report::Done));
        assert_eq!(report(0x12, 0), None);
        assert_eq!(report(0x110, MAGIC), None);
    }
}
