//! Packets from the guest (virtio 1.2 §5.1.6.1, §5.1.6.2).

use std::io::ErrorKind;

use super::backend::{HEADER_SIZE, MAX_FRAME, PacketBackend};
use super::counters::{Budget, NetCounters};
use super::vectored::MAX_PIECES;
use super::{Next, gone};
use crate::rate_limit::Limiter;
use crate::rate_log::RateLog;
use crate::virtio::{Activation, GuestBuffer, Violation};

/// The sending half's state.
#[derive(Debug, Default)]
pub(super) struct Tx {
    /// The back end had no room for the packet at the head of the queue.
    pub blocked: bool,
    /// That packet has passed the limit already.
    paid: bool,
}

enum Sent {
    Done,
    Blocked,
    Gone,
}

impl Tx {
    /// Sends until nothing is left, the back end has no room, or it was enough
    /// for now, or all that `limit` allows. With the link down, packets are lost on
    /// the wire.
    pub fn run<B: PacketBackend>(
        &mut self,
        active: &mut Activation,
        backend: &mut B,
        link_up: bool,
        limit: &Limiter,
        counters: &mut NetCounters,
    ) -> Result<Next, Violation> {
        let Activation { mem, queues, .. } = active;
        let Some(queue) = queues.get_mut(usize::from(super::TX_QUEUE)) else {
            return Ok(Next::Wait);
        };
        self.blocked = false;
        queue.disable_kicks(mem)?;
        let mut budget = Budget::new();
        let next = loop {
            if !budget.left() {
                break Next::Again;
            }
            let Some(chain) = queue.pop(mem)? else {
                if queue.enable_kicks(mem)? {
                    budget.spend(0);
                    continue;
                }
                break Next::Wait;
            };
            if !chain.writable.is_empty() {
                return Err(Violation::Protocol(
                    "a packet to send with room for an answer",
                ));
            }
            let size = chain.readable.len();
            let frame = size.saturating_sub(HEADER_SIZE) as u64;
            if link_up && !self.paid {
                if let Some(time) = limit.pass(frame) {
                    // Kicks stay off: the timer tells when.
                    queue.undo_pop();
                    break Next::Later(time);
                }
                self.paid = true;
            }
            budget.spend(size);
            let sent = if link_up {
                send(&chain.readable, backend, counters)
            } else {
                counters.tx_dropped += 1;
                Sent::Done
            };
            if let Sent::Blocked = sent {
                // The back end's descriptor tells when; kicks stay off.
                queue.undo_pop();
                self.blocked = true;
                break Next::Wait;
            }
            self.paid = false;
            queue.push(mem, chain.head, 0)?;
            if let Sent::Gone = sent {
                break Next::Gone;
            }
        };
        queue.notify(mem)?;
        Ok(next)
    }
}

fn send<B: PacketBackend>(
    packet: &GuestBuffer<'_>,
    backend: &mut B,
    counters: &mut NetCounters,
) -> Sent {
    static LOG: RateLog = RateLog::new();
    let size = packet.len();
    if size <= HEADER_SIZE || size > HEADER_SIZE + MAX_FRAME || packet.pieces().len() > MAX_PIECES {
        counters.tx_malformed += 1;
        return Sent::Done;
    }
    let Err(error) = backend.write_packet(packet) else {
        counters.tx_packets += 1;
        counters.tx_bytes += (size - HEADER_SIZE) as u64;
        return Sent::Done;
    };
    if error.kind() == ErrorKind::WouldBlock {
        return Sent::Blocked;
    }
    counters.tx_dropped += 1;
    if gone(&error) {
        return Sent::Gone;
    }
    if LOG.allow() {
        let name = backend.name();
        match error.raw_os_error() {
            Some(libc::EIO) => {
                log::warn!("net: {name} is down, packets are lost: `ip link set {name} up`");
            }
            _ => log::warn!("net: {name} refused a packet: {error}"),
        }
    }
    Sent::Done
}
