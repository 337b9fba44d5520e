//! Real guests on a real `/dev/kvm`, through the program as a user runs it: one
//! file per capability.
//!
//! `tests/run-e2e` prepares the kernels and the root disk, says where they are
//! in the environment, and runs this where there is a KVM that can run Linux.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should stop and say where"
)]

/// Most often these run under a lab's emulator, in which all takes a hundred times as
/// long.
const IN_A_LAB: bool = true;

#[path = "../../confine/tests/common/attempts.rs"]
mod attempts;
#[path = "../common/bare_metal.rs"]
mod bare_metal;
mod guest;

mod agent;
mod bench;
mod boot;
mod confine;
mod console;
mod disk;
mod ending;
mod faults;
mod hostile;
mod images;
mod limits;
mod net;
mod refusal;
mod sandbox;
mod share;
mod size;
mod systemd;
mod taken_over;
mod usernet;
mod vsock;
