//! The card behind a fake driver and a back end in memory.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use event_manager::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::testing::{Desc, Driver};
use crate::virtio::{GuestBuffer, ring_features};

mod device;
mod hostile;
mod limits;
mod rx;
mod tx;

/// The other end of the wire.
#[derive(Default)]
struct Wire {
    /// Packets for the guest, headers included.
    to_guest: VecDeque<Vec<u8>>,
    /// Packets from the guest, headers included.
    from_guest: Vec<Vec<u8>>,
    /// How many more packets fit; no limit if none.
    room: Option<usize>,
    /// What the next calls fail with.
    error: Option<i32>,
    offloads: Vec<Offload>,
    starts: usize,
    resets: usize,
    reads: usize,
}

struct FakeBackend {
    wire: Arc<Mutex<Wire>>,
    fd: EventFd,
    has_offloads: bool,
}

impl FakeBackend {
    fn wire(&self) -> io::Result<MutexGuard<'_, Wire>> {
        let wire = self.wire.lock().unwrap();
        match wire.error {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(wire),
        }
    }
}

impl PacketBackend for FakeBackend {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn name(&self) -> &str {
        "wire"
    }

    fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    fn start(&mut self) -> io::Result<()> {
        self.wire.lock().unwrap().starts += 1;
        Ok(())
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        self.wire()?.offloads.push(offload);
        Ok(())
    }

    fn reset(&mut self) {
        self.wire.lock().unwrap().resets += 1;
    }

    fn read_packet(&mut self, buffer: &GuestBuffer<'_>, spill: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire()?;
        wire.reads += 1;
        let packet = wire.to_guest.pop_front();
        let packet = packet.ok_or(io::ErrorKind::WouldBlock)?;
        assert!(buffer.pieces().len() <= MAX_PIECES);
        let mut buffer = buffer.clone();
        let n = buffer.len().min(packet.len());
        buffer.write_all(&packet[..n])?;
        let rest = &packet[n..];
        let m = rest.len().min(spill.len());
        spill[..m].copy_from_slice(&rest[..m]);
        Ok(n + m)
    }

    fn write_packet(&mut self, buffer: &GuestBuffer<'_>) -> io::Result<()> {
        let mut wire = self.wire()?;
        assert!(buffer.len() > HEADER_SIZE && buffer.pieces().len() <= MAX_PIECES);
        match &mut wire.room {
            Some(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(n) => *n -= 1,
            None => {}
        }
        let mut packet = Vec::new();
        buffer.clone().read_to_end(&mut packet)?;
        wire.from_guest.push(packet);
        Ok(())
    }
}

/// A card in its machine.
struct Bench {
    d: Driver,
    net: Arc<Mutex<Net<FakeBackend>>>,
    wire: Arc<Mutex<Wire>>,
}

fn bench_with(has_offloads: bool) -> Bench {
    let wire = Arc::new(Mutex::new(Wire::default()));
    let backend = FakeBackend {
        wire: wire.clone(),
        fd: EventFd::new(EFD_NONBLOCK).unwrap(),
        has_offloads,
    };
    let mac = "02:01:02:03:04:05".parse().unwrap();
    let net = Arc::new(Mutex::new(Net::new(backend, mac, 1400).unwrap()));
    Bench {
        d: Driver::shared(net.clone()),
        net,
        wire,
    }
}

/// Started with these features.
fn started(features: u64) -> Bench {
    let mut b = bench_with(true);
    assert!(b.d.start(features));
    b
}

impl Bench {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap()
    }

    fn net(&self) -> MutexGuard<'_, Net<FakeBackend>> {
        self.net.lock().unwrap()
    }

    fn counters(&self) -> NetCounters {
        self.net().counters()
    }

    /// A packet arrives, and the event loop sees it.
    fn arrive(&self, packet: &[u8]) {
        self.wire().to_guest.push_back(packet.to_vec());
        self.event();
    }

    fn event(&self) {
        self.net().handle_event(BACKEND, EventSet::IN);
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.wire().from_guest)
    }

    /// Chains of the receiving queue that were used since the last call.
    fn received(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.d.used(0)).collect()
    }

    /// A packet comes to one buffer.
    fn assert_works(&mut self) {
        self.d.offer(0, &[Desc::writable(0x7000, 2048)]);
        self.d.kick(0);
        let p = packet(700, 77);
        self.arrive(&p);
        assert_eq!(self.received(), [(0, p.len() as u32)]);
        assert_eq!(self.d.get(0x7000, p.len()), with_buffers(&p, 1));
        self.d.put(0x7000, &p);
        self.sent();
        assert_eq!(
            self.d.request(1, &[Desc::readable(0x7000, p.len() as u32)]),
            0
        );
        assert_eq!(self.sent(), [p]);
    }
}

/// A header of zeroes and a frame of `len` bytes.
fn packet(len: usize, seed: u8) -> Vec<u8> {
    let frame = (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed));
    [0; HEADER_SIZE].into_iter().chain(frame).collect()
}

/// The packet as the driver must find it.
fn with_buffers(packet: &[u8], num_buffers: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[10..12].copy_from_slice(&num_buffers.to_le_bytes());
    packet
}
