//! A thread that starts threads.
//!
//! A thread's filter goes to those that it starts, and is never widened. So the
//! threads that start late, when a guest's driver does, cannot come from the vCPU
//! that notices, which may open no file and no socket. They come from here.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::seccomp::Filter;
use crate::{Failed, Role, enter_role, process, trap};

/// The stack of the spawner itself, in bytes: it calls nothing deep.
const STACK: usize = 128 << 10;

/// What a thread does.
pub type Job = Box<dyn FnOnce() + Send>;

struct Request {
    role: Role,
    name: String,
    stack: Option<usize>,
    job: Job,
    answer: SyncSender<io::Result<JoinHandle<()>>>,
}

/// Starts threads in their roles, from wherever it is asked to.
#[derive(Debug)]
pub struct Spawner(Mutex<Sender<Request>>);

impl Spawner {
    /// Starts the spawner of threads of these roles and of [`Role::Log`], and waits
    /// until it is confined itself. With `owners`
    /// its threads may have the capabilities of a share's worker.
    pub(crate) fn start(mut late: Vec<Role>, owners: bool) -> Result<Self, Failed> {
        late.push(Role::Log);
        let (requests, queue) = channel();
        let (ready, wait) = sync_channel(1);
        let run = move || {
            let confined = match owners {
                true => process::keep_file_capabilities(),
                false => process::drop_capabilities(),
            };
            trap::remember_name("spawner");
            let confined = confined
                .and_then(|()| Filter::of_spawner(&late))
                .and_then(|filter| filter.apply());
            let failed = confined.is_err();
            // The other side waits for this.
            let _ = ready.send(confined);
            if !failed {
                serve(&queue);
            }
        };
        let thread = Builder::new().name("spawner".to_owned()).stack_size(STACK);
        with_signals_blocked(|| thread.spawn(run)).map_err(|e| Failed::new("start a thread", e))?;
        wait.recv()
            .map_err(|e| Failed::new("start a thread", e))
            .and_then(|confined| confined)?;
        Ok(Spawner(Mutex::new(requests)))
    }

    /// Starts a thread of `role`, which gets no signals.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn spawn(
        &self,
        role: Role,
        name: String,
        stack: Option<usize>,
        job: Job,
    ) -> io::Result<JoinHandle<()>> {
        let (answer, wait) = sync_channel(1);
        let request = Request {
            role,
            name,
            stack,
            job,
            answer,
        };
        let gone = || io::Error::other("the thread that starts threads has ended");
        let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.send(request).map_err(|_| gone())?;
        drop(requests);
        wait.recv().map_err(|_| gone())?
    }
}

fn serve(queue: &Receiver<Request>) {
    for request in queue {
        let started = spawn(request.role, request.name, request.stack, request.job);
        // Whoever asked has gone: so be it.
        let _ = request.answer.send(started);
    }
}

/// Starts a thread that enters its role before it does anything else.
///
/// # Errors
/// When the host refuses a thread.
pub fn spawn(
    role: Role,
    name: String,
    stack: Option<usize>,
    job: Job,
) -> io::Result<JoinHandle<()>> {
    let mut builder = Builder::new().name(name.clone());
    if let Some(stack) = stack {
        builder = builder.stack_size(stack);
    }
    builder.spawn(move || match enter_role(role, &name) {
        Ok(()) => job(),
        Err(e) => {
            // Filters worked for the spawner; to go on without is worse than to end.
            eprintln!("drupe: error: thread '{name}': {e}");
            std::process::abort();
        }
    })
}

/// Runs `start` with all signals blocked, as the thread that it starts then has
/// them. Each role lets its own SIGSYS through.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are filled in before they are used; this thread's alone.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}
