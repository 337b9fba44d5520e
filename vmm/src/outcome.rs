//! How a VM ended.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use devices::power::{PowerEvent, PowerSink};
use vmm_sys_util::eventfd::EventFd;

/// The end of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off, by itself or because it was asked to.
    PowerOff,
    /// The guest asked for a reset.
    Reboot,
    /// The guest's kernel panicked and said so through the panic device.
    Panic,
    /// The CPU shut down: a fault while a double fault was being delivered.
    TripleFault(Box<CpuReport>),
    /// KVM could not go on with the guest.
    InternalError(Box<CpuReport>),
    /// The host ended the VM: by this signal, or by the console's escape.
    Stopped(Option<i32>),
}

/// What is known of the vCPU with which a VM went down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuReport {
    /// Which vCPU.
    pub cpu: u8,
    /// What happened, in a line.
    pub what: String,
    /// The bytes at the instruction pointer, as far as they can be read.
    pub instruction: Vec<u8>,
    /// The registers, in a few lines.
    pub registers: String,
}

impl fmt::Display for CpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}: {}\ninstruction bytes:", self.cpu, self.what)?;
        if self.instruction.is_empty() {
            f.write_str(" none can be read")?;
        }
        for byte in &self.instruction {
            write!(f, " {byte:02x}")?;
        }
        write!(f, "\n{}", self.registers)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::PowerOff => f.write_str("the guest powered off"),
            Outcome::Reboot => f.write_str("the guest asked for a reboot"),
            Outcome::Panic => f.write_str("the guest's kernel panicked"),
            Outcome::TripleFault(r) => write!(f, "the guest's CPU shut down (triple fault): {r}"),
            Outcome::InternalError(r) => write!(f, "KVM cannot run the guest any further: {r}"),
            Outcome::Stopped(Some(signal)) => write!(f, "stopped by signal {signal}"),
            Outcome::Stopped(None) => f.write_str("stopped by force"),
        }
    }
}

/// Where the end is announced: the first to do so decides how the VM ended.
pub(crate) struct Ending {
    outcome: Mutex<Option<Outcome>>,
    over: AtomicBool,
    given_up: AtomicBool,
    event: EventFd,
}

impl Ending {
    /// `event` is written to when the VM has ended.
    pub(crate) fn new(event: EventFd) -> Self {
        Ending {
            outcome: Mutex::new(None),
            over: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            event,
        }
    }

    pub(crate) fn end(&self, outcome: Outcome) {
        let mut slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(outcome);
        self.over.store(true, Ordering::SeqCst);
        // Fails only when the counter is full, and then it was written to.
        let _ = self.event.write(1);
    }

    /// Ends a VM whose guest does nothing.
    pub(crate) fn give_up(&self) {
        self.given_up.store(!self.is_over(), Ordering::SeqCst);
        self.end(Outcome::Stopped(None));
    }

    /// Each vCPU shall say where it stands.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }
}

impl PowerSink for Ending {
    fn power_event(&self, event: PowerEvent) {
        self.end(match event {
            PowerEvent::Off => Outcome::PowerOff,
            PowerEvent::Reset => Outcome::Reboot,
            PowerEvent::Panic => Outcome::Panic,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let ending = Ending::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        assert!(!ending.is_over() && ending.outcome().is_none());
        ending.power_event(PowerEvent::Off);
        ending.end(Outcome::Stopped(Some(15)));
        ending.give_up();
        assert_eq!(ending.outcome(), Some(Outcome::PowerOff));
        assert!(ending.is_over() && !ending.is_given_up());
    }

    #[test]
    fn a_report_shows_bytes_and_registers() {
        let report = CpuReport {
            cpu: 1,
            what: "emulation failed".into(),
            instruction: vec![0x0f, 0x01, 0xca],
            registers: "rip=0".into(),
        };
        let text = Outcome::InternalError(Box::new(report)).to_string();
        assert!(text.contains("vCPU 1: emulation failed\ninstruction bytes: 0f 01 ca\nrip=0"));
    }
}
