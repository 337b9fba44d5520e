//! The wire between a network card and the stack: two bounded queues of frames,
//! and an eventfd at each end.
//!
//! Each end is used by one thread. Nothing blocks: a full queue is noted, and its
//! other end wakes the sender when there is room.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// The most frames in one direction.
const MAX_FRAMES: usize = 512;
/// The most bytes in one direction: a frame is let in as long as there are fewer.
const MAX_BYTES: usize = 2 << 20;
/// Answers to the guest's own frames may exceed the limits by as many again: they
/// cannot wait, and no more frames are taken from the guest until they are gone.
const RESERVE: usize = 2;

/// One Ethernet frame for the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// The frame from its destination address on, without a check sequence.
    pub bytes: Vec<u8>,
    /// What the guest has to finish.
    pub unfinished: Option<Unfinished>,
}

/// A frame whose checksum is not complete: the field holds the sum of the pseudo
/// header alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Where in the frame the sum begins.
    pub checksum_start: u16,
    /// Where from there the field is.
    pub checksum_offset: u16,
    /// For TCP over IPv4 that is larger than the guest's segments: their size.
    pub segment_size: Option<u16>,
    /// The size of all headers, for such a frame.
    pub header_size: u16,
}

/// Which unfinished frames the guest takes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Without a complete checksum.
    pub checksum: bool,
    /// TCP over IPv4 in segments that are too large; only with `checksum`.
    pub tso4: bool,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    bytes: usize,
    /// The sender found it full.
    blocked: bool,
    /// How often the card was reset.
    epoch: u64,
}

impl<T> Queue<T> {
    fn new() -> Mutex<Self> {
        Mutex::new(Queue {
            items: VecDeque::new(),
            bytes: 0,
            blocked: false,
            epoch: 0,
        })
    }

    fn has_room(&self, times: usize) -> bool {
        self.items.len() < MAX_FRAMES * times && self.bytes < MAX_BYTES * times
    }

    fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
        self.epoch += 1;
    }
}

#[derive(Debug)]
struct Shared {
    to_stack: Mutex<Queue<Vec<u8>>>,
    to_card: Mutex<Queue<Frame>>,
    offload: Mutex<Offload>,
    stack_event: OwnedFd,
    card_event: OwnedFd,
    /// There is no card, or no stack, any more.
    closed: AtomicBool,
}

/// Makes a wire.
///
/// # Errors
/// When the process has no descriptors left.
pub(crate) fn link() -> io::Result<(Card, StackEnd)> {
    let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
    let shared = Arc::new(Shared {
        to_stack: Queue::new(),
        to_card: Queue::new(),
        offload: Mutex::default(),
        stack_event: event()?,
        card_event: event()?,
        closed: AtomicBool::new(false),
    });
    let card = Card {
        shared: Arc::clone(&shared),
    };
    Ok((card, StackEnd { shared, epoch: 0 }))
}

/// The guest's end: whoever emulates its network card uses it.
#[derive(Debug)]
pub struct Card {
    shared: Arc<Shared>,
}

impl Card {
    /// Signalled, by a write, when a frame came to an empty queue, and when there
    /// is room again after [`Self::has_room`] was false. To be watched
    /// edge-triggered; it is never read and stays the same.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.shared.card_event.as_fd()
    }

    /// True until the stack has failed; the event comes then.
    pub fn is_alive(&self) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
    }

    /// True when [`Self::send`] may be called.
    pub fn has_room(&self) -> bool {
        let mut queue = lock(&self.shared.to_stack);
        queue.blocked = !queue.has_room(1);
        !queue.blocked
    }

    /// Sends a frame of the guest, which may have no checksums and may be larger
    /// than the MTU. One that comes when there is no room is dropped.
    pub fn send(&self, frame: Vec<u8>) {
        let mut queue = lock(&self.shared.to_stack);
        if !queue.has_room(1) {
            return;
        }
        let first = queue.items.is_empty();
        queue.bytes += frame.len();
        queue.items.push_back(frame);
        drop(queue);
        if first {
            signal(&self.shared.stack_event);
        }
    }

    /// The next frame for the guest.
    pub fn receive(&self) -> Option<Frame> {
        let mut queue = lock(&self.shared.to_card);
        let frame = queue.items.pop_front()?;
        queue.bytes -= frame.bytes.len();
        // Half empty rather than the first free place: one signal for many frames.
        let wake =
            queue.blocked && queue.items.len() <= MAX_FRAMES / 2 && queue.bytes <= MAX_BYTES / 2;
        if wake {
            queue.blocked = false;
        }
        drop(queue);
        if wake {
            signal(&self.shared.stack_event);
        }
        Some(frame)
    }

    /// The guest's driver begins anew: what is under way is dropped, connections
    /// end, and frames may be unfinished as `offload` says from now on.
    pub fn reset(&self, offload: Offload) {
        // In this order: the stack looks at the queue towards it first.
        lock(&self.shared.to_card).clear();
        *lock(&self.shared.offload) = offload;
        lock(&self.shared.to_stack).clear();
        signal(&self.shared.stack_event);
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        signal(&self.shared.stack_event);
    }
}

