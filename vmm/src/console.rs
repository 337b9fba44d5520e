//! The guest's console: the serial port on one side, two descriptors on the
//! other.
//!
//! Output takes this path: the guest writes to the port; KVM notes it in its
//! ring without leaving the kernel; at the next exit of any vCPU, or at the next
//! tick of a timer, the ring is emptied into the port and what the port has
//! collected is written out, a line at a time. When the reader on the host does
//! not keep up, vCPUs wait at [`BACK_PRESSURE`]; the event loop never does.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use devices::serial::Serial;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::coalesced::CoalescedRing;
use crate::outcome::{Ending, Outcome};

/// Output is written out when this much is there, line or no line.
const CHUNK: usize = 512;
/// A write of this size does not block a descriptor that polls writable
/// (`PIPE_BUF`).
const MAX_WRITE: usize = 4096;
/// Output that may wait for the host's reader before the guest has to.
const BACK_PRESSURE: usize = 64 * 1024;
/// How often the ring is looked at while the guest writes.
const BUSY_TICK: Duration = Duration::from_millis(20);
/// How often it is looked at otherwise: for a guest that writes without ever
/// looking at the port's status.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// What becomes of a piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputAction {
    /// It goes to the guest.
    Continue,
    /// The person at the console wants the VM to end.
    Quit,
}

/// Looks at what is typed: takes `input`, appends what the guest shall get.
pub type InputFilter = Box<dyn FnMut(&[u8], &mut Vec<u8>) -> InputAction + Send>;

/// The host's side of the console.
#[derive(Default)]
pub struct ConsoleIo {
    /// Where input comes from.
    pub input: Option<File>,
    /// Where output goes. Without it output is dropped.
    pub output: Option<File>,
    /// Looks at the input on its way.
    pub filter: Option<InputFilter>,
}

/// The console as vCPUs and the event loop share it.
pub(crate) struct Console {
    serial: Arc<Mutex<Serial>>,
    ring: Option<CoalescedRing>,
    output: Mutex<Output>,
    timer: Mutex<TimerFd>,
    busy: AtomicBool,
    ending: Arc<Ending>,
}

struct Output {
    file: Option<File>,
    pending: VecDeque<u8>,
}

