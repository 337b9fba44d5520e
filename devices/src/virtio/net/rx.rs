//! Packets to the guest (virtio 1.2 §5.1.6.3, §5.1.6.4).
//!
//! A packet's size is known only after it was read. So it is read into as many
//! of the guest's buffers as the packet before needed, and what does not fit
//! there into `spill`, to be copied on into further buffers: a bulk transfer is
//! read in place, and a trickle of small packets takes one buffer each.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use super::backend::{HEADER_SIZE, MAX_FRAME, PacketBackend};
use super::counters::{Budget, NetCounters};
use super::vectored::MAX_PIECES;
use super::{Next, features, gone};
use crate::GuestMemory;
use crate::rate_limit::Limiter;
use crate::rate_log::RateLog;
use crate::virtio::{Activation, GuestBuffer, Violation, VirtQueue};

/// Room for what the guest's buffers do not hold: the largest packet. Some more,
/// since a VLAN tag is not counted in [`MAX_FRAME`].
const SPILL_SIZE: usize = HEADER_SIZE + MAX_FRAME + 64;

/// Where `num_buffers` lies in the header.
const NUM_BUFFERS_OFFSET: usize = 10;

/// The most packets of an earlier use of the device that are thrown away at a
/// reset. Longer than any sensible queue of a TAP (500 by default).
const MAX_DISCARDED: usize = 4096;

/// The receiving half's state.
#[derive(Debug, Default)]
pub(super) struct Rx {
    /// A packet that was read and did not fit what the driver had on offer.
    held: Option<Vec<u8>>,
    spill: Vec<u8>,
    /// Size of the last packet.
    last_size: usize,
    /// The most chains that the driver ever had on offer at once.
    most_offered: usize,
}

/// What one step of the loop came to.
enum Step {
    /// A packet of this size is done with, or nothing moved: look again.
    Look(usize),
    /// No packet or no room: an event will come.
    Wait,
    /// The limit is used up for this long.
    Later(Duration),
    /// The back end is gone.
    Gone,
}

/// Chains popped for one packet.
#[derive(Default)]
struct Gathered<'m> {
    /// Heads and sizes.
    chains: Vec<(u16, usize)>,
    /// All their room, in order.
    room: GuestBuffer<'m>,
    /// The room of the first chain, where the header begins.
    first: GuestBuffer<'m>,
}

impl Rx {
    /// The driver is ready.
    pub fn start(&mut self) {
        *self = Rx::default();
        self.spill = vec![0; SPILL_SIZE];
    }

    /// The driver is gone, and the packet held for it; true when there was one.
    pub fn stop(&mut self) -> bool {
        std::mem::take(self).held.is_some()
    }

    /// Throws away what waits in the back end.
    pub fn discard<B: PacketBackend>(&self, backend: &mut B, counters: &mut NetCounters) {
        let mut header = [0; HEADER_SIZE];
        for _ in 0..MAX_DISCARDED {
            match backend.read_packet(&GuestBuffer::new(), &mut header) {
                Ok(_) => counters.rx_dropped += 1,
                Err(_) => return,
            }
        }
    }

    /// Moves packets until there are no more, there is no room, or it was enough
    /// for now, or all that `limit` allows. The driver's kicks are wanted afterwards
    /// only if room is wanted.
    pub fn run<B: PacketBackend>(
        &mut self,
        active: &mut Activation,
        backend: &mut B,
        link_up: bool,
        limit: &Limiter,
        counters: &mut NetCounters,
    ) -> Result<Next, Violation> {
        let mergeable = active.has(features::MRG_RXBUF);
        let Activation { mem, queues, .. } = active;
        let Some(queue) = queues.get_mut(usize::from(super::RX_QUEUE)) else {
            return Ok(Next::Wait);
        };
        self.most_offered = self.most_offered.max(queue.pending(mem)?.into());
        queue.disable_kicks(mem)?;
        let mut budget = Budget::new();
        let next = loop {
            if !budget.left() {
                break Next::Again;
            }
            let step = if link_up {
                self.receive(queue, mem, backend, mergeable, limit, counters)?
            } else {
                self.drop_one(backend, counters)
            };
            match step {
                Step::Look(size) => budget.spend(size),
                Step::Wait => break Next::Wait,
                Step::Later(time) => break Next::Later(time),
                Step::Gone => break Next::Gone,
            }
        };
        queue.notify(mem)?;
        Ok(next)
    }

