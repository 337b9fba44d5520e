//! Archives of guests, honest and not.

use super::*;
use images::space::Space;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tar::{Builder, EntryType, Header};

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Writes a name as it stands, which the builder would not.
fn raw(builder: &mut Builder<Vec<u8>>, name: &str, mut header: Header, data: &[u8]) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn file(builder: &mut Builder<Vec<u8>>, name: &str, data: &[u8]) {
    raw(
        builder,
        name,
        header(EntryType::Regular, data.len() as u64, 0o640),
        data,
    );
}

fn link(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, to: &str) {
    let mut header = header(kind, 0, 0o777);
    header.set_link_name_literal(to).unwrap();
    raw(builder, name, header, b"");
}

fn run(dir: &Path, archive: Vec<u8>, top: Option<&str>) -> Result<(), UnpackError> {
    let options = Options {
        named: true,
        top: top.map(Into::into),
        owners: false,
    };
    unpack(&archive[..], File::open(dir).unwrap().into(), &options)
}

/// On the disk that is there.
fn unpacker<'a>(
    dir: &Path,
    options: &'a Options,
) -> Unpacker<'a, impl Fn(BorrowedFd<'_>) -> io::Result<KeepFree>> {
    let keep = |disk: BorrowedFd<'_>| KeepFree::of(disk, WHAT);
    Unpacker::new(File::open(dir).unwrap().into(), options, keep)
}

/// Unpacks on a disk that is full but for what may be taken without a look at it.
fn on_a_full_disk(dir: &Path, archive: impl Read) -> UnpackError {
    let full = |_: BorrowedFd<'_>| {
        let space = Space {
            available: 1 << 20,
            total: 1 << 30,
            files: 0,
            all_files: 0,
        };
        Ok(KeepFree::with(WHAT, move || Ok(space)))
    };
    let options = Options::default();
    let unpacker = Unpacker::new(File::open(dir).unwrap().into(), &options, full);
    unpacker.unpack(archive).unwrap_err()
}

/// What stands in an archive without an end.
fn endless(archive: Builder<Vec<u8>>, then: impl Iterator<Item = Vec<u8>>) -> impl Read {
    // Without the end that the builder would write.
    let begun = archive.get_ref().clone();
    Endless {
        blocks: std::iter::once(begun).chain(then),
        now: io::Cursor::default(),
    }
}

struct Endless<I> {
    blocks: I,
    now: io::Cursor<Vec<u8>>,
}

impl<I: Iterator<Item = Vec<u8>>> Read for Endless<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.now.read(buffer)? {
                0 => match self.blocks.next() {
                    Some(block) => self.now = io::Cursor::new(block),
                    None => return Ok(0),
                },
                n => return Ok(n),
            }
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn files_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Builder::new(Vec::new());
    raw(
        &mut tar,
        "src/",
        header(EntryType::Directory, 0, 0o555),
        b"",
    );
    file(&mut tar, "src/a", b"text");
    link(&mut tar, EntryType::Symlink, "src/s", "/etc/passwd");
    link(&mut tar, EntryType::Link, "src/h", "src/a");
    raw(&mut tar, "src/f", header(EntryType::Fifo, 0, 0o600), b"");
    raw(&mut tar, "src/d", header(EntryType::Char, 0, 0o600), b"");
    let mut setuid = header(EntryType::Regular, 0, 0o4755);
    setuid.set_cksum();
    raw(&mut tar, "src/x", setuid, b"");
    run(dir.path(), tar.into_inner().unwrap(), Some("dst")).unwrap();
    let at = |name: &str| dir.path().join("dst").join(name);
    assert_eq!(fs::read(at("a")).unwrap(), b"text");
    assert_eq!(fs::read_link(at("s")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(
        fs::metadata(at("a")).unwrap().ino(),
        fs::metadata(at("h")).unwrap().ino()
    );
    assert_eq!(fs::metadata(at("a")).unwrap().mtime(), 1_000_000_000);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("a"), mode("x")), (0o555, 0o640, 0o755));
    assert!(!at("d").exists() && at("f").exists());
    fs::set_permissions(at(""), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_content_of_a_directory_goes_into_another() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "old").unwrap();
    let mut tar = Builder::new(Vec::new());
    raw(
        &mut tar,
        "src/",
        header(EntryType::Directory, 0, 0o700),
        b"",
    );
    file(&mut tar, "src/a", b"new");
    file(&mut tar, "src/sub/b", b"b");
    run(dir.path(), tar.into_inner().unwrap(), None).unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
    assert_eq!(fs::read(dir.path().join("sub/b")).unwrap(), b"b");
}

