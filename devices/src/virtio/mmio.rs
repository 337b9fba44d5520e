//! Virtio over memory-mapped I/O, version 2 (virtio 1.2 §4.2).

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::{
    Activation, IrqLine, QueueSetup, SharedDevice, VirtQueue, VirtioInterrupt, ring_features,
};
use crate::GuestMemory;
use crate::bus::BusDevice;

/// Size of a device's register window in bytes.
pub const WINDOW_SIZE: u64 = 0x1000;
/// `QueueNotify`: a 32-bit write of a queue's number here is its kick.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// "drup": tells the maker of the device; no driver gives it a meaning.
const VENDOR: u32 = u32::from_le_bytes(*b"drup");
const CONFIG_SPACE: u64 = 0x100;

/// Bits of `InterruptStatus` (§4.2.2).
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

/// Bits of the device status field (§2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// What the device's threads may touch without the transport's lock.
struct Shared {
    irq: Arc<dyn IrqLine>,
    interrupt_status: AtomicU32,
    config_generation: AtomicU32,
    status: AtomicU8,
}

impl Shared {
    fn raise(&self, bits: u32) {
        self.interrupt_status.fetch_or(bits, Ordering::SeqCst);
        self.irq.trigger();
    }
}

impl VirtioInterrupt for Shared {
    fn queue_used(&self, _index: u16) {
        self.raise(USED_BUFFER);
    }

    fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(CONFIG_CHANGE);
    }

    fn needs_reset(&self) {
        let before = self.status.fetch_or(status::NEEDS_RESET, Ordering::SeqCst);
        if before & status::DRIVER_OK != 0 {
            self.raise(CONFIG_CHANGE);
        }
    }
}

/// The registers of one device.
pub struct MmioTransport {
    device: SharedDevice,
    mem: GuestMemory,
    shared: Arc<Shared>,
    kicks: Vec<Arc<EventFd>>,
    queues: Vec<Queue>,
    /// For each queue which of its three addresses is not aligned, a bit each:
    /// such an address is not kept by [`Queue`], which has an old one in its place.
    misaligned: Vec<u8>,
    device_id: u32,
    offered: u64,
    accepted: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    /// The device has been activated since the last reset.
    active: bool,
}

impl MmioTransport {
    /// Registers for `device`; `kicks` are its queues' eventfds, in order.
    ///
    /// # Errors
    /// When the device's queue sizes are not powers of two, or a queue has no
    /// kick.
    pub fn new(
        device: SharedDevice,
        mem: GuestMemory,
        irq: Arc<dyn IrqLine>,
        kicks: Vec<Arc<EventFd>>,
    ) -> Result<Self, virtio_queue::Error> {
        let (device_id, offered, queues) = {
            let d = device.lock().unwrap_or_else(PoisonError::into_inner);
            let queues = d
                .queue_sizes()
                .iter()
                .map(|&max| Queue::new(max))
                .collect::<Result<Vec<_>, _>>()?;
            (
                d.device_type() as u32,
                d.features() | ring_features::OFFERED,
                queues,
            )
        };
        if kicks.len() != queues.len() {
            return Err(virtio_queue::Error::InvalidSize);
        }
        Ok(MmioTransport {
            device,
            mem,
            shared: Arc::new(Shared {
                irq,
                interrupt_status: AtomicU32::new(0),
                config_generation: AtomicU32::new(0),
                status: AtomicU8::new(0),
            }),
            kicks,
            misaligned: vec![0; queues.len()],
            queues,
            device_id,
            offered,
            accepted: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            active: false,
        })
    }

