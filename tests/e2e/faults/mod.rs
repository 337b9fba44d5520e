//! What fails on the host while guests run: disks, interfaces, memory, the clock,
//! and every system call that may end early.

use std::fs;

mod clock;
mod host_side;
mod interrupted;
mod memory;
mod soak;

/// True in the KVM lab; says that a test is left out elsewhere, because it does
/// to the host what nobody wants done to theirs.
pub fn in_the_lab() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    let lab = line.split_whitespace().any(|word| word == "drupe.lab");
    if !lab {
        eprintln!("left out: it is for the KVM lab, which can be broken");
    }
    lab
}

/// True for root who may do what root may; says that a test is left out for
/// others.
pub fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let root =
        map.split_whitespace().eq(["0", "0", "4294967295"]) && rustix::process::getuid().is_root();
    if !root {
        eprintln!("left out: it makes devices: as root");
    }
    root
}
