use ::tar::{EntryType, Header};

use super::*;
use crate::testing::TarBuilder;

fn entries(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let stored = match &entry.sparse {
            Some(map) => map.iter().map(|s| s.len).sum(),
            None => entry.size,
        };
        let mut data = Vec::new();
        (&mut reader).take(stored).read_to_end(&mut data)?;
        entries.push((entry, data));
    }
    Ok(entries)
}

fn one(tar: &[u8]) -> (Entry, Vec<u8>) {
    let mut entries = entries(tar).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn segments(map: &[(u64, u64)]) -> Option<Vec<Segment>> {
    let segment = |(offset, len): &(u64, u64)| Segment {
        offset: *offset,
        len: *len,
    };
    Some(map.iter().map(segment).collect())
}

#[test]
fn entries_come_out_as_they_went_in() {
    let long = "d/".repeat(200) + "name";
    let mut tar = TarBuilder::new();
    tar.directory("a", 0o1755).file("a/b", b"data");
    tar.symlink("l", &long).hard_link(&long, "a/b");
    let entries = entries(&tar.finish()).unwrap();
    let kinds: Vec<_> = entries.iter().map(|(e, _)| e.kind.clone()).collect();
    let target = long.clone().into_bytes();
    let expected = [
        Kind::Directory,
        Kind::File,
        Kind::Symlink(target.clone()),
        Kind::HardLink(b"a/b".to_vec()),
    ];
    assert_eq!(kinds, expected);
    assert_eq!((entries[0].0.mode, &*entries[1].1), (0o1755, &b"data"[..]));
    assert_eq!(entries[3].0.path, target);
}

#[test]
fn pax_records_override_the_header() {
    let mut tar = TarBuilder::new();
    tar.pax(&[
        ("path", "ä/b".as_bytes()),
        ("uid", b"3000000000"),
        ("gid", b"70000"),
        ("mtime", b"-1.5"),
        ("size", b"3"),
        ("SCHILY.xattr.user.x", b"\n\0"),
    ]);
    // The header's size is wrong, as it is for files of 8 GiB and more.
    let mut header = Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(0);
    header.set_mode(0o600);
    header.set_cksum();
    let (entry, data) = one(&tar.raw(&header, b"abc").finish());
    assert_eq!(entry.path, "ä/b".as_bytes());
    assert_eq!(
        (entry.uid, entry.gid, entry.size),
        (3_000_000_000, 70000, 3)
    );
    assert_eq!(
        (entry.mtime.seconds, entry.mtime.nanoseconds),
        (-2, 500_000_000)
    );
    assert_eq!(entry.xattrs, [(b"user.x".to_vec(), b"\n\0".to_vec())]);
    assert_eq!(data, b"abc");
}

#[test]
fn global_headers_are_passed_over() {
    let mut tar = TarBuilder::new();
    let mut bytes = tar.pax(&[("path", b"global")]).file("short", b"").finish();
    assert_eq!(one(&bytes).0.path, b"global");
    bytes[156] = b'g';
    let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
    let field: u32 = bytes[148..156].iter().map(|b| u32::from(*b)).sum();
    let checksum = format!("{:06o}\0 ", sum - field + 8 * 32);
    bytes[148..156].copy_from_slice(checksum.as_bytes());
    assert_eq!(one(&bytes).0.path, b"short");
}

#[test]
fn each_form_of_sparse_files_is_understood() {
    let map = segments(&[(512, 3), (4096, 2)]);
    let file = |header: &mut Header, size| {
        header.set_path("s").unwrap();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
    };
    // 0.0, 0.1 and 1.0.
    let old: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"512"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"4096"),
        ("GNU.sparse.numbytes", b"2"),
    ];
    let middle: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.map", b"512,3,4096,2"),
    ];
    let new: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"10000"),
    ];
    let mut with_map = b"3\n512\n3\n4096\n2\n10000\n0\n".to_vec();
    with_map.resize(512, 0);
    with_map.extend(b"abcde");
    for (records, data) in [(old, &b"abcde"[..]), (middle, b"abcde"), (new, &with_map)] {
        let mut header = Header::new_ustar();
        file(&mut header, data.len() as u64);
        let tar = TarBuilder::new().pax(records).raw(&header, data).finish();
        let (entry, data) = one(&tar);
        assert_eq!((entry.size, &entry.sparse), (10000, &map));
        assert_eq!((&*entry.path, &*data), (&b"s"[..], &b"abcde"[..]));
    }
    // The one before PAX, with more pieces than its header holds.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    {
        let gnu = header.as_gnu_mut().unwrap();
        for (i, sparse) in gnu.sparse.iter_mut().enumerate() {
            sparse
                .offset
                .copy_from_slice(format!("{:011o}\0", i * 1000).as_bytes());
            sparse.numbytes.copy_from_slice(b"00000000001\0");
        }
        gnu.isextended = [1];
        gnu.realsize
            .copy_from_slice(format!("{:011o}\0", 9000).as_bytes());
    }
    file(&mut header, 5);
    let mut more = vec![0; 512];
    more[..24].copy_from_slice(b"00000007640\x0000000000001\0");
    let mut tar = header.as_bytes().to_vec();
    tar.extend(more);
    tar.extend(b"abcde");
    tar.resize(4 * 512, 0);
    let (entry, data) = one(&tar);
    let map = segments(&[(0, 1), (1000, 1), (2000, 1), (3000, 1), (4000, 1)]);
    assert_eq!(
        (entry.size, entry.sparse, &*data),
        (9000, map, &b"abcde"[..])
    );
}

