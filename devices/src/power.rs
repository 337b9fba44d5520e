//! Power: how the guest ends itself, and the button that asks it to.
//!
//! * [`AcpiPower`]: the registers of ACPI 6.5 §4.8.3.7 (sleep control and status,
//!   hardware-reduced), the reset register (§4.8.3.6) and the event register that
//!   the generic event device (§5.6.9) reads to learn that the power button was
//!   pressed. `vmm` describes all of them in its tables.
//! * [`I8042`]: the keyboard controller's reset line and nothing else.
//! * [`PvPanic`]: the guest says that its kernel panicked (the `QEMU0001` device
//!   that Linux's `pvpanic` drives).

use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::virtio::IrqLine;

/// What the guest did to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerEvent {
    /// Switched itself off.
    Off,
    /// Asked for a reset.
    Reset,
    /// Its kernel panicked.
    Panic,
}

/// Who is told. Called on a vCPU thread; must not block.
pub trait PowerSink: Send + Sync {
    /// The guest did `event`.
    fn power_event(&self, event: PowerEvent);
}

/// Registers of [`AcpiPower`] as offsets in its port range.
pub mod acpi {
    /// Ports taken.
    pub const PORTS: u64 = 8;
    /// Sleep control: bits 2-4 `SLP_TYP`, bit 5 `SLP_EN`.
    pub const SLEEP_CONTROL: u64 = 0;
    /// Sleep status: bit 7 `WAK_STS`, never set here.
    pub const SLEEP_STATUS: u64 = 1;
    /// Reset: [`RESET_VALUE`] resets.
    pub const RESET: u64 = 2;
    /// What the events were: reading clears.
    pub const EVENTS: u64 = 4;
    /// The value for the reset register.
    pub const RESET_VALUE: u8 = 1;
    /// `SLP_TYP` of the S5 state, which `\_S5` in the DSDT names.
    pub const S5: u8 = 5;
    /// Bit of the event register: the power button was pressed.
    pub const POWER_BUTTON: u8 = 1;
}

/// ACPI's power registers.
pub struct AcpiPower {
    sink: Arc<dyn PowerSink>,
    irq: Arc<dyn IrqLine>,
    events: u8,
}

impl AcpiPower {
    /// Registers that tell `sink`; `irq` is the generic event device's line.
    pub fn new(sink: Arc<dyn PowerSink>, irq: Arc<dyn IrqLine>) -> Self {
        AcpiPower {
            sink,
            irq,
            events: 0,
        }
    }

    /// Presses the power button. Whether the guest listens is its own affair.
    pub fn press_power_button(&mut self) {
        self.events |= acpi::POWER_BUTTON;
        self.irq.trigger();
    }
}

impl BusDevice for AcpiPower {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (acpi::EVENTS, [byte, ..]) = (offset, data) {
            *byte = std::mem::take(&mut self.events);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        const SLP_EN: u8 = 1 << 5;
        match (offset, data) {
            (acpi::SLEEP_CONTROL, &[v]) if v & SLP_EN != 0 && v >> 2 & 7 == acpi::S5 => {
                self.sink.power_event(PowerEvent::Off);
            }
            (acpi::RESET, &[acpi::RESET_VALUE]) => self.sink.power_event(PowerEvent::Reset),
            _ => {}
        }
    }
}

struct ResetLine(Arc<dyn PowerSink>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.power_event(PowerEvent::Reset);
        Ok(())
    }
}

/// The keyboard controller at ports 0x60 to 0x64.
pub struct I8042(I8042Device<ResetLine>);

/// First port of the keyboard controller.
pub const I8042_BASE: u64 = 0x60;
/// Ports that it takes: the data port, the speaker's gate between, the command.
pub const I8042_PORTS: u64 = 5;

impl I8042 {
    /// A controller whose reset command tells `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        I8042(I8042Device::new(ResetLine(sink)))
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(self.0.read(offset as u8));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let &[byte] = data {
            // The trigger cannot fail.
            let _ = self.0.write(offset as u8, byte);
        }
    }
}

/// Port of the panic device, where guests expect it.
pub const PVPANIC_PORT: u64 = 0x505;

/// The panic device: one port.
pub struct PvPanic(Arc<dyn PowerSink>);

impl PvPanic {
    const PANICKED: u8 = 1;

    /// A device that tells `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        PvPanic(sink)
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // The events that are understood.
        data.fill(Self::PANICKED);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|b| b & Self::PANICKED != 0) {
            self.0.power_event(PowerEvent::Panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::CountingIrq;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Told(Mutex<Vec<PowerEvent>>);

    impl PowerSink for Told {
        fn power_event(&self, event: PowerEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    #[test]
    fn only_the_right_values_end_the_guest() {
        let told = Arc::new(Told::default());
        let mut acpi = AcpiPower::new(told.clone(), Arc::new(CountingIrq::default()));
        acpi.write(0, &[5 << 2]);
        acpi.write(0, &[4 << 2 | 32]);
        acpi.write(0, &[0xff, 0xff]);
        acpi.write(2, &[2]);
        acpi.write(7, &[1]);
        let mut keyboard = I8042::new(told.clone());
        keyboard.write(4, &[0xd1]);
        keyboard.write(0, &[0xfe]);
        let mut panic = PvPanic::new(told.clone());
        panic.write(0, &[2]);
        assert!(told.0.lock().unwrap().is_empty());
        acpi.write(0, &[5 << 2 | 32]);
        acpi.write(2, &[1]);
        keyboard.write(4, &[0xfe]);
        panic.write(0, &[1]);
        use PowerEvent::*;
        assert_eq!(*told.0.lock().unwrap(), [Off, Reset, Reset, Panic]);
    }

    #[test]
    fn the_button_interrupts_and_reads_once() {
        let irq = Arc::new(CountingIrq::default());
        let mut acpi = AcpiPower::new(Arc::new(Told::default()), irq.clone());
        acpi.press_power_button();
        assert_eq!(irq.count(), 1);
        let mut byte = [9];
        acpi.read(acpi::EVENTS, &mut byte);
        assert_eq!(byte, [acpi::POWER_BUTTON]);
        acpi.read(acpi::EVENTS, &mut byte);
        assert_eq!(byte, [0]);
    }
}
