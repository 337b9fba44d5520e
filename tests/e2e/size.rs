//! vCPUs and memory: the guest sees what it was given.

use crate::guest::Guest;

const SHOW: &str = "
echo online: $(nproc)
echo list: $(cat /sys/devices/system/cpu/online)
echo packages: $(cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u | wc -l)
echo threads: $(cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list)
echo memory: $(awk '/MemTotal/{print $2}' /proc/meminfo)
for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c $cpu true || exit 1; done
";

fn cpus(guest: Guest, count: u64) {
    let end = guest
        .arg("--cpus")
        .arg(count.to_string())
        .script(SHOW)
        .run()
        .succeeded();
    assert_eq!(end.number("online:"), count);
    assert_eq!(end.number("packages:"), 1);
    assert_eq!(end.value("threads:"), "0", "no hyperthreads");
}

#[test]
fn one_cpu_is_online() {
    cpus(Guest::tuned(), 1);
}

#[test]
fn two_cpus_are_online_in_the_stock_kernel() {
    cpus(Guest::stock(), 2);
}

#[test]
fn four_cpus_are_online() {
    cpus(Guest::tuned(), 4);
}

/// The kernel keeps some for itself: its own image and a struct for each page.
fn memory(size: &str, mib: u64) {
    let end = Guest::tuned()
        .arg("--memory")
        .arg(size)
        .script(SHOW)
        .run()
        .succeeded();
    let seen = end.number("memory:") / 1024;
    assert!(
        (mib * 93 / 100 - 24..=mib).contains(&seen),
        "{seen} MiB of {mib}"
    );
}

#[test]
fn memory_of_128_mib_is_all_seen() {
    memory("128M", 128);
}

#[test]
fn memory_of_6_gib_is_all_seen_beyond_the_gap() {
    memory("6G", 6 * 1024);
}
