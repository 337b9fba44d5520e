//! A device on the event loop.

use std::sync::{Arc, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::SharedDevice;

/// Tokens from here up are kicks; below, the device's own sources.
const KICK: u32 = 1 << 16;

/// Registers a device's kicks and event sources with the event loop and hands
/// each event to the device.
pub struct DeviceSubscriber {
    device: SharedDevice,
    kicks: Vec<Arc<EventFd>>,
}

impl DeviceSubscriber {
    /// `kicks` are the eventfds of the device's queues, in order.
    pub fn new(device: SharedDevice, kicks: Vec<Arc<EventFd>>) -> Self {
        DeviceSubscriber { device, kicks }
    }
}

impl MutEventSubscriber for DeviceSubscriber {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let data = events.data();
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        match data.checked_sub(KICK) {
            Some(queue) => {
                if let Some(kick) = self.kicks.get(queue as usize) {
                    // Non-blocking: an error only says that nothing was there.
                    let _ = kick.read();
                }
                device.handle_kick(queue as u16);
            }
            None => device.handle_event(data as u16, events.event_set()),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let kicks = self.kicks.iter().enumerate().map(|(queue, kick)| {
            Events::with_data(kick.as_ref(), KICK + queue as u32, EventSet::IN)
        });
        let sources = device
            .event_sources()
            .into_iter()
            .map(|s| Events::with_data_raw(s.fd, s.token.into(), s.events));
        let kicks = kicks.filter(|_| device.kicks_on_event_loop());
        for events in kicks.chain(sources) {
            if let Err(e) = ops.add(events) {
                log::error!("{:?}: cannot watch a descriptor: {e}", device.device_type());
            }
        }
    }
}
