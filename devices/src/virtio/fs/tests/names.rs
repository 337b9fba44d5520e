//! Names in directories.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use super::*;

#[test]
fn lookups_give_the_same_node_for_the_same_file() {
    let (dir, mut c) = Client::in_dir("");
    fs::write(dir.path().join("a"), "hello").unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let a = c.lookup(ROOT, "a").unwrap();
    assert_eq!(
        (a.size, a.nlink, a.mode & libc::S_IFMT),
        (5, 2, libc::S_IFREG)
    );
    assert_eq!(c.lookup(ROOT, "b").unwrap(), a);
    assert_eq!(c.lookup(ROOT, "c"), Err(libc::ENOENT));
    assert_eq!(c.lookup(a.node, "x"), Err(libc::ENOTDIR));
    c.forget(a.node, 1);
    assert_eq!(c.getattr(a.node).unwrap().size, 5);
    c.forget(a.node, 1);
    assert_eq!(c.getattr(a.node), Err(libc::ESTALE));
    assert_eq!(c.held(), (1, 0));
    c.forget(ROOT, u64::MAX);
    assert_eq!(c.getattr(ROOT).unwrap().mode & libc::S_IFMT, libc::S_IFDIR);
}

#[test]
fn batches_forget_too() {
    let (dir, mut c) = Client::in_dir("");
    let mut args = body(&[&3u32.to_le_bytes(), &[0; 4]]);
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), "").unwrap();
        let node = c.lookup(ROOT, name).unwrap().node;
        args.extend(node.to_le_bytes());
        args.extend(1u64.to_le_bytes());
    }
    // The third is missing.
    let mut request = c.header(opcode::BATCH_FORGET, 0, args.len());
    request.extend(args);
    c.d.put(REQUEST, &request);
    let chain = [Desc::readable(REQUEST, request.len() as u32)];
    assert_eq!(c.d.request(1, &chain), 0);
    assert_eq!(c.held().0, 1);
}

