//! Signals: which ones end a VM, and how a vCPU is called out of the guest.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::raw::c_int;
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// The signals that ask a VM to end. The first asks the guest by its power
/// button; a second one, and `SIGQUIT` at once, ends the VM as it stands.
pub(crate) const STOP_SIGNALS: [c_int; 4] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The stop signals as a descriptor; blocked in this thread and those that it
/// starts, and given back when dropped.
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
            for signal in STOP_SIGNALS {
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

/// Makes the signal that [`join_vcpus`] sends do no more than interrupt.
pub(crate) fn install_kick() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(SIGRTMIN(), nothing)
}

/// Calls the vCPUs out of the guest and waits for their threads. A signal that
/// comes just before a thread enters the guest is lost, so it is sent again
/// until the thread has ended.
pub(crate) fn join_vcpus(threads: Vec<JoinHandle<()>>) {
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
