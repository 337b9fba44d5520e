//! CPUID: what KVM supports, with the topology of this VM written over the
//! host's. The hypervisor leaves (`KVMKVMKVM`) come from KVM as they are.
//!
//! Leaves are those of Intel's SDM volume 2A and AMD's APM volume 3.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::error::{Error, KvmStep};

/// Takes VMX and SVM from a guest that shall not run guests of its own: nested
/// virtualization is a large part of KVM to show to code that nobody trusts.
fn hide_virtualization(entries: &mut Vec<kvm_cpuid_entry2>) {
    entries.retain(|e| e.function != 0x8000_000a);
    for e in entries {
        match e.function {
            1 => set_bit(&mut e.ecx, 5, false),
            0x8000_0001 => set_bit(&mut e.ecx, 2, false),
            _ => {}
        }
    }
}

/// The vCPUs' common CPUID.
pub(super) struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

impl Template {
    pub(super) fn new(kvm: &Kvm, cpus: u8, nested: bool) -> Result<Self, Error> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| Error::kvm(KvmStep::Cpuid, e))?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        let mut template = Self::from_supported(supported.as_slice(), cpus, tsc_deadline);
        if !nested {
            hide_virtualization(&mut template.entries);
        }
        Ok(template)
    }

    fn from_supported(supported: &[kvm_cpuid_entry2], cpus: u8, tsc_deadline: bool) -> Self {
        let mut entries: Vec<_> = supported
            .iter()
            // The topology leaves are written anew; 0x1f only says more than 0xb.
            .filter(|e| !matches!(e.function, 0xb | 0x1f))
            .copied()
            .collect();
        for e in &mut entries {
            match (e.function, e.index) {
                (1, _) => {
                    // Hypervisor present; the deadline timer is KVM's own and is
                    // not among what the CPU supports.
                    e.ecx |= 1 << 31 | u32::from(tsc_deadline) << 24;
                    // CLFLUSH size stays; count of logical processors, HTT.
                    e.ebx = e.ebx & 0xff00 | u32::from(id_space(cpus)) << 16;
                    set_bit(&mut e.edx, 28, cpus > 1);
                }
                // Deterministic caches: the first two levels belong to one CPU,
                // the third to all; one package holds all cores.
                (4, _) if e.eax & 0x1f != 0 => {
                    let level = e.eax >> 5 & 7;
                    let sharing = if level >= 3 {
                        u32::from(id_space(cpus)) - 1
                    } else {
                        0
                    };
                    e.eax = e.eax & 0x3fff | sharing << 14 | (u32::from(id_space(cpus)) - 1) << 26;
                }
                (0x8000_0001, _) => {
                    // CmpLegacy, TopologyExtensions: as the leaves below say.
                    let extended = e.ecx >> 22 & 1 == 1;
                    set_bit(&mut e.ecx, 1, cpus > 1 && extended);
                }
                (0x8000_0008, _) => {
                    e.ecx = u32::from(id_bits(cpus)) << 12 | (u32::from(cpus) - 1);
                }
                (0x8000_001d, _) if e.eax & 0x1f != 0 => {
                    let level = e.eax >> 5 & 7;
                    let sharing = if level >= 3 { u32::from(cpus) - 1 } else { 0 };
                    e.eax = e.eax & 0x3fff | sharing << 14;
                }
                _ => {}
            }
        }
        // The extended topology, as far as the basic leaves reach.
        if entries.iter().any(|e| e.function == 0 && e.eax >= 0xb) {
            let level = |index, shift: u8, count: u8, kind: u32| kvm_cpuid_entry2 {
                function: 0xb,
                index,
                flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift.into(),
                ebx: count.into(),
                ecx: index | kind << 8,
                ..Default::default()
            };
            entries.push(level(0, 0, 1, 1));
            entries.push(level(1, id_bits(cpus), cpus, 2));
            entries.push(level(2, 0, 0, 0));
        }
        Template { entries, cpus }
    }

    /// The CPUID of vCPU `id`, whose APIC id is the same number.
    pub(super) fn for_vcpu(&self, id: u8) -> Result<CpuId, Error> {
        let mut entries = self.entries.clone();
        for e in &mut entries {
            match e.function {
                1 => e.ebx = e.ebx & 0x00ff_ffff | u32::from(id) << 24,
                0xb => e.edx = id.into(),
                // Extended APIC id; core id with one thread each; node 0 of 1.
                0x8000_001e => {
                    e.eax = id.into();
                    e.ebx = id.into();
                    e.ecx = 0;
                }
                _ => {}
            }
        }
        CpuId::from_entries(&entries).map_err(|_| Error::CpuidTooLarge(self.cpus))
    }
}

