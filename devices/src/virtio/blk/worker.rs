//! The threads that serve a disk's queues, one each.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::request::Requests;
use crate::threads::{self, Role};
use crate::virtio::stop::Stop;
use crate::virtio::{Activation, Violation, VirtQueue, VirtioInterrupt, report_violation};
use crate::{GuestMemory, sys_io};

/// A worker's stack. It calls nothing deep, and large buffers are on the heap.
const STACK_SIZE: usize = 128 * 1024;

/// How many answers may wait for their interrupt,
const MAX_UNANNOUNCED: u32 = 16;
/// and how long, while more requests are being served. The first saves
/// interrupts when the data is in the page cache, the second keeps the guest
/// from waiting when each request takes its time.
const MAX_DELAY: Duration = Duration::from_micros(100);

/// The running workers of one use of the device. Ends them when dropped.
pub(super) struct Workers {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    /// Those that have no thread.
    #[cfg(any(test, feature = "testing"))]
    idle: Vec<Worker>,
}

impl Workers {
    /// Starts a worker for each queue that the driver set up.
    ///
    /// # Errors
    /// When a thread cannot be started; those that were are ended again.
    pub fn spawn(activation: Activation, requests: Requests) -> io::Result<Self> {
        let mut workers = Workers::new(&requests);
        for worker in Worker::all(activation, requests) {
            let name = format!("{}-q{}", worker.requests.name, worker.queue.index());
            let run = move || worker.run();
            let thread = threads::spawn(Role::Disk, name, Some(STACK_SIZE), run)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    fn new(requests: &Requests) -> Self {
        Workers {
            stop: requests.stop.clone(),
            threads: Vec::new(),
            #[cfg(any(test, feature = "testing"))]
            idle: Vec::new(),
        }
    }

    /// Workers without threads, each of which serves its queue when told to.
    #[cfg(any(test, feature = "testing"))]
    pub fn without_threads(activation: Activation, requests: Requests) -> Self {
        let mut workers = Workers::new(&requests);
        workers.idle = Worker::all(activation, requests).collect();
        for n in 0..workers.idle.len() {
            workers.idle[n].turn();
        }
        workers
    }

    /// Serves a queue that has no thread.
    #[cfg(any(test, feature = "testing"))]
    pub fn kicked(&mut self, queue: u16) {
        let stop = &self.stop;
        let mut workers = self.idle.iter_mut();
        if let Some(worker) = workers.find(|w| w.queue.index() == queue && !stop.is_raised()) {
            worker.turn();
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

struct Worker {
    mem: GuestMemory,
    interrupt: Arc<dyn VirtioInterrupt>,
    requests: Arc<Requests>,
    queue: VirtQueue,
}

impl Worker {
    /// One for each queue that the driver set up.
    fn all(activation: Activation, requests: Requests) -> impl Iterator<Item = Worker> {
        let Activation {
            mem,
            queues,
            interrupt,
            ..
        } = activation;
        let requests = Arc::new(requests);
        let queues = queues.into_iter().filter(VirtQueue::ready);
        queues.map(move |queue| Worker {
            mem: mem.clone(),
            interrupt: interrupt.clone(),
            requests: requests.clone(),
            queue,
        })
    }

    /// Serves the queue until the stop, or until the driver breaks the rules. In
    /// that case the workers of the other queues end as well: once
    /// `DEVICE_NEEDS_RESET` is set the driver may rely on no completion (§2.1.2),
    /// and a disk that stands still as a whole is easier to reason about than one
    /// that half does.
    fn run(mut self) {
        while self.turn() {
            let stop = &self.requests.stop;
            match sys_io::wait_readable([stop.as_raw_fd(), self.queue.kick().as_raw_fd()]) {
                Ok([true, _]) => return,
                Ok(_) => {
                    // Reset before the queue is looked at, so that no kick is lost.
                    let _ = self.queue.kick().read();
                }
                Err(e) => {
                    let name = &self.requests.name;
                    log::error!("{name}: cannot wait for the guest: {e}");
                    return self.fail();
                }
            }
        }
    }

    /// Serves what there is; false when that was the last time.
    fn turn(&mut self) -> bool {
        match serve(&mut self.queue, &self.mem, &self.requests) {
            Ok(goes_on) => goes_on,
            Err(violation) => {
                report_violation(&self.requests.name, &violation);
                self.fail();
                false
            }
        }
    }

    fn fail(&self) {
        self.requests.stop.raise();
        self.interrupt.needs_reset();
    }
}

/// Serves requests until none is left and the driver was asked to kick for the
/// next; false when the device was stopped first.
fn serve(queue: &mut VirtQueue, mem: &GuestMemory, requests: &Requests) -> Result<bool, Violation> {
    loop {
        queue.disable_kicks(mem)?;
        let mut unannounced = 0;
        let mut since = Instant::now();
        // The flag is looked at before each request, since a driver can keep its
        // ring full for ever.
        while !requests.stop.is_raised() {
            let Some(chain) = queue.pop(mem)? else {
                break;
            };
            let head = chain.head;
            let Some(len) = requests.process(queue.index(), chain)? else {
                break;
            };
            queue.push(mem, head, len)?;
            unannounced += 1;
            if unannounced >= MAX_UNANNOUNCED || since.elapsed() >= MAX_DELAY {
                queue.notify(mem)?;
                unannounced = 0;
                since = Instant::now();
            }
        }
        queue.notify(mem)?;
        if requests.stop.is_raised() {
            return Ok(false);
        }
        if !queue.enable_kicks(mem)? {
            return Ok(true);
        }
    }
}
