//! The terminal while a guest's console is on it: raw mode that is always undone,
//! and the key that leaves.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// What [`Guard`] found and [`restore`] puts back. Leaked, since a signal handler
/// may be reading it at any time.
struct Saved {
    fd: RawFd,
    termios: Option<libc::termios>,
    flags: libc::c_int,
}

static SAVED: AtomicPtr<Saved> = AtomicPtr::new(ptr::null_mut());
/// Lines on standard error need a carriage return of their own.
static RAW_STDERR: AtomicBool = AtomicBool::new(false);

/// The end of a line on standard error: a raw terminal does not go back to the
/// first column by itself.
pub fn line_end() -> &'static str {
    if RAW_STDERR.load(Ordering::Relaxed) {
        "\r\n"
    } else {
        "\n"
    }
}

/// Holds a terminal in raw mode. What it changed is undone on drop, on a panic
/// and on a fatal signal.
#[derive(Debug)]
pub struct Guard(());

impl Guard {
    /// Saves the state of `fd`, usually standard input, and when it is a
    /// terminal that this process has in the foreground puts it into raw mode:
    /// every key, Ctrl-C too, goes to the guest. Of a pipe or a file, only the flags
    /// are saved: the open file belongs to the shell too, and a descriptor that
    /// does not block would outlive drupe there.
    ///
    /// # Errors
    /// The system call's; `AlreadyExists` while there is another guard.
    pub fn enter(fd: RawFd) -> io::Result<Guard> {
        let found = state(fd)?;
        let termios = found.termios;
        let new = Box::into_raw(Box::new(found));
        SAVED
            .compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Relaxed)
            .map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))?;
        let guard = Guard(());
        if let Some(mut raw) = termios {
            restore_when_all_fails();
            // SAFETY: it changes a structure that the kernel has filled in.
            unsafe { libc::cfmakeraw(&mut raw) };
            set_termios(fd, &raw)?;
            // SAFETY: no memory is involved.
            let stderr = unsafe { libc::isatty(libc::STDERR_FILENO) } == 1;
            RAW_STDERR.store(stderr, Ordering::Relaxed);
        }
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts back what the guard changed, once; later calls do nothing. Safe in a
/// signal handler.
pub fn restore() {
    RAW_STDERR.store(false, Ordering::Relaxed);
    let saved = SAVED.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: null, or a `Saved` from `Guard::enter` that is never freed.
    let Some(saved) = (unsafe { saved.as_ref() }) else {
        return;
    };
    // Nothing can be done about a failure: the terminal may be gone.
    if let Some(termios) = &saved.termios {
        let _ = set_termios(saved.fd, termios);
    }
    let _ = set_flags(saved.fd, saved.flags);
}

fn state(fd: RawFd) -> io::Result<Saved> {
    let flags = flags(fd)?;
    let mut termios = MaybeUninit::uninit();
    // SAFETY: the buffer is a termios.
    let is_terminal = unsafe { libc::tcgetattr(fd, termios.as_mut_ptr()) } == 0;
    // SAFETY: no memory is involved.
    let background = unsafe {
        let foreground = libc::tcgetpgrp(fd);
        foreground > 0 && foreground != libc::getpgrp()
    };
    Ok(Saved {
        fd,
        // SAFETY: tcgetattr has filled it in.
        termios: (is_terminal && !background).then(|| unsafe { termios.assume_init() }),
        flags,
    })
}

fn flags(fd: RawFd) -> io::Result<libc::c_int> {
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags)
}

