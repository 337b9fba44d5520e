use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use ::tar::{EntryType, Header};
use tempfile::NamedTempFile;

use super::*;
use crate::erofs::NodeType;
use crate::erofs::testing::{Found, everything};
use crate::testing::TarBuilder;

/// A layer's image in a file, the layers below it the highest first.
fn image(tar: &[u8], lower: &[&Path]) -> Result<NamedTempFile, LayerError> {
    let image = unchecked_image(tar, lower)?;
    fsck(image.path());
    Ok(image)
}

fn unchecked_image(tar: &[u8], lower: &[&Path]) -> Result<NamedTempFile, LayerError> {
    let image = NamedTempFile::new().unwrap();
    let file = image.as_file().try_clone().unwrap();
    let layer = Layer::read(tar, file, tempfile::tempfile().unwrap())?;
    let lower: Vec<_> = lower
        .iter()
        .map(|p| erofs::Image::open(p).unwrap())
        .collect();
    layer.finish(&lower, [7; 16])?;
    Ok(image)
}

/// What the file system's own checker says, where it is installed.
fn fsck(path: &Path) {
    match Command::new("fsck.erofs").arg(path).output() {
        Ok(out) => assert!(out.status.success(), "{out:?}"),
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound),
    }
}

fn tree(tar: &mut TarBuilder) -> BTreeMap<String, Found> {
    let image = image(&tar.finish(), &[]).unwrap();
    everything(&erofs::Image::open(image.path()).unwrap())
}

fn paths(tree: &BTreeMap<String, Found>) -> Vec<&str> {
    tree.keys().skip(1).map(String::as_str).collect()
}

/// Why a tar is refused.
fn refusal(tar: &mut TarBuilder) -> String {
    let image = image(&tar.finish(), &[]);
    image.expect_err("it is refused").to_string()
}

#[test]
fn every_kind_of_entry_comes_back() {
    let big: Vec<u8> = (0..300_001_u32).map(|i| (i * 7) as u8).collect();
    let long = "x/".repeat(1500);
    let mut tar = TarBuilder::new();
    tar.directory("./", 0o711).directory("a", 0o1755);
    tar.file("a/small", b"hello")
        .file("a/big", &big)
        .file("a/empty", b"");
    tar.file("block", &[1; 4096])
        .file("inline", &[2; 2048])
        .file("more", &[3; 2049]);
    tar.symlink("l", "a/small").symlink("long", &long[..3000]);
    tar.hard_link("a/again", "a/small")
        .hard_link("third", "/a/again");
    tar.entry("fifo", EntryType::Fifo, 0o600, "", b"");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Block);
    header.set_path("sda").unwrap();
    header.set_size(0);
    header.set_mode(0o660);
    header.set_device_major(259).unwrap();
    header.set_device_minor(70000).unwrap();
    header.set_cksum();
    tar.raw(&header, b"");
    let capability = b"\x01\0\0\x02\n\x20\0\0";
    tar.pax(&[
        ("uid", b"3000000000"),
        ("mtime", b"12345678901.000000007"),
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.system.nfs4_acl", b"x"),
    ]);
    tar.file("ping", b"x");
    let tree = tree(&mut tar);
    assert_eq!(tree[""].attributes.mode, 0o711);
    assert_eq!((tree["/a"].attributes.mode, tree["/a"].links), (0o1755, 2));
    assert_eq!(tree["/a/big"].data, big);
    for (path, data) in [
        ("/a/small", &b"hello"[..]),
        ("/a/empty", b""),
        ("/block", &[1; 4096]),
        ("/inline", &[2; 2048]),
        ("/more", &[3; 2049]),
        ("/l", b"a/small"),
        ("/long", &long.as_bytes()[..3000]),
    ] {
        assert!(tree[path].data == data, "{path}");
    }
    let links = ["/a/small", "/a/again", "/third"].map(|p| (tree[p].number, tree[p].links));
    assert_eq!(links, [(tree["/third"].number, 3); 3]);
    assert_eq!(tree["/sda"].device, (259, 70000));
    assert_eq!(tree["/fifo"].kind, NodeType::Other);
    let ping = &tree["/ping"].attributes;
    assert_eq!((ping.uid, ping.gid, ping.mode), (3_000_000_000, 0, 0o644));
    assert_eq!(
        (ping.mtime.seconds, ping.mtime.nanoseconds),
        (12_345_678_901, 7)
    );
    let xattr = (b"security.capability"[..].into(), capability[..].into());
    assert_eq!(ping.xattrs, [xattr]);
    assert_eq!(tree[""].links, 3);
}

