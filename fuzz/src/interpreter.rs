//! Bytes become what a hostile driver does: register accesses of any kind,
//! descriptors of any content, kicks, resets, and events of the back end between
//! them.

use std::time::{Duration, Instant};

use devices::bus::BusDevice;
use devices::testing::{Desc, Driver, RING_SIZE};
use vm_memory::{Bytes, GuestAddress};

use crate::Input;

/// Operations, the first byte of each step modulo [`op::COUNT`].
pub mod op {
    /// Reset and start, with the features that the next bytes choose.
    pub const START: u8 = 0;
    /// Write the status register.
    pub const STATUS: u8 = 1;
    /// Write a register.
    pub const WRITE: u8 = 2;
    /// Read a register or configuration space.
    pub const READ: u8 = 3;
    /// Write to configuration space.
    pub const CONFIG: u8 = 4;
    /// Write one raw descriptor into a queue's table.
    pub const DESC: u8 = 5;
    /// Write an indirect table and offer it.
    pub const INDIRECT: u8 = 6;
    /// Offer a chain of arbitrary buffers.
    pub const OFFER: u8 = 7;
    /// Offer a head.
    pub const HEAD: u8 = 8;
    /// Write into the available ring or behind it.
    pub const RING: u8 = 9;
    /// Write bytes anywhere into memory.
    pub const BYTES: u8 = 10;
    /// Offer something that looks like a request, and kick.
    pub const REQUEST: u8 = 11;
    /// Kick.
    pub const KICK: u8 = 12;
    /// Something happens on the host's side.
    pub const BACKEND: u8 = 13;
    /// How many there are.
    pub const COUNT: u8 = 14;
}

/// Steps of one run: what is longer finds nothing that is not found sooner.
const MAX_STEPS: usize = 96;

/// Buffers that the driver keeps to, as far as it is to be checked that the
/// device writes nowhere else.
pub const DATA: u64 = 0;
/// Their size.
pub const DATA_SIZE: usize = 0x1_0000;
/// Indirect tables, and nothing else as long as that is checked.
const TABLES: u64 = 0x7_0000;
const TABLE_SIZE: u64 = 0x100;
const TABLES_END: u64 = 0x7_1000;
/// End of the first region of the fake machine, and the second region.
const LOW_END: u64 = 1 << 20;
const HIGH: u64 = 1 << 22;
const HIGH_END: u64 = HIGH + LOW_END;

/// A device and what belongs to it on the host.
pub trait Subject {
    /// The machine that it is in.
    fn driver(&mut self) -> &mut Driver;

    /// Features to take when the input does not say.
    fn features(&mut self) -> u64 {
        self.driver().offered()
    }

    /// Puts a request together by [`Guest::put`], and gives its queue and its
    /// buffers.
    fn request(&mut self, guest: &mut Guest, input: &mut Input) -> (usize, Vec<Desc>);

    /// Something happens on the host's side.
    fn backend(&mut self, _input: &mut Input) {}

    /// Events that the event loop would deliver; called after each step.
    fn events(&mut self) {}

    /// Puts the host's side in order and starts the device, which has to work.
    ///
    /// # Panics
    /// When it does not.
    fn check(&mut self);
}

/// What the driver did to memory, to know what the device may have done.
pub struct Guest {
    /// Memory at [`DATA`] as the driver wrote it.
    shadow: Vec<u8>,
    writable: Vec<(u64, u64)>,
    /// The device may have been told to write anywhere.
    lost: bool,
}

impl Guest {
    fn new() -> Self {
        Guest {
            shadow: vec![0; DATA_SIZE],
            writable: Vec::new(),
            lost: false,
        }
    }

    /// Writes to memory, as far as there is memory.
    pub fn put(&mut self, driver: &Driver, addr: u64, bytes: &[u8]) {
        let end = addr.saturating_add(bytes.len() as u64);
        if end <= DATA_SIZE as u64 {
            self.shadow[addr as usize..end as usize].copy_from_slice(bytes);
        } else {
            self.lost = true;
        }
        let _ = driver.mem.write(bytes, GuestAddress(addr));
    }

    /// The driver tells the device of a buffer.
    fn note(&mut self, addr: u64, len: u32, flags: u16) {
        let end = addr.saturating_add(len.into());
        if flags & 4 != 0 {
            self.lost |= addr < TABLES || end > TABLES_END;
        } else if flags & 2 != 0 {
            // Whoever writes to a table writes what the device reads as buffers.
            self.lost |= addr < LOW_END && end > TABLES;
            self.writable.push((addr, end));
        }
    }

