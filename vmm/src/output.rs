//! What the guest wrote to its console, on its way to the host's reader.
//!
//! A thread of its own writes. Whatever `poll` says, a write can block: a
//! terminal that is writable takes what it has room for and then waits for its
//! reader. vCPUs and the event loop only ever put bytes into a buffer.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::threads::{self, Role};

/// Output is written out when this much is there, line or no line.
const CHUNK: usize = 512;
/// The most that is written in one call.
const MAX_WRITE: usize = 4096;
/// Output that may wait for the host's reader before the guest has to.
const BACK_PRESSURE: usize = 64 * 1024;
/// Stack of the writer's thread in bytes: it calls nothing but `write`.
const STACK: usize = 64 * 1024;

/// The buffer, and who empties it.
pub(crate) struct Output {
    file: Mutex<Option<File>>,
    /// The most bytes that the file may hold; then it is emptied.
    limit: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pending: VecDeque<u8>,
    /// What is pending is to be written out now.
    due: bool,
    /// There is a reader, as far as is known.
    open: bool,
    over: bool,
}

impl State {
    fn has_room(&self) -> bool {
        !self.open || self.pending.len() <= BACK_PRESSURE
    }
}

impl Output {
    /// Without a file, all output is dropped. With a limit in bytes, the file is
    /// emptied and begun again when it would grow past that.
    pub(crate) fn new(file: Option<File>, limit: Option<u64>) -> Self {
        Output {
            limit,
            state: Mutex::new(State {
                pending: VecDeque::new(),
                due: false,
                open: file.is_some(),
                over: false,
            }),
            file: Mutex::new(file),
            changed: Condvar::new(),
        }
    }

