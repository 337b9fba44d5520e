//! Attributes, owners, read-only shares, single files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::super::abi::set;
use super::super::owner::Owners;
use super::*;

#[derive(Default)]
struct Set {
    valid: u32,
    handle: u64,
    size: u64,
    times: [(u64, u32); 2],
    mode: u32,
    owner: (u32, u32),
}

impl Client {
    fn setattr(&mut self, node: u64, s: &Set) -> Result<Found, i32> {
        let [atime, mtime] = s.times;
        let args = body(&[
            &s.valid.to_le_bytes(),
            &[0; 4],
            &s.handle.to_le_bytes(),
            &s.size.to_le_bytes(),
            &[0; 8],
            &atime.0.to_le_bytes(),
            &mtime.0.to_le_bytes(),
            &[0; 8],
            &atime.1.to_le_bytes(),
            &mtime.1.to_le_bytes(),
            &[0; 4],
            &s.mode.to_le_bytes(),
            &[0; 4],
            &s.owner.0.to_le_bytes(),
            &s.owner.1.to_le_bytes(),
            &[0; 4],
        ]);
        assert_eq!(args.len(), 88);
        let answer = self.call(opcode::SETATTR, node, &args)?;
        Ok(attr(&answer[16..]))
    }

    fn xattr(&mut self, kind: u32, node: u64, name: &str, size: u32) -> Result<Vec<u8>, i32> {
        let args = body(&[&size.to_le_bytes(), &[0; 4], &text(name)]);
        self.call(kind, node, &args)
    }
}

#[test]
fn attributes_change_on_both_sides() {
    let (dir, mut c) = Client::in_dir("");
    let path = dir.path().join("f");
    fs::write(&path, "hello").unwrap();
    let f = c.lookup(ROOT, "f").unwrap();
    let changed = c.setattr(
        f.node,
        &Set {
            valid: set::MODE,
            mode: 0o100640,
            ..Set::default()
        },
    );
    assert_eq!(changed.unwrap().mode, libc::S_IFREG | 0o640);
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(c.getattr(f.node).unwrap().mode & 0o7777, 0o600);

    let size = |size, handle, valid| Set {
        valid: set::SIZE | valid,
        size,
        handle,
        ..Set::default()
    };
    assert_eq!(c.setattr(f.node, &size(2, 0, 0)).unwrap().size, 2);
    let h = c.open(f.node, libc::O_RDWR).unwrap();
    assert_eq!(c.setattr(f.node, &size(7, h, set::FH)).unwrap().size, 7);
    assert_eq!(fs::read(&path).unwrap(), b"he\0\0\0\0\0");
    assert_eq!(
        c.setattr(f.node, &size(7, h + 1, set::FH)),
        Err(libc::EBADF)
    );
    assert_eq!(c.setattr(ROOT, &size(0, 0, 0)), Err(libc::EISDIR));
    assert_eq!(c.setattr(f.node, &size(u64::MAX, 0, 0)), Err(libc::EINVAL));

    let times = |times, valid| Set {
        valid,
        times,
        ..Set::default()
    };
    let past = [(1_000_000_000, 5), (1_100_000_000, 999_999_999)];
    c.setattr(f.node, &times(past, set::ATIME | set::MTIME))
        .unwrap();
    let meta = path.metadata().unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec()), (1_000_000_000, 5));
    assert_eq!(
        (meta.mtime(), meta.mtime_nsec()),
        (1_100_000_000, 999_999_999)
    );
    c.setattr(f.node, &times(past, set::MTIME | set::MTIME_NOW))
        .unwrap();
    let meta = path.metadata().unwrap();
    assert!(meta.mtime() > 1_500_000_000 && meta.atime() == 1_000_000_000);
    let omit = [(0, 0), (0, (1 << 30) - 2)];
    assert_eq!(
        c.setattr(f.node, &times(omit, set::MTIME)),
        Err(libc::EINVAL)
    );

    // Of a link, not of what it leads to.
    symlink("f", dir.path().join("link")).unwrap();
    let link = c.lookup(ROOT, "link").unwrap();
    c.setattr(link.node, &times(past, set::MTIME)).unwrap();
    assert_eq!(
        dir.path().join("link").symlink_metadata().unwrap().mtime(),
        1_100_000_000
    );
    assert_ne!(path.metadata().unwrap().mtime(), 1_100_000_000);
    let chmod = Set {
        valid: set::MODE,
        mode: 0o777,
        ..Set::default()
    };
    assert_eq!(c.setattr(link.node, &chmod), Err(libc::EOPNOTSUPP));
    assert_eq!(c.setattr(link.node, &size(0, 0, 0)), Err(libc::ELOOP));
}