    fn status(&self) -> u8 {
        self.shared.status.load(Ordering::SeqCst)
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(self.queue_sel as usize)
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device_id,
            0x0c => VENDOR,
            0x10 => half(self.offered, self.device_features_sel),
            0x34 => self.selected().map_or(0, |q| q.max_size().into()),
            0x44 => self.selected().is_some_and(|q| q.ready()).into(),
            0x60 => self.shared.interrupt_status.load(Ordering::SeqCst),
            0x70 => self.status().into(),
            // Shared memory regions: there is none, so all ones (§4.2.2).
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            0xfc => self.shared.config_generation.load(Ordering::SeqCst),
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.device_features_sel = value,
            0x20 => self.set_driver_features(value),
            0x24 => self.driver_features_sel = value,
            0x30 => self.queue_sel = value,
            0x38 | 0x44 | 0x80..=0xa4 => self.set_queue_register(offset, value),
            QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    // Fails only when the counter is full: a kick is pending anyway.
                    let _ = kick.write(1);
                }
            }
            0x64 => {
                self.shared
                    .interrupt_status
                    .fetch_and(!value, Ordering::SeqCst);
            }
            0x70 => self.set_status(value),
            _ => {}
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        let s = self.status();
        if s & status::DRIVER == 0 || s & status::FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_sel {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            // Pages past the second hold nothing on offer: remember that the
            // driver asked for something, so that FEATURES_OK is refused.
            _ if value != 0 => self.accepted |= !self.offered,
            _ => {}
        }
    }

    fn set_queue_register(&mut self, offset: u64, value: u32) {
        let s = self.status();
        let configurable = s & status::FEATURES_OK != 0 && !self.active;
        let event_idx = self.accepted & ring_features::EVENT_IDX != 0;
        let selected = self.queue_sel as usize;
        let (Some(q), Some(misaligned)) = (
            self.queues.get_mut(selected),
            self.misaligned.get_mut(selected),
        ) else {
            return;
        };
        // A queue may be changed only before DRIVER_OK and while it is not ready
        // (§4.2.2.2, §3.1.1), its stop excepted.
        if !configurable || q.ready() && offset != 0x44 {
            return;
        }
        match offset {
            0x38 => {
                // A size that the standard forbids leaves the old one.
                if let Ok(size) = u16::try_from(value) {
                    let _ = q.try_set_size(size);
                }
            }
            0x44 => {
                q.set_event_idx(event_idx);
                q.set_ready(value == 1);
                if value == 1 && (*misaligned != 0 || !q.is_valid(&self.mem)) {
                    q.set_ready(false);
                }
            }
            0x80 => q.set_desc_table_address(Some(value), None),
            0x84 => q.set_desc_table_address(None, Some(value)),
            0x90 => q.set_avail_ring_address(Some(value), None),
            0x94 => q.set_avail_ring_address(None, Some(value)),
            0xa0 => q.set_used_ring_address(Some(value), None),
            0xa4 => q.set_used_ring_address(None, Some(value)),
            _ => {}
        }
        let kept = match offset {
            0x80 => q.desc_table(),
            0x90 => q.avail_ring(),
            0xa0 => q.used_ring(),
            _ => return,
        };
        let part = 1 << (offset >> 4 & 3);
        match kept as u32 == value {
            true => *misaligned &= !part,
            false => *misaligned |= part,
        }
    }

    /// The driver writes the status (§3.1.1): zero resets; otherwise bits may
    /// only be added, each once the one before it is set.
    fn set_status(&mut self, value: u32) {
        let Ok(new) = u8::try_from(value) else { return };
        if new == 0 {
            return self.reset();
        }
        let old = self.status();
        let cleared = old & !new & !status::NEEDS_RESET;
        if cleared != 0 || old & status::FAILED != 0 {
            return;
        }
        let mut add = new & !old & !status::NEEDS_RESET;
        if add & status::FAILED != 0 {
            self.shared
                .status
                .fetch_or(status::FAILED, Ordering::SeqCst);
            return self.stop_device();
        }
        let have = |mask: u8, add: u8| (old | add) & mask == mask;
        if add & status::FEATURES_OK != 0
            && !(have(status::ACKNOWLEDGE | status::DRIVER, add) && self.features_acceptable())
        {
            // The driver reads the status back and finds the bit missing (§3.1.1).
            add &= !(status::FEATURES_OK | status::DRIVER_OK);
        }
        if add & status::DRIVER_OK != 0 && !have(status::FEATURES_OK, add) {
            add &= !status::DRIVER_OK;
        }
        self.shared.status.fetch_or(add, Ordering::SeqCst);
        if add & status::DRIVER_OK != 0 {
            self.activate();
        }
    }

    fn features_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & ring_features::VERSION_1 != 0
    }

    fn activate(&mut self) {
        let interrupt: Arc<dyn VirtioInterrupt> = self.shared.clone();
        let queues = self.queues.iter().zip(&self.kicks).enumerate();
        let queues = queues
            .filter_map(|(index, (queue, kick))| {
                Some(VirtQueue::new(QueueSetup {
                    // The device gets the queue, the transport keeps its registers.
                    queue: Queue::try_from(queue.state()).ok()?,
                    index: index as u16,
                    kick: kick.clone(),
                    interrupt: interrupt.clone(),
                }))
            })
            .collect::<Vec<_>>();
        if queues.len() != self.queues.len() {
            return self.shared.needs_reset();
        }
        self.active = true;
        self.device().activate(Activation {
            mem: self.mem.clone(),
            queues,
            features: self.accepted,
            interrupt,
        });
    }

    fn stop_device(&mut self) {
        if self.active {
            self.device().reset();
            self.active = false;
        }
    }

    fn reset(&mut self) {
        self.stop_device();
        self.queues.iter_mut().for_each(QueueT::reset);
        self.misaligned.fill(0);
        for kick in &self.kicks {
            // A kick from before the reset must not be seen after it.
            let _ = kick.read();
        }
        self.accepted = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.shared.interrupt_status.store(0, Ordering::SeqCst);
        self.shared.status.store(0, Ordering::SeqCst);
    }

    fn device(&self) -> std::sync::MutexGuard<'_, dyn super::VirtioDevice + 'static> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG_SPACE {
            return self.device().read_config(offset - CONFIG_SPACE, data);
        }
        // Registers are read 32 bits wide and aligned (§4.2.2.2).
        data.fill(0);
        if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG_SPACE {
            // Before FEATURES_OK the device has no say over a write (§3.1.1).
            if self.status() & status::DRIVER != 0 && self.status() & status::FAILED == 0 {
                self.device().write_config(offset - CONFIG_SPACE, data);
            }
            return;
        }
        if let (Ok(bytes), 0) = (<[u8; 4]>::try_from(data), offset % 4) {
            self.set_register(offset, u32::from_le_bytes(bytes));
        }
    }
}

