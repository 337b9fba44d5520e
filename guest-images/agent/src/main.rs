//! The agent: PID 1 of a sandbox's guest. It makes the sandbox that drupe
//! describes, runs processes in it, and carries their streams.
//!
//! ```text
//! boot      what the agent itself needs; kernel modules
//! server    requests, each on a connection of its own
//! setup     root, volumes, devices, network, cgroup: a sandbox
//! spawn     a process as the agent prepares it ─ child: as it becomes one
//! session   its streams
//! archive   files in and out
//! stats     figures and processes
//! power     the end
//! ```
//!
//! Nothing that the workload or the host does ends it: a request that cannot be
//! answered is answered with a failure, and a bug ends the machine.

mod accounts;
mod archive;
mod boot;
mod cgroup;
mod child;
mod device_policy;
mod devices;
mod disks;
mod error;
mod limits;
mod mounts;
mod network;
mod power;
mod resolve;
mod root;
mod server;
mod session;
mod setup;
mod spawn;
mod stats;
mod sys;
mod volumes;
mod vsock;

use std::process::ExitCode;

use protocol::{AGENT_PORT, READY_PORT};

use error::{Context, Result};

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("drupe agent: this is PID 1 of a sandbox's guest: it runs nowhere else");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(power::on_panic));
    match listen() {
        Ok(listener) => server::serve(&listener),
        Err(e) => power::fail(&e.to_string()),
    }
}

fn listen() -> Result<vsock::Listener> {
    boot::prepare()?;
    let listener = vsock::Listener::new(AGENT_PORT)
        .context(|| format!("listen on vsock port {AGENT_PORT}"))?;
    // Whoever started the machine may know without being told.
    if let Err(e) = vsock::connect_host(READY_PORT) {
        eprintln!("drupe agent: vsock port {READY_PORT} of the host: {e}");
    }
    Ok(listener)
}