#[test]
fn bad_sparse_maps_are_refused() {
    let sparse = |size: &str, map: &str| {
        let mut header = Header::new_ustar();
        header.set_path("s").unwrap();
        header.set_size(5);
        header.set_cksum();
        let records = [
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        entries(
            &TarBuilder::new()
                .pax(&records)
                .raw(&header, b"abcde")
                .finish(),
        )
    };
    assert!(sparse("100", "0,5").is_ok());
    for (size, map) in [
        ("100", "0,4"),
        ("100", "0,6"),
        ("100", "97,5"),
        ("100", "10,2,11,3"),
        ("100", "10,2,5,3"),
        ("100", "0"),
        ("100", "18446744073709551615,5"),
        ("18446744073709551615", "0,5"),
        ("x", "0,5"),
    ] {
        assert!(sparse(size, map).is_err(), "{size} {map}");
    }
}

#[test]
fn a_sparse_map_that_goes_on_without_pieces_is_refused() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.as_gnu_mut().unwrap().isextended = [1];
    header.set_size(0);
    header.set_cksum();
    let mut block = [0; 512];
    block[504] = 1;
    let endless = std::iter::repeat_n(block, 1000).flatten();
    let tar: Vec<u8> = header.as_bytes().iter().copied().chain(endless).collect();
    let error = TarReader::new(&tar[..]).next_entry().unwrap_err();
    assert!(error.to_string().contains("a bad sparse map"), "{error}");
}

#[test]
fn what_is_no_archive_is_refused() {
    let tar = TarBuilder::new().file("a", &[1; 700]).finish();
    assert!(entries(&[]).unwrap().is_empty());
    assert!(entries(&[0; 512]).unwrap().is_empty());
    // The blocks at the end may be missing.
    assert_eq!(entries(&tar[..tar.len() - 1024]).unwrap().len(), 1);
    for end in [100, 511, 600, 512 + 700] {
        assert!(entries(&tar[..end]).is_err(), "{end}");
    }
    let mut damaged = tar.clone();
    damaged[0] ^= 1;
    assert!(matches!(entries(&damaged), Err(TarError::Checksum(0))));
    assert!(matches!(entries(&[b'x'; 2048]), Err(TarError::Checksum(0))));
    // Extended headers have a limit, whatever they say.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(entries(header.as_bytes()).is_err());
    // All of one entry together have one, too: what they say is kept.
    let many = |count| {
        let mut tar = TarBuilder::new();
        for _ in 0..count {
            tar.pax(&[("comment", &[b'x'; 1_000_000])]);
        }
        tar.file("a", b"").finish()
    };
    assert_eq!(entries(&many(4)).unwrap().len(), 1);
    assert!(entries(&many(6)).is_err());
    // Something unknown is not passed over.
    let mut odd = Header::new_gnu();
    odd.set_entry_type(EntryType::new(b'Z'));
    odd.set_size(0);
    odd.set_cksum();
    assert!(entries(odd.as_bytes()).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(mut bytes: Vec<u8>, kind: u8) {
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        // With a checksum that fits, so that the rest is looked at.
        bytes[156] = kind;
        bytes[148..156].copy_from_slice(b"        ");
        let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let _ = entries(&bytes);
    }
}
