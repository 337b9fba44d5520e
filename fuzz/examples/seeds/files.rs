//! Seeds of the targets that are no virtio devices and need no network.

use super::{PAGE, Seeds};

/// An entry of an archive as `tar::archive` reads it: the place of its kind in
/// `KINDS` and of its name in `NAMES`, and what its kind reads.
fn entry(kind: u8, name: u8, content: &[u8]) -> Vec<u8> {
    let attributes = [0xed, 1, 0, 0, 0, 0];
    [&[0, kind, name], content, &attributes].concat()
}

const FILE: u8 = 0;
const LINK: u8 = 4;
const SYMLINK: u8 = 5;
const DIRECTORY: u8 = 7;
const PAX: u8 = 12;
const LONG_NAME: u8 = 14;
const SPARSE: u8 = 16;

pub fn layer() -> Seeds {
    let below = [
        entry(DIRECTORY, 2, &[]),
        entry(FILE, 4, b"\x04text"),
        entry(SYMLINK, 6, &[1]),
        entry(LINK, 1, &[0xff, 3, b'd', b'/', b'a']),
    ]
    .concat();
    let above = [
        entry(FILE, 16, &[0]),
        entry(FILE, 18, &[0]),
        entry(FILE, 7, &[PAGE]),
        entry(PAX, 0, &[2, 6, 5, 7, 1, 1, 0, 0]),
        entry(FILE, 5, &[0xcc, 0, 0x30]),
    ]
    .concat();
    let len = (below.len() as u16).to_le_bytes();
    let two = [&[0], &len[..], &below, &above].concat();
    let sparse = [
        &[0, 0, 0][..],
        &[
            0, SPARSE, 0, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0xed, 1, 0, 0, 0, 0,
        ],
        &[0, 5, 100, 5, 0, 0, 0, 0, 0, 0xc0],
    ]
    .concat();
    let whiteouts = [
        &[0, 0, 0][..],
        &entry(FILE, 17, &[0]),
        &entry(DIRECTORY, 2, &[]),
        &entry(LONG_NAME, 0, b"\x02d\0"),
        &entry(SYMLINK, 6, &[6]),
        &entry(FILE, 7, b"\x01x"),
    ]
    .concat();
    vec![
        ("two", two),
        ("sparse", sparse),
        ("whiteouts", whiteouts),
        ("damaged-below", vec![0xe1, 0, 4, 7, 0x10, 4, 0xff]),
        ("foreign-below", vec![0xe0; 600]),
        ("raw", [vec![0xc0, 0, 0], vec![b'a'; 512]].concat()),
    ]
}

pub fn unpack() -> Seeds {
    let archive = |how: u8, entries: &[Vec<u8>]| [vec![how], entries.concat()].concat();
    vec![
        (
            "plain",
            archive(
                3,
                &[
                    entry(DIRECTORY, 2, &[]),
                    entry(FILE, 4, b"\x04text"),
                    entry(LINK, 1, &[0xff, 3, b'd', b'/', b'a']),
                ],
            ),
        ),
        (
            "links",
            archive(
                0,
                &[
                    entry(SYMLINK, 9, &[3]),
                    entry(FILE, 10, b"\x01x"),
                    entry(LINK, 8, &[4]),
                    entry(FILE, 14, b"\x01x"),
                ],
            ),
        ),
        (
            "through-links-that-are-there",
            archive(
                2,
                &[
                    entry(FILE, 7, b"\x01x"),
                    entry(FILE, 0, b"\x01x"),
                    entry(LINK, 1, &[7]),
                ],
            ),
        ),
        ("raw", [vec![0xe0], vec![b'a'; 512]].concat()),
    ]
}

pub fn oci() -> Seeds {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let descriptor = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":9,"annotations":null}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":9,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]}}"#);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":"sh","Env":["A=b"],"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"empty_layer":true}}]}}"#
    );
    let with = |which: u8, text: &str| [&[which], text.as_bytes()].concat();
    vec![
        ("index", with(0, &index)),
        ("manifest", with(1, &manifest)),
        ("config", with(2, &config)),
        (
            "reference",
            with(3, &format!("example.org:5000/a/b_c:tag@{digest}")),
        ),
        (
            "challenge",
            with(
                4,
                r#"Bearer realm="https://a/token",service="a",scope="x\"y", Basic realm=z"#,
            ),
        ),
        ("digest", with(5, &digest)),
        ("time", with(5, "2026-01-31T12:00:00.5+01:00")),
        (
            "changes",
            with(6, "CMD [\"a\"]\nENV A=b\nEXPOSE 80/tcp\nLABEL a=\"b c\""),
        ),
        ("wide-blank", with(6, "CMD\u{85}a\nUSER\u{3000}b")),
    ]
}

pub fn agent() -> Seeds {
    let with = |which: u8, text: &str| [&[which], text.as_bytes()].concat();
    vec![
        ("replies", vec![0, 2, 0, 2, 1, 2, 3, 2, 2]),
        ("archive", vec![1, 0x0c, 5, 20, 0x14, 3, 1, 2, 3, 0x14, 0]),
        (
            "output",
            vec![2, 0x14, 4, b'a', b'\n', 0xff, 0, 0x0c, b'x', PAGE, 6, 5],
        ),
        (
            "rotated",
            [&[0x80][..], &[0x0c, b'x', PAGE].repeat(8)].concat(),
        ),
        ("announced", vec![0, 0xf2, 1, 2, 3, 4, 5]),
        (
            "log",
            with(
                3,
                "{\"time\":\"2026-01-31T12:00:00Z\",\"stream\":\"stdout\",\"log\":\"a\"}\n{\"time",
            ),
        ),
        (
            "request",
            with(4, r#"{"signal":{"process":7,"signal":15}}"#),
        ),
        (
            "start",
            with(
                4,
                r#"{"start":{"main":true,"args":["a"],"env":[],"cwd":"/","user":"","groups":[],"terminal":null,"stdin":false,"capabilities":[],"no_new_privileges":true,"rlimits":[],"init":false}}"#,
            ),
        ),
        (
            "reply",
            with(4, r#"{"failed":{"message":"no","status":127}}"#),
        ),
        (
            "state",
            with(
                5,
                r#"{"status":"exited","started":"2026-01-31T12:00:00Z","exit-code":3,"oom-killed":false}"#,
            ),
        ),
    ]
}

pub fn platform() -> Seeds {
    // Writes to the registers of the serial port in turn, then reads.
    let mut serial = Vec::new();
    for register in 0..8u8 {
        serial.extend([0x08 | register, 0, 0x9b, 0, 0, 0, 0, 0, 0, 0]);
    }
    for register in 0..8u8 {
        serial.extend([register, 0]);
    }
    vec![
        ("serial", serial),
        (
            "typed",
            vec![0x10, 0, 64, 0x00, 0, 0x18, 0, 3, b'a', b'b', b'c'],
        ),
        (
            "power",
            vec![0xa8, 0, 0x34, 0, 0, 0, 0, 0, 0, 0, 0x19, 0, 0xa4, 0],
        ),
        (
            "reset",
            vec![0x8c, 0, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0xc8, 0, 1],
        ),
        (
            "nowhere",
            vec![0xe0, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
    ]
}