    /// The link is down: packets are lost on the wire.
    fn drop_one<B: PacketBackend>(&mut self, backend: &mut B, counters: &mut NetCounters) -> Step {
        if self.held.take().is_some() {
            counters.rx_dropped += 1;
        }
        match backend.read_packet(&GuestBuffer::new(), &mut self.spill) {
            Ok(size) => {
                counters.rx_dropped += 1;
                Step::Look(size)
            }
            Err(e) => read_failed(backend, &e, counters),
        }
    }

    fn receive<B: PacketBackend>(
        &mut self,
        queue: &mut VirtQueue,
        mem: &GuestMemory,
        backend: &mut B,
        mergeable: bool,
        limit: &Limiter,
        counters: &mut NetCounters,
    ) -> Result<Step, Violation> {
        let mut gathered = Gathered::default();
        if let Some(packet) = self.held.take() {
            return self.deliver_held(packet, gathered, queue, mem, counters);
        }
        // A packet's size is known when it has been read, and paid then.
        if let Some(time) = limit.may_pass() {
            return Ok(Step::Later(time));
        }
        gathered.fill(queue, mem, self.last_size, mergeable)?;
        if gathered.chains.is_empty() {
            return self.wait_for_room(&gathered, queue, mem, counters);
        }
        let direct = gathered.direct();
        let size = match backend.read_packet(&direct, &mut self.spill) {
            Ok(size) => size,
            Err(e) => {
                gathered.undo(queue);
                return Ok(read_failed(backend, &e, counters));
            }
        };
        self.last_size = size;
        limit.passed(size.saturating_sub(HEADER_SIZE) as u64);
        let spilt = size.saturating_sub(direct.len());
        if size <= HEADER_SIZE || spilt > self.spill.len() {
            gathered.undo(queue);
            counters.rx_errors += 1;
            return Ok(Step::Look(size));
        }
        if spilt == 0 {
            gathered.use_up(queue, mem, size, counters)?;
            return Ok(Step::Look(size));
        }
        let spilt = &self.spill[..spilt];
        if gathered.fill(queue, mem, size, mergeable)? {
            let mut room = gathered.room.clone();
            room.advance(direct.len());
            // Checked: there is room for all of it.
            let _ = room.write_all(spilt);
            gathered.use_up(queue, mem, size, counters)?;
        } else if mergeable {
            let mut packet = vec![0; size - spilt.len()];
            // `direct` holds as much.
            let _ = direct.clone().read_exact(&mut packet);
            packet.extend_from_slice(spilt);
            gathered.undo(queue);
            self.held = Some(packet);
        } else {
            // The next buffer will hardly be larger.
            gathered.undo(queue);
            counters.rx_dropped += 1;
        }
        Ok(Step::Look(size))
    }

    /// Delivers a packet that did not fit before, or waits on, or drops it.
    fn deliver_held<'m>(
        &mut self,
        packet: Vec<u8>,
        mut gathered: Gathered<'m>,
        queue: &mut VirtQueue,
        mem: &'m GuestMemory,
        counters: &mut NetCounters,
    ) -> Result<Step, Violation> {
        if gathered.fill(queue, mem, packet.len(), true)? {
            // Checked: there is room for all of it.
            let _ = gathered.room.clone().write_all(&packet);
            gathered.use_up(queue, mem, packet.len(), counters)?;
            return Ok(Step::Look(packet.len()));
        }
        if gathered.chains.len() >= self.most_offered {
            // All that this driver ever offered at once is too little. If it
            // waits for this buffer to be used, waiting for more would be for ever.
            self.most_offered = gathered.chains.len();
            gathered.undo(queue);
            counters.rx_dropped += 1;
            return Ok(Step::Look(packet.len()));
        }
        self.held = Some(packet);
        self.wait_for_room(&gathered, queue, mem, counters)
    }

    /// Asks for a kick, with all chains popped: the driver kicks for those after
    /// the device's position (§2.7.10), so the position must be the end when this
    /// is asked, or the kick would never come.
    fn wait_for_room(
        &mut self,
        gathered: &Gathered<'_>,
        queue: &mut VirtQueue,
        mem: &GuestMemory,
        counters: &mut NetCounters,
    ) -> Result<Step, Violation> {
        let more = queue.enable_kicks(mem)?;
        gathered.undo(queue);
        if more {
            return Ok(Step::Look(0));
        }
        counters.rx_stalls += 1;
        Ok(Step::Wait)
    }
}

