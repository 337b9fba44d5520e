//! Packets of a hostile kind to the socket device (virtio 1.2 §5.10.6). The honest
//! one asks for a port on which nobody listens, and is refused.

use crate::hw::{self, read, write};
use crate::report::{Expect, Report};
use crate::virtio::{ARENA, BUFFERS, Device, GLANCE, Outcome, PATIENCE, offer, reg};

pub const RECEIVE: u16 = 0;
pub const TRANSMIT: u16 = 1;
pub const EVENT: u16 = 2;

const RECEIVED: u64 = BUFFERS;
const SENT: u64 = BUFFERS + 0x1_0000;
const HEADER: u32 = 44;
const HOST: u64 = 2;
const STREAM: u16 = 1;
const REQUEST: u16 = 1;
const RST: u16 = 3;
const RW: u16 = 5;

#[derive(Clone, Copy)]
struct Packet {
    from: u64,
    to: u64,
    ports: (u32, u32),
    len: u32,
    kind: u16,
    op: u16,
    flags: u32,
    credit: (u32, u32),
}

fn packet(device: &Device) -> Packet {
    Packet {
        from: read(device.base + reg::CONFIG),
        to: HOST,
        ports: (1234, 4999),
        len: 0,
        kind: STREAM,
        op: REQUEST,
        flags: 0,
        credit: (0x1_0000, 0),
    }
}

impl Packet {
    fn store(&self) {
        write(SENT, self.from);
        write(SENT + 8, self.to);
        write(SENT + 16, self.ports.0);
        write(SENT + 20, self.ports.1);
        write(SENT + 24, self.len);
        write(SENT + 28, self.kind);
        write(SENT + 30, self.op);
        write(SENT + 32, self.flags);
        write(SENT + 36, self.credit.0);
        write(SENT + 40, self.credit.1);
    }
}

/// Makes the device answer.
pub fn provoke(device: &Device) {
    packet(device).store();
    offer(TRANSMIT, 0, &[(SENT, HEADER, false)]);
    device.notify(TRANSMIT);
}

pub fn good(device: &Device) -> bool {
    hw::fill(RECEIVED, 64, 0);
    offer(RECEIVE, 0, &[(RECEIVED, 0x1000, true)]);
    device.notify(RECEIVE);
    provoke(device);
    device.wait(RECEIVE, 1, PATIENCE) == Outcome::Used && read::<u16>(RECEIVED + 30) == RST
}

fn sent(device: &Device, report: &mut Report, name: &str, packet: Packet, room: u32) {
    if !report.turn() {
        return;
    }
    device.start();
    offer(RECEIVE, 0, &[(RECEIVED, 0x1000, true)]);
    packet.store();
    let outcome = device.request(TRANSMIT, 0, &[(SENT, HEADER, false), (ARENA, room, false)]);
    report.case(
        device,
        None,
        name,
        outcome,
        Expect::Answer,
    );
}

pub fn attack(device: &Device, report: &mut Report) {
    let honest = packet(device);
    for len in [1, 0x1_0000, 0x8000_0000, u32::MAX] {
        sent(
            device,
            report,
            "length-that-lies",
            Packet { len, ..honest },
            0x100,
        );
        sent(
            device,
            report,
            "data-that-lies",
            Packet {
                len,
                op: RW,
                ..honest
            },
            0x100,
        );
    }
    sent(
        device,
        report,
        "more-data-than-said",
        Packet {
            op: RW,
            len: 1,
            ..honest
        },
        8 << 20,
    );
    for to in [0, 1, 3, 4, u64::MAX, 1 << 32 | 2] {
        sent(device, report, "to-another-CID", Packet { to, ..honest }, 0);
    }
    for from in [0, 1, 2, u64::MAX, honest.from | 1 << 32] {
        sent(
            device,
            report,
            "from-another-CID",
            Packet { from, ..honest },
            0,
        );
    }
    for kind in [0, 2, 3, 0xffff] {
        sent(device, report, "unknown-type", Packet { kind, ..honest }, 0);
    }
    for op in [0, 2, 3, 4, 5, 6, 7, 8, 9, 0x8000, 0xffff] {
        for flags in [0, 3, u32::MAX] {
            sent(
                device,
                report,
                "no-such-connection",
                Packet {
                    op,
                    flags,
                    ..honest
                },
                16,
            );
        }
    }
    for credit in [
        (0, 0),
        (u32::MAX, u32::MAX),
        (1, u32::MAX),
        (0, 0x8000_0000),
    ] {
        sent(
            device,
            report,
            "credit-abuse",
            Packet { credit, ..honest },
            0,
        );
        sent(
            device,
            report,
            "credit-abuse",
            Packet {
                credit,
                op: 6,
                ..honest
            },
            0,
        );
    }
    for ports in [(0, 0), (u32::MAX, u32::MAX), (0, u32::MAX)] {
        sent(device, report, "odd-ports", Packet { ports, ..honest }, 0);
    }
    for len in [0, 1, 43] {
        device.start();
        let outcome = device.request(TRANSMIT, 0, &[(SENT, len, false)]);
        report.case(
            device,
            None,
            "short-header",
            outcome,
            Expect::Answer,
        );
    }
    // More requests than there is room for their refusals.
    device.start();
    let mut outcome = Outcome::Used;
    for n in 0..1000 {
        Packet {
            ports: (n.into(), 4999),
            ..honest
        }
        .store();
        offer(TRANSMIT, n, &[(SENT, HEADER, false)]);
        device.notify(TRANSMIT);
        outcome = device.wait(TRANSMIT, n + 1, GLANCE);
        if outcome != Outcome::Used {
            break;
        }
    }
    report.case(
        device,
        None,
        "a-thousand-requests-without-room-for-answers",
        outcome,
        Expect::Any,
    );
}
