//! What a run's figures depend on, of the machine.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::thread;

use super::results::{Machine, Time};

/// Set in the KVM lab (`tests/lab/kvm-lab`): what its times are made of.
const LAB_TIME: &str = "DRUPE_LAB_TIME";
/// The processor that QEMU's emulator calls itself.
const EMULATOR: &str = "QEMU TCG CPU";

/// This machine.
pub fn machine(versions: BTreeMap<String, String>) -> Machine {
    let lab = env::var(LAB_TIME).ok();
    let cpu = cpu(&text("/proc/cpuinfo"));
    Machine {
        cpus: thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory(),
        kernel: text("/proc/sys/kernel/osrelease"),
        mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
        virtualization: virtualization(),
        emulated: lab.is_some() || cpu.contains(EMULATOR),
        time: match lab.as_deref() {
            Some("instructions") => Time::Instructions,
            _ => Time::Clock,
        },
        cpu,
        versions,
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn cpu(info: &str) -> String {
    let model = info.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| env::consts::ARCH.to_owned())
}

/// All memory, in bytes.
pub fn memory() -> u64 {
    of_meminfo(&text("/proc/meminfo"), "MemTotal").unwrap_or(0)
}

/// A line of `/proc/meminfo`, in bytes.
pub fn of_meminfo(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value)
    })?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn mitigations(directory: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        all.insert(name, text(entry.path()));
    }
    all
}

/// The hypervisor that this machine runs under: what firmware calls the machine,
/// where the processor says that there is one.
fn virtualization() -> Option<String> {
    let info = text("/proc/cpuinfo");
    let flags = info.lines().find(|line| line.starts_with("flags"))?;
    if !flags.split_whitespace().any(|flag| flag == "hypervisor") {
        return None;
    }
    let dmi = |name: &str| text(Path::new("/sys/class/dmi/id").join(name));
    let name = format!("{} {}", dmi("sys_vendor"), dmi("product_name"));
    Some(match name.trim() {
        "" => "a hypervisor that does not say its name".to_owned(),
        name => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let info = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu\n";
        assert_eq!(cpu(info), "AMD EPYC 7B13");
        assert_eq!(cpu(""), env::consts::ARCH);
        let info = "MemTotal:       24684092 kB\nMemFree:         1 kB\nHugePages_Total:       0\n";
        assert_eq!(of_meminfo(info, "MemTotal"), Some(24_684_092 << 10));
        assert_eq!(of_meminfo(info, "HugePages_Total"), None);
        assert_eq!(of_meminfo(info, "Mem"), None);
    }

    #[test]
    fn this_machine_has_what_each_has() {
        let machine = machine(BTreeMap::new());
        assert!(machine.cpus > 0 && machine.memory_bytes > 1 << 20);
        assert!(machine.kernel.starts_with(|c: char| c.is_ascii_digit()));
        assert!(!machine.cpu.is_empty());
    }
}
