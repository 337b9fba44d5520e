//! One micro-VM as a KVM machine: memory, boot, vCPUs, interrupts, ACPI.
//!
//! [`Machine::new`] builds a VM from a [`config::VmConfig`]; [`Machine::run`]
//! runs it to its [`Outcome`]. KVM is used here and nowhere else.

#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

mod coalesced;
pub mod config;
mod console;
mod control;
mod error;
mod limits;
mod machine;
mod memory;
mod net;
mod outcome;
mod output;
mod resident;
mod signals;
mod vcpu;
mod virtio;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use console::{ConsoleIo, InputAction, InputFilter};
pub use control::{LimitsHandle, StopHandle};
pub use error::{Error, KvmStep};
pub use machine::{Machine, Remains};
pub use outcome::{CpuReport, Outcome};
pub use resident::one_heap;
pub use usernet::Published;
#[cfg(all(feature = "fuzzing", target_arch = "x86_64"))]
pub use x86_64::fuzzing;
#[cfg(target_arch = "x86_64")]
pub use x86_64::probe;
