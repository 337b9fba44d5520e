//! The driver's side of virtio over MMIO: just enough of it to do something honest,
//! and every part of it open to abuse.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::hw::{self, read, write};

const FIRST_WINDOW: u64 = 0xd000_0000;
pub const WINDOW: u64 = 0x1000;
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const MAX_DEVICES: u64 = 18;

/// Where the guest's memory ends (`--memory 32M`).
pub const MEMORY_END: u64 = 32 << 20;
/// The rings: for each queue descriptors, available and used ring.
pub const RINGS: u64 = 16 << 20;
pub const RING_STRIDE: u64 = 0x4000;
/// Indirect tables.
pub const TABLES: u64 = RINGS + 0x8_0000;
/// Buffers that are given to devices.
pub const BUFFERS: u64 = 17 << 20;
/// Memory that no device is ever given, and what is in it.
pub const GUARD: u64 = 18 << 20;
pub const GUARD_SIZE: u64 = 0x4000;
pub const GUARD_WORD: u64 = 0x5afe_5afe_5afe_5afe;
/// A region for what is large: half of it may be read, half of it written.
pub const ARENA: u64 = 20 << 20;

pub const SIZE: u16 = 16;

pub mod reg {
    pub const DEVICE_ID: u64 = 0x08;
    pub const FEATURES: u64 = 0x10;
    pub const FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const NOTIFY: u64 = 0x50;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const DESC: u64 = 0x80;
    pub const AVAIL: u64 = 0x90;
    pub const USED: u64 = 0xa0;
    pub const CONFIG: u64 = 0x100;
}

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub const F_VERSION_1: u64 = 1 << 32;
const F_INDIRECT: u64 = 1 << 28;
/// `VIRTIO_BLK_F_DISCARD` and `F_WRITE_ZEROES`: taken, to have more to abuse.
const F_BLK: u64 = 1 << 13 | 1 << 14;

pub const NEEDS_RESET: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Net,
    Block,
    Rng,
    Vsock,
    Fs,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Block => "blk",
            Kind::Rng => "rng",
            Kind::Vsock => "vsock",
            Kind::Fs => "fs",
        }
    }
}

/// Where the rings of the device under attack lie. One is enough, until several
/// devices are to run side by side.
static BASE: AtomicU64 = AtomicU64::new(RINGS);

/// Puts the rings of the next device elsewhere: devices that run keep theirs.
pub fn move_rings(to: u64) {
    BASE.store(to, Ordering::Relaxed);
}

/// Addresses of a queue's parts.
#[derive(Clone, Copy)]
pub struct Layout {
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

impl Layout {
    /// The honest one.
    pub fn of(queue: u16) -> Self {
        let base = BASE.load(Ordering::Relaxed) + u64::from(queue) * RING_STRIDE;
        Layout {
            desc: base,
            avail: base + 0x1000,
            used: base + 0x2000,
        }
    }
}

#[derive(Clone, Copy)]
pub struct Device {
    pub base: u64,
    pub kind: Kind,
    pub queues: u16,
}

/// What became of an offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    NeedsReset,
    Used,
    Silent,
}

impl Device {
    /// The device in this window, if it is one that this guest knows.
    fn probe(base: u64) -> Option<Self> {
        if read::<u32>(base) != MAGIC {
            return None;
        }
        let kind = match read::<u32>(base + reg::DEVICE_ID) {
            1 => Kind::Net,
            2 => Kind::Block,
            4 => Kind::Rng,
            19 => Kind::Vsock,
            26 => Kind::Fs,
            _ => return None,
        };
        let mut device = Device {
            base,
            kind,
            queues: 0,
        };
        while device.queue_max(device.queues) > 0 {
            device.queues += 1;
        }
        Some(device)
    }

    /// Every device of the machine.
    pub fn all() -> impl Iterator<Item = Device> {
        (0..MAX_DEVICES).filter_map(|n| Device::probe(FIRST_WINDOW + n * WINDOW))
    }

    pub fn get(&self, register: u64) -> u32 {
        read(self.base + register)
    }

    pub fn set(&self, register: u64, value: u32) {
        write(self.base + register, value);
    }

    pub fn queue_max(&self, queue: u16) -> u32 {
        self.set(reg::QUEUE_SEL, queue.into());
        self.get(reg::QUEUE_NUM_MAX)
    }

    pub fn offered(&self) -> u64 {
        self.set(reg::FEATURES_SEL, 1);
        let high = self.get(reg::FEATURES);
        self.set(reg::FEATURES_SEL, 0);
        u64::from(high) << 32 | u64::from(self.get(reg::FEATURES))
    }