impl<'m> Gathered<'m> {
    /// Pops chains until `want` bytes fit, at least one, and not more than one
    /// unless they may be merged. False when the driver has too few on offer.
    fn fill(
        &mut self,
        queue: &mut VirtQueue,
        mem: &'m GuestMemory,
        want: usize,
        mergeable: bool,
    ) -> Result<bool, Violation> {
        while self.chains.is_empty() || mergeable && self.room.len() < want {
            let Some(chain) = queue.pop(mem)? else {
                return Ok(false);
            };
            if !chain.readable.is_empty() {
                return Err(Violation::Protocol(
                    "a buffer for a packet with something to read",
                ));
            }
            if chain.writable.len() < HEADER_SIZE {
                return Err(Violation::Protocol(
                    "a buffer for a packet without room for the header",
                ));
            }
            if self.chains.is_empty() {
                self.first = chain.writable.clone();
            }
            self.chains.push((chain.head, chain.writable.len()));
            for piece in chain.writable.pieces() {
                self.room.push(*piece);
            }
        }
        Ok(self.room.len() >= want)
    }

    /// The part of the room that one system call can read into.
    fn direct(&self) -> GuestBuffer<'m> {
        let mut room = self.room.clone();
        if room.pieces().len() <= MAX_PIECES {
            return room;
        }
        let size = room.pieces().take(MAX_PIECES).map(|p| p.len()).sum();
        room.split_to(size)
    }

    /// Gives everything back to the ring.
    fn undo(&self, queue: &mut VirtQueue) {
        self.chains.iter().for_each(|_| queue.undo_pop());
    }

    /// Hands the chains that `size` bytes lie in to the driver and the rest back
    /// to the ring.
    fn use_up(
        mut self,
        queue: &mut VirtQueue,
        mem: &GuestMemory,
        size: usize,
        counters: &mut NetCounters,
    ) -> Result<(), Violation> {
        let mut left = size;
        let mut used = Vec::with_capacity(self.chains.len());
        for &(head, len) in &self.chains {
            if left == 0 {
                queue.undo_pop();
                continue;
            }
            let n = len.min(left);
            left -= n;
            used.push((head, n as u32));
        }
        // The back end leaves this field alone. No more chains than a queue's
        // size; each has room for the header.
        self.first.advance(NUM_BUFFERS_OFFSET);
        let _ = self.first.write_obj(&(used.len() as u16).to_le());
        // At once: a driver that polls must not find the first part alone.
        queue.push_all(mem, &used)?;
        counters.rx_packets += 1;
        counters.rx_bytes += (size - HEADER_SIZE) as u64;
        Ok(())
    }
}

fn read_failed<B: PacketBackend>(
    backend: &B,
    error: &std::io::Error,
    counters: &mut NetCounters,
) -> Step {
    static LOG: RateLog = RateLog::new();
    if error.kind() == ErrorKind::WouldBlock {
        return Step::Wait;
    }
    if gone(error) {
        return Step::Gone;
    }
    counters.rx_errors += 1;
    if LOG.allow() {
        log::warn!("net: {}: cannot read a packet: {error}", backend.name());
    }
    // Not again at once: it may go on failing for ever.
    Step::Wait
}
