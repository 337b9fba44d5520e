use super::*;
use std::fs as std_fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::error::Error;

/// Without being root, files have this user's owner.
const OWN: Unpack = Unpack {
    owner: Owner::Archive,
    top: false,
};

struct Fixture {
    dir: TempDir,
    root: Root,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std_fs::create_dir(dir.path().join("root")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        Fixture { dir, root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn pack(&self, path: &str, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(
            &self.root,
            Path::new(path),
            false,
            name.as_ref(),
            &mut bytes,
        )
        .unwrap();
        bytes
    }

    fn unpack(&self, to: &str, bytes: &[u8]) -> Result<()> {
        unpack(&self.root, Path::new(to), Cursor::new(bytes), OWN)
    }
}

/// An archive of one entry of this user's.
fn entry(name: &[u8], kind: EntryType, link: &[u8], data: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    append(&mut builder, name, kind, link, data);
    builder.into_inner().unwrap()
}

fn append(builder: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, link: &[u8], data: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_link_name_literal(link).unwrap();
    header.set_mode(0o644);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    header.set_mtime(1_000_000);
    header.set_size(data.len() as u64);
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn message(result: Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let f = Fixture::new();
    let long = "n".repeat(200);
    let deep = format!("src/{long}/{long}");
    std_fs::create_dir_all(f.path(&deep)).unwrap();
    std_fs::write(f.path(&deep).join("file"), "deep").unwrap();
    std_fs::write(f.path("src/a"), vec![7; 200_000]).unwrap();
    std_fs::set_permissions(f.path("src/a"), std_fs::Permissions::from_mode(0o4751)).unwrap();
    std_fs::hard_link(f.path("src/a"), f.path("src/b")).unwrap();
    symlink("/no/./where//", f.path("src/link")).unwrap();
    symlink("x".repeat(300), f.path("src/longlink")).unwrap();
    rustix::fs::mknodat(
        &f.root,
        "src/fifo",
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    // Not every file system has them: the value has a line's end in it.
    let xattr = rustix::fs::setxattr(
        f.path("src/a"),
        "user.x",
        b"a\n=\0b",
        rustix::fs::XattrFlags::empty(),
    );
    let bytes = f.pack("/src", "copy");
    std_fs::create_dir(f.path("to")).unwrap();
    f.unpack("/to", &bytes).unwrap();

    let copy = f.path("to/copy");
    let deep = copy.join(&long).join(&long).join("file");
    assert_eq!(std_fs::read_to_string(deep).unwrap(), "deep");
    assert_eq!(std_fs::read(copy.join("a")).unwrap(), vec![7; 200_000]);
    let (a, b) = (copy.join("a"), copy.join("b"));
    let (a, b) = (a.metadata().unwrap(), b.metadata().unwrap());
    assert_eq!((a.ino(), a.mode() & 0o7777), (b.ino(), 0o4751));
    assert_eq!(a.mtime(), f.path("src/a").metadata().unwrap().mtime());
    let link = std_fs::read_link(copy.join("link")).unwrap();
    assert_eq!(link.as_os_str(), "/no/./where//");
    assert_eq!(
        std_fs::read_link(copy.join("longlink"))
            .unwrap()
            .as_os_str()
            .len(),
        300
    );
    assert!(!copy.join("fifo").is_file() && copy.join("fifo").exists());
    if xattr.is_ok() {
        let mut value = [0; 16];
        let n = rustix::fs::getxattr(copy.join("a"), "user.x", &mut value[..]).unwrap();
        assert_eq!(value[..n], *b"a\n=\0b");
    }
    // The same archive again: files are replaced, directories merged.
    std_fs::write(copy.join("more"), "").unwrap();
    f.unpack("/to", &bytes).unwrap();
    assert!(copy.join("more").exists());
}

#[test]
fn other_tars_read_it() {
    let f = Fixture::new();
    std_fs::create_dir(f.path("src")).unwrap();
    std_fs::write(f.path("src").join("n".repeat(150)), "text").unwrap();
    std_fs::write(f.dir.path().join("x.tar"), f.pack("/src", ".")).unwrap();
    let list = std::process::Command::new("tar")
        .arg("tf")
        .arg(f.dir.path().join("x.tar"))
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert_eq!(list, format!("./\n./{}\n", "n".repeat(150)));
}

#[test]
fn a_single_file_is_an_archive_too() {
    let f = Fixture::new();
    std_fs::write(f.path("one"), "1").unwrap();
    symlink("one", f.path("link")).unwrap();
    std_fs::create_dir(f.path("to")).unwrap();
    f.unpack("/to", &f.pack("/link", "as")).unwrap();
    assert_eq!(
        std_fs::read_link(f.path("to/as")).unwrap(),
        Path::new("one")
    );
    let mut bytes = Vec::new();
    pack(
        &f.root,
        Path::new("/link"),
        true,
        "as2".as_ref(),
        &mut bytes,
    )
    .unwrap();
    f.unpack("/to", &bytes).unwrap();
    assert_eq!(std_fs::read_to_string(f.path("to/as2")).unwrap(), "1");
    let error = pack(&f.root, Path::new("/none"), true, "x".as_ref(), Vec::new());
    assert_eq!(message(error), "pack /none: no such file or directory");
}

#[test]
fn archives_do_not_lead_out_of_the_root() {
    let f = Fixture::new();
    std_fs::write(f.dir.path().join("outside"), "o").unwrap();
    let outside = || std_fs::read_to_string(f.dir.path().join("outside")).unwrap();
    for name in [&b"../outside"[..], b"a/../../outside"] {
        let bytes = entry(name, EntryType::Regular, b"", b"evil");
        assert!(message(f.unpack("/", &bytes)).contains("'..'"));
    }
    // An absolute name is one inside the root.
    f.unpack("/", &entry(b"/abs", EntryType::Regular, b"", b"x"))
        .unwrap();
    assert!(f.path("abs").exists());
    // Through links that the archive itself, or the workload, has made.
    for target in [&b"../.."[..], b"/.."] {
        let mut builder = Builder::new(Vec::new());
        append(&mut builder, b"way", EntryType::Symlink, target, b"");
        append(
            &mut builder,
            b"way/outside",
            EntryType::Regular,
            b"",
            b"evil",
        );
        f.unpack("/", &builder.into_inner().unwrap()).unwrap();
        assert_eq!(outside(), "o");
        assert_eq!(std_fs::read_to_string(f.path("outside")).unwrap(), "evil");
        std_fs::remove_file(f.path("outside")).unwrap();
    }
    // A link in the place of the file is replaced, not followed.
    symlink("../outside", f.path("file")).unwrap();
    f.unpack("/", &entry(b"file", EntryType::Regular, b"", b"new"))
        .unwrap();
    assert_eq!(
        (outside(), f.path("file").is_symlink()),
        ("o".into(), false)
    );
    // Hard links to what is outside.
    let bytes = entry(b"hard", EntryType::Link, b"../outside", b"");
    assert!(f.unpack("/", &bytes).is_err());
    symlink("../outside", f.path("soft")).unwrap();
    f.unpack("/", &entry(b"hard", EntryType::Link, b"soft", b""))
        .unwrap();
    assert!(
        f.path("hard").is_symlink(),
        "the link itself got another name"
    );
    // Packing does not follow links on its way either.
    symlink("/../..", f.path("up")).unwrap();
    assert!(
        pack(
            &f.root,
            Path::new("/up/outside"),
            true,
            "x".as_ref(),
            Vec::new()
        )
        .is_err()
    );
}

#[test]
fn files_and_directories_do_not_replace_each_other() {
    let f = Fixture::new();
    std_fs::create_dir(f.path("dir")).unwrap();
    std_fs::write(f.path("file"), "").unwrap();
    let file = entry(b"dir", EntryType::Regular, b"", b"");
    assert!(message(f.unpack("/", &file)).contains("cannot overwrite directory"));
    let directory = entry(b"file", EntryType::Directory, b"", b"");
    assert!(message(f.unpack("/", &directory)).contains("cannot overwrite non-directory"));
    let error = message(f.unpack("/none", &directory));
    assert_eq!(error, "/none: no such file or directory");
}

#[test]
fn the_top_directory_counts_when_it_shall() {
    let f = Fixture::new();
    std_fs::create_dir(f.path("to")).unwrap();
    let bytes = entry(b"./", EntryType::Directory, b"", b"");
    f.unpack("/to", &bytes).unwrap();
    assert_ne!(f.path("to").metadata().unwrap().mtime(), 1_000_000);
    let top = Unpack { top: true, ..OWN };
    unpack(&f.root, Path::new("/to"), Cursor::new(bytes), top).unwrap();
    let now = f.path("to").metadata().unwrap();
    assert_eq!((now.mtime(), now.mode() & 0o7777), (1_000_000, 0o644));
}

#[test]
fn what_cannot_be_unpacked_is_said() {
    let f = Fixture::new();
    let mut broken = entry(b"x", EntryType::Regular, b"", b"data");
    broken[0] ^= 1;
    assert!(message(f.unpack("/", &broken)).starts_with("the archive: "));
    let cut = &entry(b"x", EntryType::Regular, b"", &[1; 2000])[..1024];
    assert!(f.unpack("/", cut).is_err());
    let mut builder = Builder::new(Vec::new());
    let records = [("GNU.sparse.major", &b"1"[..])];
    builder.append_pax_extensions(records).unwrap();
    let bytes = builder.into_inner().unwrap();
    assert!(message(f.unpack("/", &bytes)).contains("sparse"));
    let unknown = entry(b"x", EntryType::new(b'Z'), b"", b"");
    assert!(message(f.unpack("/", &unknown)).contains("unknown type 'Z'"));
}

#[test]
fn a_path_is_looked_at() {
    let f = Fixture::new();
    std_fs::write(f.path("file"), "12345").unwrap();
    symlink("file", f.path("link")).unwrap();
    let entry = |path: &str, follow| stat(&f.root, Path::new(path), follow);
    let found = entry("/link", false).unwrap();
    assert_eq!(
        (found.mode & 0o170_000, found.link.as_deref()),
        (0o120_000, Some("file"))
    );
    let found = entry("/link", true).unwrap();
    assert_eq!((found.size, found.link), (5, None));
    let error: Error = entry("/none", true).unwrap_err();
    assert_eq!(error.to_string(), "/none: no such file or directory");
}

#[test]
fn trees_are_removed_whole() {
    let f = Fixture::new();
    std_fs::create_dir_all(f.path("a/b/c")).unwrap();
    std_fs::write(f.path("a/b/file"), "").unwrap();
    std_fs::write(f.dir.path().join("outside"), "").unwrap();
    symlink("../../outside", f.path("a/link")).unwrap();
    remove_all(&f.root, Path::new("a")).unwrap();
    assert!(!f.path("a").exists() && f.dir.path().join("outside").exists());
}
