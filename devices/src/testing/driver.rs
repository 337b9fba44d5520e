//! A driver for one device behind the MMIO transport.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::GuestMemory;
use crate::bus::BusDevice;
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::{IrqLine, SharedDevice, VirtioDevice, ring_features};

/// Entries of each queue that [`Driver`] sets up.
pub const RING_SIZE: u16 = 16;
/// Guest memory of the fake machine: one region at 0, and one at [`HIGH`].
const LOW_SIZE: usize = 1 << 20;
/// Start of the second region, with a hole before it.
const HIGH: u64 = 1 << 22;
/// Where the rings lie; buffers may use what is below.
const RINGS: u64 = 0x8_0000;
const RING_STRIDE: u64 = 0x1000;

/// An interrupt line that counts.
#[derive(Debug, Default)]
pub struct CountingIrq(AtomicUsize);

impl CountingIrq {
    /// Interrupts so far.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl IrqLine for CountingIrq {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A descriptor as the driver writes it (virtio 1.2 §2.7.5), without its link.
#[derive(Debug, Clone, Copy)]
pub struct Desc {
    /// Guest physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes to it.
    pub write: bool,
}

impl Desc {
    /// A device-readable buffer.
    pub fn readable(addr: u64, len: u32) -> Self {
        Desc {
            addr,
            len,
            write: false,
        }
    }

    /// A device-writable buffer.
    pub fn writable(addr: u64, len: u32) -> Self {
        Desc {
            addr,
            len,
            write: true,
        }
    }
}

/// The driver's side of one queue.
#[derive(Debug, Clone)]
pub struct DriverQueue {
    /// Guest addresses of the descriptor table, available and used rings.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    next_desc: u16,
    next_avail: u16,
    seen_used: u16,
}

impl DriverQueue {
    /// The descriptor that the next chain begins at.
    pub fn next_free(&self) -> u16 {
        self.next_desc
    }
}

/// A device with its transport, memory and a driver that runs it by register
/// accesses alone. The event loop's part is played by hand: [`Driver::kick`]
/// delivers the kick to the device at once.
pub struct Driver {
    /// The machine's memory.
    pub mem: GuestMemory,
    /// The device's registers.
    pub transport: MmioTransport,
    /// The device.
    pub device: SharedDevice,
    /// Its interrupt line.
    pub irq: Arc<CountingIrq>,
    /// The driver's queues, after [`Driver::start`].
    pub queues: Vec<DriverQueue>,
    kicks: Vec<Arc<EventFd>>,
    event_idx: bool,
}

impl Driver {
    /// A machine with this device in it, not yet started.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Driver::shared(Arc::new(Mutex::new(device)))
    }