#[test]
fn a_directory_that_is_said_again_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let mut unpacker = unpacker(dir.path(), &options);
    let mut tar = Builder::new(Vec::new());
    for mode in [0o700, 0o750, 0o755] {
        raw(&mut tar, "a/b/", header(EntryType::Directory, 0, mode), b"");
        raw(&mut tar, "a/", header(EntryType::Directory, 0, 0o555), b"");
    }
    let archive = tar.into_inner().unwrap();
    let mut reader = TarReader::new(&archive[..]);
    while let Some(entry) = reader.next_entry().unwrap() {
        unpacker.entry(&entry, &mut reader).unwrap();
    }
    assert_eq!(unpacker.directories.len(), 2);
    unpacker.settle_directories(None).unwrap();
    let mode = |name: &str| {
        let metadata = fs::metadata(dir.path().join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    // The last word counts.
    assert_eq!((mode("a"), mode("a/b")), (0o555, 0o755));
    fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_root_has_no_name() {
    for (top, expected) in [(None, "etc/a"), (Some("new"), "new/etc/a")] {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        raw(&mut tar, "./", header(EntryType::Directory, 0, 0o755), b"");
        file(&mut tar, "./etc/a", b"a");
        let options = Options {
            top: top.map(Into::into),
            ..Options::default()
        };
        let to = File::open(dir.path()).unwrap().into();
        unpack(&tar.into_inner().unwrap()[..], to, &options).unwrap();
        assert!(dir.path().join(expected).exists());
    }
}

#[test]
fn nothing_leads_out_of_the_destination() {
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().to_str().unwrap();
    type Make = fn(&mut Builder<Vec<u8>>, &str);
    let hostile: [Make; 6] = [
        |tar, _| file(tar, "t/../../x", b"x"),
        |tar, _| file(tar, "../x", b"x"),
        |tar, to| {
            link(tar, EntryType::Symlink, "t/l", to);
            file(tar, "t/l/x", b"x");
        },
        |tar, to| {
            link(tar, EntryType::Symlink, "t/l", to);
            raw(tar, "t/l/", header(EntryType::Directory, 0, 0o777), b"");
        },
        |tar, to| {
            link(tar, EntryType::Symlink, "t/l", to);
            link(tar, EntryType::Link, "t/h", "t/l/secret");
        },
        |tar, _| link(tar, EntryType::Link, "t/h", "t/../../secret"),
    ];
    for (n, make) in hostile.iter().enumerate() {
        let dir = tempfile::tempdir_in(outside.path()).unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let mut tar = Builder::new(Vec::new());
        make(&mut tar, outside_path);
        assert!(
            run(dir.path(), tar.into_inner().unwrap(), Some("t")).is_err(),
            "{n}"
        );
        assert!(!outside.path().join("x").exists(), "{n}");
        assert!(!dir.path().join("t/h").exists(), "{n}");
    }
    // A link that an archive brings is replaced, not written through.
    let dir = tempfile::tempdir_in(outside.path()).unwrap();
    let mut tar = Builder::new(Vec::new());
    link(
        &mut tar,
        EntryType::Symlink,
        "t/l",
        &format!("{outside_path}/secret"),
    );
    file(&mut tar, "t/l", b"mine");
    run(dir.path(), tar.into_inner().unwrap(), Some("t")).unwrap();
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"s");
    assert_eq!(fs::read(dir.path().join("t/l")).unwrap(), b"mine");
}

#[test]
fn a_file_without_end_stops_before_the_disk_is_full_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("old"), "old").unwrap();
    for name in ["new", "old"] {
        let mut tar = Builder::new(Vec::new());
        file(&mut tar, "before", b"before");
        let size = i64::MAX as u64 - 1024;
        let header = header(EntryType::Regular, size, 0o600);
        let archive = endless(
            {
                raw(&mut tar, name, header, b"");
                tar
            },
            std::iter::repeat_with(|| vec![b'x'; 60_000]),
        );
        let error = on_a_full_disk(dir.path(), archive).to_string();
        let expected = format!(
            "{name}: what the sandbox sends would leave less than 52 MiB of the disk; what came before it was copied: make room, or copy to another disk"
        );
        assert_eq!(error, expected);
        // Neither half of a file, nor one of another name; the old one is there.
        assert_eq!(names(dir.path()), ["before", "old"]);
        assert_eq!(fs::read(dir.path().join("old")).unwrap(), b"old");
    }
}

