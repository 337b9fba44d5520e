//! Kernels of each kind, by each protocol, to a Debian root.

use crate::guest::{Guest, tuned};

const SHOW: &str = "
echo kernel: $(uname -r)
echo root: $(findmnt -no FSTYPE,SOURCE / | head -n 1)
. /etc/os-release && echo system: $ID
echo disk: $(cat /sys/block/vda/serial)
dmesg | grep -q 'Booting paravirtualized kernel on KVM' && echo hypervisor: kvm
head -c 16 /dev/hwrng | wc -c | sed 's/^/entropy: /'
";

fn boots(guest: Guest) -> String {
    let end = guest.script(SHOW).run().succeeded();
    assert_eq!(end.value("system:"), "debian");
    assert_eq!(end.value("hypervisor:"), "kvm");
    assert_eq!(end.value("entropy:"), "16");
    assert_eq!(end.value("disk:"), "rootfs.ext4");
    end.value("kernel:").to_owned()
}

#[test]
fn stock_bzimage_boots_unchanged() {
    let kernel = boots(Guest::stock());
    assert!(kernel.ends_with("-cloud-amd64"), "{kernel}");
}

#[test]
fn tuned_vmlinux_boots_by_the_linux_protocol() {
    boots(Guest::tuned().args("--boot-protocol linux"));
}

#[test]
fn tuned_vmlinux_boots_by_pvh() {
    boots(Guest::tuned().args("--boot-protocol pvh"));
}

#[test]
fn tuned_bzimage_boots() {
    boots(Guest::with_kernel(&tuned().join("bzImage")));
}
