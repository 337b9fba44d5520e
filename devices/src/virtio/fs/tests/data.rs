//! Contents of files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn reads_and_writes_go_where_they_say() {
    let (dir, mut c) = Client::in_dir("");
    let path = dir.path().join("f");
    let pattern: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
    fs::write(&path, &pattern).unwrap();
    let node = c.lookup(ROOT, "f").unwrap().node;
    let h = c.open(node, libc::O_RDWR).unwrap();
    assert_eq!(c.read(node, h, 0, 0x1_0000).unwrap(), pattern[..0x1_0000]);
    assert_eq!(c.read(node, h, 99_990, 4096).unwrap(), pattern[99_990..]);
    assert_eq!(c.read(node, h, 100_000, 4096).unwrap(), b"");
    assert_eq!(c.read(node, h, 1 << 40, 4096).unwrap(), b"");
    assert_eq!(c.write(node, h, 99_999, b"xyz").unwrap(), 3);
    let tail = fs::read(&path).unwrap().split_off(99_998);
    assert_eq!((tail[0], &tail[1..]), (pattern[99_998], &b"xyz"[..]));
    assert_eq!(c.write(node, h, 0, b"").unwrap(), 0);
    // More than there is.
    let args = Client::io_args(h, 0, 100, 0, 0);
    assert_eq!(c.call(opcode::WRITE, node, &args), Err(libc::EINVAL));
    for offset in [u64::MAX, i64::MAX as u64 + 1] {
        assert_eq!(c.read(node, h, offset, 1), Err(libc::EINVAL));
        assert_eq!(c.write(node, h, offset, b"x"), Err(libc::EINVAL));
    }
    let sync = body(&[&h.to_le_bytes(), &1u32.to_le_bytes(), &[0; 4]]);
    c.call(opcode::FSYNC, node, &sync).unwrap();
    let release = body(&[&h.to_le_bytes(), &[0; 16]]);
    c.call(opcode::RELEASE, node, &release).unwrap();
    assert_eq!(c.call(opcode::RELEASE, node, &release), Err(libc::EBADF));
    assert_eq!(c.read(node, h, 0, 1), Err(libc::EBADF));
}

#[test]
fn handles_allow_what_they_were_opened_for() {
    let (dir, mut c) = Client::in_dir("");
    fs::write(dir.path().join("f"), "text").unwrap();
    fs::write(dir.path().join("g"), "text").unwrap();
    let f = c.lookup(ROOT, "f").unwrap().node;
    let g = c.lookup(ROOT, "g").unwrap().node;
    let read = c.open(f, libc::O_RDONLY).unwrap();
    let write = c.open(f, libc::O_WRONLY).unwrap();
    assert_eq!(c.write(f, read, 0, b"x"), Err(libc::EBADF));
    assert_eq!(c.read(f, write, 0, 1), Err(libc::EBADF));
    assert_eq!(c.read(g, read, 0, 1), Err(libc::EBADF), "another's");
    assert_eq!(c.open(ROOT, libc::O_RDONLY), Err(libc::EISDIR));
    let dir_handle = u64_at(&c.call(opcode::OPENDIR, ROOT, &[0; 8]).unwrap(), 0);
    assert_eq!(c.read(ROOT, dir_handle, 0, 1), Err(libc::EISDIR));
    let args = Client::io_args(read, 0, 4096, 0, 0);
    assert_eq!(c.call(opcode::READDIR, f, &args), Err(libc::ENOTDIR));
    let sync = body(&[&dir_handle.to_le_bytes(), &[0; 8]]);
    c.call(opcode::FSYNCDIR, ROOT, &sync).unwrap();
    // Flags that could do something to the host are left out.
    let strange = libc::O_PATH | libc::O_TMPFILE | libc::O_ASYNC | libc::O_NOATIME | libc::O_DIRECT;
    let h = c.open(f, libc::O_RDONLY | strange).unwrap();
    assert_eq!(c.read(f, h, 0, 9).unwrap(), b"text");
    c.open(f, libc::O_RDWR | libc::O_TRUNC).unwrap();
    assert_eq!(dir.path().join("f").metadata().unwrap().len(), 0);
}

