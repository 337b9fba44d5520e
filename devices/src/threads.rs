//! How the threads of a VM come to be, and what each is for.
//!
//! A program that confines its threads says how they are started: once, for the
//! whole process, since that is what the kernel confines. Without it they are
//! ordinary threads.

use std::io;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs a vCPU.
    Vcpu,
    /// Waits for the events of all devices.
    EventLoop,
    /// Serves a disk.
    Disk,
    /// Serves a share.
    FileSystem,
    /// Is the gateway of a user-mode network.
    Network,
    /// Writes the console's output.
    Console,
}

/// What a thread does.
pub type Job = Box<dyn FnOnce() + Send>;

/// Starts threads.
pub trait Threads: Send + Sync {
    /// Starts a thread called `name` with a stack of this many bytes, which does
    /// `job`. May be called from any thread of the VM.
    ///
    /// # Errors
    /// When the host refuses a thread.
    fn spawn(
        &self,
        role: Role,
        name: String,
        stack: Option<usize>,
        job: Job,
    ) -> io::Result<JoinHandle<()>>;

    /// Makes the calling thread one of this role, for the rest of its life.
    ///
    /// # Errors
    /// When it cannot be.
    fn enter(&self, role: Role) -> io::Result<()>;
}

static THREADS: OnceLock<Box<dyn Threads>> = OnceLock::new();

/// Says how threads are started from now on. The first one who says it does.
pub fn set(threads: Box<dyn Threads>) {
    let _ = THREADS.set(threads);
}

/// Starts a thread: see [`Threads::spawn`].
///
/// # Errors
/// When the host refuses a thread.
pub fn spawn(
    role: Role,
    name: String,
    stack: Option<usize>,
    job: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    if let Some(threads) = THREADS.get() {
        return threads.spawn(role, name, stack, Box::new(job));
    }
    let builder = Builder::new().name(name);
    let builder = match stack {
        Some(stack) => builder.stack_size(stack),
        None => builder,
    };
    builder.spawn(job)
}

/// Makes this thread one of a role: see [`Threads::enter`].
///
/// # Errors
/// When it cannot be.
pub fn enter(role: Role) -> io::Result<()> {
    match THREADS.get() {
        Some(threads) => threads.enter(role),
        None => Ok(()),
    }
}
