//! Can this host's KVM run an unmodified Linux guest? Found out by trying.
//!
//! Some hosts offer a `/dev/kvm` without hardware virtualization behind it: the
//! guest's kernel code is then emulated instruction by instruction, and a guest
//! stops at the first instruction that the emulator does not know. Nothing that
//! KVM reports tells such a host from another, so a throw-away VM of 64 KiB runs
//! the instructions in question (`guest.S`).

mod guest;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::REQUIRED_CAPABILITIES;
use crate::signals::install_kick;
use guest::Report;
pub use guest::Step;

/// How long the throw-away VM may run. It needs well under a millisecond on
/// hardware and about ten where KVM itself is emulated.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// How long to wait for the vCPU thread once it has been told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two kicks: a kick that comes just before `KVM_RUN` is lost.
const KICK_INTERVAL: Duration = Duration::from_millis(5);
/// More exits than this are no progress: the guest makes one for each step.
const MAX_EXITS: usize = 256;

/// What `/dev/kvm` is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKvm {
    /// There is no `/dev/kvm`.
    Missing,
    /// `/dev/kvm` is there and this user may not open it.
    Denied,
    /// `/dev/kvm` cannot be used; the text says why.
    Unusable(String),
    /// `/dev/kvm` answers.
    Present(KvmDetails),
}

/// What a `/dev/kvm` that answers can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmDetails {
    /// `KVM_GET_API_VERSION`: 12 on every Linux since 2.6.22.
    pub api_version: i32,
    /// The most vCPUs that KVM takes for one VM.
    pub max_vcpus: usize,
    /// The capabilities that drupe knows about.
    pub capabilities: Vec<Capability>,
    /// What the throw-away VM found.
    pub guest: Fitness,
}

impl KvmDetails {
    /// Names of the capabilities that a VM needs and that are missing.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = self.capabilities.iter().filter(|c| !c.present);
        missing.filter(|c| c.required).map(|c| c.name).collect()
    }
}

impl HostKvm {
    /// True when a VM with an unmodified Linux kernel can be run here.
    pub fn can_run(&self) -> bool {
        matches!(self, HostKvm::Present(kvm)
            if kvm.api_version == KVM_API_VERSION as i32
                && kvm.missing().is_empty()
                && kvm.guest == Fitness::Fit)
    }
}

/// One KVM capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// KVM's name for it, without `KVM_CAP_`.
    pub name: &'static str,
    /// Whether this host has it.
    pub present: bool,
    /// Whether a VM needs it; what is not required is used when it is there.
    pub required: bool,
}

/// Whether guests run unmodified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// Every step passed.
    Fit,
    /// The guest did not get past a step.
    Unfit {
        /// The step.
        step: Step,
        /// What happened there.
        why: String,
    },
    /// The VM could not be set up; the text says what failed.
    Untested(String),
}

/// Used when they are there, beside the [`REQUIRED_CAPABILITIES`].
const OPTIONAL_CAPABILITIES: &[(Cap, &str)] = &[
    (Cap::CoalescedPio, "KVM_CAP_COALESCED_PIO"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
];

/// Opens `/dev/kvm` and tries it. Takes a few milliseconds, at most about three
/// seconds, and uses one short-lived thread.
pub fn probe_host() -> HostKvm {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return match error.errno() {
                libc::ENOENT | libc::ENODEV | libc::ENXIO => HostKvm::Missing,
                libc::EACCES | libc::EPERM => HostKvm::Denied,
                other => HostKvm::Unusable(io::Error::from_raw_os_error(other).to_string()),
            };
        }
    };
    let api_version = kvm.get_api_version();
    if api_version < 0 {
        return HostKvm::Unusable("it does not answer KVM_GET_API_VERSION".to_owned());
    }
    let look = |&(cap, name): &(Cap, &'static str), required| Capability {
        name: name.strip_prefix("KVM_CAP_").unwrap_or(name),
        present: kvm.check_extension(cap),
        required,
    };
    let required = REQUIRED_CAPABILITIES.iter().map(|cap| look(cap, true));
    let optional = OPTIONAL_CAPABILITIES.iter().map(|cap| look(cap, false));
    let capabilities = required.chain(optional).collect();
    HostKvm::Present(KvmDetails {
        api_version,
        max_vcpus: kvm.get_max_vcpus(),
        capabilities,
        guest: probe_guest(&kvm).unwrap_or_else(Fitness::Untested),
    })
}

