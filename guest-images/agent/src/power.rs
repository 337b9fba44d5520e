//! The end of the machine.

use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::process::WaitOptions;
use rustix::system::RebootCommand;

use crate::boot::ROOT;
use crate::child::COPY;
use crate::{mounts, sys};

/// Ends every process, writes everything to the disks and switches the machine
/// off.
pub fn off() -> ! {
    // Everybody but this process.
    sys::kill(-1, libc::SIGKILL);
    // Until nobody is left; other threads may be quicker to reap one.
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    mounts::detach(Path::new(ROOT));
    rustix::fs::sync();
    switch_off()
}

/// Reports what makes the agent useless, on the console, and switches the
/// machine off.
pub fn fail(message: &str) -> ! {
    eprintln!("drupe agent: {message}");
    rustix::fs::sync();
    switch_off()
}

/// Makes a bug of the agent's end the machine, as an end of PID 1 would, only
/// with a message.
pub fn on_panic(info: &PanicHookInfo<'_>) {
    if !COPY.load(Ordering::Relaxed) {
        fail(&info.to_string());
    }
}

fn switch_off() -> ! {
    // Fails for want of a privilege only, which PID 1 of the machine has.
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}
