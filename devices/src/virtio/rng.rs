//! The entropy device (virtio 1.2 §5.4): random bytes from the host's kernel.

use super::{Activation, DeviceType, Violation, VirtioDevice};

const QUEUE_SIZES: &[u16] = &[64];

/// The most bytes that one request is answered with. The driver asks for a few
/// hundred; a greater buffer is filled in part, which §5.4.6 allows.
const MAX_REQUEST: usize = 64 * 1024;

/// Chains answered at one kick before the event loop looks at other devices.
const BATCH: usize = 64;

/// The device.
#[derive(Default)]
pub struct Rng {
    active: Option<Activation>,
}

impl Rng {
    /// An entropy device.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills what the driver offered; true when there is more to do.
    fn process(active: &mut Activation) -> Result<bool, Violation> {
        let Activation { mem, queues, .. } = active;
        let Some(queue) = queues.first_mut() else {
            return Ok(false);
        };
        let mut bytes = vec![0; 0];
        for _ in 0..BATCH {
            let Some(mut chain) = queue.pop(mem)? else {
                queue.notify(mem)?;
                return queue.enable_kicks(mem);
            };
            if chain.writable.is_empty() {
                return Err(Violation::Protocol("a request without room for an answer"));
            }
            bytes.resize(chain.writable.len().min(MAX_REQUEST), 0);
            let filled = random(&mut bytes);
            // The buffer holds at least `bytes`, so the write is whole.
            let _ = std::io::Write::write(&mut chain.writable, &bytes[..filled]);
            queue.push(mem, chain.head, filled as u32)?;
        }
        queue.notify(mem)?;
        Ok(true)
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
        self.handle_kick(0);
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn handle_kick(&mut self, _queue: u16) {
        let Some(active) = &mut self.active else {
            return;
        };
        match Self::process(active) {
            Ok(false) => {}
            // Come back after the other devices had their turn.
            Ok(true) => {
                if let Some(queue) = active.queues.first() {
                    let _ = queue.kick().write(1);
                }
            }
            Err(violation) => {
                if let Some(active) = self.active.take() {
                    active.fail("rng", &violation);
                }
            }
        }
    }
}

/// Fills `bytes` from the host's kernel; how many bytes were filled.
fn random(bytes: &mut [u8]) -> usize {
    // SAFETY: the pointer and the length are those of a live, writable slice.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Desc, Driver};

    #[test]
    fn buffers_are_filled_with_different_bytes() {
        let mut d = Driver::new(Rng::new());
        assert!(d.start(0));
        let len = d.request(0, &[Desc::writable(0x1000, 32), Desc::writable(0x2000, 32)]);
        assert_eq!(len, 64);
        assert_ne!(d.get(0x1000, 32), d.get(0x2000, 32));
        assert!(d.irq.count() > 0);
        assert_eq!(
            d.request(0, &[Desc::writable(0x1000, 1 << 18)]),
            MAX_REQUEST as u32
        );
    }

    #[test]
    fn a_request_without_room_needs_a_reset_and_works_after_it() {
        let mut d = Driver::new(Rng::new());
        assert!(d.start(0));
        d.offer(0, &[Desc::readable(0x1000, 32)]);
        d.kick(0);
        assert!(d.needs_reset());
        assert!(d.start(0));
        assert_eq!(d.request(0, &[Desc::writable(0x1000, 8)]), 8);
    }
}
