//! Boot against QEMU's `microvm`: the same kernel, initrd and command line, from
//! exec to the end of a process whose guest switches itself off at once.
//!
//! Runs where a KVM can run Linux, in pairs; the first pair is dropped. Under
//! the lab with time counted in instructions (`make bench` sees to it) the
//! figures repeat; on a real machine they are clock times. Only the ratio is
//! compared with the budget.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

#[path = "../tests/common/bare_metal.rs"]
mod bare_metal;
mod common;

use common::{median, time, verdict};

const PAIRS: usize = 6;

/// What was copied to memory first, by tools/bench-guest.
struct Files {
    stage: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

struct Case {
    name: &'static str,
    append: &'static str,
    budget: f64,
}

const CASES: [Case; 2] = [
    Case {
        name: "quiet console",
        append: "console=ttyS0 quiet loglevel=0 reboot=t panic=-1",
        budget: 0.5,
    },
    Case {
        name: "every message on the console",
        append: "console=ttyS0 loglevel=8 ignore_loglevel reboot=t panic=-1",
        budget: 0.6,
    },
];

fn main() -> io::Result<()> {
    let Some(stage) = common::stage() else {
        println!("boot: left out: `make bench` prepares it and says where it can run");
        return Ok(());
    };
    let files = Files {
        kernel: stage.join("kernels/tuned/kernel"),
        initrd: stage.join("initrd"),
        stage,
    };
    fs::write(&files.initrd, initrd())?;
    for case in &CASES {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for pair in 0..=PAIRS {
            let q = time(&mut qemu(&files, case.append))?;
            let d = time(&mut drupe(&files, case.append))?;
            if pair > 0 {
                theirs.push(q);
                ours.push(d);
            }
        }
        let (d, q) = (median(&mut ours), median(&mut theirs));
        let ratio = d / q;
        println!(
            "boot: {}: drupe {d:.3} s, QEMU microvm {q:.3} s, ratio {ratio:.2} (n={PAIRS}), budget {}: {}",
            case.name,
            case.budget,
            verdict(ratio <= case.budget)
        );
        println!(
            "boot: {}: all, in s: drupe {ours:.3?}, QEMU {theirs:.3?}",
            case.name
        );
    }
    Ok(())
}

fn drupe(files: &Files, append: &str) -> Command {
    let mut command = Command::new(files.stage.join("bin/drupe"));
    command.args(["boot", "--memory", "128M", "--append", append]);
    command.arg("--kernel").arg(&files.kernel);
    command.arg("--initrd").arg(&files.initrd);
    command
}

fn qemu(files: &Files, append: &str) -> Command {
    let mut command = Command::new(files.stage.join("bin/qemu-system-x86_64"));
    command.arg("-L").arg(files.stage.join("firmware"));
    command.args([
        "-M",
        "microvm,accel=kvm",
        "-cpu",
        "host",
        "-m",
        "128M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-append",
        append,
    ]);
    command.arg("-kernel").arg(&files.kernel);
    command.arg("-initrd").arg(&files.initrd);
    command
}

/// A cpio archive (newc) with an init that switches the machine off, and
/// nothing else.
fn initrd() -> Vec<u8> {
    let mut archive = Vec::new();
    let init = bare_metal::elf(bare_metal::REBOOT_POWER_OFF);
    entry(&mut archive, "init", 0o100_755, &init);
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let fields = [
        1,
        mode,
        0,
        0,
        1,
        0,
        data.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
