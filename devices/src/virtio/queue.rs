//! Split virtqueues (virtio 1.2 §2.7): a thin layer over `virtio-queue` that
//! finds every breach of the rules, so that no device needs to.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};
use vmm_sys_util::eventfd::EventFd;

use super::{GuestBuffer, Violation, VirtioInterrupt};
use crate::GuestMemory;

/// The most descriptors that one chain may have. The standard bounds a chain by
/// the queue's size (§2.7.5.3.1), and no queue here is larger.
pub const MAX_CHAIN_DESCRIPTORS: usize = 1024;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (§2.7.7).
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Bytes of `flags` and `idx` before the entries of either ring (§2.7.6, §2.7.8).
const RING_HEADER: u64 = 4;
/// Size of an entry of the available ring.
const AVAIL_ENTRY: u64 = 2;
/// Size of an entry of the used ring.
const USED_ENTRY: u64 = 8;

/// What the transport knows of a queue: its set-up by the driver.
pub struct QueueSetup {
    /// The queue itself, as the driver configured it.
    pub queue: Queue,
    /// Its number.
    pub index: u16,
    /// Written to at each kick.
    pub kick: Arc<EventFd>,
    /// The way back.
    pub interrupt: Arc<dyn VirtioInterrupt>,
}

/// One descriptor chain: what the driver wrote for the device, then the room
/// that it left for the answer.
#[derive(Debug)]
pub struct Chain<'m> {
    /// The head's index: the token for [`VirtQueue::push`].
    pub head: u16,
    /// The device-readable part.
    pub readable: GuestBuffer<'m>,
    /// The device-writable part.
    pub writable: GuestBuffer<'m>,
}

/// A queue in use by a device.
pub struct VirtQueue {
    queue: Queue,
    index: u16,
    kick: Arc<EventFd>,
    interrupt: Arc<dyn VirtioInterrupt>,
    /// The used index at the last call of `notify`.
    announced: Wrapping<u16>,
}

impl VirtQueue {
    /// Takes a queue over from the transport. Whether its rings lie inside
    /// guest memory must have been checked ([`Queue::is_valid`]).
    pub fn new(setup: QueueSetup) -> Self {
        VirtQueue {
            announced: Wrapping(setup.queue.next_used()),
            queue: setup.queue,
            index: setup.index,
            kick: setup.kick,
            interrupt: setup.interrupt,
        }
    }

