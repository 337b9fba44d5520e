//! What ends a VM from outside: a handle for other threads, signals, and the
//! time that a guest has to switch itself off after it was asked to.

use std::io;
use std::os::raw::c_int;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use devices::power::AcpiPower;
use devices::virtio::{DeviceLimits, SharedDevice, VirtioDevice};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::outcome::{Ending, Outcome};
use crate::signals::StopSignals;

/// Ends a VM from any thread. Of no effect once the VM has ended.
#[derive(Clone)]
pub struct StopHandle {
    ending: Arc<Ending>,
    power: Arc<Mutex<AcpiPower>>,
}

impl StopHandle {
    pub(crate) fn new(ending: Arc<Ending>, power: Arc<Mutex<AcpiPower>>) -> Self {
        StopHandle { ending, power }
    }

    /// Ends the VM as it stands: what its guest has not flushed is lost.
    pub fn stop(&self) {
        self.ending.end(Outcome::Stopped(None));
    }

    /// The same, of a guest that does nothing: each vCPU says where it stands, as a
    /// message.
    pub fn give_up(&self) {
        self.ending.give_up();
    }

    /// Asks the guest to switch itself off.
    pub fn press_power_button(&self) {
        self.power
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .press_power_button();
    }
}

/// Changes the limits of a VM's devices from any thread. Of no effect once the VM
/// has ended: it keeps nothing of it.
#[derive(Clone)]
pub struct LimitsHandle(Vec<Weak<Mutex<dyn VirtioDevice>>>);

impl LimitsHandle {
    pub(crate) fn new(devices: &[SharedDevice]) -> Self {
        LimitsHandle(devices.iter().map(Arc::downgrade).collect())
    }

    /// From now on each disk and each network card has these limits of its own.
    pub fn set(&self, limits: &DeviceLimits) {
        for device in self.0.iter().filter_map(Weak::upgrade) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .set_limits(limits);
        }
    }
}

/// Stop signals on the event loop.
pub(crate) struct StopEvents {
    signals: Arc<StopSignals>,
    machine: StopHandle,
    timeout: Duration,
    timer: TimerFd,
    asked: Option<c_int>,
}

impl StopEvents {
    const SIGNAL: u32 = 0;
    const TIMEOUT: u32 = 1;

    pub(crate) fn new(
        signals: Arc<StopSignals>,
        machine: StopHandle,
        timeout: Duration,
    ) -> io::Result<Self> {
        Ok(StopEvents {
            signals,
            machine,
            timeout,
            timer: TimerFd::new()?,
            asked: None,
        })
    }

    fn stop(&mut self, signal: c_int) {
        let at_once = signal == libc::SIGQUIT || self.asked.is_some() || self.timeout.is_zero();
        if at_once || self.timer.reset(self.timeout, None).is_err() {
            return self.machine.ending.end(Outcome::Stopped(Some(signal)));
        }
        self.asked = Some(signal);
        self.machine.press_power_button();
    }
}

impl MutEventSubscriber for StopEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.data() == Self::SIGNAL {
            while let Some(signal) = self.signals.take() {
                self.stop(signal);
            }
        } else {
            self.machine.ending.end(Outcome::Stopped(self.asked));
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let signals = Events::with_data(self.signals.as_ref(), Self::SIGNAL, EventSet::IN);
        let timer = Events::with_data(&self.timer, Self::TIMEOUT, EventSet::IN);
        for events in [signals, timer] {
            if let Err(e) = ops.add(events) {
                log::error!("cannot watch for signals: {e}");
            }
        }
    }
}

/// Wakes the event loop when the VM has ended.
pub(crate) struct EndEvents(pub EventFd);

impl MutEventSubscriber for EndEvents {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(&self.0, EventSet::IN)) {
            log::error!("cannot watch for the VM's end: {e}");
        }
    }
}
