//! An agent (`guest-images/agent`) that has been taken over, for the tests: it
//! answers with what drupe must survive. The program itself is `guest/`;
//! `build.rs` compiles it.
//!
//! How it behaves is said by the sandbox's host name (`guest/main.rs`).

/// The program: static, for Linux, and PID 1.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bad-agent"));