#[test]
fn large_directories_and_names_in_any_order() {
    let mut tar = TarBuilder::new();
    for i in 0..3000 {
        tar.file(
            &format!("many/file-with-a-long-name-{i}"),
            format!("{i}").as_bytes(),
        );
    }
    // Some sort before "." and "..".
    for name in ["!", "-", ".hidden", "..x", "~"] {
        tar.file(&format!("odd/{name}"), b"");
    }
    tar.file(&format!("odd/{}", "n".repeat(255)), b"");
    let tree = tree(&mut tar);
    assert_eq!(tree.len(), 1 + 1 + 3000 + 1 + 6);
    for i in 0..3000 {
        let file = &tree[&format!("/many/file-with-a-long-name-{i}")];
        assert_eq!(file.data, format!("{i}").as_bytes());
    }
}

#[test]
fn an_empty_layer_is_an_image() {
    let tree = tree(&mut TarBuilder::new());
    assert_eq!((tree.len(), tree[""].attributes.mode), (1, 0o755));
}

#[test]
fn holes_stay_holes() {
    let sparse = |size: u64, map: &str, data: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_path("s").unwrap();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let size = size.to_string();
        let records = [
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        let mut tree = tree(TarBuilder::new().pax(&records).raw(&header, data));
        tree.remove("/s").unwrap()
    };
    let file = sparse(20_000, "5,3,8190,4,19999,1", b"abcdefgh");
    let mut expected = vec![0; 20_000];
    expected[5..8].copy_from_slice(b"abc");
    expected[8190..8194].copy_from_slice(b"defg");
    expected[19_999] = b'h';
    assert!(file.data == expected);
    assert_eq!(file.holes, [false, false, false, true, false]);
    // Nothing but a hole, and no hole at all.
    assert_eq!(sparse(4097, "", b"").holes, [true, true]);
    assert!(sparse(3, "0,3", b"abc").holes.is_empty());
    // More blocks than a map has entries: chunks grow.
    let size = 65_537 * 4096;
    let file = sparse(size, "0,1,268439551,1", b"xy");
    assert_eq!(
        (file.holes.len(), file.data[size as usize - 1]),
        (32_769, b'y')
    );
    assert_eq!(file.holes.iter().filter(|hole| !**hole).count(), 2);
}

#[test]
fn whiteouts_and_opaque_directories_are_overlayfs_own() {
    let mut base = TarBuilder::new();
    base.file("a/gone", b"")
        .file("a/stays", b"")
        .file("d/x", b"")
        .file("o/x", b"");
    base.file("e/x", b"");
    let base = image(&base.finish(), &[]).unwrap();
    let mut tar = TarBuilder::new();
    tar.file("a/.wh.gone", b"").file("a/.wh.never-there", b"");
    // Whatever the order: what this layer has is above what it hides.
    tar.file("a/.wh.stays", b"").file("a/stays", b"new");
    tar.directory("d", 0o700)
        .file("d/y", b"")
        .file(".wh.d", b"");
    tar.file(".wh.e", b"").file("e/y", b"");
    tar.file("o/.wh..wh..opq", b"")
        .file("o/.wh.x", b"")
        .file("o/y", b"");
    tar.file(".wh..wh.plnk", b"").file(".wh..wh.aufs", b"");
    let upper = image(&tar.finish(), &[base.path()]).unwrap();
    let tree = everything(&erofs::Image::open(upper.path()).unwrap());
    assert_eq!(
        paths(&tree),
        [
            "/a", "/a/gone", "/a/stays", "/d", "/d/y", "/e", "/e/y", "/o", "/o/y"
        ]
    );
    assert_eq!(tree["/a/gone"].kind, NodeType::Whiteout);
    assert_eq!(tree["/a/stays"].data, b"new");
    let opaque = |path: &str| {
        let xattrs = &tree[path].attributes.xattrs;
        xattrs
            .iter()
            .any(|(n, v)| **n == *OPAQUE_XATTR && **v == *b"y")
    };
    assert_eq!(
        ["/a", "/d", "/e", "/o"].map(opaque),
        [false, true, true, true]
    );
}