    /// Starts the writer, which ends after [`Output::finish`]; it may have to be
    /// called out of a write that blocks.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<Option<JoinHandle<()>>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = file.take() else {
            return Ok(None);
        };
        let output = self.clone();
        let run = move || output.write_out(file);
        threads::spawn(Role::Console, "console".to_owned(), Some(STACK), run).map(Some)
    }

    /// Puts what `take` returns behind the rest; true when that is something.
    /// `take` is called under the lock, so that the order holds.
    pub(crate) fn append(&self, take: impl FnOnce() -> Vec<u8>) -> bool {
        let mut state = self.lock();
        let bytes = take();
        if state.open && !state.over && !bytes.is_empty() {
            let line = bytes.contains(&b'\n');
            state.pending.extend(&bytes);
            if line || state.pending.len() >= CHUNK {
                self.make_due(&mut state);
            }
        }
        !bytes.is_empty()
    }

    /// Has everything written out that is there.
    pub(crate) fn flush(&self) {
        self.make_due(&mut self.lock());
    }

    /// True when the reader keeps up, or there is none.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Waits for room, at most this long.
    pub(crate) fn wait_for_room(&self, time: Duration) {
        drop(self.wait(self.lock(), time, State::has_room));
    }

    /// True when nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().pending.is_empty()
    }

    /// Writes out what is left and ends the writer: gives up when the reader has
    /// taken nothing for this long.
    pub(crate) fn finish(&self, patience: Duration) {
        let mut state = self.lock();
        self.make_due(&mut state);
        while !state.pending.is_empty() {
            let before = state.pending.len();
            state = self.wait(state, patience, |s| s.pending.len() < before);
            if state.pending.len() == before {
                break;
            }
        }
        state.over = true;
        state.pending.clear();
        self.changed.notify_all();
    }

    fn write_out(&self, mut file: File) {
        let mut chunk = Vec::with_capacity(MAX_WRITE);
        let mut size = 0;
        while self.next_chunk(&mut chunk) {
            if self
                .limit
                .is_some_and(|most| size + chunk.len() as u64 > most)
            {
                // A file that cannot be emptied would grow for ever.
                if file.set_len(0).is_err() {
                    return self.close();
                }
                size = 0;
            }
            match file.write(&chunk) {
                Ok(n) if n > 0 => {
                    size += n as u64;
                    self.written(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Somebody else who has this open file made it so.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait_writable(&file),
                // The reader has gone: the guest goes on without.
                _ => return self.close(),
            }
        }
    }

    /// Waits for something to write; false when there will be nothing more.
    fn next_chunk(&self, chunk: &mut Vec<u8>) -> bool {
        let ready = |s: &mut State| !(s.over || s.due && !s.pending.is_empty());
        let state = self.changed.wait_while(self.lock(), ready);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        chunk.clear();
        chunk.extend(state.pending.iter().take(MAX_WRITE));
        !state.over
    }

    fn written(&self, n: usize) {
        let mut state = self.lock();
        // Fewer, when `finish` has given up.
        let n = n.min(state.pending.len());
        state.pending.drain(..n);
        state.due &= !state.pending.is_empty();
        self.changed.notify_all();
    }

    fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.pending.clear();
        self.changed.notify_all();
    }

    fn make_due(&self, state: &mut State) {
        if !state.due && !state.pending.is_empty() {
            state.due = true;
            self.changed.notify_all();
        }
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        time: Duration,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, time, |s| !done(s));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the descriptor takes a write, or a signal comes.
fn wait_writable(file: &File) {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, and it outlives the call.
    unsafe { libc::poll(&mut poll, 1, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn pipe() -> (io::PipeReader, File) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, OwnedFd::from(writer).into())
    }

    fn terminal() -> (File, File) {
        let (mut a, mut b) = (0, 0);
        let none = std::ptr::null_mut;
        // SAFETY: two integers to fill in; no name, no settings.
        unsafe {
            let rc = libc::openpty(&mut a, &mut b, none(), none().cast(), none().cast());
            assert_eq!(rc, 0);
            (File::from_raw_fd(a), File::from_raw_fd(b))
        }
    }

    #[test]
    fn what_is_written_arrives_in_order() {
        let (mut reader, writer) = pipe();
        let output = Arc::new(Output::new(Some(writer), None));
        let thread = output.start().unwrap();
        let mut expected: Vec<u8> = Vec::new();
        for n in 0..10_000 {
            let text = format!("{n} ").into_bytes();
            expected.extend(&text);
            while !output.has_room() {
                let mut some = [0; 4096];
                reader.read_exact(&mut some).unwrap();
                assert_eq!(some[..], expected[..4096]);
                expected.drain(..4096);
                output.wait_for_room(PATIENCE);
            }
            assert!(output.append(|| text));
        }
        let rest = std::thread::spawn(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            rest
        });
        output.finish(Duration::from_secs(60));
        thread.unwrap().join().unwrap();
        drop(output);
        assert_eq!(rest.join().unwrap(), expected);
    }

    #[test]
    fn a_line_goes_out_at_once_and_a_part_when_flushed() {
        let (mut reader, writer) = pipe();
        let output = Arc::new(Output::new(Some(writer), None));
        let thread = output.start().unwrap();
        let mut text = [0; 2];
        output.append(|| b"a\n".to_vec());
        reader.read_exact(&mut text).unwrap();
        output.append(|| b"bc".to_vec());
        output.flush();
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"bc");
        output.finish(PATIENCE);
        thread.unwrap().join().unwrap();
    }

    /// A terminal is writable up to the last byte, and then a write waits.
    #[test]
    fn a_reader_that_reads_nothing_blocks_nobody() {
        signals::install_kick().unwrap();
        let (master, slave) = terminal();
        let (reader, writer) = pipe();
        for file in [slave, writer] {
            let output = Arc::new(Output::new(Some(file), None));
            let thread = output.start().unwrap();
            let start = Instant::now();
            while output.has_room() {
                output.append(|| b"a line of text\n".repeat(50));
                output.flush();
                // Until the terminal or the pipe is full as well.
                output.wait_for_room(PATIENCE);
            }
            output.finish(PATIENCE);
            signals::join_threads(thread);
            assert!(output.is_empty());
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        drop((master, reader));
    }

    #[test]
    fn a_limited_file_begins_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let append = File::options().append(true).open(file.path()).unwrap();
        let output = Arc::new(Output::new(Some(append), Some(10)));
        let thread = output.start().unwrap();
        for text in ["1234\n", "6789\n", "abc\n", "d"] {
            output.append(|| text.into());
            while !output.is_empty() {
                output.flush();
                output.wait_for_room(Duration::from_millis(1));
            }
        }
        output.finish(PATIENCE);
        thread.unwrap().join().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"abc\nd");
    }

    #[test]
    fn without_a_reader_output_is_dropped() {
        let (reader, writer) = pipe();
        drop(reader);
        let output = Arc::new(Output::new(Some(writer), None));
        let thread = output.start().unwrap();
        output.append(|| vec![b'\n'; 2 * BACK_PRESSURE]);
        thread.unwrap().join().unwrap();
        assert!(output.has_room() && output.is_empty());
        let output = Arc::new(Output::new(None, None));
        assert!(output.start().unwrap().is_none());
        assert!(output.append(|| vec![b'\n'; 2 * BACK_PRESSURE]));
        assert!(output.has_room() && output.is_empty());
        output.finish(PATIENCE);
    }
}
