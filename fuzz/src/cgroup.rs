//! What a description of a sandbox takes of the program.

#[path = "../../src/cgroup/rates.rs"]
mod rates;

pub use rates::Rates;