fn set_flags(fd: RawFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the terminal, even from the background: a process whose SIGTTOU is
/// blocked may, and is not stopped for it.
fn set_termios(fd: RawFd, termios: &libc::termios) -> io::Result<()> {
    with_signals_blocked(|| {
        // SAFETY: the structure is live and whole.
        match unsafe { libc::tcsetattr(fd, libc::TCSANOW, termios) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}

/// Calls `f` with every signal blocked in this thread, and in those that `f`
/// starts. Safe in a signal handler, when `f` is.
pub fn with_signals_blocked<T>(f: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut old = MaybeUninit::uninit();
    // SAFETY: both sets are initialized before they are read, `all` by sigfillset
    // and `old` by pthread_sigmask, which cannot fail for SIG_BLOCK.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), old.as_mut_ptr());
        let result = f();
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), ptr::null_mut());
        result
    }
}

/// Signals whose default is to end the process. Those with `true` are raised by
/// an instruction and come again when the handler returns.
const FATAL: [(libc::c_int, bool); 20] = [
    (libc::SIGHUP, false),
    (libc::SIGINT, false),
    (libc::SIGQUIT, false),
    (libc::SIGTERM, false),
    (libc::SIGUSR1, false),
    (libc::SIGUSR2, false),
    (libc::SIGALRM, false),
    (libc::SIGVTALRM, false),
    (libc::SIGPROF, false),
    (libc::SIGIO, false),
    (libc::SIGPWR, false),
    (libc::SIGSTKFLT, false),
    (libc::SIGXCPU, false),
    (libc::SIGTRAP, false),
    (libc::SIGABRT, false),
    (libc::SIGSYS, false),
    (libc::SIGILL, true),
    (libc::SIGBUS, true),
    (libc::SIGFPE, true),
    (libc::SIGSEGV, true),
];

static PREVIOUS: [AtomicPtr<libc::sigaction>; FATAL.len()] =
    [const { AtomicPtr::new(ptr::null_mut()) }; FATAL.len()];

/// Has the terminal restored on a panic and on fatal signals, once per process.
/// A signal that the process handles or ignores already is left alone, save the
/// faults: their handler (Rust's, for stack overflows) is called afterwards.
fn restore_when_all_fails() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        for ((signal, fault), previous) in FATAL.into_iter().zip(&PREVIOUS) {
            handle(signal, fault, previous);
        }
    });
}

fn handle(signal: libc::c_int, fault: bool, previous: &AtomicPtr<libc::sigaction>) {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the new action is fully set up (zeroed is an empty mask); the old
    // one is read only after sigaction has filled it in; the handler only calls
    // what may be called in one.
    unsafe {
        if libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) < 0 {
            return;
        }
        let old = old.assume_init();
        if old.sa_sigaction != libc::SIG_DFL && !fault {
            return;
        }
        previous.store(Box::into_raw(Box::new(old)), Ordering::Release);
        let mut new: libc::sigaction = MaybeUninit::zeroed().assume_init();
        new.sa_sigaction = on_fatal_signal as *const () as libc::sighandler_t;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(signal, &new, ptr::null_mut());
    }
}

extern "C" fn on_fatal_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    restore();
    for ((number, fault), previous) in FATAL.into_iter().zip(&PREVIOUS) {
        if number == signal {
            let previous = previous.load(Ordering::Acquire);
            // SAFETY: `previous` is a leaked sigaction, stored before this
            // handler was installed; the kernel passes a valid `info`.
            unsafe {
                // Positive: from the kernel. Zero and less: sent by a process.
                if fault && (*info).si_code > 0 {
                    libc::sigaction(signal, previous, ptr::null_mut());
                } else {
                    libc::signal(signal, libc::SIG_DFL);
                    libc::raise(signal);
                }
            }
        }
    }
}

/// What the user asks of drupe with the escape key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop the VM.
    Quit,
    /// Say which keys there are.
    Help,
}

/// The keys that [`EscapeFilter`] knows, for [`Action::Help`].
pub const ESCAPE_HELP: &str =
    "Ctrl-A x stops the VM, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this";

const ESCAPE: u8 = 0x01;