/// What happened to the card.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    Nothing,
    /// It was reset.
    Reset(Offload),
    /// It is gone.
    Closed,
}

/// The stack's end.
#[derive(Debug)]
pub(crate) struct StackEnd {
    shared: Arc<Shared>,
    epoch: u64,
}

impl StackEnd {
    /// Readable when there is news, frames came to an empty queue, or there is room
    /// again; [`Self::quiet`] makes it unreadable.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.shared.stack_event.as_fd()
    }

    /// To be called before looking for what the event was about.
    pub fn quiet(&self) {
        // Nothing to read is as good.
        let _ = rustix::io::read(&self.shared.stack_event, &mut [0; 8]);
    }

    /// What happened to the card since the last call.
    pub fn news(&mut self) -> News {
        if self.shared.closed.load(Ordering::Acquire) {
            return News::Closed;
        }
        let epoch = lock(&self.shared.to_stack).epoch;
        if epoch == self.epoch {
            return News::Nothing;
        }
        self.epoch = epoch;
        News::Reset(*lock(&self.shared.offload))
    }

    /// Takes all that the guest sent; none that it sent since a reset that
    /// [`Self::news`] has not told yet.
    pub fn take(&mut self) -> VecDeque<Vec<u8>> {
        let mut queue = lock(&self.shared.to_stack);
        if queue.epoch != self.epoch {
            return VecDeque::new();
        }
        let frames = std::mem::take(&mut queue.items);
        queue.bytes = 0;
        let wake = std::mem::take(&mut queue.blocked);
        drop(queue);
        if wake {
            signal(&self.shared.card_event);
        }
        frames
    }

    /// True when there is room for a frame that could wait. If not, the event
    /// comes when there is.
    pub fn has_room(&self) -> bool {
        self.room(1)
    }

    /// True when there is room for an answer to a frame of the guest. If not, as
    /// above.
    pub fn has_reserve(&self) -> bool {
        self.room(RESERVE)
    }

    fn room(&self, times: usize) -> bool {
        let mut queue = lock(&self.shared.to_card);
        let room = queue.has_room(times);
        queue.blocked |= !room;
        room
    }

    /// Hands a frame to the guest. The caller has asked for room.
    pub fn send(&self, frame: Frame) {
        let mut queue = lock(&self.shared.to_card);
        // A frame for a driver that is gone.
        if queue.epoch != self.epoch {
            return;
        }
        let first = queue.items.is_empty();
        queue.bytes += frame.bytes.len();
        queue.items.push_back(frame);
        drop(queue);
        if first {
            signal(&self.shared.card_event);
        }
    }
}

impl Drop for StackEnd {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        signal(&self.shared.card_event);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(event: &OwnedFd) {
    // Fails only when the counter is full: then it is signalled already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Frame {
        Frame {
            bytes: vec![0; size],
            unfinished: None,
        }
    }

    fn signalled(fd: BorrowedFd<'_>) -> bool {
        rustix::io::read(fd, &mut [0; 8]).is_ok()
    }

    #[test]
    fn both_ways_are_bounded_and_wake_the_sender() {
        let (card, mut stack) = link().unwrap();
        let mut sent = 0;
        while card.has_room() {
            card.send(vec![0; 60]);
            sent += 1;
        }
        assert_eq!(sent, MAX_FRAMES);
        card.send(vec![0; 60]);
        assert!(signalled(stack.event()) && !signalled(card.event()));
        assert_eq!(stack.take().len(), sent);
        assert!(signalled(card.event()) && card.has_room());
        assert!(stack.take().is_empty() && stack.news() == News::Nothing);

        let mut sent = 0;
        while stack.has_room() {
            stack.send(frame(65536));
            sent += 1;
        }
        assert_eq!(sent, MAX_BYTES / 65536);
        assert!(stack.has_reserve());
        assert!(signalled(card.event()) && !signalled(stack.event()));
        for n in 0..sent {
            assert_eq!(card.receive(), Some(frame(65536)));
            assert_eq!(signalled(stack.event()), n + 1 == sent / 2, "{n}");
        }
        assert_eq!(card.receive(), None);
    }

    #[test]
    fn a_reset_drops_what_is_under_way() {
        let (card, mut stack) = link().unwrap();
        card.send(vec![1; 60]);
        stack.send(frame(1));
        let offload = Offload {
            checksum: true,
            tso4: false,
        };
        card.reset(offload);
        assert_eq!(card.receive(), None);
        // Late: the stack does not know yet.
        stack.send(frame(2));
        assert_eq!(card.receive(), None);
        card.send(vec![2; 60]);
        assert!(stack.take().is_empty());
        assert_eq!(stack.news(), News::Reset(offload));
        assert_eq!(stack.take(), [vec![2; 60]]);
        stack.send(frame(3));
        assert_eq!(card.receive(), Some(frame(3)));
        drop(card);
        assert_eq!(stack.news(), News::Closed);
    }
}
