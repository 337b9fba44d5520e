//! Log messages as lines on standard error: `drupe: warning: ...`.
//!
//! A guest can cause messages while nobody reads them, and a terminal or a pipe
//! that is full blocks whoever writes to it. So a thread writes, started by the
//! first message; whoever has a message waits for it to be out, but not for long,
//! and not at all once the reader is known to have stopped.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{confinement, output, terminal};

/// A crate whose messages a guest can cause at will and that does not limit
/// them. What matters of them is reported by the device, through a limit.
const SILENCED: &str = "virtio_queue";

/// How long the reader of standard error may take for what is being written.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes that may wait for the reader; further messages are dropped and counted.
const MAX_PENDING: usize = 64 * 1024;
/// Stack of the thread in bytes: it calls nothing but `write`.
const STACK: usize = 64 * 1024;

struct Stderr;

static LOGGER: Stderr = Stderr;

/// Starts logging: warnings and errors, or with `verbose` also what happens.
/// Costs two stores; nothing is allocated until there is a message.
pub fn start(verbose: bool) {
    // It fails only when there is a logger already, which then does the work.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(if verbose {
            LevelFilter::Info
        } else {
            LevelFilter::Warn
        });
    }
}

/// Messages are written by whoever has them: no thread is started.
static NO_THREAD: AtomicBool = AtomicBool::new(false);

/// From now on messages are written without a thread: for a process that is about
/// to be confined, and has one thread until it is. No guest runs before that.
pub fn start_no_thread() {
    NO_THREAD.store(true, Ordering::Relaxed);
}

/// Ends what [`start_no_thread`] began.
pub fn start_thread_when_needed() {
    NO_THREAD.store(false, Ordering::Relaxed);
}

/// The most bytes that standard error may hold; 0 for no bound.
static BOUND: AtomicU64 = AtomicU64::new(0);

/// Standard error is a file, opened to append, of no more than so many bytes: when
/// it is full it is begun anew. What a guest makes a monitor say is limited in
/// time, but it may run for years.
pub fn bound_file(bytes: u64) {
    BOUND.store(bytes, Ordering::Relaxed);
}

/// Writes to a file that holds `size` bytes, no more than `bound`, and counts. One
/// write, so that lines of several processes do not mix. When it fails there is
/// nobody left to tell.
fn put(mut file: impl Write + AsFd, text: &str, bound: u64, size: &mut u64) {
    if bound != 0 && *size + text.len() as u64 > bound {
        // When it is no file after all, it goes on growing.
        let _ = rustix::fs::ftruncate(&file, 0);
        *size = 0;
    }
    *size += text.len() as u64;
    let _ = file.write_all(text.as_bytes());
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let silenced = target
            .strip_prefix(SILENCED)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        !silenced && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            write(&line(record));
        }
    }

    fn flush(&self) {}
}

/// What waits to be written to standard error.
struct Pending {
    text: String,
    dropped: usize,
    started: bool,
    /// The thread is writing what it has taken.
    writing: bool,
    /// It has been at it for longer than anybody waits.
    stuck: bool,
}

static PENDING: Mutex<Pending> = Mutex::new(Pending {
    text: String::new(),
    dropped: 0,
    started: false,
    writing: false,
    stuck: false,
});
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes `text` to standard error: it is out on return, unless nobody reads.
pub fn write(text: &str) {
    let mut pending = lock();
    if pending.text.len() + text.len() > MAX_PENDING {
        pending.dropped += 1;
        return;
    }
    pending.text.push_str(text);
    if !pending.started {
        // The thread takes no signals: they are for those who wait for them.
        let start = || confinement::spawn_log(STACK, write_pending);
        if NO_THREAD.load(Ordering::Relaxed) || terminal::with_signals_blocked(start).is_err() {
            // Not a moment to fail for want of a thread.
            let _ = std::io::stderr().write_all(pending.text.as_bytes());
            return pending.text.clear();
        }
        pending.started = true;
    }
    CHANGED.notify_all();
    if pending.stuck {
        return;
    }
    let busy = |p: &mut Pending| p.writing || !p.text.is_empty();
    let (mut pending, wait) = CHANGED
        .wait_timeout_while(pending, PATIENCE, busy)
        .unwrap_or_else(PoisonError::into_inner);
    pending.stuck |= wait.timed_out();
}

/// The thread: never ends.
fn write_pending() {
    let mut pending = lock();
    // What was written before there was this thread is a line or two.
    let mut size = 0;
    loop {
        let mut text = std::mem::take(&mut pending.text);
        if text.is_empty() {
            let woken = CHANGED.wait(pending);
            pending = woken.unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let dropped = std::mem::take(&mut pending.dropped);
        if dropped > 0 {
            let end = terminal::line_end();
            text +=
                &format!("drupe: warning: {dropped} messages were dropped: nobody read them{end}");
        }
        pending.writing = true;
        drop(pending);
        let bound = BOUND.load(Ordering::Relaxed);
        put(std::io::stderr(), &text, bound, &mut size);
        pending = lock();
        pending.writing = false;
        pending.stuck = false;
        CHANGED.notify_all();
    }
}

fn line(record: &Record<'_>) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let message = output::message(&record.args().to_string());
    format!("drupe: {level}: {message}{}", terminal::line_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let record = Record::builder()
            .level(Level::Warn)
            .args(format_args!("disk: bad\n\x1b[2Jheader"))
            .build();
        assert_eq!(
            line(&record),
            "drupe: warning: disk: bad\\n\\u{1b}[2Jheader\n"
        );
    }

    #[test]
    fn a_file_of_messages_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let mut size = 0;
        for n in 0..100 {
            put(&file, &format!("message {n}\n"), 100, &mut size);
            assert!(file.metadata().unwrap().len() <= 100);
        }
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .ends_with("message 99\n")
        );
        for _ in 0..100 {
            put(&file, "message\n", 0, &mut size);
        }
        assert!(file.metadata().unwrap().len() > 800);
    }

    #[test]
    fn what_a_guest_can_cause_without_limit_is_silenced() {
        log::set_max_level(LevelFilter::Warn);
        let enabled = |target, level| {
            LOGGER.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(enabled("devices::virtio::blk", Level::Warn));
        assert!(!enabled("devices::virtio::blk", Level::Info));
        assert!(!enabled("virtio_queue::chain", Level::Error));
        assert!(!enabled("virtio_queue", Level::Error));
        assert!(enabled("virtio_queues", Level::Error));
    }
}
