//! Archives that no one should unpack.

use std::fs::File;
use std::io::Write;

use crate::{STDOUT, drip, frame, reply};

const BLOCK: usize = 512;

/// One header of a tar archive (ustar).
fn header(name: &str, kind: u8, size: u64, link: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| {
        block[at..at + text.len()].copy_from_slice(text);
    };
    put(0, &name.as_bytes()[..name.len().min(100)]);
    // Set-user-ID, for all.
    put(100, b"0006777\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000010\0");
    put(337, b"0000020\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A file of this name, with something in it.
fn file(name: &str) -> Vec<u8> {
    let mut bytes = header(name, b'0', 5, "").to_vec();
    bytes.extend(b"evil\n");
    bytes.resize(2 * BLOCK, 0);
    bytes
}

/// Answers a request for an archive, by its name.
pub fn send(name: &str, to: &mut File) -> std::io::Result<()> {
    reply(to, r#"{"entry":{"mode":16877,"size":0,"link":null}}"#)?;
    let top = format!("{name}/");
    let mut archive = header(&top, b'5', 0, "").to_vec();
    match name {
        "dots" => archive.extend(file("dots/../../../evil")),
        "absolute" => archive.extend(file("/evil")),
        "link" => {
            archive.extend(header("link/out", b'2', 0, ".."));
            archive.extend(file("link/out/evil"));
        }
        "hardlink" => {
            archive.extend(header("hardlink/x", b'1', 0, "hardlink/../../secret"));
            archive.extend(file("hardlink/x"));
        }
        "etc" => {
            archive.extend(header("etc/x", b'1', 0, "/etc/passwd"));
            archive.extend(file("etc/x"));
        }
        "device" => {
            archive.extend(header("device/null", b'3', 0, ""));
            archive.extend(header("device/disk", b'4', 0, ""));
        }
        "long" => {
            // A name of a hundred thousand bytes, in GNU's way.
            let name = "n/".repeat(50_000);
            archive.extend(header("././@LongLink", b'L', name.len() as u64, ""));
            archive.extend(name.as_bytes());
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
            archive.extend(file("long/x"));
        }
        "lies" => archive.extend(header("lies/x", b'0', 0o77_777_777_777, "")),
        "noise" => archive = vec![0x5a; 100 * BLOCK],
        _ => {}
    }
    for piece in archive.chunks(7000) {
        frame(to, STDOUT, piece)?;
    }
    if name == "drips" {
        return drip(to, STDOUT);
    }
    match name {
        // The same file again and again.
        "endless" => loop {
            frame(to, STDOUT, &file("endless/x"))?;
        },
        // A file of 8 GiB.
        "vast" => {
            frame(to, STDOUT, &header("vast/x", b'0', 0o77_777_777_777, ""))?;
            loop {
                frame(to, STDOUT, &[b'x'; 60_000])?;
            }
        }
        // Files of nothing, each with a name of its own.
        "many" => {
            for first in (0..).step_by(100) {
                let names = (first..first + 100).map(|n| format!("many/{n}"));
                let files: Vec<_> = names.map(|name| header(&name, b'0', 0, "")).collect();
                frame(to, STDOUT, &files.concat())?;
            }
            Ok(())
        }
        // Headers of nothing; and what comes behind the end.
        "headers" => loop {
            frame(to, STDOUT, &header("g", b'g', 0, "").repeat(100))?;
        },
        "tail" => loop {
            frame(to, STDOUT, &[0; 60_000])?;
        },
        _ => to.flush(),
    }
}