/// Bits of an APIC id that tell the CPUs of one package apart.
fn id_bits(cpus: u8) -> u8 {
    (u8::BITS - (cpus.max(1) - 1).leading_zeros()) as u8
}

/// How many APIC ids the package has room for: the next power of two.
fn id_space(cpus: u8) -> u8 {
    1 << id_bits(cpus)
}

fn set_bit(word: &mut u32, bit: u32, on: bool) {
    *word = *word & !(1 << bit) | u32::from(on) << bit;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn guests_of_guests_are_for_those_who_ask() {
        let mut entries = vec![leaf(1, 0), leaf(0x8000_0001, 0), leaf(0x8000_000a, 0)];
        entries.iter_mut().for_each(|e| e.ecx = 0x27);
        hide_virtualization(&mut entries);
        let left: Vec<_> = entries.iter().map(|e| (e.function, e.ecx)).collect();
        assert_eq!(left, [(1, 0x07), (0x8000_0001, 0x23)]);
    }

    #[test]
    fn topology_is_the_vms_own() {
        let host = [
            kvm_cpuid_entry2 {
                eax: 0x10,
                ..leaf(0, 0)
            },
            kvm_cpuid_entry2 {
                ebx: 0x4040_0800,
                ..leaf(1, 0)
            },
            kvm_cpuid_entry2 {
                eax: 0xfc1c_0000 | 1 << 5 | 1,
                ..leaf(4, 0)
            },
            kvm_cpuid_entry2 {
                eax: 0xfc1c_0000 | 3 << 5 | 3,
                ..leaf(4, 3)
            },
            kvm_cpuid_entry2 {
                edx: 77,
                ..leaf(0xb, 0)
            },
            kvm_cpuid_entry2 {
                ecx: 0x703f,
                ..leaf(0x8000_0008, 0)
            },
            leaf(0x8000_001e, 0),
        ];
        let template = Template::from_supported(&host, 6, true);
        let cpuid = template.for_vcpu(5).unwrap();
        let one = find(&cpuid, 1, 0);
        assert_eq!(one.ebx, 5 << 24 | 8 << 16 | 0x0800);
        assert_eq!(one.ecx, 1 << 31 | 1 << 24);
        assert_eq!(one.edx, 1 << 28);
        assert_eq!(find(&cpuid, 4, 0).eax, 7 << 26 | 1 << 5 | 1);
        assert_eq!(find(&cpuid, 4, 3).eax, 7 << 26 | 7 << 14 | 3 << 5 | 3);
        let (smt, core) = (find(&cpuid, 0xb, 0), find(&cpuid, 0xb, 1));
        assert_eq!((smt.eax, smt.ebx, smt.edx), (0, 1, 5));
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
        assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx, 3 << 12 | 5);
        assert_eq!(find(&cpuid, 0x8000_001e, 0).eax, 5);
    }

    #[test]
    fn one_cpu_is_no_hyperthread() {
        let host = [kvm_cpuid_entry2 {
            edx: 1 << 28,
            ..leaf(1, 0)
        }];
        let cpuid = Template::from_supported(&host, 1, false)
            .for_vcpu(0)
            .unwrap();
        let one = find(&cpuid, 1, 0);
        assert_eq!((one.edx, one.ecx), (0, 1 << 31));
        assert!(cpuid.as_slice().iter().all(|e| e.function != 0xb));
    }

    #[test]
    fn id_bits_cover_every_count() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (32, 5)] {
            assert_eq!(id_bits(cpus), bits, "{cpus}");
        }
    }
}
