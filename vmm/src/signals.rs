//! Signals: which ones end a VM, and how a vCPU is called out of the guest.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::raw::c_int;
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMAX, SIGRTMIN, register_signal_handler};

/// True for the signals that ask a VM to end: all that would end a process, save
/// those by which the host reports a fault of drupe's. The first one asks the guest
/// by its power button; a second one, and `SIGQUIT` at once, ends the VM as it
/// stands.
fn asks_to_stop(signal: c_int) -> bool {
    match signal {
        // Cannot be caught.
        libc::SIGKILL | libc::SIGSTOP => false,
        libc::SIGILL | libc::SIGTRAP | libc::SIGABRT | libc::SIGBUS => false,
        libc::SIGFPE | libc::SIGSEGV | libc::SIGSYS => false,
        // Do not end a process.
        libc::SIGCHLD | libc::SIGCONT | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => false,
        libc::SIGURG | libc::SIGWINCH => false,
        // Ignored: the call that caused them fails.
        libc::SIGPIPE | libc::SIGXFSZ => false,
        // The C library's own, and the kick.
        signal if (32..=SIGRTMIN()).contains(&signal) => false,
        signal => (1..=SIGRTMAX()).contains(&signal),
    }
}

/// True for a signal that whoever started this process wants ignored, as `nohup`
/// does.
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: plain data, which the kernel fills in; nothing is changed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Lets a write past `RLIMIT_FSIZE` fail instead of ending the process: a guest
/// decides how far its disks grow.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: no memory is involved.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Runs `start` with all signals blocked: a thread that it starts never gets one,
/// whatever the process does with them later.
pub(crate) fn with_all_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: sigset_t is plain data that sigfillset and pthread_sigmask fill; all
    // pointers are to locals that outlive the calls, which cannot fail then.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        before
    };
    let result = start();
    // SAFETY: as above; the mask is the one that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    result
}

/// The stop signals that are not ignored, as a descriptor; blocked in this thread
/// and those that it starts, and given back when dropped.
pub(crate) struct StopSignals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: sigset_t is plain data that sigemptyset and pthread_sigmask
        // fill; all pointers are to locals that outlive the calls.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            let signals = 1..=SIGRTMAX();
            for signal in signals.filter(|&s| asks_to_stop(s) && !is_ignored(s)) {
                libc::sigaddset(&mut set, signal);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before);
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                let error = io::Error::last_os_error();
                libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
                return Err(error);
            }
            Ok(StopSignals {
                fd: OwnedFd::from_raw_fd(fd),
                before,
            })
        }
    }

    /// The next signal that has arrived, if there is one.
    pub(crate) fn take(&self) -> Option<c_int> {
        // SAFETY: plain data, filled by the kernel with exactly its size or not at all.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of_val(&info);
            let n = libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size);
            (n == size as isize).then_some(info.ssi_signo as c_int)
        }
    }
}

impl AsRawFd for StopSignals {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        // What arrived and was not acted upon is swallowed: the VM has ended.
        while self.take().is_some() {}
        // SAFETY: the mask is the one that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

extern "C" fn nothing(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Makes the signal that [`join_threads`] sends do no more than interrupt this thread
/// and those that it starts from now on, whatever who started the process has
/// blocked.
pub(crate) fn install_kick() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(SIGRTMIN(), nothing)?;
    // SAFETY: the set is filled in before it is used, and is this thread's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGRTMIN());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
    Ok(())
}

/// Calls threads out of the guest, or out of whatever else they wait in, and
/// waits for their end. A signal that comes just before a thread begins to wait is
/// lost, so it is sent again until the thread has ended.
pub(crate) fn join_threads(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        let mut pause = Duration::from_micros(50);
        while !thread.is_finished() {
            if thread.kill(SIGRTMIN()).is_err() {
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        // A panic is a bug that has been reported on its way.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_process_asks_a_vm_to_end() {
        let stop: Vec<c_int> = (0..=SIGRTMAX() + 1).filter(|&s| asks_to_stop(s)).collect();
        let usual = [1, 2, 3, 10, 12, 14, 15, 16, 24, 26, 27, 29, 30];
        let expected: Vec<c_int> = usual.into_iter().chain(35..=64).collect();
        assert_eq!(stop, expected);
    }

    /// Signals for this thread alone, so that other tests are left in peace.
    #[test]
    fn an_ignored_signal_is_left_alone_and_others_are_taken() {
        let (ignored, taken) = (SIGRTMIN() + 5, SIGRTMIN() + 6);
        // SAFETY: no memory is involved.
        unsafe { libc::signal(ignored, libc::SIG_IGN) };
        let signals = StopSignals::new().unwrap();
        for signal in [ignored, taken] {
            // SAFETY: this thread exists.
            unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
        }
        assert_eq!(signals.take(), Some(taken));
        assert_eq!(signals.take(), None);
    }

    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    }

    #[test]
    fn a_thread_started_with_all_blocked_gets_none() {
        let before = blocked();
        let thread = with_all_blocked(|| std::thread::spawn(blocked));
        let theirs = thread.join().unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            assert_ne!(theirs & 1 << (signal - 1), 0, "{signal}");
        }
        assert_eq!(blocked(), before);
    }
}
