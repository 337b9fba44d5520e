//! Frames of a hostile kind (virtio 1.2 §5.1.6). The honest one asks the gateway of
//! drupe's user-mode network for its address.

use crate::hw::{self, put, read, write};
use crate::report::{Expect, Report};
use crate::virtio::{ARENA, BUFFERS, Buffer, Device, GLANCE, Outcome, PATIENCE, offer, reg};

pub const RECEIVE: u16 = 0;
pub const TRANSMIT: u16 = 1;

const RECEIVED: u64 = BUFFERS;
const RECEIVE_SIZE: u32 = 0x1_2000;
const SENT: u64 = BUFFERS + 0x2_0000;
/// `struct virtio_net_hdr`, with `num_buffers`.
const HEADER: u32 = 12;
/// Who has 10.0.2.2? Tell 10.0.2.15.
const ARP: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0x08, 0x06, // Ethernet
    0, 1, 0x08, 0, 6, 4, 0, 1, // a request
    0, 0, 0, 0, 0, 0, 10, 0, 2, 15, // from
    0, 0, 0, 0, 0, 0, 10, 0, 2, 2, // for
];

/// Writes the honest frame, from the address that the card has.
fn frame(device: &Device) {
    hw::fill(SENT, 64, 0);
    put(SENT + u64::from(HEADER), &ARP);
    for n in 0..6 {
        let byte: u8 = read(device.base + reg::CONFIG + n);
        for field in [6, 22] {
            write(SENT + u64::from(HEADER) + field + n, byte);
        }
    }
}

/// Makes the network answer.
pub fn provoke(device: &Device) {
    frame(device);
    offer(TRANSMIT, 0, &[(SENT, HEADER + ARP.len() as u32, false)]);
    device.notify(TRANSMIT);
}

pub fn good(device: &Device) -> bool {
    ask(device, 0)
}

/// Asks the gateway for its address, when it has answered so many times before.
pub fn ask(device: &Device, before: u16) -> bool {
    offer(RECEIVE, before, &[(RECEIVED, RECEIVE_SIZE, true)]);
    device.notify(RECEIVE);
    frame(device);
    offer(TRANSMIT, before, &[(SENT, HEADER + ARP.len() as u32, false)]);
    device.notify(TRANSMIT);
    device.wait(TRANSMIT, before.wrapping_add(1), PATIENCE) == Outcome::Used
        && device.wait(RECEIVE, before.wrapping_add(1), PATIENCE) == Outcome::Used
}

fn sent(device: &Device, report: &mut Report, name: &str, buffers: &[Buffer]) {
    if !report.turn() {
        return;
    }
    device.start();
    offer(TRANSMIT, 0, buffers);
    device.notify(TRANSMIT);
    let outcome = device.wait(TRANSMIT, 1, PATIENCE);
    report.case(
        device,
        None,
        name,
        outcome,
        Expect::Answer,
    );
}

pub fn attack(device: &Device, report: &mut Report) {
    frame(device);
    for len in [1, 11, 12, 13, 25, 26, 40] {
        sent(device, report, "short-frame", &[(SENT, len, false)]);
    }
    sent(device, report, "frame-of-4-MiB", &[(ARENA, 4 << 20, false)]);
    sent(
        device,
        report,
        "frame-of-48-MiB",
        &[(ARENA, 4 << 20, false); 12],
    );
    sent(device, report, "frame-to-write-to", &[(SENT, 64, true)]);
    // Flags, kind of segments, header's and segment's length, where a checksum
    // starts and goes.
    for (flags, gso, header, segment, start, at) in [
        (1u8, 0u8, 0u16, 0u16, 0xffffu16, 0xffffu16),
        (1, 1, 0xffff, 0, 34, 16),
        (1, 1, 54, 1, 34, 16),
        (1, 4, 0, 0xffff, 40, 0xffff),
        (0xff, 0xff, 0xffff, 0xffff, 0xffff, 0xffff),
        (0, 5, 20, 1, 0, 0),
        (2, 3, 0, 0, 0, 0),
    ] {
        frame(device);
        write(SENT, flags);
        write(SENT + 1, gso);
        for (n, field) in (0..).zip([header, segment, start, at]) {
            write(SENT + 2 + 2 * n, field);
        }
        sent(
            device,
            report,
            "offloads-that-were-not-agreed",
            &[(SENT, 0x2000, false)],
        );
    }
    // IPv4, IPv6 and what no one knows, with lengths that lie.
    for kind in [0x0800u16, 0x86dd, 0x0806, 0x8100, 0xffff, 0x0000] {
        for fill in [0, 0x4545_4545_4545_4545, 0x6060_6060_6060_6060, u64::MAX] {
            hw::fill(SENT, 128, fill);
            hw::fill(SENT, 8, 0);
            write(SENT + 8, 0u32);
            write(SENT + 24, kind.swap_bytes());
            sent(device, report, "packet-that-lies", &[(SENT, 60, false)]);
        }
    }
    // Room that is too small for any answer.
    for len in [1, 11, 12, 16] {
        device.start();
        offer(RECEIVE, 0, &[(RECEIVED, len, true)]);
        device.notify(RECEIVE);
        provoke(device);
        let outcome = device.wait(RECEIVE, 1, GLANCE);
        report.case(device, None, "no-room-to-receive", outcome, Expect::Any);
    }
}