#[test]
fn files_and_directories_without_end_stop_before_the_disk_is_full() {
    for kind in [
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Fifo,
        EntryType::Link,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Builder::new(Vec::new());
        file(&mut first, "a", b"");
        let entries = (0..).map(|n| {
            let mut tar = Builder::new(Vec::new());
            let mut header = header(kind, 0, 0o700);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name_literal("a").unwrap();
            }
            // Each in a directory that is not said.
            raw(&mut tar, &format!("{n}/x"), header, b"");
            tar.get_ref().clone()
        });
        let error = on_a_full_disk(dir.path(), endless(first, entries));
        assert!(matches!(error, UnpackError::Full { .. }), "{error}");
        let made = names(dir.path()).len();
        // 16 MiB at 4 KiB for each of the two.
        assert!(made > 2000 && made < 2100, "{kind:?}: {made}");
    }
}

/// A file of holes with a byte here and there, in GNU's format in PAX headers.
fn sparse(size: u64, pieces: usize) -> Vec<u8> {
    let map: Vec<_> = (0..pieces).map(|n| format!("{},1", n << 16)).collect();
    let record = |key: &str, value: &str| {
        let text = format!(" GNU.sparse.{key}={value}\n");
        let digits = |len: usize| len.to_string().len();
        let mut len = text.len();
        while len != text.len() + digits(len) {
            len = text.len() + digits(len);
        }
        format!("{len}{text}")
    };
    let records = record("size", &size.to_string()) + &record("map", &map.join(","));
    let mut tar = Builder::new(Vec::new());
    let extended = header(EntryType::XHeader, records.len() as u64, 0o600);
    raw(&mut tar, "pax", extended, records.as_bytes());
    file(&mut tar, "s", &vec![b'x'; pieces]);
    tar.into_inner().unwrap()
}

#[test]
fn holes_take_no_room_and_pieces_do() {
    let dir = tempfile::tempdir().unwrap();
    let size = 1 << 40;
    let archive = sparse(size, 3);
    let options = Options::default();
    unpacker(dir.path(), &options).unpack(&archive[..]).unwrap();
    let made = fs::metadata(dir.path().join("s")).unwrap();
    assert_eq!(made.len(), size);
    assert!(made.blocks() * 512 < 1 << 20, "{}", made.blocks());
    // A byte in each of so many blocks.
    let archive = sparse(size, 5000);
    let error = on_a_full_disk(dir.path(), &archive[..]);
    assert!(matches!(error, UnpackError::Full { .. }), "{error}");
    // What the file before it is called is not lost.
    assert_eq!(fs::metadata(dir.path().join("s")).unwrap().len(), size);
    assert_eq!(taken_by_holes(size, 65536, 0), 0);
    assert_eq!(taken_by_holes(size, 65536, 65536), size);
    assert_eq!(taken_by_holes(3, 3, 0), 0);
}

