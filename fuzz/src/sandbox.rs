//! Files of the program, which is no library.
#![allow(dead_code, reason = "no target uses all of them")]

#[path = "../../src/sandbox/agent.rs"]
pub mod agent;
#[path = "../../src/sandbox/frames.rs"]
pub mod frames;
#[path = "../../src/sandbox/log.rs"]
pub mod log;
#[path = "../../src/sandbox/spec.rs"]
pub mod spec;
#[path = "../../src/sandbox/state.rs"]
pub mod state;
#[path = "../../src/sandbox/time.rs"]
pub mod time;
#[path = "../../src/sandbox/unpack.rs"]
pub mod unpack;