#[test]
fn owners_are_those_of_the_host_or_root() {
    let (dir, mut c) = Client::in_dir("");
    (c.uid, c.gid) = (1234, 567);
    let (f, _) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    let d = c.mkdir(ROOT, "d").unwrap();
    let link = found(
        &c.call(opcode::SYMLINK, ROOT, &body(&[&text("l"), &text("x")]))
            .unwrap(),
    );
    let host = |name: &str| {
        let meta = dir.path().join(name).symlink_metadata().unwrap();
        (meta.uid(), meta.gid())
    };
    let chown = |uid, gid| Set {
        valid: set::UID | set::GID,
        owner: (uid, gid),
        ..Set::default()
    };
    if Owners::of_process() == Owners::Root {
        for (name, found) in [("f", f), ("d", d), ("l", link)] {
            assert_eq!(
                (host(name), found.owner),
                ((1234, 567), (1234, 567)),
                "{name}"
            );
        }
        assert_eq!(c.setattr(f.node, &chown(7, 8)).unwrap().owner, (7, 8));
        assert_eq!(host("f"), (7, 8));
    } else {
        for found in [f, d, link] {
            assert_eq!(found.owner, (0, 0));
        }
        c.setattr(f.node, &chown(0, 0)).unwrap();
        assert_eq!(c.setattr(f.node, &chown(7, 0)), Err(libc::EPERM));
    }
    assert_eq!(c.setattr(f.node, &chown(u32::MAX, 0)), Err(libc::EINVAL));
    // The link itself, and nothing that it might lead to.
    c.setattr(link.node, &chown(0, 0)).unwrap();
}