#[test]
fn appending_finds_the_end_that_the_host_sees() {
    let (dir, mut c) = Client::in_dir("");
    let path = dir.path().join("log");
    let (file, h) = c
        .create(ROOT, "log", libc::O_WRONLY | libc::O_APPEND)
        .unwrap();
    let append = |c: &mut Client, at, data: &[u8], kind| {
        c.write_as(file.node, h, at, data, kind, libc::O_APPEND)
            .unwrap()
    };
    append(&mut c, 0, b"guest,", 0);
    let mut host = fs::OpenOptions::new().append(true).open(&path).unwrap();
    host.write_all(b"host,").unwrap();
    // The guest does not know of the host's yet.
    append(&mut c, 6, b"guest,", 0);
    assert_eq!(fs::read(&path).unwrap(), b"guest,host,guest,");
    // From a page of its cache: there and nowhere else.
    append(&mut c, 0, b"GUEST", super::super::abi::WRITE_CACHE);
    assert_eq!(fs::read(&path).unwrap(), b"GUEST,host,guest,");
}

#[test]
fn holes_copies_and_space() {
    let (dir, mut c) = Client::in_dir("");
    let path = dir.path().join("f");
    let (f, h) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    let allocate = |mode: i32, at: u64, len: u64| {
        body(&[
            &h.to_le_bytes(),
            &at.to_le_bytes(),
            &len.to_le_bytes(),
            &mode.to_le_bytes(),
            &[0; 4],
        ])
    };
    c.call(opcode::FALLOCATE, f.node, &allocate(0, 0, 1 << 20))
        .unwrap();
    assert_eq!(path.metadata().unwrap().len(), 1 << 20);
    let bad = c.call(opcode::FALLOCATE, f.node, &allocate(1 << 20, 0, 1));
    assert_eq!(bad, Err(libc::EOPNOTSUPP));
    let bad = c.call(opcode::FALLOCATE, f.node, &allocate(0, u64::MAX, 2));
    assert_eq!(bad, Err(libc::EINVAL));

    let (g, gh) = c.create(ROOT, "g", libc::O_RDWR).unwrap();
    c.write(g.node, gh, 1 << 20, b"data").unwrap();
    let seek = |at: u64, whence: i32| {
        body(&[
            &gh.to_le_bytes(),
            &at.to_le_bytes(),
            &whence.to_le_bytes(),
            &[0; 4],
        ])
    };
    let data = c
        .call(opcode::LSEEK, g.node, &seek(0, libc::SEEK_DATA))
        .unwrap();
    assert!(u64_at(&data, 0) <= 1 << 20);
    assert_eq!(
        c.call(opcode::LSEEK, g.node, &seek(1 << 21, libc::SEEK_DATA)),
        Err(libc::ENXIO)
    );
    assert_eq!(
        c.call(opcode::LSEEK, g.node, &seek(0, libc::SEEK_SET)),
        Err(libc::EINVAL)
    );

    let copy = |len: u64, flags: u64| {
        body(&[
            &gh.to_le_bytes(),
            &(1u64 << 20).to_le_bytes(),
            &f.node.to_le_bytes(),
            &h.to_le_bytes(),
            &5u64.to_le_bytes(),
            &len.to_le_bytes(),
            &flags.to_le_bytes(),
        ])
    };
    let copied = c
        .call(opcode::COPY_FILE_RANGE, g.node, &copy(u64::MAX, 0))
        .unwrap();
    assert_eq!(u32_at(&copied, 0), 4);
    assert_eq!(fs::read(&path).unwrap()[4..10], *b"\0data\0");
    assert_eq!(
        c.call(opcode::COPY_FILE_RANGE, g.node, &copy(1, 1)),
        Err(libc::EINVAL)
    );
}

#[test]
fn writing_takes_set_id_bits_away() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, mut c) = Client::in_dir("");
    let path = dir.path().join("f");
    let (f, h) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    let set = || fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let mode = || path.metadata().unwrap().mode() & 0o7777;
    set();
    c.write_as(f.node, h, 0, b"x", super::super::abi::WRITE_KILL_SUIDGID, 0)
        .unwrap();
    assert_eq!(mode(), 0o755);
    set();
    let args = body(&[
        &(libc::O_RDWR | libc::O_TRUNC).to_le_bytes(),
        &super::super::abi::OPEN_KILL_SUIDGID.to_le_bytes(),
    ]);
    c.call(opcode::OPEN, f.node, &args).unwrap();
    assert_eq!(mode(), 0o755);
}