/// Sets up the throw-away VM and runs it to its end.
fn probe_guest(kvm: &Kvm) -> Result<Fitness, String> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| format!("KVM_GET_SUPPORTED_CPUID: {e}"))?;
    let vm = kvm.create_vm().map_err(|e| format!("KVM_CREATE_VM: {e}"))?;
    // Intel CPUs of the first generations need it; others take no notice.
    vm.set_tss_address(0xfffb_d000)
        .map_err(|e| format!("KVM_SET_TSS_ADDR: {e}"))?;
    let memory = guest::memory(&vm)?;
    let vcpu = vm
        .create_vcpu(0)
        .map_err(|e| format!("KVM_CREATE_VCPU: {e}"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(|e| format!("KVM_SET_CPUID2: {e}"))?;
    guest::set_registers(&vcpu, features(&cpuid))?;
    let fitness = run_guarded(vcpu);
    // A vCPU thread that would not stop still uses the memory.
    if fitness.is_none() {
        std::mem::forget(memory);
    }
    Ok(fitness.unwrap_or_else(|| Fitness::Unfit {
        step: Step::Start,
        why: "KVM_RUN does not return, not even for a signal".to_owned(),
    }))
}

fn features(cpuid: &CpuId) -> u32 {
    let find = |function: u32| {
        let mut entries = cpuid.as_slice().iter();
        entries.find(|e| e.function == function && e.index == 0)
    };
    let leaf1 = find(1).map_or(0, |e| e.ecx);
    let leaf7 = find(7).map_or(0, |e| e.ebx);
    let extended = find(0x8000_0001).map_or(0, |e| e.edx);
    [
        (leaf1 & 1 << 23, guest::HAS_POPCNT),
        (leaf1 & 1 << 13, guest::HAS_CX16),
        (leaf1 & 1 << 26, guest::HAS_XSAVE),
        (leaf7 & 1, guest::HAS_FSGSBASE),
        (leaf7 & 1 << 20, guest::HAS_SMAP),
        (extended & 1 << 27, guest::HAS_RDTSCP),
    ]
    .iter()
    .filter(|(bit, _)| *bit != 0)
    .fold(0, |all, (_, feature)| all | feature)
}

/// Runs the vCPU on a thread of its own and kicks it out of the guest when the
/// time is up. `None`: it did not even come back then.
fn run_guarded(vcpu: VcpuFd) -> Option<Fitness> {
    if let Err(e) = install_kick() {
        return Some(Fitness::Untested(format!("the kick signal: {e}")));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::sync_channel(1);
    let seen = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("probe".to_owned())
        .spawn(move || {
            // The receiver waits until told otherwise, so that this cannot fail in
            // a way that matters.
            let _ = sender.send(run(vcpu, &seen));
        });
    let thread = match thread {
        Ok(thread) => thread,
        Err(e) => return Some(Fitness::Untested(format!("the vCPU thread: {e}"))),
    };
    let mut result = receiver.recv_timeout(TIME_LIMIT).ok();
    stop.store(true, Ordering::Relaxed);
    let give_up = Instant::now() + STOP_LIMIT;
    while result.is_none() && !thread.is_finished() && Instant::now() < give_up {
        if thread.kill(SIGRTMIN()).is_err() {
            break;
        }
        result = receiver.recv_timeout(KICK_INTERVAL).ok();
    }
    let result = result?;
    // It has sent its result: what is left of it ends at once.
    let _ = thread.join();
    Some(result)
}

fn run(mut vcpu: VcpuFd, stop: &AtomicBool) -> Fitness {
    let mut step = Step::Start;
    let unfit = |step, why: &str| Fitness::Unfit {
        step,
        why: why.to_owned(),
    };
    for _ in 0..MAX_EXITS {
        if stop.load(Ordering::Relaxed) {
            return unfit(step, "the guest made no progress");
        }
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => continue,
            Err(e) => return unfit(step, &format!("KVM_RUN failed: {e}")),
        };
        match exit {
            VcpuExit::IoOut(port, &[value]) => match guest::report(port, value) {
                Some(Report::Step(next)) => step = next,
                Some(Report::Done) => return Fitness::Fit,
                Some(Report::Exception(vector)) => {
                    return unfit(step, &format!("the guest took exception {vector}"));
                }
                Some(Report::WrongResult) => {
                    return unfit(step, "the instruction did not do its work");
                }
                None => return unfit(step, "the guest went astray"),
            },
            VcpuExit::InternalError => {
                return unfit(
                    step,
                    "KVM stopped with an internal error: it emulates the guest and does not know the instruction",
                );
            }
            VcpuExit::Shutdown => return unfit(step, "the guest ended in a triple fault"),
            VcpuExit::Intr => {}
            VcpuExit::FailEntry(reason, _) => {
                return unfit(step, &format!("KVM could not enter the guest: {reason:#x}"));
            }
            other => {
                let why = format!("KVM stopped the guest with {other:?}");
                return unfit(step, &why);
            }
        }
    }
    unfit(step, "the guest made no progress")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(guest: Fitness) -> KvmDetails {
        KvmDetails {
            api_version: 12,
            max_vcpus: 1,
            capabilities: vec![
                Capability {
                    name: "IRQFD",
                    present: true,
                    required: true,
                },
                Capability {
                    name: "COALESCED_PIO",
                    present: false,
                    required: false,
                },
            ],
            guest,
        }
    }

    #[test]
    fn a_host_can_run_vms_when_nothing_required_is_missing() {
        let mut kvm = details(Fitness::Fit);
        assert!(HostKvm::Present(kvm.clone()).can_run());
        kvm.capabilities[0].present = false;
        assert_eq!(kvm.missing(), ["IRQFD"]);
        assert!(!HostKvm::Present(kvm.clone()).can_run());
        assert!(!HostKvm::Present(details(Fitness::Untested("x".into()))).can_run());
        assert!(!HostKvm::Missing.can_run());
        assert!(!HostKvm::Denied.can_run());
    }

    #[test]
    fn the_probe_ends_on_any_host() {
        let start = Instant::now();
        let _ = probe_host();
        assert!(start.elapsed() < TIME_LIMIT + STOP_LIMIT + Duration::from_secs(2));
    }
}
