//! The 16550A serial port, the guest's console.
//!
//! The registers are `vm-superio`'s. What is added here: output is collected
//! and handed over in one piece instead of with a system call a byte, a batch of
//! writes raises one interrupt, and nothing blocks while the port is locked.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::virtio::IrqLine;

/// Ports that a 16550 takes.
pub const PORTS: u64 = 8;
/// Offset of the transmit holding register.
pub const TRANSMIT: u64 = 0;
/// Offset of the modem control register, and its bit for loop mode, in which the
/// port takes no input from outside.
const MODEM_CONTROL: u64 = 4;
const LOOP: u8 = 1 << 4;

/// Interrupts that the registers ask for while one access or a batch of them is
/// carried out.
#[derive(Default, Clone)]
struct Wanted(Arc<AtomicBool>);

impl Trigger for Wanted {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Output that waits to be taken.
#[derive(Default)]
struct Collected(Vec<u8>);

impl Write for Collected {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the input side that the port can take more.
struct RoomForInput(Arc<EventFd>);

impl SerialEvents for RoomForInput {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // Fails only when the counter is full, and then it says so already.
        let _ = self.0.write(1);
    }
}

/// The port.
pub struct Serial {
    uart: Uart<Wanted, RoomForInput, Collected>,
    wanted: Wanted,
    irq: Arc<dyn IrqLine>,
    room: Arc<EventFd>,
}

impl Serial {
    /// A port that interrupts through `irq` and writes to `room` each time the
    /// guest has read all its input, or has left loop mode.
    pub fn new(irq: Arc<dyn IrqLine>, room: Arc<EventFd>) -> Self {
        let wanted = Wanted::default();
        Serial {
            uart: Uart::with_events(
                wanted.clone(),
                RoomForInput(room.clone()),
                Collected::default(),
            ),
            wanted,
            irq,
            room,
        }
    }

    /// Carries out writes to the transmit register that KVM or anything else
    /// has collected, in order.
    pub fn transmit(&mut self, bytes: impl Iterator<Item = u8>) {
        for byte in bytes {
            // With a writer that cannot fail and a trigger that cannot, neither
            // can this; should it, one byte of output is lost.
            let _ = self.uart.write(TRANSMIT as u8, byte);
        }
        self.interrupt();
    }

    /// Takes the output that was written since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.uart.writer_mut().0)
    }

    /// Types `input`; how many bytes the port had room for. The rest is typed
    /// again when it has room.
    pub fn type_input(&mut self, input: &[u8]) -> usize {
        // An error says that the port is full: nothing was taken.
        let taken = self.uart.enqueue_raw_bytes(input).unwrap_or(0);
        self.interrupt();
        taken
    }

    fn interrupt(&mut self) {
        if self.wanted.0.swap(false, Ordering::Relaxed) {
            self.irq.trigger();
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([byte], true) = (data, offset < PORTS) {
            *byte = self.uart.read(offset as u8);
        }
        self.interrupt();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (&[byte], true) = (data, offset < PORTS) {
            let _ = self.uart.write(offset as u8, byte);
            if offset == MODEM_CONTROL && byte & LOOP == 0 {
                // As in `in_buffer_empty`.
                let _ = self.room.write(1);
            }
        }
        self.interrupt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::CountingIrq;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    fn port() -> (Serial, Arc<CountingIrq>, Arc<EventFd>) {
        let irq = Arc::new(CountingIrq::default());
        let room = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        (Serial::new(irq.clone(), room.clone()), irq, room)
    }

    #[test]
    fn output_is_collected_and_a_batch_interrupts_once() {
        let (mut port, irq, _) = port();
        port.write(1, &[2]);
        let before = irq.count();
        port.transmit(b"hello".iter().copied());
        let mut iir = [0];
        port.read(2, &mut iir);
        port.transmit(b" you".iter().copied());
        assert_eq!(port.take_output(), b"hello you");
        assert_eq!(port.take_output(), b"");
        assert!(irq.count() - before <= 2);
    }

    #[test]
    fn input_is_read_back_and_room_is_announced() {
        let (mut port, irq, room) = port();
        port.write(1, &[1]);
        let long = [b'x'; 100];
        let taken = port.type_input(&long);
        assert!(taken > 0 && taken < long.len());
        assert_eq!(port.type_input(&long), 0);
        assert!(irq.count() > 0 && room.read().is_err());
        let mut byte = [0];
        for _ in 0..taken {
            port.read(0, &mut byte);
            assert_eq!(byte, [b'x']);
        }
        assert!(room.read().is_ok());
    }

    #[test]
    fn input_that_came_in_loop_mode_is_asked_for_after_it() {
        let (mut port, _, room) = port();
        port.write(MODEM_CONTROL, &[LOOP]);
        assert_eq!(port.type_input(b"early"), 0);
        assert!(room.read().is_err());
        port.write(MODEM_CONTROL, &[0]);
        assert!(room.read().is_ok());
        assert_eq!(port.type_input(b"early"), 5);
    }

    #[test]
    fn odd_accesses_do_nothing() {
        let (mut port, _, _) = port();
        port.write(0, b"ab");
        port.write(9, b"a");
        let mut wide = [0; 4];
        port.read(0, &mut wide);
        assert_eq!(wide, [0xff; 4]);
        assert!(port.take_output().is_empty());
    }
}
