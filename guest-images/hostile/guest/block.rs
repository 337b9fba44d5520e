//! Requests of a hostile kind to a disk (virtio 1.2 §5.2.6).

use crate::hw::{self, read, write};
use crate::report::{Expect, Report};
use crate::virtio::{ARENA, BUFFERS, Buffer, Device, Outcome};

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
/// What the host filled the first sector with.
const SECTOR_WORD: u64 = 0xa5a5_a5a5_a5a5_a5a5;
const IN: u32 = 0;
const OUT: u32 = 1;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn header(kind: u32, sector: u64) {
    write(HEADER, kind);
    write(HEADER + 4, 0u32);
    write(HEADER + 8, sector);
    write(STATUS, 0xffu8);
}

/// Reads the first sector.
pub fn read_sector(device: &Device, before: u16) -> bool {
    header(IN, 0);
    let buffers = [(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)];
    device.request(0, before, &buffers) == Outcome::Used && read::<u8>(STATUS) == 0
}

/// Writes what is in the arena; `before` requests went before it.
pub fn write_sectors(device: &Device, before: u16, sector: u64, len: u32) -> bool {
    header(OUT, sector);
    let buffers = [(HEADER, 16, false), (ARENA, len, false), (STATUS, 1, true)];
    device.request(0, before, &buffers) == Outcome::Used && read::<u8>(STATUS) == 0
}

pub fn good(device: &Device) -> bool {
    hw::fill(DATA, 512, 0);
    read_sector(device, 0) && hw::is_filled(DATA, 512, SECTOR_WORD)
}

/// A request that must be refused: with an error, or by asking for a reset.
fn refused(
    device: &Device,
    report: &mut Report,
    name: &str,
    request: (u32, u64),
    buffers: &[Buffer],
) {
    if !report.turn() {
        return;
    }
    device.start();
    header(request.0, request.1);
    let outcome = device.request(0, 0, buffers);
    let fine = match outcome {
        Outcome::Used => read::<u8>(STATUS) != 0,
        Outcome::NeedsReset => true,
        Outcome::Silent => false,
    };
    report.case(device, None, name, outcome, Expect::Is(fine));
}

pub fn attack(device: &Device, report: &mut Report) {
    let head = (HEADER, 16, false);
    let status = (STATUS, 1, true);
    let reading = [head, (DATA, 512, true), status];
    let writing = [head, (DATA, 512, false), status];
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 16, 24, 26, 0x8000_0000, u32::MAX] {
        refused(device, report, "unknown-request", (kind, 0), &reading);
    }
    for sector in [
        1 << 20,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
        1 << 55,
    ] {
        refused(device, report, "read-past-the-end", (IN, sector), &reading);
        refused(
            device,
            report,
            "write-past-the-end",
            (OUT, sector),
            &writing,
        );
    }
    // All of the guest's memory, in one request that the disk is too small for.
    let mut huge = [(ARENA, 4 << 20, true); 12];
    huge[0] = head;
    huge[11] = status;
    refused(device, report, "read-of-40-MiB", (IN, 0), &huge);
    huge[1..11].fill((ARENA, 4 << 20, false));
    refused(device, report, "write-of-40-MiB", (OUT, 0), &huge);
    refused(device, report, "no-status", (IN, 0), &[head]);
    refused(
        device,
        report,
        "short-header",
        (IN, 0),
        &[(HEADER, 15, false), status],
    );
    refused(device, report, "no-header", (IN, 0), &[status]);
    refused(
        device,
        report,
        "odd-length",
        (IN, 1 << 20),
        &[head, (DATA, 511, true), status],
    );
    for kind in [DISCARD, WRITE_ZEROES] {
        for (sector, sectors, flags) in [
            (u64::MAX, 1, 0u32),
            (0, u32::MAX, 0),
            (1 << 40, 8, 0),
            (0, 1, 0x8000_0000),
            (u64::MAX, u32::MAX, 1),
        ] {
            write(DATA, sector);
            write(DATA + 8, sectors);
            write(DATA + 12, flags);
            refused(
                device,
                report,
                "hostile-range",
                (kind, 0),
                &[head, (DATA, 16, false), status],
            );
        }
        refused(
            device,
            report,
            "half-a-range",
            (kind, 0),
            &[head, (DATA, 15, false), status],
        );
        refused(device, report, "no-range", (kind, 0), &[head, status]);
        refused(
            device,
            report,
            "65536-ranges",
            (kind, 0),
            &[head, (ARENA, 16 << 16, false), status],
        );
    }
}
