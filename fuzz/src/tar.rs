//! Bytes become a tar archive: entries that look right, and some that do not.

use crate::Input;

/// Entries of one archive: what is longer finds nothing that is not found sooner.
const MAX_ENTRIES: usize = 24;
const BLOCK: usize = 512;

const NAMES: [&[u8]; 20] = [
    b"a",
    b"b",
    b"d",
    b"d/",
    b"d/a",
    b"d/e/f",
    b"l",
    b"l/x",
    b"t/a",
    b"t/l",
    b"t/l/x",
    b".",
    b"./",
    b"../x",
    b"t/../../secret",
    b"/secret",
    b"d/.wh.a",
    b".wh.d",
    b"d/.wh..wh..opq",
    b"",
];
const TARGETS: [&[u8]; 10] = [
    b"a",
    b"d",
    b"t/a",
    b"..",
    b"../secret",
    b"/",
    b"l",
    b"t/l",
    b"/proc/self/root",
    b"",
];
const KINDS: &[u8] = b"0000125534567xgLKSV\0D";
const KEYS: [&str; 14] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.trusted.overlay.opaque",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.name",
    "GNU.sparse.realsize",
    "GNU.sparse.size",
    "GNU.sparse.map",
];

/// An archive as the input says.
pub fn archive(input: &mut Input) -> Vec<u8> {
    let mut tar = Vec::new();
    for _ in 0..MAX_ENTRIES {
        if input.is_empty() {
            break;
        }
        if input.u8() >= 0xf8 {
            let raw = input.bytes(BLOCK);
            tar.extend(raw);
            continue;
        }
        entry(input, &mut tar);
    }
    // The end, which some archives do without.
    tar.extend([0; 2 * BLOCK]);
    tar
}

fn word<'a>(input: &mut Input<'a>, of: &[&'a [u8]]) -> &'a [u8] {
    match input.u8() {
        n @ 0..0xe0 => of[usize::from(n) % of.len()],
        _ => {
            let n = usize::from(input.u8());
            input.bytes(n)
        }
    }
}

fn entry(input: &mut Input, tar: &mut Vec<u8>) {
    let kind = KINDS[usize::from(input.u8()) % KINDS.len()];
    let name = word(input, &NAMES);
    let (mut target, mut data) = (&b""[..], Vec::new());
    match kind {
        b'1' | b'2' => target = word(input, &TARGETS),
        b'x' | b'g' => {
            for _ in 0..1 + input.u8() % 4 {
                record(input, &mut data);
            }
        }
        b'0' | b'7' | b'S' | b'L' | b'K' | 0 => {
            let n = input.len() as usize & 0x1_ffff;
            data = input.bytes(n).to_vec();
            // A run of one byte when the input has no more.
            data.resize(n, 0x55);
        }
        _ => {}
    }
    let mut header = [0; BLOCK];
    put(&mut header[..100], name);
    octal(&mut header[100..108], (input.u16() & 0o7777).into());
    octal(&mut header[108..116], input.u8().into());
    octal(&mut header[116..124], input.u8().into());
    let how = input.u8();
    let size = match how {
        0..0xf0 => data.len() as u64,
        _ => input.u64(),
    };
    octal(&mut header[124..136], size);
    octal(&mut header[136..148], 1_000_000_000);
    header[156] = kind;
    put(&mut header[157..257], target);
    header[257..265].copy_from_slice(if how & 1 == 0 {
        b"ustar\x0000"
    } else {
        b"ustar  \0"
    });
    octal(&mut header[329..337], u64::from(input.u8() & 1));
    if kind == b'S' {
        // Four segments and the real size.
        for at in (386..482).step_by(12) {
            octal(&mut header[at..at + 12], input.len().into());
        }
        header[482] = input.u8() & 1;
        octal(&mut header[483..495], input.len().into());
    }
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    octal(&mut header[148..155], (sum + u32::from(how == 0xef)).into());
    tar.extend(header);
    tar.extend(&data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// `LENGTH KEY=VALUE\n`, the length that of all of it.
fn record(input: &mut Input, data: &mut Vec<u8>) {
    let which = input.u8();
    let key = KEYS[usize::from(which) % KEYS.len()];
    let value = match key {
        "path" | "linkpath" | "GNU.sparse.name" => word(input, &NAMES).to_vec(),
        _ if which >= 0xe0 => input.bytes(12).to_vec(),
        "GNU.sparse.map" => {
            let numbers: Vec<_> = (0..2 * (1 + input.u8() % 3))
                .map(|_| input.len().to_string())
                .collect();
            numbers.join(",").into_bytes()
        }
        _ => input.len().to_string().into_bytes(),
    };
    let rest = key.len() + value.len() + 3;
    let mut len = rest + rest.to_string().len();
    len = rest + len.to_string().len();
    data.extend(format!("{len} {key}=").bytes());
    data.extend(value);
    data.push(b'\n');
}

/// An archive of entries that are in order: kind, name, and data or target.
pub fn plain(entries: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, content) in entries {
        let kind = KINDS.iter().position(|k| k == kind).expect("a kind");
        bytes.extend([0, kind as u8, 0xff, name.len() as u8]);
        bytes.extend(*name);
        match KINDS[kind] {
            b'1' | b'2' => bytes.extend([0xff, content.len() as u8]),
            b'0' => bytes.push(content.len() as u8),
            _ => {}
        }
        bytes.extend(*content);
        // Permissions, owners, and nothing unusual.
        bytes.extend([0xed, 1, 0, 0, 0, 0]);
    }
    archive(&mut Input::new(&bytes))
}

fn put(field: &mut [u8], text: &[u8]) {
    let n = field.len().min(text.len());
    field[..n].copy_from_slice(&text[..n]);
}

/// In octal, or as GNU has it when it is too large for that.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if digits < 21 && value >> (3 * digits) != 0 {
        field.fill(0);
        field[0] = 0x80;
        let at = field.len() - 8;
        if at > 0 {
            field[at..].copy_from_slice(&value.to_be_bytes());
        }
        return;
    }
    put(field, format!("{value:0digits$o}").as_bytes());
}