fn half(value: u64, sel: u32) -> u32 {
    match sel {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Desc, Driver, RING_SIZE};
    use crate::virtio::rng::Rng;

    fn rng() -> Driver {
        Driver::new(Rng::new())
    }

    #[test]
    fn identifies_itself() {
        let mut d = rng();
        assert_eq!(d.read(0), 0x7472_6976);
        assert_eq!((d.read(4), d.read(8)), (2, 4));
        assert_eq!(d.offered() & ring_features::OFFERED, ring_features::OFFERED);
        assert_eq!(d.read(0xb0), u32::MAX, "no shared memory");
        // Accesses of other widths, unaligned ones and unknown registers do nothing.
        let mut byte = [7];
        d.transport.read(0, &mut byte);
        assert_eq!(byte, [0]);
        assert_eq!(d.read(0x02), 0);
        d.write(0xff0, 1);
    }

    #[test]
    fn features_not_on_offer_are_refused() {
        let mut d = rng();
        assert!(!d.start(1 << 5));
        assert!(!d.start(1 << 63));
        assert!(d.start(ring_features::EVENT_IDX));
        // Without VERSION_1.
        for s in [0, 1, 3, 11] {
            d.write(0x70, s);
        }
        assert_eq!(d.status(), 3);
        // Asking past the offered words counts as asking for what is not there.
        for (sel, value) in [(0, 0), (1, 1), (2, 1)] {
            d.write(0x24, sel);
            d.write(0x20, value);
        }
        d.write(0x70, 11);
        assert_eq!(d.status(), 3);
    }

    #[test]
    fn status_only_grows_and_zero_resets() {
        let mut d = rng();
        d.write(0x70, 4);
        assert_eq!(d.status() & 4, 0, "DRIVER_OK needs FEATURES_OK");
        assert!(d.start(0));
        d.write(0x70, 1);
        assert_eq!(d.status(), 15, "bits cannot be cleared one by one");
        d.write(0x70, 0x100);
        assert_eq!(d.status(), 15);
        d.write(0x70, 15 | 128);
        d.write(0x70, 15);
        assert_eq!(d.status(), 15 | 128, "FAILED stays until a reset");
        d.write(0x70, 0);
        assert_eq!((d.status(), d.read(0x44), d.read(0x60)), (0, 0, 0));
    }

    #[test]
    fn queues_outside_memory_never_become_ready() {
        let mut d = rng();
        for s in [1, 3] {
            d.write(0x70, s);
        }
        d.write(0x24, 1);
        d.write(0x20, 1);
        d.write(0x70, 11);
        d.write(0x30, 0);
        d.write(0x38, 3);
        d.write(0x38, 1 << 20);
        for (desc, avail, used) in [
            (!15, 0x1000, 0x2000),
            (0x1000, 0xf_fffe, 0x2000),
            (0x1000, 0x2000, 0x20_0000),
            (0, 0, 0x10_0000),
            // Not aligned: the rings lie nowhere, and not where they were before.
            (0x1001, 0x2000, 0x3000),
            (0x1000, 0x2001, 0x3000),
            (0x1000, 0x2000, 0x3002),
        ] {
            for (reg, addr) in [(0x80, desc), (0x90, avail), (0xa0, used)] {
                d.write(reg, addr);
                d.write(reg + 4, 0);
            }
            d.write(0x44, 1);
            assert_eq!(d.read(0x44), 0);
        }
        d.write(0xa0, 0x3000);
        d.write(0x44, 1);
        assert_eq!(d.read(0x44), 1, "what was wrong is put right");
        d.write(0x30, 9);
        d.write(0x44, 1);
        assert_eq!((d.read(0x34), d.read(0x44)), (0, 0), "no such queue");
        d.write(QUEUE_NOTIFY, 9);
    }

    #[test]
    fn hostile_chains_end_the_device_not_the_monitor() {
        type Plant = fn(&mut Driver, u64);
        let cases: &[(&str, Plant)] = &[
            ("head out of range", |d, _| d.offer_head(0, RING_SIZE)),
            ("loop", |d, t| d.raw_desc(t, 0, 0x1000, 8, 3, 0)),
            ("next out of range", |d, t| {
                d.raw_desc(t, 0, 0x1000, 8, 3, 99)
            }),
            ("outside memory", |d, t| {
                d.raw_desc(t, 0, u64::MAX - 4, 8, 2, 0)
            }),
            ("in the hole", |d, t| d.raw_desc(t, 0, 1 << 21, 8, 2, 0)),
            ("across the end", |d, t| {
                d.raw_desc(t, 0, (1 << 20) - 4, 8, 2, 0)
            }),
            ("4 GiB", |d, t| d.raw_desc(t, 0, 0x1000, u32::MAX, 2, 0)),
            ("readable behind writable", |d, t| {
                d.raw_desc(t, 0, 0x1000, 8, 3, 1);
                d.raw_desc(t, 1, 0x1000, 8, 0, 0);
            }),
            ("indirect in itself", |d, t| {
                d.raw_desc(t, 0, 0x3000, 16, 4, 0);
                d.raw_desc(0x3000, 0, 0x3000, 16, 4, 0);
            }),
            ("indirect of odd length", |d, t| {
                d.raw_desc(t, 0, 0x3000, 17, 4, 0)
            }),
            ("endless indirect", |d, t| {
                d.raw_desc(t, 0, 0x3000, 16 * 2000, 4, 0);
                (0..2000).for_each(|i| d.raw_desc(0x3000, i, 0x1000, 1, 3, i + 1));
            }),
        ];
        for (name, plant) in cases {
            let mut d = rng();
            assert!(d.start(0));
            let table = d.queues[0].desc;
            plant(&mut d, table);
            if !name.starts_with("head") {
                d.offer_head(0, 0);
            }
            d.kick(0);
            assert!(d.needs_reset(), "{name}");
            assert!(d.used(0).is_none(), "{name}");
            d.kick(0);
            // After the reset the device works again.
            assert!(d.start(0), "{name}");
            assert_eq!(d.request(0, &[Desc::writable(0x1000, 4)]), 4, "{name}");
        }
    }

    #[test]
    fn an_available_index_that_jumps_needs_a_reset() {
        let mut d = rng();
        assert!(d.start(0));
        let avail = d.queues[0].avail;
        d.put(avail + 2, &(RING_SIZE + 1).to_le_bytes());
        d.kick(0);
        assert!(d.needs_reset());
    }

    #[test]
    fn interrupts_are_held_back_when_the_driver_says_so() {
        let mut d = rng();
        assert!(d.start(0));
        let avail = d.queues[0].avail;
        d.put(avail, &1u16.to_le_bytes());
        d.request(0, &[Desc::writable(0x1000, 4)]);
        assert_eq!(d.irq.count(), 0);
        d.put(avail, &0u16.to_le_bytes());
        d.request(0, &[Desc::writable(0x1000, 4)]);
        assert_eq!((d.irq.count(), d.read(0x60)), (1, 1));
        d.write(0x64, 1);
        assert_eq!(d.read(0x60), 0);
    }
}
