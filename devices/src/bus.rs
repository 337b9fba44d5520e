//! A bus: which device answers at which address, for memory-mapped and for
//! port I/O alike.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// A device that answers on a bus. Offsets count from the start of the range
/// that the device was inserted at; `data` is 1, 2, 4 or 8 bytes, little endian.
///
/// Both calls come from vCPU threads and must not block. An access that the
/// device does not understand reads as it pleases and writes nothing: a guest
/// may try anything.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device shared between the bus and its other users.
pub type SharedBusDevice = Arc<Mutex<dyn BusDevice>>;

/// Two devices were given the same addresses, or a range was empty.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bus range {base:#x}+{len:#x} is empty, wraps or overlaps another device")]
pub struct RangeTaken {
    /// First address of the refused range.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
}

struct Slot {
    base: u64,
    len: u64,
    device: SharedBusDevice,
}

/// An address space with devices in it.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

impl Bus {
    /// A bus with no device.
    pub fn new() -> Self {
        Self::default()
    }

    /// Places `device` at `base..base + len`.
    ///
    /// # Errors
    /// When the range is empty, wraps around or overlaps another device's.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: SharedBusDevice,
    ) -> Result<(), RangeTaken> {
        let taken = RangeTaken { base, len };
        let end = match base.checked_add(len) {
            Some(end) if len > 0 => end,
            _ => return Err(taken),
        };
        let at = self.slots.partition_point(|s| s.base < base);
        let before = at.checked_sub(1).and_then(|i| self.slots.get(i));
        if before.is_some_and(|s| s.base + s.len > base)
            || self.slots.get(at).is_some_and(|s| s.base < end)
        {
            return Err(taken);
        }
        self.slots.insert(at, Slot { base, len, device });
        Ok(())
    }

    /// Reads from the device at `addr`; false, and `data` all ones as on a real
    /// bus, where there is none or the access runs past its end.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        match self.find(addr, data.len()) {
            Some((slot, offset)) => {
                let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes to the device at `addr`; false where there is none or the access
    /// runs past its end.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        match self.find(addr, data.len()) {
            Some((slot, offset)) => {
                let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, addr: u64, len: usize) -> Option<(&Slot, u64)> {
        let at = self.slots.partition_point(|s| s.base <= addr);
        let slot = self.slots.get(at.checked_sub(1)?)?;
        let offset = addr - slot.base;
        (offset.checked_add(len as u64)? <= slot.len).then_some((slot, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Probe(Vec<(u64, usize)>);
    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            self.0.push((offset, data.len()));
            data.fill(0x5a);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.len()));
        }
    }

    #[test]
    fn accesses_reach_the_device_that_holds_them_whole() {
        let probe = Arc::new(Mutex::new(Probe(vec![])));
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x10, probe.clone()).unwrap();
        let mut data = [0; 4];
        assert!(bus.read(0x100c, &mut data));
        assert_eq!(data, [0x5a; 4]);
        assert!(!bus.read(0x100e, &mut data), "runs past the end");
        assert_eq!(data, [0xff; 4]);
        assert!(!bus.write(0xfff, &data) && !bus.write(u64::MAX, &data));
        assert!(bus.write(0x1000, &data[..1]));
        assert_eq!(probe.lock().unwrap().0, [(0xc, 4), (0, 1)]);
    }

    #[test]
    fn ranges_may_touch_but_not_overlap() {
        let dev = || Arc::new(Mutex::new(Probe(vec![])));
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x1000, dev()).unwrap();
        bus.insert(0x3000, 0x1000, dev()).unwrap();
        bus.insert(0x2000, 0x1000, dev()).unwrap();
        for (base, len) in [
            (0x0fff, 2),
            (0x3fff, 1),
            (0x1800, 4),
            (0, 0x8000),
            (9, 0),
            (u64::MAX, 2),
        ] {
            assert_eq!(bus.insert(base, len, dev()), Err(RangeTaken { base, len }));
        }
    }
}
