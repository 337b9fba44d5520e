//! Load: notifications without end, and a neighbour that suffers from them.

use crate::attack;
use crate::block;
use crate::hw::{self, say, say_number};
use crate::virtio::{Device, Kind, Layout, NEXT, avail, descriptor, reg};

/// Notifies the first device, `count` times for each `f` that is typed, or without
/// end. One chain is there that the device finds broken in each round of its
/// starts, so that what it says of it is part of the load.
pub fn flood(count: u64) {
    let Some(device) = Device::all().next() else {
        return say("no device\n");
    };
    attack::good(&device);
    say("flooding\n");
    if count == 0 {
        loop {
            round(&device, 100_000);
        }
    }
    while hw::typed() != b'q' {
        let start = hw::ticks();
        round(&device, count);
        say("flood: ");
        say_number(count);
        say(" in ");
        say_number(hw::ticks() - start);
        say(" ticks\n");
    }
    say(if attack::good(&device) {
        "flood: good\n"
    } else {
        "flood: WRONG\n"
    });
}

fn round(device: &Device, count: u64) {
    device.start();
    let table = Layout::of(0).desc;
    descriptor(table, 0, (0, 1), NEXT, 0);
    for n in 0..count {
        device.set(reg::NOTIFY, 0);
        match n % 4096 {
            1024 => avail(0, 0, 0),
            4095 => {
                device.start();
                descriptor(table, 0, (0, 1), NEXT, 0);
            }
            _ => {}
        }
    }
}

/// The most reads of which a median is taken.
const MOST: usize = 1024;

/// Measures the time of a read of the disk's first sector.
pub fn ping(count: u64) {
    let mut times = [0; MOST];
    let times = &mut times[..(count as usize).clamp(1, MOST)];
    let Some(device) = Device::all().find(|d| d.kind == Kind::Block) else {
        return say("no disk\n");
    };
    say("ready\n");
    loop {
        match hw::typed() {
            b'm' => {}
            b'q' => hw::power_off(),
            _ => continue,
        }
        let mut fine = device.start();
        for (n, time) in times.iter_mut().enumerate() {
            let start = hw::ticks();
            fine &= block::read_sector(&device, n as u16);
            *time = hw::ticks() - start;
        }
        // Shell's sort: no more than it takes.
        let mut gap = times.len() / 2;
        while gap > 0 {
            for i in gap..times.len() {
                let mut j = i;
                while j >= gap && times[j - gap] > times[j] {
                    times.swap(j - gap, j);
                    j -= gap;
                }
            }
            gap /= 2;
        }
        say(if fine { "median: " } else { "WRONG: " });
        say_number(times[times.len() / 2]);
        say("\n");
    }
}
