//! The hostile driver (`tests/e2e/hostile/driver.rs`) without a lab: its guest has
//! no operating system and runs on every KVM.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test that cannot go on should stop and say where"
)]

/// All cases, which take ten seconds.
const IN_A_LAB: bool = false;

#[path = "e2e/hostile/driver.rs"]
mod driver;
#[allow(dead_code, reason = "the end-to-end tests use all of it")]
#[path = "e2e/guest.rs"]
mod guest;