    /// The same with a device that the test goes on to use itself.
    pub fn shared(device: SharedDevice) -> Self {
        let queues = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.queue_sizes().len()
        };
        let kicks: Vec<_> = (0..queues)
            .map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).expect("eventfd")))
            .collect();
        let mem = GuestMemory::from_ranges(&[
            (GuestAddress(0), LOW_SIZE),
            (GuestAddress(HIGH), LOW_SIZE),
        ])
        .expect("memory");
        let irq = Arc::new(CountingIrq::default());
        let transport = MmioTransport::new(device.clone(), mem.clone(), irq.clone(), kicks.clone())
            .expect("transport");
        Driver {
            mem,
            transport,
            device,
            irq,
            queues: Vec::new(),
            kicks,
            event_idx: false,
        }
    }

    /// Reads a 32-bit register.
    pub fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a 32-bit register.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reads configuration space.
    pub fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(0x100 + offset, &mut data);
        data
    }

    /// What the device offers.
    pub fn offered(&mut self) -> u64 {
        self.write(0x14, 1);
        let high = self.read(0x10);
        self.write(0x14, 0);
        u64::from(high) << 32 | u64::from(self.read(0x10))
    }

    /// Resets the device and initialises it as §3.1.1 says, with the features
    /// of `wanted` (VERSION_1 comes by itself); true when the device took them.
    pub fn start(&mut self, wanted: u64) -> bool {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        let features = wanted | ring_features::VERSION_1;
        for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(0x24, sel);
            self.write(0x20, half);
        }
        self.event_idx = features & ring_features::EVENT_IDX != 0;
        self.write(0x70, 11);
        if self.read(0x70) & 8 == 0 {
            return false;
        }
        self.queues.clear();
        for index in 0..self.kicks.len() as u32 {
            let base = RINGS + u64::from(index) * RING_STRIDE;
            let queue = DriverQueue {
                desc: base,
                avail: base + 0x400,
                used: base + 0x800,
                next_desc: 0,
                next_avail: 0,
                seen_used: 0,
            };
            self.mem
                .write_slice(&[0; RING_STRIDE as usize], GuestAddress(base))
                .expect("rings");
            self.write(0x30, index);
            let size = self.read(0x34).min(RING_SIZE.into());
            self.write(0x38, size);
            for (reg, addr) in [(0x80, queue.desc), (0x90, queue.avail), (0xa0, queue.used)] {
                self.write(reg, addr as u32);
                self.write(reg + 4, (addr >> 32) as u32);
            }
            self.write(0x44, 1);
            assert_eq!(self.read(0x44), 1, "queue {index} is ready");
            self.queues.push(queue);
        }
        self.write(0x70, 15);
        true
    }

    /// The status register.
    pub fn status(&mut self) -> u8 {
        self.read(0x70) as u8
    }

    /// True when the device asked for a reset.
    pub fn needs_reset(&mut self) -> bool {
        self.status() & 64 != 0
    }

    /// Copies `data` into guest memory.
    pub fn put(&self, addr: u64, data: &[u8]) {
        self.mem
            .write_slice(data, GuestAddress(addr))
            .expect("put inside memory");
    }

    /// Copies `len` bytes out of guest memory.
    pub fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.mem
            .read_slice(&mut data, GuestAddress(addr))
            .expect("get inside memory");
        data
    }

    /// Writes one raw descriptor: for hostile ones. `flags`: 1 next, 2 write, 4
    /// indirect.
    pub fn raw_desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut d = [0; 16];
        d[..8].copy_from_slice(&addr.to_le_bytes());
        d[8..12].copy_from_slice(&len.to_le_bytes());
        d[12..14].copy_from_slice(&flags.to_le_bytes());
        d[14..].copy_from_slice(&next.to_le_bytes());
        self.put(table + u64::from(index) * 16, &d);
    }

    /// Makes the chain available, without a kick; its head.
    pub fn offer(&mut self, queue: usize, chain: &[Desc]) -> u16 {
        let table = self.queues[queue].desc;
        let head = self.queues[queue].next_desc;
        for (i, d) in chain.iter().enumerate() {
            let index = (head + i as u16) % RING_SIZE;
            let last = i + 1 == chain.len();
            let flags = u16::from(!last) | u16::from(d.write) << 1;
            self.raw_desc(table, index, d.addr, d.len, flags, (index + 1) % RING_SIZE);
        }
        self.queues[queue].next_desc = (head + chain.len() as u16) % RING_SIZE;
        self.offer_head(queue, head);
        head
    }

    /// Makes a head available as it is.
    pub fn offer_head(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let slot = q.avail + 4 + u64::from(q.next_avail % RING_SIZE) * 2;
        q.next_avail = q.next_avail.wrapping_add(1);
        let (avail, idx) = (q.avail, q.next_avail);
        self.put(slot, &head.to_le_bytes());
        self.put(avail + 2, &idx.to_le_bytes());
    }

    /// Kicks a queue through the register and plays the event loop for it. A
    /// device that waits for its kicks itself gets only the register write.
    pub fn kick(&mut self, queue: usize) {
        self.write(QUEUE_NOTIFY, queue as u32);
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if device.kicks_on_event_loop() && self.kicks[queue].read().is_ok() {
            device.handle_kick(queue as u16);
        }
    }

    /// True when the device wants a kick after `new` more chains of `queue` than
    /// were offered so far (virtio 1.2 §2.7.10).
    pub fn kick_wanted(&self, queue: usize, new: u16) -> bool {
        let q = &self.queues[queue];
        let word = |addr| u16::from_le_bytes([self.get(addr, 1)[0], self.get(addr + 1, 1)[0]]);
        if !self.event_idx {
            return word(q.used) & 1 == 0;
        }
        let event = word(q.used + 4 + u64::from(RING_SIZE) * 8);
        let next = q.next_avail.wrapping_add(new);
        next.wrapping_sub(event).wrapping_sub(1) < new
    }

    /// Delivers the kicks that the device gave itself; true when there were any.
    pub fn run_own_kicks(&mut self) -> bool {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for (queue, kick) in self.kicks.iter().enumerate() {
            if device.kicks_on_event_loop() && kick.read().is_ok() {
                device.handle_kick(queue as u16);
                any = true;
            }
        }
        any
    }

    /// The next chain that the device has used: head and length.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let q = &mut self.queues[queue];
        let (used, seen) = (q.used, q.seen_used);
        let idx: u16 = self
            .mem
            .load(GuestAddress(used + 2), Ordering::Acquire)
            .expect("used index");
        if idx == seen {
            return None;
        }
        q.seen_used = seen.wrapping_add(1);
        let elem = self.get(used + 4 + u64::from(seen % RING_SIZE) * 8, 8);
        let head = u32::from_le_bytes([elem[0], elem[1], elem[2], elem[3]]);
        let len = u32::from_le_bytes([elem[4], elem[5], elem[6], elem[7]]);
        Some((head as u16, len))
    }

    /// Waits for a used chain: for devices with workers. Ten seconds at most.
    pub fn wait_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        for _ in 0..10_000 {
            if let Some(used) = self.used(queue) {
                return Some(used);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        None
    }

    /// Offers one chain, kicks and waits for the answer.
    ///
    /// # Panics
    /// When none comes within ten seconds.
    pub fn request(&mut self, queue: usize, chain: &[Desc]) -> u32 {
        let head = self.offer(queue, chain);
        self.kick(queue);
        let (used, len) = self.wait_used(queue).expect("the device answers");
        assert_eq!(used, head);
        len
    }
}