#[test]
fn extended_attributes_of_users_pass() {
    let (dir, mut c) = Client::in_dir("");
    let (f, _) = c.create(ROOT, "f", libc::O_RDWR).unwrap();
    let setx = |name: &str, value: &[u8], size: u32| {
        body(&[&size.to_le_bytes(), &[0; 4], &text(name), value])
    };
    match c.call(opcode::SETXATTR, f.node, &setx("user.a", b"value", 5)) {
        // The host's temporary directory may have none.
        Err(libc::EOPNOTSUPP) => return,
        other => other.unwrap(),
    };
    let (get, list) = (opcode::GETXATTR, opcode::LISTXATTR);
    assert_eq!(c.xattr(get, f.node, "user.a", 100).unwrap(), b"value");
    assert_eq!(
        c.xattr(get, f.node, "user.a", 0).unwrap(),
        [5, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(c.xattr(get, f.node, "user.a", 3), Err(libc::ERANGE));
    assert_eq!(c.xattr(get, f.node, "user.b", 9), Err(libc::ENODATA));
    assert_eq!(c.xattr(list, f.node, "", 100).unwrap(), b"user.a\0");
    assert_eq!(u32_at(&c.xattr(list, f.node, "", 0).unwrap(), 0), 7);
    assert_eq!(c.xattr(list, f.node, "", 3), Err(libc::ERANGE));
    for name in [
        "security.capability",
        "trusted.x",
        "system.posix_acl_access",
        "user",
        "",
    ] {
        assert_eq!(
            c.xattr(get, f.node, name, 9),
            Err(libc::EOPNOTSUPP),
            "{name}"
        );
        let bad = c.call(opcode::SETXATTR, f.node, &setx(name, b"x", 1));
        assert_eq!(bad, Err(libc::EOPNOTSUPP), "{name}");
        let bad = c.call(opcode::REMOVEXATTR, f.node, &text(name));
        assert_eq!(bad, Err(libc::EOPNOTSUPP), "{name}");
    }
    for size in [4, 6, u32::MAX] {
        let bad = c.call(opcode::SETXATTR, f.node, &setx("user.b", b"value", size));
        assert!(matches!(bad, Err(libc::EINVAL | libc::E2BIG)));
    }
    c.call(opcode::REMOVEXATTR, f.node, &text("user.a"))
        .unwrap();
    assert_eq!(c.xattr(list, f.node, "", 100).unwrap(), b"");
    symlink("f", dir.path().join("l")).unwrap();
    let link = c.lookup(ROOT, "l").unwrap().node;
    assert_eq!(c.xattr(get, link, "user.a", 9), Err(libc::ENODATA));
}

#[test]
fn the_file_system_has_the_hosts_size() {
    let (dir, mut c) = Client::in_dir("");
    let st = c.call(opcode::STATFS, ROOT, &[]).unwrap();
    let host = rustix::fs::statvfs(dir.path()).unwrap();
    assert_eq!((st.len(), u64_at(&st, 0)), (80, host.f_blocks));
    assert_eq!(u32_at(&st, 40) as u64, host.f_bsize);
    c.call(opcode::SYNCFS, ROOT, &[0; 8]).unwrap();
}

#[test]
fn what_may_be_cached_is_said_with_each_answer() {
    let (dir, mut c) = Client::in_dir(",cache=3");
    fs::write(dir.path().join("f"), "").unwrap();
    let entry = c.call(opcode::LOOKUP, ROOT, &text("f")).unwrap();
    assert_eq!((u64_at(&entry, 16), u64_at(&entry, 24)), (3, 3));
    let attr = c.call(opcode::GETATTR, ROOT, &[0; 16]).unwrap();
    assert_eq!((u64_at(&attr, 0), u64_at(&attr, 8)), (3, 0));
    let handle = c.call(opcode::OPENDIR, ROOT, &[0; 8]).unwrap();
    let args = Client::io_args(u64_at(&handle, 0), 0, 4096, 0, 0);
    let list = c.call(opcode::READDIRPLUS, ROOT, &args).unwrap();
    let valid = list.chunks(160).filter(|e| u64_at(e, 0) != 0);
    assert!(
        valid
            .clone()
            .all(|e| (u64_at(e, 16), u64_at(e, 24)) == (3, 3))
    );
}

#[test]
fn a_readonly_share_does_not_change_at_all() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "text").unwrap();
    let before = dir.path().join("f").metadata().unwrap();
    let mut c = Client::new(dir.path(), ",readonly");
    let f = c.lookup(ROOT, "f").unwrap().node;
    let h = c.open(f, libc::O_RDONLY).unwrap();
    assert_eq!(c.read(f, h, 0, 9).unwrap(), b"text");
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_ACCMODE] {
        assert_eq!(c.open(f, flags), Err(libc::EROFS), "{flags:o}");
    }
    assert_eq!(c.create(ROOT, "f", libc::O_RDONLY), Err(libc::EROFS));
    assert_eq!(c.write(f, h, 0, b"x"), Err(libc::EROFS));
    for valid in [
        set::MODE,
        set::UID,
        set::SIZE,
        set::MTIME,
        set::SIZE | set::FH,
    ] {
        let s = Set {
            valid,
            handle: h,
            mode: 0o777,
            ..Set::default()
        };
        assert_eq!(c.setattr(f, &s), Err(libc::EROFS));
    }
    for kind in [
        opcode::SYMLINK,
        opcode::MKNOD,
        opcode::MKDIR,
        opcode::UNLINK,
        opcode::RMDIR,
        opcode::RENAME,
        opcode::RENAME2,
        opcode::LINK,
        opcode::FALLOCATE,
        opcode::COPY_FILE_RANGE,
        opcode::SETXATTR,
        opcode::REMOVEXATTR,
    ] {
        assert_eq!(c.call(kind, ROOT, &[b'f'; 128]), Err(libc::EROFS), "{kind}");
    }
    assert_eq!(c.names(ROOT), [".", "..", "f"]);
    let after = dir.path().join("f").metadata().unwrap();
    assert_eq!(
        (after.mtime(), after.ctime(), after.mode()),
        (before.mtime(), before.ctime(), before.mode())
    );
}