    /// # Panics
    /// When a byte changed that the device had no business with.
    fn check(&mut self, driver: &Driver) {
        if self.lost {
            return;
        }
        let memory = driver.get(DATA, DATA_SIZE);
        for &(from, to) in &self.writable {
            let range = (from as usize).min(DATA_SIZE)..(to as usize).min(DATA_SIZE);
            self.shadow[range.clone()].copy_from_slice(&memory[range]);
        }
        if self.shadow != memory {
            let at = self.shadow.iter().zip(&memory).position(|(a, b)| a != b);
            panic!("the device wrote to {at:#x?}, which no buffer covers");
        }
    }
}

/// Does as `data` says, and then checks the device.
pub fn run(subject: &mut impl Subject, data: &[u8]) {
    let mut guest = Guest::new();
    let mut input = Input::new(data);
    // Most inputs are about a device that runs.
    if input.u8() < 0xe0 {
        start(subject, &mut Input::new(&[]));
    }
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(subject, &mut guest, &mut input);
        subject.events();
    }
    // Ends workers as well: nothing writes any more.
    subject.driver().write(0x70, 0);
    guest.check(subject.driver());
    subject.check();
}

fn start(subject: &mut impl Subject, input: &mut Input) {
    let features = match input.u8() {
        n @ 0..0x80 => subject.features() & !(u64::from(n & 0x7) << 27),
        0x80..0xf0 => subject.features() & input.u64(),
        0xf0..0xf8 => 0,
        _ => input.u64(),
    };
    subject.driver().start(features);
}

fn step(subject: &mut impl Subject, guest: &mut Guest, input: &mut Input) {
    let queues = subject.driver().queues.len();
    let op = input.u8() % op::COUNT;
    if matches!(op, op::DESC..=op::RING | op::REQUEST) && queues == 0 {
        return;
    }
    let queue = |input: &mut Input| usize::from(input.u8()) % queues.max(1);
    match op {
        op::START => start(subject, input),
        op::STATUS => {
            let value = input.u8();
            subject.driver().write(0x70, value.into());
        }
        op::WRITE => write_register(subject.driver(), guest, input),
        op::READ => {
            let offset = u64::from(input.u16()) & 0xfff;
            let mut data = [0xa5; 16];
            let len = usize::from(input.u8() % 17);
            subject.driver().transport.read(offset, &mut data[..len]);
            assert_eq!(data[len..], [0xa5; 16][len..]);
        }
        op::CONFIG => {
            let offset = 0x100 + u64::from(input.u8());
            let len = usize::from(input.u8() % 9);
            let bytes = input.bytes(len);
            subject.driver().transport.write(offset, bytes);
        }
        op::DESC => {
            let q = queue(input);
            let driver = subject.driver();
            let index = u16::from(input.u8()) % RING_SIZE;
            let (addr, len) = (address(driver, input), input.len());
            let (flags, next) = (input.u8().into(), input.u8().into());
            guest.note(addr, len, flags);
            let table = driver.queues[q].desc;
            driver.raw_desc(table, index, addr, len, flags, next);
        }
        op::INDIRECT => {
            let q = queue(input);
            offer_indirect(subject.driver(), q, guest, input);
        }
        op::OFFER => {
            let q = queue(input);
            let shape = input.u8();
            let driver = subject.driver();
            let mut chain: Vec<_> = (0..1 + shape % 4)
                .map(|n| Desc {
                    addr: address(driver, input),
                    len: input.len(),
                    write: shape >> (4 + n) & 1 != 0,
                })
                .collect();
            if shape & 8 != 0 {
                chain.sort_by_key(|d| d.write);
            }
            offer(driver, guest, q, &chain);
        }
        op::HEAD => {
            let q = queue(input);
            let head = input.u8();
            let head = if head < 0xf0 {
                head.into()
            } else {
                input.u16()
            };
            subject.driver().offer_head(q, head);
        }
        op::RING => {
            let q = queue(input);
            // Flags, index, an entry, `used_event`, and what is behind it.
            let at = u64::from(input.u8() % 24) * 2;
            let (value, driver) = (input.u16(), subject.driver());
            driver.put(driver.queues[q].avail + at, &value.to_le_bytes());
        }
        op::BYTES => {
            let addr = address(subject.driver(), input);
            let len = usize::from(input.u8() % 65);
            let bytes = input.bytes(len);
            guest.put(subject.driver(), addr, bytes);
        }
        op::REQUEST => {
            let (q, chain) = subject.request(guest, input);
            if q < queues {
                offer(subject.driver(), guest, q, &chain);
                subject.driver().kick(q);
            }
        }
        op::KICK => {
            let q = queue(input);
            if q < queues {
                subject.driver().kick(q);
            }
        }
        _ => subject.backend(input),
    }
    // What the device gave itself to do; a device that never comes to an end
    // would keep the loop from others, which is for the device to prevent.
    for _ in 0..4 {
        if !subject.driver().run_own_kicks() {
            break;
        }
    }
}