/// Takes the escape key (Ctrl-A and a letter) out of what is typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Appends to `guest` what of `input` is for the guest, and returns what the
    /// user asks for. After [`Action::Quit`] the rest of the input is dropped.
    ///
    /// Ctrl-A followed by a key without a meaning goes to the guest with it.
    pub fn filter(&mut self, input: &[u8], guest: &mut Vec<u8>) -> Option<Action> {
        let mut action = None;
        for &byte in input {
            if !self.escaped {
                if byte == ESCAPE {
                    self.escaped = true;
                } else {
                    guest.push(byte);
                }
                continue;
            }
            self.escaped = false;
            match byte {
                b'x' => return Some(Action::Quit),
                b'h' => action = Some(Action::Help),
                ESCAPE => guest.push(ESCAPE),
                other => guest.extend([ESCAPE, other]),
            }
        }
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    fn all(inputs: &[&[u8]]) -> (Vec<u8>, Vec<Option<Action>>) {
        let mut filter = EscapeFilter::default();
        let mut guest = Vec::new();
        let actions = inputs.iter().map(|i| filter.filter(i, &mut guest));
        let actions = actions.collect();
        (guest, actions)
    }

    #[test]
    fn keys_pass_and_escapes_act() {
        assert_eq!(
            all(&[b"ls\r\x03\xff"]),
            (b"ls\r\x03\xff".to_vec(), vec![None])
        );
        assert_eq!(
            all(&[b"a\x01xrest"]),
            (b"a".to_vec(), vec![Some(Action::Quit)])
        );
        assert_eq!(
            all(&[b"a\x01", b"x"]),
            (b"a".to_vec(), vec![None, Some(Action::Quit)])
        );
        assert_eq!(all(&[b"\x01hb"]), (b"b".to_vec(), vec![Some(Action::Help)]));
        assert_eq!(all(&[b"\x01h\x01x"]), (vec![], vec![Some(Action::Quit)]));
        assert_eq!(all(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![None]));
        assert_eq!(all(&[b"\x01k"]), (b"\x01k".to_vec(), vec![None]));
    }

    #[test]
    fn how_the_input_is_cut_makes_no_difference() {
        let input = b"a\x01\x01b\x01kc\x01hd\x01";
        let (whole, _) = all(&[input]);
        let single: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(all(&single).0, whole);
    }

    fn pty() -> (OwnedFd, OwnedFd) {
        let (mut a, mut b) = (0, 0);
        // SAFETY: two integers to fill in; no name, no settings.
        unsafe {
            let rc = libc::openpty(
                &mut a,
                &mut b,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            );
            assert_eq!(rc, 0);
            (OwnedFd::from_raw_fd(a), OwnedFd::from_raw_fd(b))
        }
    }

    /// One test, since there is one guard in a process.
    #[test]
    fn raw_mode_is_undone() {
        let (_master, terminal) = pty();
        let fd = terminal.as_raw_fd();
        let lflag = || state(fd).unwrap().termios.unwrap().c_lflag;
        let before = lflag();
        assert_ne!(before & libc::ICANON, 0);
        {
            let _guard = Guard::enter(fd).unwrap();
            set_flags(fd, flags(fd).unwrap() | libc::O_NONBLOCK).unwrap();
            assert_eq!(lflag() & (libc::ICANON | libc::ISIG | libc::ECHO), 0);
            assert_ne!(flags(fd).unwrap() & libc::O_NONBLOCK, 0);
            assert_eq!(
                Guard::enter(fd).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            // As a signal handler would, before the drop.
            restore();
            assert_eq!(lflag(), before);
        }
        assert_eq!(lflag(), before);
        assert_eq!(flags(fd).unwrap() & libc::O_NONBLOCK, 0);

        let file = tempfile::tempfile().unwrap();
        let guard = Guard::enter(file.as_raw_fd()).unwrap();
        assert_eq!(line_end(), "\n");
        let fd = file.as_raw_fd();
        set_flags(fd, flags(fd).unwrap() | libc::O_NONBLOCK).unwrap();
        drop(guard);
        assert_eq!(flags(fd).unwrap() & libc::O_NONBLOCK, 0);
    }

    const CHILD: &str = "DRUPE_TEST_TERMINAL_SIGNAL";

    /// Not a test by itself: the child of the next one.
    #[test]
    fn die_in_raw_mode() {
        let Ok(signal) = std::env::var(CHILD) else {
            return;
        };
        // What whoever runs the tests ignores, as nohup does, would stay ignored.
        for (signal, _) in FATAL.into_iter().filter(|(_, fault)| !fault) {
            // SAFETY: no memory is involved.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let _guard = Guard::enter(libc::STDIN_FILENO).unwrap();
        let termios = state(libc::STDIN_FILENO).unwrap().termios.unwrap();
        assert_eq!(termios.c_lflag & libc::ICANON, 0);
        match signal.parse().unwrap() {
            0 => panic!("on purpose"),
            // SAFETY: no memory is involved.
            signal => unsafe { libc::raise(signal) },
        };
    }

    #[test]
    fn raw_mode_is_undone_by_a_death() {
        use std::os::unix::process::ExitStatusExt;
        for signal in [0].into_iter().chain(FATAL.map(|(signal, _)| signal)) {
            let (_master, terminal) = pty();
            let before = state(terminal.as_raw_fd()).unwrap().termios.unwrap();
            let end = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "terminal::tests::die_in_raw_mode"])
                .env(CHILD, signal.to_string())
                .stdin(terminal.try_clone().unwrap())
                .output()
                .unwrap();
            let after = state(terminal.as_raw_fd()).unwrap().termios.unwrap();
            assert_eq!(before.c_lflag, after.c_lflag, "{signal}");
            assert_eq!(before.c_oflag, after.c_oflag, "{signal}");
            assert_eq!(end.status.signal().unwrap_or(0), signal);
            assert!(!end.status.success());
        }
    }
}
