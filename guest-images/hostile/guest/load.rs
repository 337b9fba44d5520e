//! Load: notifications without end, and a neighbour that suffers from them.

use crate::attack;
use crate::block;
use crate::hw::{self, say, say_number};
use crate::net;
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

/// Bytes of a write, and of the part of the disk that they go to.
const WRITE: u32 = 64 << 10;
const WRITTEN: u64 = 64 << 20;

/// Fills the first disk again and again.
pub fn fill() {
    let Some(device) = Device::all().find(|d| d.kind == Kind::Block) else {
        return say("no disk\n");
    };
    let mut fine = device.start();
    say("filling\n");
    let mut n = 0;
    while fine {
        let sector = u64::from(n) * u64::from(WRITE) % WRITTEN / 512;
        fine = block::write_sectors(&device, n, sector, WRITE);
        n = n.wrapping_add(1);
    }
    say("WRONG\n");
}

/// The most requests of which a median is taken.
const MOST: usize = 1024;

/// Measures how long a request takes: a read of the disk's first sector, or an
/// answer of the gateway's.
pub fn ping(count: u64) {
    let mut times = [0; MOST];
    let times = &mut times[..(count as usize).clamp(1, MOST)];
    say("ready\n");
    loop {
        let kind = match hw::typed() {
            b'm' => Kind::Block,
            b'n' => Kind::Net,
            b'q' => hw::power_off(),
            _ => continue,
        };
        let Some(device) = Device::all().find(|d| d.kind == kind) else {
            say("no such device\n");
            continue;
        };
        let mut fine = device.start();
        for (n, time) in times.iter_mut().enumerate() {
            let start = hw::ticks();
            fine &= match kind {
                Kind::Net => net::ask(&device, n as u16),
                _ => block::read_sector(&device, n as u16),
            };
            *time = hw::ticks() - start;
        }
        sort(times);
        say(if fine { "median: " } else { "WRONG: " });
        say_number(times[times.len() / 2]);
        say("\n");
    }
}

/// Shell's: no more than it takes.
fn sort(times: &mut [u64]) {
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
}
