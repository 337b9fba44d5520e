//! Which devices a container may open, as Docker has it: a root that may make
//! device nodes shall not get at the guest's disks by one.
//!
//! A program in the kernel's BPF decides, attached to the sandbox's cgroup
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`). Nodes may be made, whatever they are.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

// linux/bpf.h
const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_ATTACH: i64 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_DEVCG_ACC_MKNOD: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

/// Character devices by their major numbers, each with the minor ones that are
/// meant, or all.
const ALLOWED: [(i32, &[i32]); 4] = [
    // null, zero, full, random, urandom
    (1, &[3, 5, 7, 8, 9]),
    // tty, console, ptmx
    (5, &[0, 1, 2]),
    // net/tun
    (10, &[200]),
    // pts
    (136, &[]),
];

/// One instruction: `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// The source register in the upper half, the destination in the lower.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `r[to] = *(u32 *)(r[from] + offset)`
const fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `r[to] = r[from]`
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `r[to] = value`
const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// `r[to] &= value`
const fn and(to: u8, value: i32) -> Instruction {
    instruction(0x57, to, 0, 0, value)
}

/// `r[to] >>= value`
const fn shift_right(to: u8, value: i32) -> Instruction {
    instruction(0x77, to, 0, 0, value)
}

/// `if r[register] == value` go over `offset` instructions.
const fn if_equal(register: u8, value: i32, offset: i16) -> Instruction {
    instruction(0x15, register, 0, offset, value)
}

/// `if r[register] != value` go over `offset` instructions.
const fn if_not_equal(register: u8, value: i32, offset: i16) -> Instruction {
    instruction(0x55, register, 0, offset, value)
}

/// `return r0`
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

/// The program. It is given a `struct bpf_cgroup_dev_ctx`: access and type of
/// the device in one number, major, minor; 1 is yes.
fn program() -> Vec<Instruction> {
    let allow = [set(0, 1), EXIT];
    let mut program = vec![
        load(2, 1, 0),
        copy(3, 2),
        shift_right(3, 16),
        and(2, 0xffff),
        load(4, 1, 4),
        load(5, 1, 8),
        if_not_equal(3, BPF_DEVCG_ACC_MKNOD, 2),
    ];
    program.extend(allow);
    program.push(if_equal(2, BPF_DEVCG_DEV_CHAR, 2));
    program.extend([set(0, 0), EXIT]);
    for (major, minors) in ALLOWED {
        let mut block = Vec::new();
        for minor in minors {
            block.push(if_not_equal(5, *minor, 2));
            block.extend(allow);
        }
        if minors.is_empty() {
            block.extend(allow);
        }
        program.push(if_not_equal(4, major, block.len() as i16));
        program.extend(block);
    }
    program.extend([set(0, 0), EXIT]);
    program
}

/// Lets the processes of a cgroup, and of those below it, open what a container
/// may open and nothing else.
///
/// # Errors
/// The kernel's: one without BPF for cgroups has `EINVAL`.
pub fn restrict(cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
    /// The part of `union bpf_attr` for `BPF_PROG_LOAD` that is used.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: u64,
        license: u64,
        /// Level, size, buffer and kernel version of the verifier's log, which
        /// nobody reads; flags.
        rest: [u64; 3],
    }
    /// Likewise for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let instructions = program();
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        length: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `load` is whole, what is left out of the union is zero to the
    // kernel, and what it points to lives.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &load) }?;
    // SAFETY: the kernel has just opened it for this caller.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        // No cgroup below may have another.
        flags: 0,
    };
    // SAFETY: `attach` is whole and points to nothing.
    unsafe { bpf(BPF_PROG_ATTACH, &attach) }.map(drop)
}

/// # Safety
/// `attributes` is the part of `union bpf_attr` that the command reads, and its
/// pointers are good.
unsafe fn bpf<T>(command: i64, attributes: &T) -> Result<i32, Errno> {
    let size = size_of::<T>();
    // SAFETY: the pointer and the size are those of a live value; the rest is
    // the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    match i32::try_from(result) {
        Ok(fd @ 0..) => Ok(fd),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 2;
    const BLOCK: u32 = 1;
    const CHARACTER: u32 = 2;

    /// What the kernel would do with the program.
    fn run(access: u32, kind: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0_u64; 11];
        let program = program();
        let mut at = 0;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let value = i.immediate as u64;
            at += 1;
            let mut go = |yes: bool| {
                if yes {
                    at += i.offset as usize;
                }
            };
            match i.code {
                0x61 => r[to] = context[i.offset as usize / 4].into(),
                0xbf => r[to] = r[from],
                0xb7 => r[to] = value,
                0x57 => r[to] &= value,
                0x77 => r[to] >>= value,
                0x15 => go(r[to] == value),
                0x55 => go(r[to] != value),
                0x95 => return r[0] == 1,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_a_container_needs_can_be_opened() {
        for (major, minor) in [(1, 3), (1, 9), (5, 0), (5, 2), (10, 200), (136, 77)] {
            assert!(run(READ, CHARACTER, major, minor), "{major}:{minor}");
            assert!(!run(READ, BLOCK, major, minor), "{major}:{minor}");
        }
        // Memory, ports, kmsg, kvm, a disk.
        for (major, minor) in [(1, 1), (1, 4), (1, 11), (10, 232), (5, 3), (254, 0)] {
            assert!(!run(READ, CHARACTER, major, minor), "{major}:{minor}");
            assert!(!run(READ | 4, BLOCK, major, minor), "{major}:{minor}");
        }
    }

    #[test]
    fn any_node_can_be_made() {
        assert!(run(1, BLOCK, 254, 0) && run(1, CHARACTER, 1, 1));
        assert!(!run(1 | READ, BLOCK, 254, 0));
    }
}