#[test]
fn what_the_guest_creates_is_on_the_host() {
    let (dir, mut c) = Client::in_dir("");
    let at = |name: &str| dir.path().join(name);
    let sub = c.mkdir(ROOT, "sub").unwrap();
    assert!(at("sub").is_dir() && sub.mode & libc::S_IFMT == libc::S_IFDIR);
    assert_eq!(c.mkdir(ROOT, "sub"), Err(libc::EEXIST));

    let (file, handle) = c.create(sub.node, "file", libc::O_RDWR).unwrap();
    assert_eq!(c.write(file.node, handle, 0, b"text").unwrap(), 4);
    assert_eq!(fs::read(at("sub/file")).unwrap(), b"text");
    let exists = c.create(sub.node, "file", libc::O_RDWR | libc::O_EXCL);
    assert_eq!(exists, Err(libc::EEXIST));
    let (again, _) = c.create(sub.node, "file", libc::O_RDWR).unwrap();
    assert_eq!(again.node, file.node);
    let truncated = c.create(sub.node, "file", libc::O_RDWR | libc::O_TRUNC);
    assert_eq!(
        (
            truncated.unwrap().0.node,
            at("sub/file").metadata().unwrap().len()
        ),
        (file.node, 0)
    );

    let link = body(&[&text("link"), &text("../../etc/passwd")]);
    let link = found(&c.call(opcode::SYMLINK, ROOT, &link).unwrap());
    assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
    let target = c.call(opcode::READLINK, link.node, &[]).unwrap();
    assert_eq!(target, b"../../etc/passwd");
    assert_eq!(c.call(opcode::READLINK, file.node, &[]), Err(libc::EINVAL));

    for (old, name) in [(file.node, "hard"), (link.node, "hard-link")] {
        let args = body(&[&old.to_le_bytes(), &text(name)]);
        let linked = found(&c.call(opcode::LINK, ROOT, &args).unwrap());
        assert_eq!((linked.node, linked.nlink), (old, 2));
    }
    assert_eq!(at("hard").metadata().unwrap().nlink(), 2);
    let args = body(&[&sub.node.to_le_bytes(), &text("no")]);
    assert_eq!(c.call(opcode::LINK, ROOT, &args), Err(libc::EPERM));

    let fifo = body(&[
        &(libc::S_IFIFO | 0o600).to_le_bytes(),
        &[0; 12],
        &text("fifo"),
    ]);
    let fifo = found(&c.call(opcode::MKNOD, ROOT, &fifo).unwrap());
    assert!(at("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    // Which the host would wait at.
    assert_eq!(c.open(fifo.node, libc::O_RDONLY), Err(libc::EACCES));
    let plain = body(&[&0o600u32.to_le_bytes(), &[0; 12], &text("plain")]);
    c.call(opcode::MKNOD, ROOT, &plain).unwrap();
    assert!(at("plain").is_file());
}

#[test]
fn devices_cannot_be_made() {
    let (dir, mut c) = Client::in_dir("");
    for (kind, rdev) in [
        (libc::S_IFCHR, 0x101u32),
        (libc::S_IFBLK, 0x800),
        (libc::S_IFBLK, 0),
    ] {
        let args = body(&[
            &(kind | 0o666).to_le_bytes(),
            &rdev.to_le_bytes(),
            &[0; 8],
            &text("dev"),
        ]);
        assert_eq!(c.call(opcode::MKNOD, ROOT, &args), Err(libc::EPERM));
    }
    assert!(!dir.path().join("dev").exists());
}

#[test]
fn names_are_removed_and_renamed() {
    let (dir, mut c) = Client::in_dir("");
    let at = |name: &str| dir.path().join(name);
    let sub = c.mkdir(ROOT, "sub").unwrap();
    let (file, _) = c.create(ROOT, "a", libc::O_RDWR).unwrap();
    fs::write(at("a"), "a").unwrap();
    let rename = body(&[&sub.node.to_le_bytes(), &text("a"), &text("b")]);
    c.call(opcode::RENAME, ROOT, &rename).unwrap();
    assert_eq!(fs::read(at("sub/b")).unwrap(), b"a");
    assert_eq!(c.lookup(sub.node, "b").unwrap().node, file.node);

    fs::write(at("c"), "c").unwrap();
    let rename2 = |flags: u32| {
        body(&[
            &sub.node.to_le_bytes(),
            &flags.to_le_bytes(),
            &[0; 4],
            &text("c"),
            &text("b"),
        ])
    };
    let noreplace = rename2(libc::RENAME_NOREPLACE);
    assert_eq!(c.call(opcode::RENAME2, ROOT, &noreplace), Err(libc::EEXIST));
    c.call(opcode::RENAME2, ROOT, &rename2(libc::RENAME_EXCHANGE))
        .unwrap();
    assert_eq!(
        (fs::read(at("c")).unwrap(), fs::read(at("sub/b")).unwrap()),
        (b"a".into(), b"c".into())
    );
    assert_eq!(
        c.call(opcode::RENAME2, ROOT, &rename2(1 << 7)),
        Err(libc::EINVAL)
    );

    assert_eq!(
        c.call(opcode::RMDIR, ROOT, &text("sub")),
        Err(libc::ENOTEMPTY)
    );
    assert_eq!(
        c.call(opcode::UNLINK, ROOT, &text("sub")),
        Err(libc::EISDIR)
    );
    c.call(opcode::UNLINK, sub.node, &text("b")).unwrap();
    c.call(opcode::RMDIR, ROOT, &text("sub")).unwrap();
    assert!(!at("sub").exists());
    // A node outlives its name.
    assert_eq!(c.getattr(sub.node).unwrap().node, sub.node);
    assert_eq!(c.mkdir(sub.node, "x"), Err(libc::ENOENT));
}

#[test]
fn listings_hold_every_entry_once() {
    let (dir, mut c) = Client::in_dir("");
    let mut expect = vec![".".to_owned(), "..".to_owned()];
    for n in 0..300 {
        let name = format!("file-{n:0width$}", width = n % 40 + 1);
        fs::write(dir.path().join(&name), "").unwrap();
        expect.push(name);
    }
    symlink("nowhere", dir.path().join("link")).unwrap();
    expect.push("link".to_owned());
    expect.sort();
    // The descriptors suffice for a part of them; the names are told all the same.
    for (plus, size) in [
        (false, 512),
        (false, 0x1_0000),
        (true, 1024),
        (true, 0x1_0000),
    ] {
        let list = c.list(ROOT, plus, size).unwrap();
        let known = list.iter().filter(|(_, e)| e.node != 0).count();
        assert_eq!(known, if plus { c.held().0 - 1 } else { 0 }, "{size}");
        let link = list.iter().find(|(name, _)| name == "link").unwrap();
        assert_eq!(link.1.mode, libc::S_IFLNK);
        let mut names: Vec<_> = list.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, expect, "{plus} {size}");
    }
    assert_eq!(c.held().0, FILES * 3 / 4, "full");
    let too_little = c.list(ROOT, false, 16);
    assert_eq!(too_little, Err(libc::EINVAL));
}

/// As many files as a large directory tree has, half of them of either side: the
/// guest lists, reads and knows them all, and forgets them again.
#[test]
fn ten_thousand_files_are_seen_the_same() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const COUNT: usize = 10_000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let files = 2 * COUNT;
    if limit
        .maximum
        .is_some_and(|maximum| maximum < files as u64 + 200)
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut fs_device = Fs::open(&FsSpec::new(dir.path(), "t"), 0, files).unwrap();
    fs_device.serve_on_event_loop();
    let mut c = Client::over(fs_device);
    assert!(c.d.start(0));
    c.init();
    for n in 0..COUNT {
        let name = format!("file {n}");
        if n % 2 == 0 {
            fs::write(dir.path().join(&name), &name).unwrap();
            continue;
        }
        let (file, h) = c.create(ROOT, &name, libc::O_WRONLY).unwrap();
        c.write(file.node, h, 0, name.as_bytes()).unwrap();
        let args = body(&[&h.to_le_bytes(), &[0; 16]]);
        c.call(opcode::RELEASE, file.node, &args).unwrap();
    }
    let list = c.list(ROOT, true, 0x1_0000).unwrap();
    assert_eq!(list.len(), COUNT + 2);
    assert_eq!(c.held(), (COUNT + 1, 0));
    for (name, entry) in list.iter().filter(|(_, e)| e.node != 0) {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), name.as_bytes());
        let h = c.open(entry.node, libc::O_RDONLY).unwrap();
        assert_eq!(c.read(entry.node, h, 0, 100).unwrap(), name.as_bytes());
        let args = body(&[&h.to_le_bytes(), &[0; 16]]);
        c.call(opcode::RELEASE, entry.node, &args).unwrap();
        // Once for the listing, and once for the file's creation.
        c.forget(entry.node, 2);
    }
    assert_eq!(c.held(), (1, 0));
}
