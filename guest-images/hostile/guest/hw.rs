//! The bare machine: the entry, the serial port, memory and ports. All `unsafe` of
//! the guest is here; it has the whole machine to itself, and is meant to break it.

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

global_asm!(
    ".section .bss",
    ".balign 16",
    "stack: .skip 65536",
    "stack_top:",
    ".text",
    ".globl _start",
    "_start:",
    "lea rsp, [rip + stack_top]",
    "cld",
    "call main",
    // What the compiler calls for copies; nothing else brings them.
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "cmp rdi, rsi",
    "jbe 2f",
    "std",
    "lea rdi, [rdi + rcx - 1]",
    "lea rsi, [rsi + rcx - 1]",
    "rep movsb",
    "cld",
    "ret",
    "2: rep movsb",
    "ret",
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".globl bcmp",
    ".globl memcmp",
    "bcmp:",
    "memcmp:",
    "xor eax, eax",
    "2: test rdx, rdx",
    "jz 3f",
    "movzx eax, byte ptr [rdi]",
    "movzx ecx, byte ptr [rsi]",
    "sub eax, ecx",
    "jnz 3f",
    "inc rdi",
    "inc rsi",
    "dec rdx",
    "jmp 2b",
    "3: ret",
    // Named by `core`, and never called: nothing unwinds here.
    ".globl rust_eh_personality",
    "rust_eh_personality:",
    "ud2",
);

const SERIAL: u16 = 0x3f8;
const LINE_STATUS: u16 = SERIAL + 5;
const DATA_READY: u8 = 1;
/// ACPI's sleep control register, and "S5, now".
const SLEEP_CONTROL: u16 = 0x600;
const POWER_OFF: u8 = 5 << 2 | 1 << 5;

fn out(port: u16, value: u8) {
    // SAFETY: a port of this machine.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: a port of this machine.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// What can be read from and written to any address in one access.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// Reads memory or a register; the address need not be aligned.
pub fn read<T: Word>(address: u64) -> T {
    let value: T;
    // SAFETY: the first 4 GiB are mapped, and reading them is what this is for. Not
    // a volatile read, which would have to be aligned.
    unsafe {
        match size_of::<T>() {
            1 => {
                let v: u8;
                asm!("mov {}, [{}]", out(reg_byte) v, in(reg) address, options(nostack));
                value = core::mem::transmute_copy(&v);
            }
            2 => {
                let v: u16;
                asm!("mov {:x}, [{}]", out(reg) v, in(reg) address, options(nostack));
                value = core::mem::transmute_copy(&v);
            }
            4 => {
                let v: u32;
                asm!("mov {:e}, [{}]", out(reg) v, in(reg) address, options(nostack));
                value = core::mem::transmute_copy(&v);
            }
            _ => {
                let v: u64;
                asm!("mov {}, [{}]", out(reg) v, in(reg) address, options(nostack));
                value = core::mem::transmute_copy(&v);
            }
        }
    }
    value
}

/// Writes memory or a register; the address need not be aligned.
pub fn write<T: Word>(address: u64, value: T) {
    // SAFETY: as in `read`; the program lies where nobody but the linker puts
    // things.
    unsafe {
        match size_of::<T>() {
            1 => {
                let v: u8 = core::mem::transmute_copy(&value);
                asm!("mov [{}], {}", in(reg) address, in(reg_byte) v, options(nostack));
            }
            2 => {
                let v: u16 = core::mem::transmute_copy(&value);
                asm!("mov [{}], {:x}", in(reg) address, in(reg) v, options(nostack));
            }
            4 => {
                let v: u32 = core::mem::transmute_copy(&value);
                asm!("mov [{}], {:e}", in(reg) address, in(reg) v, options(nostack));
            }
            _ => {
                let v: u64 = core::mem::transmute_copy(&value);
                asm!("mov [{}], {}", in(reg) address, in(reg) v, options(nostack));
            }
        }
    }
}

/// Fills `bytes` bytes, a multiple of 8, with a word.
pub fn fill(address: u64, bytes: u64, word: u64) {
    // SAFETY: as in `write`.
    unsafe {
        asm!("rep stosq", inout("rdi") address => _, inout("rcx") bytes / 8 => _, in("rax") word, options(nostack));
    }
}

/// True when `bytes` bytes hold nothing but this word.
pub fn is_filled(address: u64, bytes: u64, word: u64) -> bool {
    let left: u64;
    let equal: u8;
    // SAFETY: as in `read`.
    unsafe {
        asm!(
            "cmp rax, rax", "repe scasq", "sete {equal}",
            equal = out(reg_byte) equal, inout("rdi") address => _,
            inout("rcx") bytes / 8 => left, in("rax") word, options(nostack));
    }
    left == 0 && equal == 1
}

/// Writes bytes to memory.
pub fn put(address: u64, bytes: &[u8]) {
    for (at, byte) in (address..).zip(bytes) {
        write(at, *byte);
    }
}

/// The CPU's own clock.
pub fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes to the serial port.
pub fn say(text: &str) {
    text.bytes().for_each(|byte| out(SERIAL, byte));
}

/// The same of a number.
pub fn say_number(mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits[at..].iter().for_each(|digit| out(SERIAL, *digit));
}

/// Waits until something is typed.
pub fn typed() -> u8 {
    while inb(LINE_STATUS) & DATA_READY == 0 {}
    inb(SERIAL)
}

/// Switches the machine off.
pub fn power_off() -> ! {
    loop {
        out(SLEEP_CONTROL, POWER_OFF);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say("PANIC of the guest");
    if let Some(at) = info.location() {
        say(" at ");
        say(at.file());
        say(":");
        say_number(at.line().into());
    }
    say("\n");
    power_off()
}