    /// True when the device is back to its start.
    pub fn reset(&self) -> bool {
        self.set(reg::STATUS, 0);
        self.get(reg::STATUS) == 0
    }

    /// Resets and negotiates; true when the device takes these features.
    pub fn negotiate(&self, features: u64) -> bool {
        let clean = self.reset();
        self.set(reg::STATUS, 1);
        self.set(reg::STATUS, 3);
        for half in 0..2 {
            self.set(reg::DRIVER_FEATURES_SEL, half);
            self.set(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.set(reg::STATUS, 11);
        clean && self.get(reg::STATUS) & 8 != 0
    }

    fn wanted(&self) -> u64 {
        let device = match self.kind {
            Kind::Block => F_BLK,
            _ => 0,
        };
        (F_VERSION_1 | F_INDIRECT | device) & self.offered()
    }

    /// Sets a queue up; true when the device says that it is ready.
    pub fn set_queue(&self, queue: u16, size: u32, layout: Layout) -> bool {
        self.set(reg::QUEUE_SEL, queue.into());
        self.set(reg::QUEUE_NUM, size);
        for (register, address) in [
            (reg::DESC, layout.desc),
            (reg::AVAIL, layout.avail),
            (reg::USED, layout.used),
        ] {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(reg::QUEUE_READY, 1);
        self.get(reg::QUEUE_READY) == 1
    }

    /// Up to the queues: their memory is cleared, they are not set up.
    pub fn begin(&self) -> bool {
        let fine = self.negotiate(self.wanted());
        for queue in 0..self.queues {
            let layout = Layout::of(queue);
            for part in [layout.desc, layout.avail, layout.used] {
                hw::fill(part, 0x200, 0);
            }
        }
        fine
    }

    pub fn driver_ok(&self) {
        self.set(reg::STATUS, 15);
    }

    /// A device that is ready for requests.
    pub fn start(&self) -> bool {
        let mut fine = self.begin();
        for queue in 0..self.queues {
            fine &= self.set_queue(queue, SIZE.into(), Layout::of(queue));
        }
        self.driver_ok();
        fine
    }

    pub fn notify(&self, queue: u16) {
        self.set(reg::NOTIFY, queue.into());
    }

    pub fn needs_reset(&self) -> bool {
        self.get(reg::STATUS) & NEEDS_RESET != 0
    }

    /// Waits until the device has used as many chains of this queue, or gives up.
    pub fn wait(&self, queue: u16, used: u16, polls: u32) -> Outcome {
        for _ in 0..polls {
            if self.needs_reset() {
                return Outcome::NeedsReset;
            }
            if used_index(queue) == used {
                return Outcome::Used;
            }
        }
        Outcome::Silent
    }

    /// Offers one chain of these buffers, after `before` others, and waits for it.
    pub fn request(&self, queue: u16, before: u16, buffers: &[Buffer]) -> Outcome {
        offer(queue, before, buffers);
        self.notify(queue);
        self.wait(queue, before.wrapping_add(1), PATIENCE)
    }
}

/// Polls for what has to come, and for what may.
pub const PATIENCE: u32 = 200_000;
pub const GLANCE: u32 = 300;

/// Address, length, and whether the device writes there.
pub type Buffer = (u64, u32, bool);

pub fn used_index(queue: u16) -> u16 {
    read(Layout::of(queue).used + 2)
}

/// How many bytes the device says that it wrote for the chain used last.
pub fn used_len(queue: u16) -> u32 {
    let last = used_index(queue).wrapping_sub(1) % SIZE;
    read(Layout::of(queue).used + 4 + 8 * u64::from(last) + 4)
}

/// Writes a descriptor into a table.
pub fn descriptor(table: u64, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
    let at = table + 16 * u64::from(index);
    write(at, buffer.0);
    write(at + 8, buffer.1);
    write(at + 12, flags);
    write(at + 14, next);
}

/// Makes a head available, as the chain with this number since the start.
pub fn avail(queue: u16, number: u16, head: u16) {
    let ring = Layout::of(queue).avail;
    write(ring + 4 + 2 * u64::from(number % SIZE), head);
    write(ring + 2, number.wrapping_add(1));
}

/// Writes the buffers as a chain of a table, from its first descriptor on.
pub fn chain(table: u64, buffers: &[Buffer]) {
    for (n, &(address, len, writable)) in (0..).zip(buffers) {
        let last = usize::from(n) + 1 == buffers.len();
        let flags = if last { 0 } else { NEXT } | if writable { WRITE } else { 0 };
        descriptor(table, n, (address, len), flags, n + 1);
    }
}

/// Offers one chain.
pub fn offer(queue: u16, before: u16, buffers: &[Buffer]) {
    chain(Layout::of(queue).desc, buffers);
    avail(queue, before, 0);
}
