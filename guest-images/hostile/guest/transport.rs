//! What can be done to a device's registers (virtio 1.2 §4.2.2), before any
//! request.

use crate::attack::burst;
use crate::hw::{read, write};
use crate::report::{Expect, Report};
use crate::virtio::{Device, F_VERSION_1, GLANCE, Layout, MEMORY_END, Outcome, SIZE, WINDOW, reg};

fn end(device: &Device, report: &mut Report, name: &str, fine: bool) {
    let outcome = match device.needs_reset() {
        true => Outcome::NeedsReset,
        false => Outcome::Silent,
    };
    report.case(device, None, name, outcome, Expect::Is(fine));
}

pub fn attack(device: &Device, report: &mut Report) {
    config(device, report);
    features(device, report);
    addresses(device, report);
    live(device, report);
}

fn config(device: &Device, report: &mut Report) {
    device.start();
    for offset in (0..WINDOW - reg::CONFIG).step_by(61) {
        let at = device.base + reg::CONFIG + offset;
        read::<u8>(at);
        read::<u16>(at);
        read::<u32>(at);
        read::<u64>(at);
    }
    // Past the end of configuration all is zero, and past the window nothing.
    let last: u32 = read(device.base + WINDOW - 4);
    read::<u64>(device.base + WINDOW - 1);
    end(device, report, "reads-past-the-end", last == 0);
    device.start();
    for offset in (0..WINDOW - reg::CONFIG - 8).step_by(61) {
        let at = device.base + reg::CONFIG + offset;
        write(at, 0xffu8);
        write(at, 0xffffu16);
        write(at, u32::MAX);
        write(at, u64::MAX);
    }
    end(device, report, "writes-past-the-end", true);
    device.start();
    for offset in 0..reg::CONFIG {
        let at = device.base + offset;
        write(at, 0xffu8);
        write(at, 0xffffu16);
        write(at, u64::MAX);
        read::<u8>(at);
        read::<u64>(at);
    }
    end(device, report, "odd-widths", !device.needs_reset());
    device.start();
    for value in [u32::MAX, 0, 1, 2, 0x8000_0000] {
        for offset in (0..reg::CONFIG).step_by(4) {
            device.set(offset, value);
            device.get(offset);
        }
    }
    end(device, report, "garbage-in-every-register", true);
    device.start();
    for value in [u32::MAX, 0, 3, 0x8000_0000] {
        device.set(reg::INTERRUPT_ACK, value);
    }
    end(
        device,
        report,
        "garbage-acknowledged",
        !device.needs_reset(),
    );
}

fn features(device: &Device, report: &mut Report) {
    let offered = device.offered();
    for bit in 0..64 {
        if offered & 1 << bit == 0 && device.negotiate(F_VERSION_1 | 1 << bit) {
            return end(device, report, "feature-not-on-offer", false);
        }
    }
    end(device, report, "feature-not-on-offer", true);
    end(device, report, "without-VERSION_1", !device.negotiate(0));
    device.reset();
    device.set(reg::STATUS, 1);
    device.set(reg::STATUS, 4);
    let driver_ok = device.get(reg::STATUS) & 4;
    end(device, report, "DRIVER_OK-first", driver_ok == 0);
    device.start();
    device.set(reg::DRIVER_FEATURES_SEL, 0);
    device.set(reg::DRIVER_FEATURES, u32::MAX);
    device.set(reg::DRIVER_FEATURES_SEL, u32::MAX);
    device.set(reg::DRIVER_FEATURES, u32::MAX);
    end(device, report, "features-changed-while-it-runs", true);
    // No queue at all.
    device.begin();
    device.driver_ok();
    for queue in 0..device.queues + 2 {
        device.notify(queue);
    }
    end(device, report, "without-queues", !device.needs_reset());
}

fn addresses(device: &Device, report: &mut Report) {
    let max = device.queue_max(0);
    let good = Layout::of(0);
    for size in [0, 3, 5, 0xffff, max * 2, 0x1_0000 | 8, u32::MAX] {
        if !report.turn() {
            continue;
        }
        device.begin();
        device.set_queue(0, size, good);
        device.driver_ok();
        burst(device, 0);
        device.wait(0, SIZE, GLANCE);
        end(device, report, "forbidden-queue-size", true);
    }
    device.begin();
    for queue in [device.queues.into(), 0xff, 0xffff, u32::MAX] {
        device.set(reg::QUEUE_SEL, queue);
        device.set(reg::QUEUE_NUM, 8);
        device.set(reg::QUEUE_READY, 1);
        device.set(reg::NOTIFY, queue);
    }
    end(device, report, "queue-that-is-not-there", true);
    // Outside memory, at its end, at this and other devices, at the interrupt
    // controllers, at the end of addresses, and not aligned.
    for address in [
        MEMORY_END,
        MEMORY_END - 16,
        1 << 40,
        device.base,
        0xd000_0000,
        0xfec0_0000,
        0xfee0_0000,
        u64::MAX - 0xf,
        u64::MAX - 0xfff,
        0x7fff_ffff_ffff_f000,
        good.desc + 1,
    ] {
        for part in 0..3 {
            if !report.turn() {
                continue;
            }
            let mut layout = good;
            *[&mut layout.desc, &mut layout.avail, &mut layout.used][part] = address;
            device.begin();
            let ready = device.set_queue(0, SIZE.into(), layout);
            device.driver_ok();
            burst(device, 0);
            end(device, report, "ring-outside-memory", !ready);
        }
    }
    // Rings that are each other, themselves, and the program's page tables.
    for (desc, avail, used) in [
        (good.desc, good.desc, good.desc),
        (good.desc, good.avail, good.avail),
        (good.desc, good.avail, good.desc),
        (good.desc, good.avail, good.avail + 4),
        (good.avail, good.avail, good.used),
    ] {
        if !report.turn() {
            continue;
        }
        device.begin();
        device.set_queue(0, SIZE.into(), Layout { desc, avail, used });
        device.driver_ok();
        burst(device, 0);
        device.wait(0, SIZE, GLANCE);
        end(device, report, "rings-that-overlap", true);
    }
}

fn live(device: &Device, report: &mut Report) {
    // All of it while the device runs.
    device.start();
    for queue in 0..device.queues {
        burst(device, queue);
        let moved = Layout {
            desc: MEMORY_END,
            avail: device.base,
            used: u64::MAX - 0xfff,
        };
        device.set_queue(queue, 4, moved);
        device.set(reg::QUEUE_READY, 0);
        device.set(reg::QUEUE_READY, 1);
        device.notify(queue);
    }
    end(device, report, "queue-moved-while-it-runs", true);
    for round in 0..50 {
        device.start();
        for queue in 0..device.queues {
            burst(device, queue);
        }
        for _ in 0..round {
            device.get(reg::STATUS);
        }
        device.reset();
    }
    end(
        device,
        report,
        "reset-in-the-middle",
        device.get(reg::STATUS) == 0,
    );
    for _ in 0..200 {
        device.reset();
        device.driver_ok();
        device.set(reg::STATUS, 128);
        device.set(reg::STATUS, 15);
    }
    end(device, report, "storm-of-resets", true);
    device.start();
    for n in 0..2000 {
        device.set(reg::NOTIFY, n % (u32::from(device.queues) + 1));
    }
    end(
        device,
        report,
        "notifications-of-nothing",
        !device.needs_reset(),
    );
}
