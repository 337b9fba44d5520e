//! The guest's console: the serial port on one side, two descriptors on the
//! other.
//!
//! Output takes this path: the guest writes to the port; KVM notes it in its
//! ring without leaving the kernel; at the next exit of any vCPU, or at the next
//! tick of a timer, the ring is emptied into the port and what the port has
//! collected into [`Output`], which writes it out a line at a time. When the
//! reader on the host does not keep up, bytes stay in the ring, and a vCPU that
//! comes to the port waits; the event loop never does.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use devices::serial::Serial;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::coalesced::CoalescedRing;
use crate::outcome::{Ending, Outcome};
use crate::output::Output;

/// What is typed at a terminal and waits for the guest, in bytes; more is lost.
const MAX_TYPED: usize = 4096;
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
    /// The most bytes that `output` may hold: it is emptied and begun again when
    /// it would grow past that. For a regular file in append mode.
    pub limit: Option<u64>,
    /// Looks at the input on its way.
    pub filter: Option<InputFilter>,
}

/// The console as vCPUs and the event loop share it.
pub(crate) struct Console {
    serial: Arc<Mutex<Serial>>,
    ring: Option<CoalescedRing>,
    output: Arc<Output>,
    timer: Mutex<TimerFd>,
    busy: AtomicBool,
    ending: Arc<Ending>,
}

impl Console {
    pub(crate) fn new(
        serial: Arc<Mutex<Serial>>,
        ring: Option<CoalescedRing>,
        (file, limit): (Option<File>, Option<u64>),
        ending: Arc<Ending>,
    ) -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(IDLE_TICK, Some(IDLE_TICK))?;
        Ok(Console {
            serial,
            ring,
            output: Arc::new(Output::new(file, limit)),
            timer: Mutex::new(timer),
            busy: AtomicBool::new(false),
            ending,
        })
    }

    /// Starts the thread that writes the output, if it goes anywhere; it ends
    /// after [`Console::finish`].
    pub(crate) fn start(&self) -> io::Result<Option<JoinHandle<()>>> {
        self.output.start()
    }

    /// Before an exit is handled: what the guest wrote earlier comes first,
    /// unless the reader is too far behind. A guest that goes on writing then
    /// fills the ring, and comes to the port.
    pub(crate) fn catch_up(&self) {
        if self.is_pending() && self.output.has_room() {
            self.drain();
        }
    }

    /// Before an access to the port: the same, and waits for the reader.
    pub(crate) fn before_access(&self) {
        while !self.output.has_room() && !self.ending.is_over() {
            self.output.wait_for_room(BUSY_TICK);
        }
        self.drain();
    }

    /// After an access to the port.
    pub(crate) fn after_access(&self) {
        self.collect();
    }

    /// Writes out what is left, for as long as the reader takes it, and ends the
    /// writer.
    pub(crate) fn finish(&self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        self.drain();
        self.output.finish(PATIENCE);
    }

    fn is_pending(&self) -> bool {
        self.ring.as_ref().is_some_and(CoalescedRing::is_pending)
    }

    /// Empties the ring.
    fn drain(&self) {
        if let Some(ring) = self.ring.as_ref().filter(|r| r.is_pending()) {
            ring.drain(|bytes| lock(&self.serial).transmit(bytes));
            self.mark_busy();
        }
        self.collect();
    }

    /// Empties the port.
    fn collect(&self) {
        if self.output.append(|| lock(&self.serial).take_output()) {
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
        self.catch_up();
        self.output.flush();
        let idle = !self.busy.load(Ordering::Relaxed) && self.output.is_empty();
        if was_busy && idle {
            self.set_tick(IDLE_TICK);
        } else if was_busy {
            self.busy.store(true, Ordering::Relaxed);
        }
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
    /// Input is typed by a person, who may want to leave while the guest does
    /// not read.
    terminal: bool,
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
            terminal: input.as_ref().is_some_and(File::is_terminal),
            input,
            filter,
            room,
            timer,
            waiting: Vec::new(),
            watched: false,
        }
    }

    /// Reads a piece of input and passes it on; what the port has no room for
    /// waits. Until it is gone no more is read, save from a terminal: there the
    /// filter sees every key.
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
        if self.terminal {
            self.waiting.truncate(MAX_TYPED);
        }
        self.type_waiting(ops);
    }

    fn type_waiting(&mut self, ops: &mut EventOps) {
        let taken = lock(&self.console.serial).type_input(&self.waiting);
        self.waiting.drain(..taken);
        let wanted = self.terminal || self.waiting.is_empty();
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

#[cfg(test)]
mod tests {
    use super::*;
    use devices::virtio::IrqLine;
    use event_manager::{EventManager, SubscriberOps};
    use std::io::Write;
    use std::os::fd::{FromRawFd, OwnedFd};

    struct NoIrq;
    impl IrqLine for NoIrq {
        fn trigger(&self) {}
    }

    /// Types `keys` in one piece after another while the guest reads nothing;
    /// true when they end the VM. `x` is the key that quits.
    fn quits(input: File, mut keyboard: File, keys: &[&[u8]]) -> bool {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let room = Arc::new(event());
        let serial = Arc::new(Mutex::new(Serial::new(Arc::new(NoIrq), room.clone())));
        let ending = Arc::new(Ending::new(event()));
        let console = Console::new(serial, None, (None, None), ending.clone()).unwrap();
        let filter: InputFilter = Box::new(|input, guest| {
            guest.extend(input);
            match input.contains(&b'x') {
                true => InputAction::Quit,
                false => InputAction::Continue,
            }
        });
        let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        let console = ConsoleEvents::new(Arc::new(console), Some(input), Some(filter), room);
        events.add_subscriber(Box::new(console));
        for piece in keys {
            keyboard.write_all(piece).unwrap();
            for _ in 0..20 {
                events.run_with_timeout(5).unwrap();
            }
        }
        ending.is_over()
    }

    #[test]
    fn a_person_can_leave_while_the_guest_does_not_read() {
        let (mut a, mut b) = (0, 0);
        let none = std::ptr::null_mut;
        // SAFETY: two integers to fill in; no name, no settings.
        let (keyboard, terminal) = unsafe {
            let rc = libc::openpty(&mut a, &mut b, none(), none().cast(), none().cast());
            assert_eq!(rc, 0);
            let mut raw = std::mem::zeroed();
            libc::tcgetattr(b, &mut raw);
            libc::cfmakeraw(&mut raw);
            libc::tcsetattr(b, libc::TCSANOW, &raw);
            (File::from_raw_fd(a), File::from_raw_fd(b))
        };
        let many = [b'k'; 2000];
        let keys: [&[u8]; 4] = [&many, &many, &many, b"x"];
        assert!(quits(terminal, keyboard, &keys));
    }

    #[test]
    fn a_pipe_waits_for_the_guest() {
        let (reader, writer) = io::pipe().unwrap();
        let (input, keyboard) = (OwnedFd::from(reader), OwnedFd::from(writer));
        let keys: [&[u8]; 2] = [&[b'k'; 2000], b"x"];
        assert!(!quits(input.into(), keyboard.into(), &keys));
    }
}
