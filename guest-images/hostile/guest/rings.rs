//! What can be done in a queue's rings (virtio 1.2 §2.7), whatever the device.

use crate::attack::{burst, comes_to_light, is_served, provoke};
use crate::hw::{self, write};
use crate::report::{Expect, Report};
use crate::virtio::{
    ARENA, BUFFERS, Device, GLANCE, INDIRECT, Layout, MEMORY_END, NEXT, PATIENCE, SIZE, TABLES,
    WRITE, avail, descriptor, offer,
};

/// Fills the rings of a queue with something that the standard forbids.
type Broken = fn(table: u64, queue: u16);

/// Each must make the device ask for a reset, once it has looked.
const BROKEN: &[(&str, Broken)] = &[
    ("buffer-outside-memory", |_, q| one(q, MEMORY_END, 64)),
    ("buffer-past-the-end-of-memory", |_, q| {
        one(q, MEMORY_END - 1, 64)
    }),
    ("buffer-at-a-device", |_, q| one(q, 0xd000_0000, 64)),
    ("buffer-at-the-interrupt-controller", |_, q| {
        one(q, 0xfee0_0000, 64)
    }),
    ("buffer-at-the-end-of-addresses", |_, q| {
        one(q, u64::MAX - 7, 64)
    }),
    ("buffer-of-4-GiB", |_, q| one(q, BUFFERS, u32::MAX)),
    ("several-of-4-GiB", |_, q| {
        offer(q, 0, &[(BUFFERS, u32::MAX, true); 4])
    }),
    ("loop", |t, q| {
        descriptor(t, 0, (BUFFERS, 16), NEXT | WRITE, 1);
        descriptor(t, 1, (BUFFERS, 16), NEXT | WRITE, 0);
        avail(q, 0, 0);
    }),
    ("loop-of-one", |t, q| {
        descriptor(t, 0, (BUFFERS, 16), NEXT | WRITE, 0);
        avail(q, 0, 0);
    }),
    ("next-out-of-range", |t, q| {
        descriptor(t, 0, (BUFFERS, 16), NEXT | WRITE, 0xffff);
        avail(q, 0, 0);
    }),
    ("next-just-out-of-range", |t, q| {
        descriptor(t, 0, (BUFFERS, 16), NEXT | WRITE, SIZE);
        avail(q, 0, 0);
    }),
    ("head-out-of-range", |_, q| avail(q, 0, 0xffff)),
    ("index-jumps-ahead", |_, q| {
        one(q, BUFFERS, 16);
        write(Layout::of(q).avail + 2, 1000u16);
    }),
    ("index-jumps-back", |_, q| {
        one(q, BUFFERS, 16);
        write(Layout::of(q).avail + 2, 0xffffu16);
    }),
    ("readable-behind-writable", |t, q| {
        descriptor(t, 0, (BUFFERS, 64), NEXT | WRITE, 1);
        descriptor(t, 1, (BUFFERS, 64), 0, 0);
        avail(q, 0, 0);
    }),
    ("table-of-no-length", |t, q| indirect(t, q, TABLES, 0)),
    ("table-of-odd-length", |t, q| indirect(t, q, TABLES, 17)),
    ("table-outside-memory", |t, q| {
        indirect(t, q, MEMORY_END, 32)
    }),
    ("table-at-a-device", |t, q| indirect(t, q, 0xd000_0000, 32)),
    ("table-at-the-end-of-addresses", |t, q| {
        indirect(t, q, u64::MAX - 15, 32)
    }),
    ("table-of-4-GiB", |t, q| {
        indirect(t, q, TABLES, u32::MAX & !15)
    }),
    ("table-in-a-table", |t, q| {
        descriptor(TABLES, 0, (TABLES, 32), INDIRECT, 0);
        indirect(t, q, TABLES, 32);
    }),
    ("table-that-is-the-ring", |t, q| {
        indirect(t, q, t, 16 * u32::from(SIZE))
    }),
    ("loop-in-a-table", |t, q| {
        descriptor(TABLES, 0, (BUFFERS, 16), NEXT | WRITE, 1);
        descriptor(TABLES, 1, (BUFFERS, 16), NEXT | WRITE, 0);
        indirect(t, q, TABLES, 32);
    }),
    ("next-outside-the-table", |t, q| {
        descriptor(TABLES, 0, (BUFFERS, 16), NEXT | WRITE, 2);
        indirect(t, q, TABLES, 32);
    }),
];

