//! The block device, over a disk in memory.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::testing::{Desc, Driver};
use devices::virtio::GuestBuffer;
use devices::virtio::blk::{Blk, DiskBackend, DiskSpec, request_type};

use crate::Input;
use crate::interpreter::{self, Guest, Subject, address};

const SECTORS: u64 = 64;
/// Bytes behind the last whole sector: not the guest's.
const TAIL: usize = 100;
const FILL: u8 = 0x55;

struct MemDisk(Mutex<Vec<u8>>);

impl MemDisk {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Panics
    /// When the device did not check what it passes on.
    fn range(offset: u64, len: usize) -> std::ops::Range<usize> {
        let end = offset.checked_add(len as u64).expect("a range that ends");
        assert!(end <= SECTORS * 512, "{offset} and {len} bytes");
        assert!(offset.is_multiple_of(512) && len.is_multiple_of(512));
        offset as usize..end as usize
    }
}

impl DiskBackend for MemDisk {
    fn size(&self) -> u64 {
        SECTORS * 512 + TAIL as u64
    }

    fn discard_granularity(&self) -> Option<u32> {
        Some(4096)
    }

    fn read_at(&self, mut into: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        let range = Self::range(offset, into.len());
        into.write_all(&self.bytes()[range])
    }

    fn write_at(&self, mut from: GuestBuffer<'_>, offset: u64) -> io::Result<()> {
        let range = Self::range(offset, from.len());
        from.read_exact(&mut self.bytes()[range])
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.bytes()[Self::range(offset, len as usize)].fill(0);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _may_unmap: bool) -> io::Result<()> {
        self.discard(offset, len)
    }
}

struct Bed {
    driver: Driver,
    disk: Arc<MemDisk>,
    readonly: bool,
}

impl Subject for Bed {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn request(&mut self, guest: &mut Guest, input: &mut Input) -> (usize, Vec<Desc>) {
        let shape = input.u8();
        let slot = u64::from(shape % 8) * 0x1000;
        let kind = match input.u8() {
            n @ 0..0xf0 => [0, 1, 4, 8, 11, 13, 0, 1][usize::from(n % 8)],
            _ => input.u32(),
        };
        let sector = sector(input);
        let mut header = u64::from(kind).to_le_bytes().to_vec();
        header.extend(sector.to_le_bytes());
        guest.put(&self.driver, slot, &header);
        let mut chain = vec![Desc::readable(slot, 16)];
        match kind {
            request_type::DISCARD | request_type::WRITE_ZEROES => {
                let mut segments = Vec::new();
                for _ in 0..1 + shape / 8 % 3 {
                    segments.extend(self::sector(input).to_le_bytes());
                    segments.extend(input.len().to_le_bytes());
                    segments.extend(u32::from(input.u8()).to_le_bytes());
                }
                guest.put(&self.driver, slot + 0x100, &segments);
                chain.push(Desc::readable(slot + 0x100, segments.len() as u32));
            }
            request_type::FLUSH => {}
            _ => {
                for _ in 0..1 + shape / 8 % 3 {
                    let (addr, len) = (address(&self.driver, input), input.len());
                    let write = kind != request_type::OUT;
                    chain.push(Desc { addr, len, write });
                }
            }
        }
        if shape < 0xf0 {
            chain.push(Desc::writable(slot + 0x200, 1));
        }
        // Now and then on a queue past the first.
        (usize::from(shape >> 6 == 2), chain)
    }

    fn check(&mut self) {
        let all = self.features();
        assert!(self.driver.start(all));
        let mut header = [0; 16];
        header[8] = 5;
        self.driver.put(0x1000, &header);
        let chain = [Desc::readable(0x1000, 16), Desc::writable(0x2000, 513)];
        let len = interpreter::request(&mut self.driver, 0, &chain);
        assert_eq!(len, 513);
        assert_eq!(self.driver.get(0x2200, 1), [0]);
        let bytes = self.disk.bytes();
        assert_eq!(self.driver.get(0x2000, 512), bytes[5 * 512..6 * 512]);
        assert_eq!(bytes[SECTORS as usize * 512..], [FILL; TAIL]);
        assert!(!self.readonly || bytes.iter().all(|&b| b == FILL));
    }
}

/// A sector, mostly on the disk or at its end.
fn sector(input: &mut Input) -> u64 {
    match input.u8() {
        n @ 0..0xc0 => [0, 1, 5, 62, 63, 64, 65, 31][usize::from(n % 8)],
        n @ 0xc0..0xf0 => u64::from(n),
        n @ 0xf0..0xf8 => u64::MAX - u64::from(n - 0xf0),
        0xf8..0xfc => u64::MAX / 512 + u64::from(input.u8()),
        _ => input.u64(),
    }
}

/// A hostile driver for a disk, with one queue or two, served without its
/// threads for the most part: what a run does should not depend on the clock.
pub fn blk(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let disk = vec![FILL; SECTORS as usize * 512 + TAIL];
    let disk = Arc::new(MemDisk(Mutex::new(disk)));
    let mut spec = DiskSpec::new("disk");
    spec.readonly = how & 7 == 1;
    spec.queues = 1 + u16::from(how & 8 != 0);
    let mut blk = Blk::with_backend(disk.clone(), &spec, 0);
    if how != 0xff {
        blk.serve_on_event_loop();
    }
    let mut bed = Bed {
        driver: Driver::new(blk),
        disk,
        readonly: spec.readonly,
    };
    interpreter::run(&mut bed, input.rest());
}