fn write_register(driver: &mut Driver, guest: &mut Guest, input: &mut Input) {
    let offset = match input.u8() {
        n @ 0..0xf0 => u64::from(n),
        _ => u64::from(input.u16()) & 0xfff,
    };
    // Queues that lie elsewhere: what is where is not known any more.
    guest.lost |= matches!(offset, 0x38..0xb0);
    match input.u8() {
        n @ 0..0x80 => driver.write(offset & !3, n.into()),
        0x80..0xe0 => {
            let addr = address(driver, input);
            let value = if offset & 4 == 0 { addr } else { addr >> 32 };
            driver.write(offset & !3, value as u32);
        }
        _ => {
            let len = usize::from(input.u8() % 9);
            let bytes = input.bytes(len);
            driver.transport.write(offset, bytes);
        }
    }
}

/// Offers a chain.
pub fn offer(driver: &mut Driver, guest: &mut Guest, queue: usize, chain: &[Desc]) {
    let chain = &chain[..chain.len().min(RING_SIZE.into())];
    for d in chain {
        guest.note(d.addr, d.len, u16::from(d.write) << 1);
    }
    driver.offer(queue, chain);
}

fn offer_indirect(driver: &mut Driver, queue: usize, guest: &mut Guest, input: &mut Input) {
    let shape = input.u8();
    let count = 1 + u16::from(shape % 8);
    let table = TABLES + u64::from(input.u8() % 16) * TABLE_SIZE;
    for n in 0..count {
        let (addr, len, flags) = (address(driver, input), input.len(), input.u8());
        // Chained as they should be, or however the input wants it.
        let (flags, next) = if shape & 0x80 == 0 {
            let write = u16::from(flags & 2);
            (u16::from(n + 1 < count) | write, n + 1)
        } else {
            (flags.into(), input.u8().into())
        };
        guest.note(addr, len, flags);
        driver.raw_desc(table, n, addr, len, flags, next);
    }
    let bytes = match input.u8() {
        0xf0.. => input.len(),
        _ => u32::from(count) * 16,
    };
    guest.note(table, bytes, 4);
    let head = driver.queues[queue].next_free();
    driver.offer(queue, &[Desc::readable(table, bytes)]);
    let at = driver.queues[queue].desc;
    driver.raw_desc(at, head, table, bytes, 4, 0);
}

/// An address: mostly among the buffers, else one of those that matter.
pub fn address(driver: &Driver, input: &mut Input) -> u64 {
    let tag = input.u8();
    let near = |input: &mut Input| u64::from(input.u8());
    match tag {
        0..0xc0 => u64::from(tag) << 8,
        0xc0..0xd0 => DATA_SIZE as u64 - near(input),
        0xd0 => 0,
        0xd1 => LOW_END - near(input),
        0xd2 => LOW_END + (near(input) << 8),
        0xd3 => HIGH - near(input),
        0xd4 => HIGH + u64::from(input.u16()),
        0xd5 => HIGH_END - near(input),
        0xd6 => u64::MAX - near(input),
        0xd7 => 1 << (input.u8() % 64),
        0xd8 => input.u64(),
        0xd9 => u32::MAX as u64 - near(input),
        0xda => TABLES + (near(input) << 4),
        0xdb => driver.queues.first().map_or(0, |q| q.desc) + u64::from(input.u16() & 0x3fff),
        0xdc => driver.queues.last().map_or(0, |q| q.avail) + near(input),
        0xdd => driver.queues.last().map_or(0, |q| q.used) + near(input),
        _ => u64::from(input.u16()),
    }
}

/// Offers an honest chain, kicks and waits for its end; the length used.
///
/// # Panics
/// When there is no answer within ten seconds, or another chain was used.
pub fn request(driver: &mut Driver, queue: usize, chain: &[Desc]) -> u32 {
    let head = driver.offer(queue, chain);
    driver.kick(queue);
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some((used, len)) = driver.used(queue) {
            assert_eq!(used, head);
            return len;
        }
        assert!(Instant::now() < end, "the device does not answer");
        std::thread::yield_now();
    }
}