impl Console {
    pub(crate) fn new(
        serial: Arc<Mutex<Serial>>,
        ring: Option<CoalescedRing>,
        output: Option<File>,
        ending: Arc<Ending>,
    ) -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(IDLE_TICK, Some(IDLE_TICK))?;
        Ok(Console {
            serial,
            ring,
            output: Mutex::new(Output {
                file: output,
                pending: VecDeque::new(),
            }),
            timer: Mutex::new(timer),
            busy: AtomicBool::new(false),
            ending,
        })
    }

    /// Before an exit is handled: what the guest wrote earlier comes first.
    pub(crate) fn catch_up(&self) {
        if let Some(ring) = self.ring.as_ref().filter(|r| r.is_pending()) {
            ring.drain(|bytes| lock(&self.serial).transmit(bytes));
            self.mark_busy();
        }
    }

    /// After an exit to the port: writes out what there is, and lets the vCPU
    /// wait when the reader is too far behind.
    pub(crate) fn after_access(&self) {
        let mut output = lock(&self.output);
        self.collect(&mut output);
        if output.pending.len() >= CHUNK || output.pending.contains(&b'\n') {
            output.write_some();
        }
        while output.pending.len() > BACK_PRESSURE && !self.ending.is_over() {
            output.wait(BUSY_TICK);
            output.write_some();
        }
    }

    /// At each tick, and at the end. Does not block.
    pub(crate) fn flush(&self) {
        self.catch_up();
        match self.output.try_lock() {
            Ok(mut output) => {
                self.collect(&mut output);
                output.write_some();
            }
            Err(TryLockError::Poisoned(output)) => output.into_inner().write_some(),
            // A vCPU is at it.
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Writes out what is left, for as long as the reader takes it.
    pub(crate) fn finish(&self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        self.flush();
        let mut output = lock(&self.output);
        while !output.pending.is_empty() && output.wait(PATIENCE) {
            output.write_some();
        }
    }

    fn collect(&self, output: &mut Output) {
        let bytes = lock(&self.serial).take_output();
        if !bytes.is_empty() {
            output.pending.extend(bytes);
            self.mark_busy();
        }
    }

    fn mark_busy(&self) {
        if !self.busy.swap(true, Ordering::Relaxed) {
            self.set_tick(BUSY_TICK);
        }
    }

    fn set_tick(&self, tick: Duration) {
        // A timer that cannot be set leaves the other tick: slow, not wrong.
        let _ = lock(&self.timer).reset(tick, Some(tick));
    }

    fn tick(&self) {
        let _ = lock(&self.timer).wait();
        let was_busy = self.busy.swap(false, Ordering::Relaxed);
        self.flush();
        let idle = !self.busy.load(Ordering::Relaxed) && lock_len(&self.output) == 0;
        if was_busy && idle {
            self.set_tick(IDLE_TICK);
        } else if was_busy {
            self.busy.store(true, Ordering::Relaxed);
        }
    }
}

fn lock_len(output: &Mutex<Output>) -> usize {
    output.try_lock().map_or(1, |o| o.pending.len())
}

impl Output {
    /// Writes as much as goes without blocking.
    fn write_some(&mut self) {
        while !self.pending.is_empty() && self.wait(Duration::ZERO) {
            let Some(file) = &mut self.file else {
                return self.pending.clear();
            };
            let (chunk, _) = self.pending.as_slices();
            let chunk = &chunk[..chunk.len().min(MAX_WRITE)];
            match file.write(chunk) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The reader has gone: the guest goes on without.
                Err(_) => self.file = None,
            }
        }
    }

    /// Waits until the descriptor takes a write; false when it does not in time.
    fn wait(&self, time: Duration) -> bool {
        let Some(file) = &self.file else { return true };
        let mut poll = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one entry, and it outlives the call.
        unsafe { libc::poll(&mut poll, 1, time.as_millis() as i32) > 0 }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The console on the event loop: input, and the timer.
pub(crate) struct ConsoleEvents {
    console: Arc<Console>,
    input: Option<File>,
    filter: Option<InputFilter>,
    room: Arc<EventFd>,
    timer: RawFd,
    waiting: Vec<u8>,
    watched: bool,
    ending: Arc<Ending>,
}

impl ConsoleEvents {
    const INPUT: u32 = 0;
    const ROOM: u32 = 1;
    const TIMER: u32 = 2;

    /// `room` is what the port writes to when it can take more input.
    pub(crate) fn new(
        console: Arc<Console>,
        input: Option<File>,
        filter: Option<InputFilter>,
        room: Arc<EventFd>,
    ) -> Self {
        let timer = lock(&console.timer).as_raw_fd();
        ConsoleEvents {
            ending: console.ending.clone(),
            console,
            input,
            filter,
            room,
            timer,
            waiting: Vec::new(),
            watched: false,
        }
    }

    /// Reads a piece of input and passes it on; what the port has no room for
    /// waits, and until it is gone no more is read.
    fn read_input(&mut self, ops: &mut EventOps) {
        let mut buf = [0; 256];
        let Some(input) = &mut self.input else { return };
        let n = match input.read(&mut buf) {
            Ok(n) => n,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return;
            }
            Err(_) => 0,
        };
        if n == 0 {
            self.watch(ops, false);
            self.input = None;
            return;
        }
        let action = match &mut self.filter {
            Some(filter) => filter(&buf[..n], &mut self.waiting),
            None => {
                self.waiting.extend_from_slice(&buf[..n]);
                InputAction::Continue
            }
        };
        if action == InputAction::Quit {
            return self.ending.end(Outcome::Stopped(None));
        }
        self.type_waiting(ops);
    }

    fn type_waiting(&mut self, ops: &mut EventOps) {
        let taken = lock(&self.console.serial).type_input(&self.waiting);
        self.waiting.drain(..taken);
        let wanted = self.waiting.is_empty();
        self.watch(ops, wanted);
    }

    /// Starts or stops watching the input.
    fn watch(&mut self, ops: &mut EventOps, on: bool) {
        if self.watched == on {
            return;
        }
        if let Some(input) = &self.input {
            let events = Events::with_data(input, Self::INPUT, EventSet::IN);
            let done = if on {
                ops.add(events)
            } else {
                ops.remove(events)
            };
            self.watched = on && done.is_ok();
        }
    }
}

impl MutEventSubscriber for ConsoleEvents {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            Self::INPUT => self.read_input(ops),
            Self::ROOM => {
                let _ = self.room.read();
                self.type_waiting(ops);
                if !self.watched && self.waiting.is_empty() {
                    // A regular file cannot be watched: it is always ready.
                    self.read_input(ops);
                }
            }
            _ => self.console.tick(),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let timer = Events::with_data_raw(self.timer, Self::TIMER, EventSet::IN);
        let room = Events::with_data(self.room.as_ref(), Self::ROOM, EventSet::IN);
        for events in [timer, room] {
            if let Err(e) = ops.add(events) {
                log::error!("console: cannot watch a descriptor: {e}");
            }
        }
        self.watch(ops, true);
        if !self.watched {
            self.read_input(ops);
        }
    }
}
