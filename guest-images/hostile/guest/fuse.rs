//! Requests of a hostile kind to a share (virtio 1.2 §5.11, FUSE 7.38).

use crate::hw::{self, put, read, write};
use crate::report::{Expect, Report};
use crate::virtio::{ARENA, BUFFERS, Device, Outcome};

const REQUESTS: u16 = 1;
const REQUEST: u64 = BUFFERS;
const ANSWER: u64 = BUFFERS + 0x1_0000;
const ANSWER_SIZE: u32 = 0x1000;
const HEADER: u32 = 40;
const ROOT: u64 = 1;

const LOOKUP: u32 = 1;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
const READDIR: u32 = 28;
const CREATE: u32 = 35;
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

fn header(len: u32, opcode: u32, node: u64) {
    hw::fill(REQUEST, 0x200, 0);
    hw::fill(ANSWER, 64, 0);
    write(REQUEST, len);
    write(REQUEST + 4, opcode);
    write(REQUEST + 8, 7u64);
    write(REQUEST + 16, node);
}

fn init(device: &Device) -> bool {
    header(HEADER + 64, INIT, 0);
    write(REQUEST + 40, 7u32);
    write(REQUEST + 44, 38u32);
    write(REQUEST + 48, 0x2_0000u32);
    ask(device, 0, HEADER + 64) == Outcome::Used && error() == 0
}

/// The error of the answer.
fn error() -> u32 {
    read(ANSWER + 4)
}

fn ask(device: &Device, before: u16, len: u32) -> Outcome {
    device.request(
        REQUESTS,
        before,
        &[(REQUEST, len, false), (ANSWER, ANSWER_SIZE, true)],
    )
}

pub fn good(device: &Device) -> bool {
    init(device)
}

/// A request that was written must be refused.
fn refused(device: &Device, report: &mut Report, name: &str, len: u32, fill: impl Fn()) {
    if !report.turn() {
        return;
    }
    device.start();
    let started = init(device);
    fill();
    let outcome = ask(device, 1, len);
    let fine = match outcome {
        Outcome::Used => error() != 0,
        Outcome::NeedsReset => true,
        Outcome::Silent => false,
    };
    report.case(device, None, name, outcome, Expect::Is(fine && started));
}

pub fn attack(device: &Device, report: &mut Report) {
    for len in [0, 1, 39, 41, 0x1000, 0x8000_0000, u32::MAX] {
        refused(device, report, "length-that-lies", HEADER, || {
            header(len, OPEN, ROOT)
        });
    }
    for opcode in [0, 7, 19, 33, 60, 127, 4096, 0x8000_0000, u32::MAX] {
        refused(device, report, "unknown-request", 0x80, || {
            header(0x80, opcode, ROOT)
        });
    }
    for node in [0, 2, 1 << 32, u64::MAX] {
        for opcode in [LOOKUP, 3, 4, 5, OPEN, 17, 27, 34] {
            refused(device, report, "unknown-node", 0x80, || {
                header(0x80, opcode, node);
                put(REQUEST + 40, b"x");
            });
        }
    }
    for name in [
        "..",
        ".",
        "",
        "/etc/passwd",
        "../../../etc/passwd",
        "a/b",
        "a/../../b",
        "/",
    ] {
        // Where the name stands after the header.
        for (opcode, at) in [
            (LOOKUP, 0),
            (SYMLINK, 0),
            (MKNOD, 16),
            (MKDIR, 8),
            (UNLINK, 0),
            (11, 0),
            (CREATE, 16),
            (RENAME, 8),
            (13, 8),
        ] {
            refused(device, report, "name-that-leads-out", 0x100, || {
                header(0x100, opcode, ROOT);
                if opcode == RENAME {
                    write(REQUEST + 40, ROOT);
                }
                put(REQUEST + 40 + at, name.as_bytes());
            });
        }
    }
    refused(device, report, "name-without-end", 0x200, || {
        header(0x200, LOOKUP, ROOT);
        hw::fill(REQUEST + 40, 0x1c0, u64::MAX);
    });
    for opcode in [READ, WRITE, READDIR, 44, 46, 47, 43, 18, 29, 20, 25] {
        for size in [0, 0x1000, u32::MAX] {
            refused(device, report, "handle-never-given", 0x80, || {
                header(0x80, opcode, ROOT);
                write(REQUEST + 40, 0xdead_beefu64);
                write(REQUEST + 48, u64::MAX);
                write(REQUEST + 56, size);
            });
        }
    }
    for size in [0, 0x1_0000, u32::MAX] {
        refused(device, report, "attribute-that-lies", 0x80, || {
            header(0x80, SETXATTR, ROOT);
            write(REQUEST + 40, size);
            put(REQUEST + 48, b"user.x");
        });
    }
    // Those that are not answered, and may only not hurt.
    for opcode in [FORGET, BATCH_FORGET, INTERRUPT] {
        for count in [0, 1, u32::MAX] {
            device.start();
            let started = init(device);
            header(0x80, opcode, ROOT);
            write(REQUEST + 40, count);
            write(REQUEST + 44, u32::MAX);
            write(REQUEST + 48, u64::MAX);
            let outcome = ask(device, 1, 0x80);
            report.case(
                device,
                None,
                "forget-what-never-was",
                outcome,
                Expect::Is(started),
            );
        }
    }
    for (name, buffers) in [
        ("request-of-40-MiB", [(ARENA, 4 << 20, false); 10]),
        ("room-of-40-MiB", [(ARENA, 4 << 20, true); 10]),
    ] {
        device.start();
        header(u32::MAX, WRITE, ROOT);
        let mut all = [(REQUEST, HEADER, false); 11];
        all[1..].copy_from_slice(&buffers);
        let outcome = device.request(REQUESTS, 0, &all);
        report.case(
            device,
            None,
            name,
            outcome,
            Expect::Answer,
        );
    }
    // Before `INIT`, and an `INIT` of versions that there are none of.
    device.start();
    header(0x80, LOOKUP, ROOT);
    put(REQUEST + 40, b"x");
    let outcome = ask(device, 0, 0x80);
    report.case(
        device,
        None,
        "before-INIT",
        outcome,
        Expect::Answer,
    );
    for (major, minor) in [(0u32, 0u32), (6, 99), (8, 0), (7, 0), (u32::MAX, u32::MAX)] {
        device.start();
        header(HEADER + 64, INIT, 0);
        write(REQUEST + 40, major);
        write(REQUEST + 44, minor);
        write(REQUEST + 48, u32::MAX);
        write(REQUEST + 52, u32::MAX);
        let outcome = ask(device, 0, HEADER + 64);
        report.case(
            device,
            None,
            "odd-version",
            outcome,
            Expect::Answer,
        );
    }
}
