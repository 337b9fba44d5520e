//! Every way in which a VM ends: promptly, with its own status, and with nothing
//! left behind.

use std::fs;

use crate::guest::{Finished, Guest};

/// The statuses that `drupe boot --help` documents.
mod status {
    pub const POWER_OFF: i32 = 0;
    pub const REBOOT: i32 = 3;
    pub const TRIPLE_FAULT: i32 = 4;
    pub const PANIC: i32 = 6;
    pub const TERMINATED: i32 = 128 + libc::SIGTERM;
    pub const QUIT: i32 = 128 + libc::SIGQUIT;
}

/// A guest that waits for the power button and obeys it, without a daemon.
const OBEYS: &str = "
    for event in /sys/class/input/event*; do
        [ \"$(cat $event/device/name)\" = 'Power Button' ] && device=/dev/input/${event##*/}
    done
    [ -c \"$device\" ] || exit 1
    exec 3< $device
    echo ready: yes
    head -c 24 <&3 >/dev/null
    echo button: pressed";

fn ends(end: &Finished, status: i32) {
    assert_eq!(
        end.status.code(),
        Some(status),
        "{}\n{}",
        end.console,
        end.errors
    );
}

#[test]
fn poweroff_is_zero() {
    let end = Guest::tuned().script("true").run().succeeded();
    ends(&end, status::POWER_OFF);
    assert_eq!(end.errors, "");
}

#[test]
fn poweroff_of_the_stock_kernel_is_zero() {
    ends(
        &Guest::stock().append("drupe.poweroff").run(),
        status::POWER_OFF,
    );
}

#[test]
fn reboot_is_told() {
    let end = Guest::tuned().script("reboot -f; sleep 60").run();
    ends(&end, status::REBOOT);
    assert!(end.errors.contains("reboot"), "{}", end.errors);
}

#[test]
fn reboot_by_each_other_way_is_told() {
    for way in ["k", "t"] {
        let end = Guest::tuned()
            .append(&format!("reboot={way}"))
            .script("reboot -f; sleep 60")
            .run();
        let wanted = if way == "t" {
            status::TRIPLE_FAULT
        } else {
            status::REBOOT
        };
        ends(&end, wanted);
    }
}

#[test]
fn kernel_panic_is_told() {
    let end = Guest::tuned()
        .script("echo c > /proc/sysrq-trigger; sleep 60")
        .run();
    ends(&end, status::PANIC);
    assert!(end.console.contains("Kernel panic"), "{}", end.console);
    assert!(end.errors.contains("panicked"), "{}", end.errors);
}

#[test]
fn panic_without_an_init_is_told() {
    ends(&Guest::tuned().run(), status::PANIC);
}

#[test]
fn a_stop_signal_presses_the_power_button() {
    let guest = Guest::tuned().script(OBEYS);
    let socket = guest.dir.path().join("vsock");
    let run = guest
        .args("--stop-timeout 250")
        .arg("--vsock")
        .arg(format!("{},cid=7", socket.display()))
        .start();
    run.wait_for("ready: yes");
    assert!(socket.exists());
    run.signal(libc::SIGTERM);
    let end = run.finish();
    ends(&end, status::POWER_OFF);
    assert!(end.console.contains("button: pressed"), "{}", end.console);
    assert!(!socket.exists());
}

#[test]
fn a_guest_that_does_not_listen_is_stopped() {
    let run = Guest::tuned()
        .args("--stop-timeout 1")
        .script("echo ready: yes; sleep 600")
        .start();
    run.wait_for("ready: yes");
    run.signal(libc::SIGTERM);
    ends(&run.finish(), status::TERMINATED);
}

#[test]
fn sigquit_stops_a_spinning_guest_at_once() {
    let run = Guest::tuned()
        .args("--cpus 2")
        .script("echo ready: yes; while :; do :; done & while :; do :; done")
        .start();
    run.wait_for("ready: yes");
    let pid = run.pid();
    run.signal(libc::SIGQUIT);
    ends(&run.finish(), status::QUIT);
    assert!(fs::metadata(format!("/proc/{pid}")).is_err());
}

#[test]
fn two_signals_stop_at_once() {
    let run = Guest::tuned()
        .args("--stop-timeout 600")
        .script("echo ready: yes; sleep 600")
        .start();
    run.wait_for("ready: yes");
    run.signal(libc::SIGTERM);
    std::thread::sleep(std::time::Duration::from_millis(300));
    run.signal(libc::SIGTERM);
    ends(&run.finish(), status::TERMINATED);
}
