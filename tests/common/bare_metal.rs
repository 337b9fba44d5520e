//! Programs of a few instructions: guests for what needs no Linux, which run on
//! every KVM, also on one that emulates the guest's kernel; and an init.

#![allow(dead_code, reason = "each user of this file wants one of them")]

/// For a guest: writes "S5, now" to ACPI's sleep control register at port 0x600.
pub const POWER_OFF: &[u8] = &[
    0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
    0xb0, 0x34, // mov al, 5 << 2 | 1 << 5
    0xee, // out dx, al
    0xf4, // hlt
];

/// For a guest: writes a line's end to the serial port, lets it go out, and
/// stands still.
pub const NEWLINE: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, 0x0a, // mov al, 10
    0xee, // out dx, al
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd: line status
    0xec, // in al, dx
    0xf4, // hlt
];

/// For a guest: writes to the serial port for ever, in a way that leaves the kernel
/// only by another port.
pub const FLOOD: &[u8] = &[
    0xba, 0xf8, 0x03, 0x00, 0x00, // again: mov edx, 0x3f8
    0xb0, 0x78, // mov al, 'x'
    0xb9, 0xa0, 0x00, 0x00, 0x00, // mov ecx, 160
    0xee, // next: out dx, al
    0xff, 0xc9, // dec ecx
    0x75, 0xfb, // jnz next
    0xba, 0x00, 0x06, 0x00, 0x00, // mov edx, 0x600
    0xec, // in al, dx
    0xeb, 0xe7, // jmp again
];

/// For a guest: waits for input, reads four bytes of it with one instruction and
/// writes them with another.
pub const ECHO_FOUR: &[u8] = &[
    0xba, 0xfd, 0x03, 0x00, 0x00, // mov edx, 0x3fd
    0xec, // wait: in al, dx
    0xa8, 0x01, // test al, 1
    0x74, 0xfb, // jz wait
    0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
    0xbf, 0x00, 0x00, 0x50, 0x00, // mov edi, 0x500000
    0xb9, 0x04, 0x00, 0x00, 0x00, // mov ecx, 4
    0xf3, 0x6c, // rep insb
    0xbe, 0x00, 0x00, 0x50, 0x00, // mov esi, 0x500000
    0xb9, 0x04, 0x00, 0x00, 0x00, // mov ecx, 4
    0xf3, 0x6e, // rep outsb
];

/// For an init: `reboot(LINUX_REBOOT_CMD_POWER_OFF)`.
pub const REBOOT_POWER_OFF: &[u8] = &[
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, LINUX_REBOOT_MAGIC1
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, LINUX_REBOOT_MAGIC2
    0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, LINUX_REBOOT_CMD_POWER_OFF
    0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, SYS_reboot
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp .
];

/// For Linux: `write(1, "\n", 1)`, and `exit(0)`.
pub const MARK: &[u8] = &[
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, SYS_write
    0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1
    0x48, 0x8d, 0x35, 0x10, 0x00, 0x00, 0x00, // lea rsi, [rip + newline]
    0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
    0x0f, 0x05, // syscall
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, SYS_exit
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
    0x0a, // newline
];

/// A static ELF executable of this code: a program for Linux, and a kernel that
/// is entered in 64-bit mode by the Linux boot protocol.
pub fn elf(code: &[u8]) -> Vec<u8> {
    const LOAD: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut f = b"\x7fELF\x02\x01\x01".to_vec();
    f.resize(16, 0);
    f.extend(2u16.to_le_bytes()); // ET_EXEC
    f.extend(62u16.to_le_bytes()); // EM_X86_64
    f.extend(1u32.to_le_bytes());
    f.extend((LOAD + HEADERS).to_le_bytes()); // entry
    f.extend(64u64.to_le_bytes()); // program headers
    f.extend([0; 12]);
    for half in [64u16, 56, 1, 0, 0, 0] {
        f.extend(half.to_le_bytes());
    }
    f.extend(1u32.to_le_bytes()); // PT_LOAD
    f.extend(5u32.to_le_bytes()); // readable, executable
    let len = HEADERS + code.len() as u64;
    for word in [0, LOAD, LOAD, len, len, 4096] {
        f.extend(word.to_le_bytes());
    }
    f.extend(code);
    f
}
