//! What drupe and the agent, PID 1 of a sandbox's guest, say to each other.
//!
//! They talk over vsock. When the agent is up it dials [`READY_PORT`] on the
//! host once, and listens on [`AGENT_PORT`] from then on. Every connection to it
//! carries one [`Request`], its [`Reply`], and what that asks for:
//!
//! ```text
//!  drupe                                    agent
//!   Setup ─────────────────────────────────→
//!        ←──────────────────────────── Done
//!
//!   Start ─────────────────────────────────→
//!        ←───────────────────────── Started
//!   Stdin data, … , Stdin end ─────────────→
//!        ←─────────────────── Stdout, Stderr
//!        ←──────────────────────────── Exit   then both close
//!
//!   Signal, Resize, Stats, … ──────────────→
//!        ←───────────── Done, Stats, Failed   then both close
//! ```
//!
//! A signal goes over a connection of its own, so that it is not stuck behind
//! standard input that nobody reads. Neither side trusts the other: a frame has
//! a limit, and what does not parse ends the connection.

mod frame;
mod message;

pub use frame::{Frame, FrameError, FrameKind, MAX_PAYLOAD};
pub use message::{
    Archive, DiskMount, Entry, Exit, Failure, Interface, Mount, MountSource, Network, Process,
    ProcessInfo, Reply, Request, Rlimit, Root, Setup, Stats, TmpfsTop, WindowSize, Writable,
};

/// The vsock port on which the agent listens.
pub const AGENT_PORT: u32 = 1024;
/// The vsock port of the host that the agent dials, once, when it listens. It
/// closes the connection without a word.
pub const READY_PORT: u32 = 1025;

/// The most characters of a message: whoever sends it need not be trusted, and it
/// ends on a terminal and in files.
pub const MAX_MESSAGE: usize = 1000;

/// Cuts a longer message off.
fn shorten(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
    message
}