#[test]
fn directories_without_an_entry_are_those_below() {
    let mut base = TarBuilder::new();
    base.pax(&[("uid", b"7"), ("SCHILY.xattr.user.x", b"y")]);
    base.directory("home", 0o2750)
        .directory("home/u", 0o700)
        .symlink("bin", "usr/bin");
    base.directory("hidden", 0o711);
    let base = image(&base.finish(), &[]).unwrap();
    let middle = TarBuilder::new()
        .file("home/u/f", b"")
        .file(".wh.hidden", b"")
        .finish();
    let middle = image(&middle, &[base.path()]).unwrap();
    let mut tar = TarBuilder::new();
    tar.file("home/u/g", b"")
        .file("new/d/f", b"")
        .file("bin/tool", b"")
        .file("hidden/f", b"");
    let layer = tar.finish();
    let upper = image(&layer, &[middle.path(), base.path()]).unwrap();
    let tree = everything(&erofs::Image::open(upper.path()).unwrap());
    let home = &tree["/home"].attributes;
    assert_eq!((home.mode, home.uid, home.xattrs.len()), (0o2750, 7, 1));
    assert_eq!(tree["/home/u"].attributes.mode, 0o700);
    assert_eq!(tree["/new"].attributes.mode, 0o755);
    // As Docker does: it takes the link's place.
    assert_eq!(tree["/bin"].kind, NodeType::Directory);
    assert_eq!(tree["/hidden"].attributes.mode, 0o755);
    // Without layers below it is the same layer, and depends on them.
    let file = tempfile::tempfile().unwrap();
    let read = Layer::read(&layer[..], file.try_clone().unwrap(), file).unwrap();
    assert!(read.needs_lower());
    let own = TarBuilder::new()
        .directory("d", 0o755)
        .file("d/f", b"")
        .finish();
    let file = tempfile::tempfile().unwrap();
    let read = Layer::read(&own[..], file.try_clone().unwrap(), file).unwrap();
    assert!(!read.needs_lower());
}

#[test]
fn the_last_of_several_entries_counts() {
    let mut tar = TarBuilder::new();
    tar.file("f", b"one").file("f", b"two");
    tar.directory("d", 0o700)
        .file("d/x", b"")
        .directory("d", 0o755);
    tar.directory("r", 0o755)
        .file("r/x", b"")
        .file("r", b"now a file");
    tar.file("t", b"").directory("t", 0o700);
    // The other name keeps what it had.
    tar.file("h", b"old").hard_link("h2", "h").file("h", b"new");
    tar.entry("h2-again", EntryType::Link, 0o4711, "h2", b"");
    let tree = tree(&mut tar);
    assert_eq!(
        paths(&tree),
        ["/d", "/d/x", "/f", "/h", "/h2", "/h2-again", "/r", "/t"]
    );
    assert_eq!(
        (&*tree["/f"].data, &*tree["/r"].data),
        (&b"two"[..], &b"now a file"[..])
    );
    assert_eq!(
        (&*tree["/h"].data, &*tree["/h2"].data),
        (&b"new"[..], &b"old"[..])
    );
    assert_eq!((tree["/h2"].links, tree["/d"].attributes.mode), (2, 0o755));
    assert_eq!(tree["/h2"].attributes.mode, 0o4711);
}

#[test]
fn links_on_the_way_stay_within_the_layer() {
    let mut tar = TarBuilder::new();
    tar.symlink("lib", "usr/lib").file("lib/x", b"1");
    tar.symlink("abs", "/usr/share").file("abs/y", b"2");
    tar.symlink("out", "../../../../etc")
        .file("out/passwd", b"3");
    tar.directory("a", 0o755)
        .symlink("a/up", "../b")
        .file("a/up/../z", b"4");
    let tree = tree(&mut tar);
    assert_eq!(tree["/usr/lib/x"].data, b"1");
    assert_eq!(tree["/usr/share/y"].data, b"2");
    assert_eq!(tree["/etc/passwd"].data, b"3");
    assert_eq!(tree["/a/z"].data, b"4");
    assert_eq!(tree["/out"].data, b"../../../../etc");
}

