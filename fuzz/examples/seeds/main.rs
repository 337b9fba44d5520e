//! Writes `fuzz/seeds`: inputs that get a fuzzer past what it would take long to
//! guess. Run it after a change of how inputs are read:
//!
//! ```text
//! cargo run --manifest-path fuzz/Cargo.toml --example seeds
//! ```

mod files;

use std::path::Path;

use drupe_fuzz::op::{
    BACKEND, BYTES, CONFIG, DESC, HEAD, INDIRECT, KICK, OFFER, READ, REQUEST, RING, START, STATUS,
    WRITE,
};

/// The first byte of an input for a device that is started beforehand.
const STARTED: u8 = 0;
const NOT_STARTED: u8 = 0xff;
/// A length of 512, 4096 and 16 bits of what follows.
const SECTOR: u8 = 0xc0;
const PAGE: u8 = 0xc3;
const WORD: u8 = 0xcc;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let seeds = [
        rng(),
        blk(),
        net(),
        vsock(),
        fs(),
        loader(),
        config(),
        usernet(),
        files::layer(),
        files::unpack(),
        files::oci(),
        files::agent(),
        files::platform(),
    ];
    let names = [
        "rng", "blk", "net", "vsock", "fs", "loader", "config", "usernet", "layer", "unpack",
        "oci", "agent", "platform",
    ];
    for (target, seeds) in names.iter().zip(seeds) {
        let dir = root.join(target);
        std::fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds {
            std::fs::write(dir.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// What every device must stand; `before` is what the target itself reads.
fn common(before: &[u8]) -> Seeds {
    let with = |rest: &[&[u8]]| [before, &rest.concat()].concat();
    vec![
        (
            // Each register in turn, as a driver that initialises by hand.
            "by-hand",
            with(&[
                &[NOT_STARTED, STATUS, 1, STATUS, 3, READ, 0, 0, 4],
                &[WRITE, 0x24, 1, WRITE, 0x20, 1, STATUS, 11],
                &[WRITE, 0x30, 0, WRITE, 0x38, 8, WRITE, 0x80, 0x90, 0x70],
                &[WRITE, 0x90, 0x90, 0x74, WRITE, 0xa0, 0x90, 0x78],
                &[WRITE, 0x44, 1, STATUS, 15, WRITE, 0x50, 0, READ, 0, 1, 8],
                &[CONFIG, 0, 4, 1, 2, 3, 4, STATUS, 128, STATUS, 0],
            ]),
        ),
        (
            "indirect",
            with(&[
                &[STARTED, INDIRECT, 0, 2, 0],
                &[0x10, 16, 0, 0x20, SECTOR, 2, 0x30, 1, 2, 0],
                &[KICK, 0, INDIRECT, 1, 0x81, 1],
                &[0x10, 64, 1, 1, 0x20, 64, 1, 0, 0, KICK, 1],
            ]),
        ),
        (
            "hostile",
            with(&[
                &[STARTED, DESC, 0, 0, 0x10, 64, 1, 0, HEAD, 0, 0, KICK, 0],
                &[
                    START, 0, DESC, 0, 0, 0xd6, 3, PAGE, 2, 0, HEAD, 0, 0, KICK, 0,
                ],
                &[START, 0, RING, 0, 1, 0xff, 0xff, KICK, 0],
                &[START, 0, OFFER, 0, 0x11, 0xd3, 7, 64, 0xd1, 9, 64, KICK, 0],
                &[START, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0],
            ]),
        ),
    ]
}

fn rng() -> Seeds {
    let mut seeds = common(&[]);
    let requests = [
        STARTED, REQUEST, 0x10, 64, REQUEST, 0x20, PAGE, REQUEST, 0, 0xc7,
    ];
    seeds.push(("requests", requests.to_vec()));
    seeds
}

fn blk() -> Seeds {
    let mut seeds = common(&[0]);
    let requests = [
        &[0, STARTED][..],
        // Shape, kind, sector, then buffers or segments.
        &[REQUEST, 0, 0, 2, 0x20, SECTOR],
        &[REQUEST, 1, 1, 1, 0x20, SECTOR],
        &[REQUEST, 2, 2, 0],
        &[REQUEST, 3, 3, 0, 0x30, 20],
        &[REQUEST, 4, 4, 0, 8, 8, 0],
        &[REQUEST, 5, 5, 0, 8, 8, 1],
        &[REQUEST, 8, 0, 3, 0x20, SECTOR, 0x30, SECTOR],
    ];
    seeds.push(("requests", requests.concat()));
    let mut two = requests.concat();
    two[0] = 8;
    two.extend([REQUEST, 0x80, 0, 2, 0x20, SECTOR, KICK, 1]);
    seeds.push(("two-queues", two.clone()));
    two[0] = 0xff;
    seeds.push(("threads", two));
    let mut readonly = requests.concat();
    readonly[0] = 1;
    seeds.push(("readonly", readonly));
    seeds
}

fn net() -> Seeds {
    let mut seeds = common(&[0]);
    let frame = [0; 12];
    let send = [&[REQUEST, 1][..], &frame, &[0x20, 64]].concat();
    let receive = [REQUEST, 0, 0x30, WORD, 0, 8];
    let packet = [BACKEND, 0, WORD, 0x84, 3, 7];
    let large = [BACKEND, 0, WORD, 0x84, 0x33, 7];
    let mut both = vec![0, STARTED];
    both.extend([&send[..], &receive, &packet, &packet, &large].concat());
    for _ in 0..8 {
        both.extend(receive);
    }
    both.extend(large);
    both.extend([BACKEND, 5, 1, BACKEND, 5, 0]);
    seeds.push(("both-ways", both));
    let mut blocked = vec![1, STARTED, BACKEND, 4, 1];
    blocked.extend([&send[..], &send, &[BACKEND, 4, 9]].concat());
    seeds.push(("blocked", blocked));
    let mut errors = vec![0, STARTED, BACKEND, 6, 0x40];
    errors.extend([&send[..], &[BACKEND, 6, 0], &send, &[BACKEND, 7, 3]].concat());
    errors.extend([BACKEND, 6, 0xff, BACKEND, 5, 0]);
    seeds.push(("errors", errors));
    seeds
}

fn vsock() -> Seeds {
    let mut seeds = common(&[]);
    let buffer = |slot: u8| [REQUEST, slot, WORD, 0, 8];
    let packet = |op: u8, guest: u8, host: u8| [REQUEST, 9, op, guest, host];
    let data = |guest: u8, host: u8| [REQUEST, 9, 5, guest, host, 0x20, 64];
    let mut dial = vec![STARTED];
    for slot in 0..6 {
        dial.extend(buffer(slot));
    }
    // A host program asks for port 1; the guest answers, both write, both end.
    dial.extend([BACKEND, 0, 1]);
    dial.extend(packet(2, 1, 0x80));
    dial.extend(data(1, 0x80));
    dial.extend([BACKEND, 2, WORD, 0, 9, BACKEND, 4, WORD, 0, 9]);
    dial.extend([REQUEST, 0x29, 4, 1, 0x80, 2, BACKEND, 5]);
    dial.extend([BACKEND, 7, 11]);
    seeds.push(("from-host", dial));
    let mut request = vec![STARTED];
    for slot in 0..6 {
        request.extend(buffer(slot));
    }
    request.extend(packet(1, 3, 0));
    request.extend(data(3, 0));
    request.extend([BACKEND, 2, WORD, 0, 9, BACKEND, 6, 1]);
    request.extend([REQUEST, 0x49, 6, 3, 0, 0x90, 0]);
    request.extend(packet(7, 3, 0));
    request.extend(packet(3, 3, 0));
    // Nobody listens there; a type that is not known.
    request.extend(packet(1, 3, 2));
    request.extend([REQUEST, 0x89, 1, 0, 0, 2, 2, 0]);
    seeds.push(("from-guest", request));
    // A guest that fills what the host does not read.
    let mut full = vec![STARTED];
    full.extend([buffer(0), buffer(1), buffer(2), buffer(3)].concat());
    full.extend(packet(1, 1, 1));
    for _ in 0..7 {
        full.extend([REQUEST, 9, 5, 1, 1, 0, 0xc4]);
    }
    full.extend([
        BACKEND, 4, 0xc4, REQUEST, 0x29, 4, 1, 1, 3, BACKEND, 4, 0xc7,
    ]);
    seeds.push(("full", full));
    let mut lines = vec![STARTED, BACKEND, 0, 0xe5];
    lines.extend(*b"HELLO");
    lines.extend([BACKEND, 0, 0xec]);
    lines.extend(*b"CONNECT 1 2\n");
    lines.extend([BACKEND, 7, 3, BYTES, 0x10, 4, 1, 2, 3, 4]);
    seeds.push(("lines", lines));
    seeds
}

fn fs() -> Seeds {
    let mut seeds = common(&[0]);
    // Selectors of a number, a small word, and names (see `part`).
    let n = |n: u8| [0, n];
    let w = |w: u8| [0x50, w];
    let (a, c, sub, up) = (0xb4, 0xb6, 0xb7, 0xb9);
    // Shape, kind, node, count of parts and parts, then where the answer goes.
    let call = |kind: u8, node: u8, parts: &[&[u8]]| {
        let mut call = vec![REQUEST, 0, kind, node, parts.len() as u8];
        call.extend(parts.concat());
        call.extend([0x20, WORD, 0, 4]);
        call
    };
    let io = |kind: u8, node: u8, size: u8| {
        call(
            kind,
            node,
            &[&n(1), &n(0), &w(size), &w(0), &n(0), &w(0), &w(0)],
        )
    };
    let read = [
        &[0, STARTED][..],
        &call(26, 0, &[&w(7), &w(40), &w(0), &w(0)]),
        &call(1, 1, &[&[a]]),
        &call(1, 1, &[&[sub]]),
        &call(14, 2, &[&w(0), &w(0)]),
        &io(15, 2, 64),
        &call(27, 1, &[&w(0), &w(0)]),
        &call(
            44,
            1,
            &[&n(2), &n(0), &[0x90, 0xc3], &w(0), &n(0), &w(0), &w(0)],
        ),
        &call(3, 2, &[&n(0), &n(0)]),
        &call(17, 1, &[]),
        &call(22, 2, &[&w(64), &w(0), &[0xbd]]),
        &call(1, 1, &[&[up]]),
        &call(2, 2, &[&n(1)]),
    ];
    let read = read.concat();
    seeds.push(("read", read.clone()));
    for (name, how) in [("readonly", 1), ("single", 4)] {
        let mut seed = read.clone();
        seed[0] = how;
        seeds.push((name, seed));
    }
    let write = [
        &[0, STARTED][..],
        &call(35, 1, &[&w(2), &w(255), &w(0), &w(0), &[c]]),
        &call(
            16,
            2,
            &[&n(1), &n(0), &w(8), &w(0), &n(0), &w(0), &w(0), &n(5)],
        ),
        &call(9, 1, &[&w(255), &w(0), &[0xb5]]),
        &call(12, 1, &[&n(3), &[c], &[a]]),
        &call(6, 1, &[&[c], &[up]]),
        &call(13, 1, &[&n(2), &[0xc1]]),
        &call(
            8,
            1,
            &[&[0x90, 0xcb, 0, 0x10, 0, 0], &w(0), &w(0), &w(0), &[c]],
        ),
        &call(43, 2, &[&n(1), &n(0), &n(7), &w(0), &w(0)]),
        &call(21, 2, &[&w(8), &w(0), &[0xbd], &n(3)]),
        &call(
            4,
            2,
            &[
                &w(8),
                &w(0),
                &n(0),
                &n(3),
                &n(0),
                &n(0),
                &n(0),
                &n(0),
                &n(0),
            ],
        ),
        &call(10, 1, &[&[c]]),
        &call(11, 1, &[&[0xb5]]),
    ];
    seeds.push(("write", write.concat()));
    seeds
}

/// An ELF kernel with a segment at 2 MiB, one without bytes behind it, and a PVH
/// note.
fn elf() -> Vec<u8> {
    const AT: u64 = 0x20_0000;
    let note_at: u64 = 64 + 3 * 56;
    let code_at = note_at + 20;
    let mut f = b"\x7fELF\x02\x01\x01".to_vec();
    f.resize(16, 0);
    f.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    f.extend(AT.to_le_bytes());
    f.extend(64u64.to_le_bytes());
    f.extend([0; 12]);
    for half in [64u16, 56, 3, 0, 0, 0] {
        f.extend(half.to_le_bytes());
    }
    for (kind, offset, addr, in_file, in_memory, align) in [
        (1u32, code_at, AT, 8, 8u64, 4096u64),
        (1, code_at, AT + 0x10_0000, 0, 4096, 4096),
        (4, note_at, 0, 20, 20, 4),
    ] {
        f.extend(kind.to_le_bytes());
        f.extend(5u32.to_le_bytes());
        for word in [offset, addr, addr, in_file, in_memory, align] {
            f.extend(word.to_le_bytes());
        }
    }
    for word in [4u32, 4, 18] {
        f.extend(word.to_le_bytes());
    }
    f.extend(b"Xen\0");
    f.extend((AT as u32 + 4).to_le_bytes());
    f.extend(b"\xf4 kernel");
    f
}

fn bzimage() -> Vec<u8> {
    let mut f = vec![0; 1024 + 64];
    f[0x1f1] = 1;
    f[0x1f4] = 4;
    f[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    f[0x202..0x206].copy_from_slice(b"HdrS");
    f[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    f[0x211] = 1;
    f[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    f[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    f[0x236] = 1;
    f[0x258..0x260].copy_from_slice(&0x10_0000u64.to_le_bytes());
    f[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    f
}

fn loader() -> Seeds {
    // Protocol and whether there is an initrd; its length.
    let with = |before: &[u8], file: &[u8]| [before, file].concat();
    vec![
        ("elf", with(&[0], &elf())),
        ("elf-linux", with(&[2], &elf())),
        ("elf-initrd", with(&[4, WORD, 0, 0x20], &elf())),
        ("bzimage", with(&[0], &bzimage())),
        ("bzimage-initrd", with(&[4, WORD, 0, 0x20], &bzimage())),
        ("gzip", with(&[0], b"\x1f\x8b\x08")),
    ]
}

fn config() -> Seeds {
    let with = |which: u8, text: &str| [&[which], text.as_bytes()].concat();
    let json = r#"{"kernel":"k","initrd":"i","append":"quiet","boot-protocol":"pvh","cpus":4,
"memory":"2G","hugepages":true,"console":"off","disks":[{"path":"d","readonly":true,"queues":2,
"id":"root"}],"nets":[{"tap":"tap0","mac":"02:00:00:00:00:01","mtu":1400}],
"vsock":{"path":"/run/v.sock","cid":52}}"#;
    vec![
        (
            "disk",
            with(0, "/a,,b=c,readonly=off,queues=4,id=root disk"),
        ),
        ("net", with(1, "tap=tap0,mac=02:00:00:00:00:01,mtu=1400")),
        (
            "net-user",
            with(
                1,
                "user,metadata,publish=8080:80+[::1]:53:53/udp,dns=[::1]:53,policy=deny:[fd00::/8],,allow:*.a.b:80+8000-8080/tcp,,deny",
            ),
        ),
        ("vsock", with(2, "/run/a.sock,cid=52")),
        ("mac", with(3, "52:54:00:12:34:56")),
        ("size", with(4, "512MiB")),
        (
            "policy",
            with(5, "deny:[fd00::/8],allow:*.a.b:80+8000-8080/tcp,deny"),
        ),
        ("json", with(7, json)),
        ("json-short", with(7, r#"{"kernel":"k","memory":1048576}"#)),
    ]
}

/// By [`drupe_fuzz::usernet`]'s steps: a frame, TCP, an answer to the last segment,
/// a datagram, a query, the resolver, the host, drain, reset.
fn usernet() -> Seeds {
    const SYN: &[u8] = &[2, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0, 0];
    const DNS_SYN: &[u8] = &[2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0, 0];
    const DRAIN: &[u8] = &[8, 200];
    /// Acknowledges a SYN: one more than its number.
    const ACK: &[u8] = &[3, 0, 1, 0x10, 0xff, 0xff, 0, 0];
    const DATA: &[u8] = &[
        3, 0, 0, 0x18, 0xff, 0xff, 0, 5, b'h', b'e', b'l', b'l', b'o',
    ];
    const FIN: &[u8] = &[3, 0, 0, 0x11, 0xff, 0xff, 0, 0];
    const RST: &[u8] = &[3, 0, 0, 4, 0, 0, 0, 0];
    const TURN: &[u8] = &[7, 0, 0];
    const WRITE: &[u8] = &[7, 1, 0, 0xc4];
    const SHUT: &[u8] = &[7, 2, 0];
    const DROP: &[u8] = &[7, 3, 0];
    const QUERY: &[u8] = &[5, 7, 0, 0];
    const RESOLVE: &[u8] = &[6, 0, 0, 0];
    let open = [SYN, TURN, DRAIN, ACK].concat();
    let with = |choice: u8, rest: &[&[u8]]| [&[choice], &rest.concat()[..]].concat();
    vec![
        (
            "from-guest",
            with(0, &[&open, DATA, TURN, DRAIN, FIN, SHUT, DRAIN, ACK]),
        ),
        (
            "from-host",
            with(
                7,
                &[
                    &open, WRITE, DRAIN, DATA, DRAIN, ACK, SHUT, DRAIN, FIN, DRAIN,
                ],
            ),
        ),
        (
            "resets",
            with(
                3,
                &[
                    &open,
                    RST,
                    SYN,
                    TURN,
                    DRAIN,
                    ACK,
                    DROP,
                    DRAIN,
                    SYN,
                    &[9, 1, 1],
                ],
            ),
        ),
        (
            "datagrams",
            with(
                2,
                &[&[4, 1, 2, 1, 9], b"datagram!", TURN, &[7, 5, 0, 50], DRAIN],
            ),
        ),
        (
            "names",
            with(
                0,
                &[QUERY, RESOLVE, DRAIN, QUERY, &[6, 9, 2, 1, 1, 1], DRAIN],
            ),
        ),
        (
            "names-by-tcp",
            with(
                0,
                &[
                    DNS_SYN,
                    DRAIN,
                    ACK,
                    &[3, 0, 0, 0x18, 0xff, 0xff, 0, 4, 0, 2, 0, 0],
                    DRAIN,
                    FIN,
                    DRAIN,
                ],
            ),
        ),
        (
            "frames",
            with(
                0,
                &[
                    &[0, 42],
                    &[0xff; 6],
                    &[0x52, 0x54, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                    &[
                        0x52, 0x54, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2,
                    ],
                    DRAIN,
                    &[10, 2, 8, 8, 0, 0, 0, 0, 0, 0, 1],
                    &[1, 17, 0xff, 0xff, 0xff, 0xff, 8, 0, 68, 0, 67, 0, 8, 0, 0],
                ],
            ),
        ),
    ]
}