#[test]
fn half_a_file_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "t/a", &[b'a'; 2000]);
    let mut archive = tar.into_inner().unwrap();
    archive.truncate(1500);
    let error = run(dir.path(), archive, None).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    assert!(names(dir.path()).is_empty());
    // In the place of a directory, or of another file.
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("b"), "old").unwrap();
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "t/b", b"new");
    file(&mut tar, "t/a", b"a");
    let error = run(dir.path(), tar.into_inner().unwrap(), None).unwrap_err();
    assert!(
        error.to_string().starts_with("a: Is a directory"),
        "{error}"
    );
    assert_eq!(names(dir.path()), ["a", "b"]);
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"new");
}

#[test]
fn an_archive_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "a", b"a");
    let whole = tar.into_inner().unwrap();
    let unpack_with = |tail: usize| {
        let archive = io::Read::chain(&whole[..], io::repeat(0).take(tail as u64));
        unpack(
            archive,
            File::open(dir.path()).unwrap().into(),
            &Options::default(),
        )
    };
    unpack_with(1 << 20).unwrap();
    assert!(matches!(unpack_with(usize::MAX), Err(UnpackError::Tail)));
    // Headers, and nothing that they belong to.
    let header = || {
        let mut tar = Builder::new(Vec::new());
        raw(&mut tar, "g", header(EntryType::XGlobalHeader, 0, 0), b"");
        tar.get_ref().clone()
    };
    let headers = endless(Builder::new(Vec::new()), std::iter::repeat_with(header));
    let error = on_a_full_disk(dir.path(), headers);
    assert!(error.to_string().contains("extended headers"), "{error}");
}

#[test]
fn names_have_a_length_and_a_depth() {
    for name in ["d/".repeat(1001), format!("{}/x", "long".repeat(3000))] {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        let mut long = header(EntryType::GNULongName, name.len() as u64, 0);
        long.set_cksum();
        tar.append(&long, name.as_bytes()).unwrap();
        file(&mut tar, "a", b"a");
        let error = run(dir.path(), tar.into_inner().unwrap(), None).unwrap_err();
        assert!(matches!(error, UnpackError::Deep), "{error}");
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn directories_wait_in_so_much_memory_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let mut unpacker = unpacker(dir.path(), &options);
    unpacker.most_waiting = 10_000;
    let mut tar = Builder::new(Vec::new());
    raw(
        &mut tar,
        "top/",
        header(EntryType::Directory, 0, 0o555),
        b"",
    );
    for n in 0..500 {
        let name = format!("top/{n}/");
        raw(&mut tar, &name, header(EntryType::Directory, 0, 0o500), b"");
        file(&mut tar, &format!("top/{n}/x"), b"x");
    }
    let archive = tar.into_inner().unwrap();
    let mut reader = TarReader::new(&archive[..]);
    while let Some(entry) = reader.next_entry().unwrap() {
        unpacker.entry(&entry, &mut reader).unwrap();
        assert!(unpacker.waiting < 11_000 && unpacker.directories.len() < 60);
    }
    unpacker.settle_directories(None).unwrap();
    let look = |name: &str| fs::metadata(dir.path().join(name)).unwrap();
    for name in ["top/0", "top/499"] {
        assert_eq!(look(name).permissions().mode() & 0o777, 0o500);
        assert_eq!(look(name).mtime(), 1_000_000_000);
    }
    assert_eq!(look("top").permissions().mode() & 0o777, 0o555);
    for n in 0..500 {
        let path = dir.path().join(format!("top/{n}"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let top = dir.path().join("top");
    fs::set_permissions(top, fs::Permissions::from_mode(0o700)).unwrap();
}
