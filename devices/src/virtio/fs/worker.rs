//! The threads that answer a share's requests.
//!
//! Requests block on the host's file system, each for a time of its own, so
//! several threads take them from one queue: the guest may have only one, and a
//! slow request must not hold up the others. One thread, the leader, waits for
//! the next request. When that may take long, or the next is there already, it
//! lets another lead and answers; what is quick it answers first, since to wake
//! another thread costs more.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::EventFd;

use super::owner;
use super::server::{Server, may_take_long};
use crate::threads::{self, Role};
use crate::virtio::stop::Stop;
use crate::virtio::{
    Activation, Chain, Violation, VirtQueue, VirtioInterrupt, report_start, report_violation,
};
use crate::{GuestMemory, sys_io};

/// A worker's stack. It calls nothing deep, and large buffers are on the heap.
const STACK_SIZE: usize = 128 * 1024;

/// Threads of the request queue: as many requests as may wait for the host at
/// once.
const REQUEST_THREADS: usize = 4;

/// One queue, as its threads share it.
struct Lane {
    name: Arc<str>,
    mem: GuestMemory,
    interrupt: Arc<dyn VirtioInterrupt>,
    server: Arc<Server>,
    stop: Arc<Stop>,
    index: u16,
    kick: Arc<EventFd>,
    /// Held for moments.
    queue: Mutex<VirtQueue>,
    /// Held by the thread that waits.
    leader: Mutex<()>,
}

/// The running workers of one use of the device. Ends them when dropped.
pub(super) struct Workers {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    /// Queues without threads.
    #[cfg(any(test, feature = "testing"))]
    idle: Vec<Lane>,
}

impl Workers {
    /// Starts the threads of each queue that the driver set up.
    ///
    /// # Errors
    /// When a thread cannot be started; those that were are ended again.
    pub fn spawn(name: &str, activation: Activation, server: Arc<Server>) -> io::Result<Self> {
        let (mut workers, lanes) = Workers::new(name, activation, server)?;
        for lane in lanes {
            let lane = Arc::new(lane);
            // Requests of high priority only forget, which takes no time.
            let threads = match lane.index {
                super::HIGH_PRIORITY => 1,
                _ => REQUEST_THREADS,
            };
            for n in 0..threads {
                let lane = lane.clone();
                let name = format!("{name}-q{}-{n}", lane.index);
                let run = move || lane.run();
                let thread = threads::spawn(Role::FileSystem, name, Some(STACK_SIZE), run)?;
                workers.threads.push(thread);
            }
        }
        Ok(workers)
    }

    fn new(
        name: &str,
        activation: Activation,
        server: Arc<Server>,
    ) -> io::Result<(Self, Vec<Lane>)> {
        let name: Arc<str> = name.into();
        let stop = Arc::new(Stop::new()?);
        let queues = activation.queues.into_iter().filter(VirtQueue::ready);
        let lanes = queues.map(|queue| Lane {
            name: name.clone(),
            mem: activation.mem.clone(),
            interrupt: activation.interrupt.clone(),
            server: server.clone(),
            stop: stop.clone(),
            index: queue.index(),
            kick: queue.kick().clone(),
            queue: Mutex::new(queue),
            leader: Mutex::new(()),
        });
        let lanes = lanes.collect();
        let workers = Workers {
            stop,
            threads: Vec::new(),
            #[cfg(any(test, feature = "testing"))]
            idle: Vec::new(),
        };
        Ok((workers, lanes))
    }

    /// Queues without threads, each of which is served when told to.
    #[cfg(any(test, feature = "testing"))]
    pub fn without_threads(
        name: &str,
        activation: Activation,
        server: Arc<Server>,
    ) -> io::Result<Self> {
        let (mut workers, lanes) = Workers::new(name, activation, server)?;
        workers.idle = lanes;
        for lane in &workers.idle {
            lane.drain();
        }
        Ok(workers)
    }

    /// Serves a queue that has no thread.
    #[cfg(any(test, feature = "testing"))]
    pub fn kicked(&self, queue: u16) {
        if let Some(lane) = self.idle.iter().find(|l| l.index == queue) {
            lane.drain();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.raise();
        for thread in self.threads.drain(..) {
            // A worker that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Lane {
    /// Serves the queue until the stop, or until the driver breaks the rules;
    /// then the workers of both queues end.
    fn run(&self) {
        if let Err(e) = owner::clear_thread_umask() {
            let what = "keep drupe's umask from files that the guest creates (allow unshare(2))";
            report_start(&self.name, what, &e.into());
        }
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(violation) => return self.fail(&violation),
            }
        }
    }

    /// Waits for a request and answers it; false after the stop.
    fn turn(&self) -> Result<bool, Violation> {
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(chain) = self.next()? else {
            return Ok(false);
        };
        let alone = self.queue().pending(&self.mem)? == 0;
        let _leader = (alone && !may_take_long(&chain)).then_some(leader);
        self.answer(chain).map(|()| true)
    }

    /// Waits for a request, as the leader; none after the stop.
    fn next(&self) -> Result<Option<Chain<'_>>, Violation> {
        // Looked at before each request, since a driver can keep its ring full
        // for ever.
        while !self.stop.is_raised() {
            {
                let mut queue = self.queue();
                if let Some(chain) = queue.pop(&self.mem)? {
                    return Ok(Some(chain));
                }
                if queue.enable_kicks(&self.mem)? {
                    continue;
                }
            }
            let fds = [self.stop.as_raw_fd(), self.kick.as_raw_fd()];
            if let Err(e) = sys_io::wait_readable(fds) {
                log::error!("{}: cannot wait for the guest: {e}", self.name);
                self.stop.raise();
                self.interrupt.needs_reset();
            }
            // Reset before the queue is looked at, so that no kick is lost.
            let _ = self.kick.read();
            self.queue().disable_kicks(&self.mem)?;
        }
        Ok(None)
    }

    fn answer(&self, chain: Chain<'_>) -> Result<(), Violation> {
        let head = chain.head;
        let Some(len) = self.server.process(self.index, chain, &self.stop)? else {
            return Ok(());
        };
        let mut queue = self.queue();
        queue.push(&self.mem, head, len)?;
        queue.notify(&self.mem)
    }

    /// Serves what there is.
    #[cfg(any(test, feature = "testing"))]
    fn drain(&self) {
        while !self.stop.is_raised() {
            let chain = self.queue().pop(&self.mem);
            match chain {
                Ok(Some(chain)) => {
                    if let Err(violation) = self.answer(chain) {
                        self.fail(&violation);
                    }
                }
                Ok(None) => return,
                Err(violation) => self.fail(&violation),
            }
        }
    }

    fn fail(&self, violation: &Violation) {
        report_violation(&self.name, violation);
        self.stop.raise();
        self.interrupt.needs_reset();
    }

    fn queue(&self) -> MutexGuard<'_, VirtQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
