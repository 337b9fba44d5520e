//! All cases, device by device.

use crate::hw::{self, say, say_number};
use crate::report::Report;
use crate::virtio::{
    ARENA, BUFFERS, Device, GUARD, GUARD_SIZE, GUARD_WORD, Kind, Outcome, RING_STRIDE, SIZE,
    move_rings, used_len,
};
use crate::{block, fuse, net, rings, sockets, transport};

/// Runs the cases against each device, or each of this kind: all of them, or one
/// of so many.
pub fn run(kind: &[u8], every: u64) {
    hw::fill(GUARD, GUARD_SIZE, GUARD_WORD);
    let mut report = Report::new(every);
    for device in Device::all() {
        if !kind.is_empty() && device.kind.name().as_bytes() != kind {
            continue;
        }
        say("device ");
        say(device.kind.name());
        say(if good(&device) {
            ": good\n"
        } else {
            ": WRONG from the start\n"
        });
        transport::attack(&device, &mut report);
        for queue in 0..device.queues {
            rings::attack(&device, queue, &mut report);
        }
        match device.kind {
            Kind::Net => net::attack(&device, &mut report),
            Kind::Block => block::attack(&device, &mut report),
            Kind::Vsock => sockets::attack(&device, &mut report),
            Kind::Fs => fuse::attack(&device, &mut report),
            Kind::Rng => {}
        }
    }
    say("done: ");
    say_number(report.cases);
    say(" cases, ");
    say_number(report.wrong);
    say(" wrong\n");
}

/// Starts every device, so that all of drupe's threads are there.
pub fn hold() {
    let fine = Device::all().zip(0..).all(|(device, n)| {
        move_rings(ARENA + n * 8 * RING_STRIDE);
        good(&device)
    });
    say(if fine { "held\n" } else { "WRONG\n" });
}

/// Starts the device anew and does one honest thing with it.
pub fn good(device: &Device) -> bool {
    device.start()
        && match device.kind {
            Kind::Rng => {
                hw::fill(BUFFERS, 64, 0);
                device.request(0, 0, &[(BUFFERS, 64, true)]) == Outcome::Used
                    && used_len(0) == 64
                    && !hw::is_filled(BUFFERS, 64, 0)
            }
            Kind::Block => block::good(device),
            Kind::Net => net::good(device),
            Kind::Vsock => sockets::good(device),
            Kind::Fs => fuse::good(device),
        }
}

/// Whether the device looks at this queue of its own accord when it is kicked.
pub fn is_served(device: &Device, queue: u16) -> bool {
    match device.kind {
        Kind::Net => queue == net::TRANSMIT,
        Kind::Vsock => queue == sockets::TRANSMIT,
        _ => true,
    }
}

/// For a queue by which the device sends: makes it want to.
pub fn provoke(device: &Device, queue: u16) {
    match device.kind {
        Kind::Net if queue == net::RECEIVE => net::provoke(device),
        Kind::Vsock if queue == sockets::RECEIVE => sockets::provoke(device),
        _ => {}
    }
}

/// Whether a broken chain in this queue has to come to light.
pub fn comes_to_light(device: &Device, queue: u16) -> bool {
    // The socket device has no event to report.
    device.kind != Kind::Vsock || queue != sockets::EVENT
}

/// Offers `SIZE` good chains at once and does not wait.
pub fn burst(device: &Device, queue: u16) {
    for n in 0..SIZE {
        crate::virtio::descriptor(
            crate::virtio::Layout::of(queue).desc,
            n,
            (BUFFERS + 0x1000, 512),
            crate::virtio::WRITE,
            0,
        );
        crate::virtio::avail(queue, n, n);
    }
    device.notify(queue);
}