#[test]
fn hostile_tars_are_refused() {
    let new = TarBuilder::new;
    let file = |path: &str| refusal(new().file(path, b""));
    assert!(file("../../etc/passwd").contains("out of the layer"));
    assert!(file("a/../../b").contains("out of the layer"));
    assert!(file(&"d/".repeat(3000)).contains("4096"));
    assert!(file(&"n".repeat(300)).contains("255"));
    assert!(file(".wh..").contains("whiteout"));
    assert!(file("/").contains("root"));
    let link = |target: &str| refusal(new().file("f", b"").hard_link("l", target));
    assert!(link("../f").contains("out of the layer"));
    assert!(link("/etc/shadow").contains("does not have"));
    assert!(link("").contains("does not have"));
    assert!(refusal(new().directory("d", 0o755).hard_link("l", "d")).contains("directory"));
    assert!(refusal(new().file(".wh.x", b"").hard_link("l", "x")).contains("does not have"));
    assert!(refusal(new().file("f", b"").file("f/x", b"")).contains("no directory"));
    assert!(refusal(new().symlink("a", "b").symlink("b", "a").file("a/x", b"")).contains("links"));
    assert!(refusal(new().symlink("l", "")).contains("nothing"));
    let long = "t".repeat(5000);
    assert!(refusal(new().symlink("l", &long)).contains("symbolic link"));
    let xattr = vec![b'x'; 70_000];
    let with_xattr = refusal(new().pax(&[("SCHILY.xattr.user.x", &xattr)]).file("f", b""));
    assert!(with_xattr.contains("64 KiB"), "{with_xattr}");
}

#[test]
fn what_a_file_claims_takes_no_room() {
    // 8 EiB in one byte, and as many pieces as there is room for.
    for (size, map) in [
        (i64::MAX, "0,1"),
        (1 << 44, "0,1"),
        ((1 << 62) + 1, "4611686018427387904,1"),
    ] {
        let size = size.to_string();
        let mut header = Header::new_ustar();
        header.set_path("s").unwrap();
        header.set_size(1);
        header.set_cksum();
        let records = [
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        let tar = TarBuilder::new().pax(&records).raw(&header, b"x").finish();
        match image(&tar, &[]) {
            Ok(image) => {
                use std::os::unix::fs::MetadataExt;
                assert!(
                    image.as_file().metadata().unwrap().blocks() < 4096,
                    "{size}"
                );
            }
            Err(e) => assert!(e.to_string().contains("GiB"), "{e}"),
        }
    }
    // A file of 300 GiB that is not there.
    let mut header = Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_size(300 << 30);
    header.set_cksum();
    assert!(
        image(header.as_bytes(), &[])
            .err()
            .unwrap()
            .to_string()
            .contains("GiB")
    );
}

#[test]
fn deep_trees_end() {
    let mut tar = TarBuilder::new();
    let deep = "d/".repeat(2000);
    tar.file(&format!("{deep}f"), b"x");
    // The checker's stack has an end.
    let image = unchecked_image(&tar.finish(), &[]).unwrap();
    let tree = everything(&erofs::Image::open(image.path()).unwrap());
    assert_eq!(tree.len(), 1 + 2000 + 1);
}

#[test]
fn the_same_tar_gives_the_same_image() {
    let mut tar = TarBuilder::new();
    tar.file("a/b", b"x")
        .file("c", &[7; 5000])
        .symlink("d", "a");
    let tar = tar.finish();
    let bytes = || std::fs::read(image(&tar, &[]).unwrap().path()).unwrap();
    assert!(bytes() == bytes());
}

#[test]
fn damaged_images_give_errors() {
    let tar = TarBuilder::new().file("a/b", b"x").finish();
    let good = std::fs::read(image(&tar, &[]).unwrap().path()).unwrap();
    for at in (0..good.len()).step_by(37) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let read = || -> std::io::Result<()> {
            let image = erofs::Image::open(file.path())?;
            let root = image.root()?;
            for number in image.names(&root)?.into_values() {
                image.inode(number)?;
            }
            Ok(())
        };
        // Whatever it says, it says it without a panic.
        let _ = read();
    }
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &good[..good.len() / 2]).unwrap();
    let image = erofs::Image::open(file.path()).unwrap();
    assert!(image.root().is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    /// Any order of any entries is refused or makes an image that checks out.
    #[test]
    fn any_entries_make_an_image(entries in proptest::collection::vec(
        (0..7_u8, "[ab]{1}(/[ab.]{1,2}){0,3}", "(/|[ab]/|../){0,3}[ab]", 0..5000_usize), 0..40)
    ) {
        let mut tar = TarBuilder::new();
        for (kind, path, target, size) in &entries {
            match kind {
                0 => tar.directory(path, 0o755),
                1 | 2 => tar.file(path, &vec![b'x'; *size]),
                3 => tar.symlink(path, target),
                4 => tar.hard_link(path, target),
                5 => tar.file(&format!("{path}/.wh.a"), b""),
                _ => tar.file(&format!("{path}/.wh..wh..opq"), b""),
            };
        }
        if let Ok(image) = image(&tar.finish(), &[]) {
            everything(&erofs::Image::open(image.path()).unwrap());
        }
    }
}
