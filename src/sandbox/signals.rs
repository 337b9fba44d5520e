//! Signals: their names, and receiving them as data.

use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

/// The names of Linux's signals on x86-64 and most others, without `SIG`.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// The first real-time signal that a program may use, and the last.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Reads a signal: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
///
/// # Errors
/// One line that says what would be right.
pub fn parse(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name);
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let number = if let Some((_, number)) = named {
        Some(*number)
    } else if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').and_then(|n| RTMIN.checked_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').and_then(|n| RTMAX.checked_sub(n))
    } else {
        text.parse().ok()
    };
    number
        .filter(|n| (1..=31).contains(n) || (RTMIN..=RTMAX).contains(n))
        .ok_or_else(|| format!("'{text}' is no signal: write it as TERM or 15"))
}

/// A signal's name: `SIGTERM`; of one of real time as its distance from the first.
pub fn name(signal: i32) -> String {
    match NAMES.iter().find(|(_, number)| *number == signal) {
        Some((name, _)) => format!("SIG{name}"),
        None if signal == RTMIN => "SIGRTMIN".to_owned(),
        None if signal > RTMIN => format!("SIGRTMIN+{}", signal - RTMIN),
        None => signal.to_string(),
    }
}

/// Signals that come as data to who waits for them, and not to the process.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks these signals in this thread, those that it will start, and the
    /// programs that they start.
    ///
    /// # Errors
    /// The system call's.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: sigemptyset fills the set before anything reads it; all
        // pointers are to a local that outlives the calls.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) {
                0 => Ok(Signals { set }),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// A descriptor that can be read from while one has arrived: for who waits for
    /// other things as well, and then takes it by [`Signals::wait`].
    ///
    /// # Errors
    /// The system call's.
    pub fn arrived(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is valid; the descriptor is new, and nobody else's.
        unsafe {
            match libc::signalfd(-1, &raw const self.set, libc::SFD_CLOEXEC) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd)),
            }
        }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// The system call's.
    pub fn wait(&self) -> io::Result<i32> {
        loop {
            // SAFETY: the set is valid, and nothing else is asked for.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.set, ptr::null_mut()) };
            if signal > 0 {
                return Ok(signal);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("15", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("40", 40),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in [
            "", "SIG", "0", "-9", "32", "65", "RTMIN+31", "RTMIN-1", "TERMS", "RTMIN+x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_is_that_of_this_machine() {
        for (name, number) in [
            ("USR1", libc::SIGUSR1),
            ("CHLD", libc::SIGCHLD),
            ("SYS", libc::SIGSYS),
        ] {
            assert_eq!(parse(name), Ok(number));
        }
    }

    #[test]
    fn a_blocked_signal_comes_as_data() {
        std::thread::spawn(|| {
            let signals = Signals::block(&[libc::SIGWINCH]).unwrap();
            // SAFETY: no memory is involved; this thread has the signal blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGWINCH) };
            assert_eq!(signals.wait().unwrap(), libc::SIGWINCH);
        })
        .join()
        .unwrap();
    }
}
