//! systemd as the guest's init.

use crate::guest::{Guest, rootfs};

/// Boots to multi-user.target on a disk of its own, written to; then the stop
/// signal's power button makes logind shut it down in order.
#[test]
fn systemd_reaches_multi_user_and_obeys_the_power_button() {
    let guest = Guest::tuned();
    let disk = guest.dir.path().join("root");
    std::fs::copy(rootfs(), &disk).unwrap();
    let mut run = guest
        .args("--cpus 2 --memory 1G --stop-timeout 250 --disk")
        .arg(&disk)
        .append("root=/dev/vda rw rootfstype=ext4")
        .start();
    // The root disk logs root in on the serial console.
    run.wait_for("root@drupe");
    // The backslash tells the answer from the echo of the command.
    run.type_line(
        "until systemctl is-active multi-user.target; do sleep 1; done; echo reached:\\ yes",
    );
    run.wait_for("reached: yes");
    run.type_line("systemctl --failed --no-legend --plain | wc -l | sed 's/^/failed: /'");
    run.wait_for("failed: 0");
    run.signal(libc::SIGTERM);
    let end = run.finish();
    assert_eq!(end.status.code(), Some(0), "{}", end.console);
    assert_eq!(end.errors, "");
}