#[test]
fn of_a_single_file_nothing_else_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "text").unwrap();
    fs::write(dir.path().join("secret"), "").unwrap();
    let mut c = Client::new(&path, "");
    let f = c.lookup(ROOT, "f").unwrap();
    assert_eq!(f.size, 4);
    for name in ["secret", "."] {
        assert!(c.lookup(ROOT, name).is_err());
    }
    let top = c.getattr(ROOT).unwrap();
    assert_eq!((top.mode, top.owner), (libc::S_IFDIR | 0o555, (0, 0)));
    for (plus, size) in [(false, 4096), (true, 4096), (false, 40), (true, 168)] {
        let list = c.list(ROOT, plus, size).unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list[2].1.node, if plus { f.node } else { 0 });
    }
    // The file is writable, its directory is nobody's.
    let h = c.open(f.node, libc::O_RDWR).unwrap();
    c.write(f.node, h, 0, b"TEXT!").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"TEXT!");
    assert_eq!(c.mkdir(ROOT, "d"), Err(libc::EPERM));
    assert_eq!(c.create(ROOT, "g", libc::O_RDWR), Err(libc::EPERM));
    assert_eq!(c.create(ROOT, "f", libc::O_RDWR), Err(libc::EPERM));
    for kind in [opcode::UNLINK, opcode::RMDIR, opcode::READLINK] {
        assert_eq!(c.call(kind, ROOT, &text("f")), Err(libc::EPERM));
    }
    let rename = body(&[&ROOT.to_le_bytes(), &text("f"), &text("g")]);
    assert_eq!(c.call(opcode::RENAME, ROOT, &rename), Err(libc::EPERM));
    let link = body(&[&f.node.to_le_bytes(), &text("g")]);
    assert_eq!(c.call(opcode::LINK, ROOT, &link), Err(libc::EPERM));
    let chmod = Set {
        valid: set::MODE,
        mode: 0o777,
        ..Set::default()
    };
    assert_eq!(c.setattr(ROOT, &chmod), Err(libc::EPERM));
    assert_eq!(
        c.xattr(opcode::GETXATTR, ROOT, "user.a", 9),
        Err(libc::ENODATA)
    );
    assert_eq!(c.xattr(opcode::LISTXATTR, ROOT, "", 9).unwrap(), b"");
    c.call(opcode::STATFS, ROOT, &[]).unwrap();
    c.call(opcode::SYNCFS, ROOT, &[0; 8]).unwrap();
    assert_eq!(c.lookup(f.node, ".."), Err(libc::EINVAL));
    // What the host writes into it is seen; another file in its place, as many an
    // editor leaves it, is not.
    fs::write(&path, "longer text").unwrap();
    assert_eq!(c.lookup(ROOT, "f").unwrap().size, 11);
    fs::write(dir.path().join("new"), "new").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    let same = c.lookup(ROOT, "f").unwrap();
    assert_eq!((same.node, same.size), (f.node, 11));
    let h = c.open(f.node, libc::O_RDONLY).unwrap();
    assert_eq!(c.read(f.node, h, 0, 64).unwrap(), b"longer text");
    c.call(opcode::STATFS, ROOT, &[]).unwrap();
}