/// Each is allowed, or only silly: the device may do with it what it likes.
const ODD: &[(&str, Broken)] = &[
    ("no-length", |_, q| one(q, BUFFERS, 0)),
    ("no-length-outside-memory", |_, q| one(q, MEMORY_END, 0)),
    ("sixteen-of-no-length", |_, q| {
        offer(q, 0, &[(BUFFERS, 0, true); 16])
    }),
    ("unknown-flags", |t, q| {
        descriptor(t, 0, (BUFFERS, 16), 0xfff8, 0);
        avail(q, 0, 0);
    }),
    ("table-and-next", |t, q| {
        descriptor(TABLES, 0, (BUFFERS, 16), WRITE, 0);
        descriptor(t, 0, (TABLES, 16), INDIRECT | NEXT, 1);
        descriptor(t, 1, (BUFFERS, 16), WRITE, 0);
        avail(q, 0, 0);
    }),
    ("table-to-write-to", |t, q| {
        descriptor(TABLES, 0, (BUFFERS, 16), WRITE, 0);
        descriptor(t, 0, (TABLES, 16), INDIRECT | WRITE, 0);
        avail(q, 0, 0);
    }),
    ("buffer-on-the-used-ring", |_, q| {
        one(q, Layout::of(q).used, 0x100)
    }),
    ("buffer-on-the-available-ring", |_, q| {
        one(q, Layout::of(q).avail, 0x100)
    }),
    ("buffer-on-the-descriptors", |t, q| one(q, t, 0x100)),
    ("the-same-head-sixteen-times", |t, q| {
        descriptor(t, 0, (BUFFERS, 64), WRITE, 0);
        (0..SIZE).for_each(|n| avail(q, n, 0));
    }),
    ("60-MiB-of-the-same-memory", |_, q| {
        offer(q, 0, &[(ARENA, 4 << 20, true); 15])
    }),
    ("60-MiB-to-read", |_, q| {
        offer(q, 0, &[(ARENA, 4 << 20, false); 15])
    }),
    ("a-thousand-pieces", |t, q| {
        for n in 0..1024 {
            let next = if n < 1023 { NEXT } else { 0 };
            descriptor(TABLES, n, (BUFFERS + u64::from(n), 1), next | WRITE, n + 1);
        }
        indirect(t, q, TABLES, 1024 * 16);
    }),
    ("five-thousand-pieces", |t, q| {
        // One for all: the links lead to the table's end and back.
        for n in 0..5000 {
            descriptor(TABLES, n, (BUFFERS, 1), NEXT | WRITE, n + 1);
        }
        indirect(t, q, TABLES, 5000 * 16);
    }),
];

fn one(queue: u16, address: u64, len: u32) {
    offer(queue, 0, &[(address, len, true)]);
}

fn indirect(ring: u64, queue: u16, table: u64, len: u32) {
    descriptor(ring, 0, (table, len), INDIRECT, 0);
    avail(queue, 0, 0);
}

pub fn attack(device: &Device, queue: u16, report: &mut Report) {
    let served = is_served(device, queue);
    let table = Layout::of(queue).desc;
    let mut look = |name, fill: Broken, polls, expect| {
        if !report.turn() {
            return;
        }
        device.start();
        fill(table, queue);
        device.notify(queue);
        if !served {
            provoke(device, queue);
        }
        let outcome = device.wait(queue, 1, polls);
        report.case(device, Some(queue), name, outcome, expect);
    };
    let seen = comes_to_light(device, queue);
    for &(name, fill) in BROKEN {
        match seen {
            true => look(name, fill, PATIENCE, Expect::Reset),
            false => look(name, fill, GLANCE, Expect::Any),
        }
    }
    for &(name, fill) in ODD {
        look(name, fill, GLANCE, Expect::Any);
    }
    race(device, queue, report);
}

/// Changes a chain while the device works on it, which no check survives that
/// reads a descriptor twice.
fn race(device: &Device, queue: u16, report: &mut Report) {
    let table = Layout::of(queue).desc;
    for _ in 0..20 {
        device.start();
        burst(device, queue);
        for _ in 0..20 {
            for (address, len) in [
                (MEMORY_END, 512),
                (BUFFERS, u32::MAX),
                (u64::MAX, 512),
                (BUFFERS, 512),
            ] {
                for n in [0, SIZE / 2, SIZE - 1] {
                    write(table + 16 * u64::from(n), address);
                    write(table + 16 * u64::from(n) + 8, len);
                }
            }
        }
        hw::fill(table, 16 * u64::from(SIZE), u64::MAX);
        offer(queue, SIZE, &[(BUFFERS, 64, true)]);
    }
    let outcome = device.wait(queue, SIZE, GLANCE);
    report.case(
        device,
        Some(queue),
        "changed-meanwhile",
        outcome,
        Expect::Any,
    );
}
