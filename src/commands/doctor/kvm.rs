//! What `/dev/kvm` is, in words.

use vmm::probe::{Fitness, HostKvm, KvmDetails};

use super::host::Host;
use super::{Check, Status};

/// The KVM API that every Linux of this century has.
const API_VERSION: i32 = 12;

const NO_HARDWARE: &str = "use a machine with hardware virtualization (VT-x or AMD-V), or a VM \
                           whose host passes it on (nested virtualization)";
const NO_DEVICE: &str = "there is no /dev/kvm";
const LOOK_AT_LOG: &str = "see what the kernel says of it: dmesg | grep -i kvm";

/// `kvm`, `kvm-capabilities` and `guest`, as far as they can be known.
pub fn checks(kvm: &HostKvm, host: &Host) -> Vec<Check> {
    let missing =
        |detail: String, fix: String| vec![Check::bad("kvm", Status::Missing, detail, fix)];
    match kvm {
        HostKvm::Missing => missing(NO_DEVICE.to_owned(), no_device(host)),
        HostKvm::Denied => missing(
            "this user may not open /dev/kvm".to_owned(),
            "join the group that owns it, as root: usermod -aG kvm USER; then log in again"
                .to_owned(),
        ),
        HostKvm::Unusable(why) => missing(
            format!("/dev/kvm cannot be used: {why}"),
            LOOK_AT_LOG.to_owned(),
        ),
        HostKvm::Present(details) => vec![api(details), capabilities(details), guest(details)],
    }
}

/// The one line of `--check kvm`: the first thing that keeps VMs from running.
pub fn verdict(kvm: &HostKvm, host: &Host) -> Check {
    let mut found = checks(kvm, host).into_iter();
    match found.find(|c| c.status == Status::Missing) {
        Some(bad) => Check {
            check: "kvm",
            ..bad
        },
        None => Check::ok("kvm", "runs an unmodified Linux guest"),
    }
}

fn no_device(host: &Host) -> String {
    let module = if host.cpu_flag("vmx") {
        "kvm_intel"
    } else if host.cpu_flag("svm") {
        "kvm_amd"
    } else if host.cpu_flag("hypervisor") {
        return format!("this is a VM without nested virtualization: {NO_HARDWARE}");
    } else {
        return "switch virtualization (VT-x, AMD-V or SVM) on in the firmware's settings"
            .to_owned();
    };
    format!("load the module, as root: modprobe {module}; in a container, pass --device /dev/kvm")
}

fn api(kvm: &KvmDetails) -> Check {
    let detail = format!(
        "/dev/kvm, API version {}, up to {} vCPUs",
        kvm.api_version, kvm.max_vcpus
    );
    if kvm.api_version == API_VERSION {
        return Check::ok("kvm", detail);
    }
    let detail = format!("{detail}; drupe needs API version {API_VERSION}");
    Check::bad("kvm", Status::Missing, detail, "use a newer Linux kernel")
}

fn capabilities(kvm: &KvmDetails) -> Check {
    let missing = kvm.missing();
    if !missing.is_empty() {
        return Check::bad(
            "kvm-capabilities",
            Status::Missing,
            format!("KVM lacks {}", missing.join(", ")),
            "use a newer Linux kernel",
        );
    }
    let names = |present| {
        let found = kvm.capabilities.iter().filter(|c| c.present == present);
        found.map(|c| c.name).collect::<Vec<_>>().join(", ")
    };
    let mut detail = names(true);
    let absent = names(false);
    if !absent.is_empty() {
        detail.push_str(&format!("; not here, and not needed: {absent}"));
    }
    Check::ok("kvm-capabilities", detail)
}

fn guest(kvm: &KvmDetails) -> Check {
    let missing = |detail, fix| Check::bad("guest", Status::Missing, detail, fix);
    match &kvm.guest {
        Fitness::Fit => Check::ok("guest", "an unmodified Linux guest can run here (tried)"),
        Fitness::Unfit { step, why } => missing(
            format!(
                "an unmodified Linux guest cannot run here: it stops at {}: {why}",
                step.name()
            ),
            NO_HARDWARE,
        ),
        Fitness::Untested(why) => missing(format!("a VM cannot be set up: {why}"), LOOK_AT_LOG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm::probe::{Capability, Step};

    fn details(guest: Fitness) -> KvmDetails {
        let capability = |name, present, required| Capability {
            name,
            present,
            required,
        };
        KvmDetails {
            api_version: 12,
            max_vcpus: 8,
            capabilities: vec![
                capability("IRQFD", true, true),
                capability("COALESCED_PIO", false, false),
            ],
            guest,
        }
    }

    #[test]
    fn a_good_host_has_nothing_to_fix() {
        let kvm = HostKvm::Present(details(Fitness::Fit));
        let host = Host::new("/nonexistent");
        let checks = checks(&kvm, &host);
        assert!(checks.iter().all(|c| c.status == Status::Ok));
        assert_eq!(
            checks[1].detail,
            "IRQFD; not here, and not needed: COALESCED_PIO"
        );
        assert_eq!(verdict(&kvm, &host).status, Status::Ok);
    }

    #[test]
    fn every_bad_host_is_told_what_to_do() {
        let unfit = Fitness::Unfit {
            step: Step::Int3,
            why: "w".into(),
        };
        let mut old = details(Fitness::Fit);
        old.api_version = 11;
        let mut poor = details(Fitness::Fit);
        poor.capabilities[0].present = false;
        let untested = details(Fitness::Untested("no memory".into()));
        for (kvm, expected) in [
            (HostKvm::Missing, "there is no /dev/kvm"),
            (HostKvm::Denied, "may not open"),
            (HostKvm::Unusable("busy".into()), "busy"),
            (HostKvm::Present(old), "needs API version 12"),
            (HostKvm::Present(poor), "KVM lacks IRQFD"),
            (HostKvm::Present(details(unfit)), "stops at int3: w"),
            (HostKvm::Present(untested), "no memory"),
        ] {
            assert!(!kvm.can_run());
            let verdict = verdict(&kvm, &Host::new("/nonexistent"));
            assert_eq!(verdict.status, Status::Missing);
            assert!(verdict.detail.contains(expected), "{}", verdict.detail);
            assert!(verdict.fix.is_some());
        }
    }
}
