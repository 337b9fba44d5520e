//! What happens to a thread that makes a call outside its list.
//!
//! The kernel does not make the call but raises `SIGSYS` in the thread, whose
//! handler writes one line and then makes a forbidden call again: with the
//! signal blocked, as it is in its own handler, the kernel ends the process. So
//! whoever has taken a thread over can at most skip the line: a blocked or
//! ignored `SIGSYS` of a filter ends the process at once, and no role may
//! change handlers that matter here: `rt_sigaction` is theirs for faults alone.
//! (The monitor's control threads may, and gain nothing: the call is not made in
//! any case.)

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use syscalls::Sysno;

use crate::Failed;

/// Room for the longest line.
const LINE: usize = 256;
/// The longest name of a thread, with its end.
const NAME: usize = 16;

/// Something to undo before the process ends, safe in a signal handler.
static CLEANUP: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Has `SIGSYS` reported. `cleanup` is called before the process ends: it must be
/// safe in a signal handler, and gain nothing from calls that are not allowed.
///
/// # Errors
/// The kernel's.
pub fn install(cleanup: fn()) -> Result<(), Failed> {
    let _ = CLEANUP.set(cleanup);
    // SAFETY: all zeroes is a valid sigaction; the handler has the signature that
    // SA_SIGINFO wants, and does nothing that a signal handler may not.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &action, ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(Failed::last("handle SIGSYS")),
    }
}

/// Lets this thread get the signal: some are started with all of them blocked.
pub fn accept() {
    // SAFETY: the set is filled in before it is used, and is this thread's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGSYS);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
}

/// A line that is put together without an allocation.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(to) = self.bytes.get_mut(self.len) {
                *to = *byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            if let Some(digit) = digits.get_mut(at) {
                *digit = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(digits.get(at..).unwrap_or_default());
    }
}

extern "C" fn handler(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a siginfo. For SIGSYS (`_sigsys` of siginfo_t) the
    // call's address is followed by its number, at offset 24 on 64-bit machines.
    let call = unsafe { info.cast::<u8>().add(24).cast::<c_int>().read_unaligned() };
    let mut line = Line {
        bytes: [0; LINE],
        len: 0,
    };
    line.push(b"drupe: error: ended by its own system call filter: thread '");
    let mut name = [0u8; NAME];
    // No call for the name: the thread may not be allowed to ask.
    name_of_thread(&mut name);
    line.push(name.split(|b| *b == 0).next().unwrap_or_default());
    line.push(b"' made system call ");
    line.push_number(call as usize);
    if let Some(known) = Sysno::new(call as usize) {
        line.push(b" (");
        line.push(known.name().as_bytes());
        line.push(b")");
    }
    line.push(b"; please report it, and see --confine\n");
    // Of several threads that come here at once one is enough.
    if !REPORTED.swap(true, Ordering::Relaxed) {
        // SAFETY: the bytes are live. A failure cannot be told to anybody.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    }
    if let Some(cleanup) = CLEANUP.get() {
        cleanup();
    }
    // SAFETY: SIGSYS is blocked now, and this call is in no list: the kernel ends
    // the process. Nothing is read or written.
    unsafe {
        libc::syscall(libc::SYS_reboot, 0, 0, 0, 0);
        libc::_exit(128 + libc::SIGSYS)
    }
}

thread_local! {
    static THREAD_NAME: std::cell::Cell<[u8; NAME]> = const { std::cell::Cell::new([0; NAME]) };
}

/// Keeps the name of this thread for a report.
pub fn remember_name(name: &str) {
    let mut kept = [0; NAME];
    for (to, from) in kept.iter_mut().take(NAME - 1).zip(name.bytes()) {
        *to = from;
    }
    THREAD_NAME.set(kept);
}

fn name_of_thread(to: &mut [u8; NAME]) {
    // A constant initializer and no destructor: reading it calls nothing.
    *to = THREAD_NAME.get();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_fit_or_are_cut() {
        let mut line = Line {
            bytes: [0; LINE],
            len: 0,
        };
        line.push(b"call ");
        line.push_number(0);
        line.push(b" ");
        line.push_number(435);
        assert_eq!(&line.bytes[..line.len], b"call 0 435");
        line.push(&[b'x'; 2 * LINE]);
        assert_eq!(line.len, LINE);
    }
}