    /// The queue's number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// False when the driver did not set this queue up.
    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// The eventfd that each kick is written to: for devices with workers.
    pub fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// The state to save.
    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// The next chain that the driver made available; none when there is none,
    /// or when the queue is not set up.
    ///
    /// # Errors
    /// When the ring or the chain breaks the rules: indexes out of range, loops,
    /// a chain too long, memory outside the guest's, readable descriptors behind
    /// writable ones.
    pub fn pop<'m>(&mut self, mem: &'m GuestMemory) -> Result<Option<Chain<'m>>, Violation> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let index = self.index;
        let ring = |source| Violation::Ring {
            queue: index,
            source,
        };
        let Some(descriptors) = self.queue.iter(mem).map_err(ring)?.next() else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let bad = |why| Violation::Chain {
            queue: index,
            head,
            why,
        };
        let mut chain = Chain {
            head,
            readable: GuestBuffer::new(),
            writable: GuestBuffer::new(),
        };
        let mut complete = false;
        let mut writing = false;
        for (n, d) in descriptors.enumerate() {
            if n >= MAX_CHAIN_DESCRIPTORS {
                return Err(bad("the chain is longer than a queue"));
            }
            if writing && !d.is_write_only() {
                return Err(bad("a readable descriptor follows a writable one"));
            }
            writing = d.is_write_only();
            let part = if writing {
                &mut chain.writable
            } else {
                &mut chain.readable
            };
            // A buffer may run across two memory regions.
            if d.len() > 0 {
                for slice in mem.get_slices(d.addr(), d.len() as usize) {
                    part.push(slice.map_err(|_| bad("a buffer lies outside guest memory"))?);
                }
            }
            complete = !d.has_next();
        }
        // The iterator ends early, without saying why, on an index out of range,
        // a loop, a bad indirect table and more than 4 GiB in one chain.
        if !complete {
            return Err(bad("the chain is broken or loops"));
        }
        Ok(Some(chain))
    }

    /// Gives the chain popped last back to the ring, to be popped again.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Hands a chain back to the driver with `len` bytes written to it.
    ///
    /// # Errors
    /// When the head is not one of this queue's.
    pub fn push(&mut self, mem: &GuestMemory, head: u16, len: u32) -> Result<(), Violation> {
        self.queue
            .add_used(mem, head, len)
            .map_err(|source| Violation::Ring {
                queue: self.index,
                source,
            })
    }

    /// Hands several chains back at once: the driver sees all of them or none.
    /// For answers that span chains, which a driver that polls the ring must not
    /// find in part (§2.7.14, §5.1.6.4.1).
    ///
    /// # Errors
    /// When a head is not one of this queue's.
    pub fn push_all(&mut self, mem: &GuestMemory, used: &[(u16, u32)]) -> Result<(), Violation> {
        let Some((&(last_head, last_len), before)) = used.split_last() else {
            return Ok(());
        };
        let ring = |source| Violation::Ring {
            queue: self.index,
            source,
        };
        let mut next = Wrapping(self.queue.next_used());
        for &(head, len) in before {
            if head >= self.queue.size() {
                return Err(ring(virtio_queue::Error::InvalidDescriptorIndex));
            }
            let slot = u64::from(next.0 % self.queue.size());
            // The ring was checked to lie inside guest memory, so this cannot overflow.
            let addr = self.queue.used_ring() + RING_HEADER + slot * USED_ENTRY;
            let entry = u64::from(head) | u64::from(len) << 32;
            mem.write_obj(entry.to_le(), GuestAddress(addr))
                .map_err(virtio_queue::Error::GuestMemory)
                .map_err(ring)?;
            next += 1;
        }
        // The index is stored with the last one.
        self.queue.set_next_used(next.0);
        self.push(mem, last_head, last_len)
    }

    /// Interrupts the driver if it wants to hear of the chains pushed since the
    /// last call.
    ///
    /// # Errors
    /// When the driver's ring cannot be read.
    pub fn notify(&mut self, mem: &GuestMemory) -> Result<(), Violation> {
        if self
            .wants_interrupt(mem)
            .map_err(|source| Violation::Ring {
                queue: self.index,
                source,
            })?
        {
            self.interrupt.queue_used(self.index);
        }
        Ok(())
    }

    /// Asks the driver not to kick: the device is looking anyway.
    ///
    /// # Errors
    /// When the ring cannot be written.
    pub fn disable_kicks(&mut self, mem: &GuestMemory) -> Result<(), Violation> {
        if !self.queue.ready() {
            return Ok(());
        }
        self.queue
            .disable_notification(mem)
            .map_err(|source| Violation::Ring {
                queue: self.index,
                source,
            })
    }

    /// Asks the driver to kick again; true when chains arrived in the meantime
    /// and the device must look once more.
    ///
    /// # Errors
    /// When the ring cannot be read or written.
    pub fn enable_kicks(&mut self, mem: &GuestMemory) -> Result<bool, Violation> {
        if !self.queue.ready() {
            return Ok(false);
        }
        self.queue
            .enable_notification(mem)
            .map_err(|source| Violation::Ring {
                queue: self.index,
                source,
            })
    }

    /// How many chains the driver has made available and the device not popped.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn pending(&self, mem: &GuestMemory) -> Result<u16, Violation> {
        if !self.queue.ready() {
            return Ok(0);
        }
        let idx = self
            .queue
            .avail_idx(mem, Ordering::Acquire)
            .map_err(|source| Violation::Ring {
                queue: self.index,
                source,
            })?;
        Ok((idx - Wrapping(self.queue.next_avail())).0)
    }

    fn wants_interrupt(&mut self, mem: &GuestMemory) -> Result<bool, virtio_queue::Error> {
        let new = Wrapping(self.queue.next_used());
        let old = std::mem::replace(&mut self.announced, new);
        if new == old {
            return Ok(false);
        }
        // The driver sets its wish, then looks at the used index; here it is the
        // other way round, and neither side may see old values of both (§2.7.7.2).
        fence(Ordering::SeqCst);
        let load = |offset| {
            mem.load(
                GuestAddress(self.queue.avail_ring() + offset),
                Ordering::Relaxed,
            )
            .map(u16::from_le)
            .map_err(virtio_queue::Error::GuestMemory)
        };
        if !self.queue.event_idx_enabled() {
            return Ok(load(0)? & AVAIL_F_NO_INTERRUPT == 0);
        }
        // `used_event` lies behind the entries: interrupt when it was passed (§2.7.10).
        let used_event = load(RING_HEADER + u64::from(self.queue.size()) * AVAIL_ENTRY)?;
        Ok(new - Wrapping(used_event) - Wrapping(1) < new - old)
    }
}
