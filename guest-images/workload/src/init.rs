//! The first process of a machine that has nothing else: of QEMU's, which has no
//! agent of drupe's.

use core::ffi::CStr;

use crate::out::Line;
use crate::sys;

/// Does what the further arguments say, and switches the machine off. The status
/// is the last line of the console.
pub fn run(args: &[&CStr]) -> i32 {
    for (kind, target) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        (c"devtmpfs", c"/dev"),
    ] {
        // What the kernel does not have, the workload will miss by itself.
        let _ = sys::mount(kind, target);
    }
    let status = match sys::fork() {
        Ok(0) => sys::exit(crate::run(args)),
        Ok(_) => sys::wait().unwrap_or(1),
        Err(error) => error.into_raw(),
    };
    Line::new()
        .word("workload-status")
        .number(status as u64)
        .end();
    sys::power_off()
}
