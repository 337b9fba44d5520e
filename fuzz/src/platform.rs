//! The devices that are no virtio devices, on their bus.

use std::sync::{Arc, Mutex};

use devices::bus::Bus;
use devices::power::{
    AcpiPower, I8042, I8042_BASE, I8042_PORTS, PVPANIC_PORT, PowerEvent, PowerSink, PvPanic, acpi,
};
use devices::serial::{self, Serial};
use devices::testing::CountingIrq;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Input;

const SERIAL: u64 = 0x3f8;
const POWER: u64 = 0x600;
/// Steps of one run.
const MAX_STEPS: usize = 512;

#[derive(Default)]
struct Events(Mutex<Vec<PowerEvent>>);

impl PowerSink for Events {
    fn power_event(&self, event: PowerEvent) {
        self.0.lock().expect("a lock").push(event);
    }
}

/// Accesses of any address and size, with input and the power button between.
pub fn platform(data: &[u8]) {
    let irq = Arc::new(CountingIrq::default());
    let events = Arc::new(Events::default());
    let room = Arc::new(EventFd::new(EFD_NONBLOCK).expect("an event"));
    let serial = Arc::new(Mutex::new(Serial::new(irq.clone(), room)));
    let power = Arc::new(Mutex::new(AcpiPower::new(events.clone(), irq)));
    let mut bus = Bus::new();
    let keyboard = Arc::new(Mutex::new(I8042::new(events.clone())));
    let panic = Arc::new(Mutex::new(PvPanic::new(events.clone())));
    bus.insert(I8042_BASE, I8042_PORTS, keyboard).expect("room");
    bus.insert(SERIAL, serial::PORTS, serial.clone())
        .expect("room");
    bus.insert(PVPANIC_PORT, 1, panic).expect("room");
    bus.insert(POWER, acpi::PORTS, power.clone()).expect("room");

    let mut input = Input::new(data);
    let mut written = 0;
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        let base = match step >> 5 {
            0..4 => SERIAL,
            4 => I8042_BASE,
            5 => POWER,
            6 => PVPANIC_PORT,
            _ => input.u64(),
        };
        let addr = base.wrapping_add(u64::from(step & 7));
        let mut bytes = [0; 8];
        let size = [1, 2, 4, 8][usize::from(input.u8() & 3)];
        match step >> 3 & 3 {
            0 => {
                bus.read(addr, &mut bytes[..size]);
            }
            1 => {
                // Mostly as a driver would.
                let size = if step & 1 == 0 { 1 } else { size };
                bytes[..size].copy_from_slice(&input.u64().to_le_bytes()[..size]);
                bus.write(addr, &bytes[..size]);
                written += 1;
            }
            2 => {
                let n = usize::from(input.u8());
                let typed = vec![step; n];
                let mut port = serial.lock().expect("a lock");
                assert!(port.type_input(&typed) <= n);
            }
            _ if step & 1 == 0 => {
                let n = usize::from(input.u8());
                let sent = input.bytes(n).iter().copied();
                written += sent.len();
                serial.lock().expect("a lock").transmit(sent);
            }
            _ => power.lock().expect("a lock").press_power_button(),
        }
        assert!(events.0.lock().expect("a lock").len() <= written);
    }
    let out = serial.lock().expect("a lock").take_output().len();
    assert!(
        out <= written,
        "{out} bytes of output from {written} writes"
    );
    // Whatever was written to the registers, the port still prints.
    for (register, value) in [(4, 0), (3, 3), (0, b'x')] {
        bus.write(SERIAL + register, &[value]);
    }
    assert_eq!(serial.lock().expect("a lock").take_output(), b"x");
}
