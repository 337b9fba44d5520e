//! A guest that tries to leave the share.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// A share with a secret beside it.
fn beside_a_secret() -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    fs::create_dir_all(dir.path().join("share/sub")).unwrap();
    let client = Client::new(&dir.path().join("share"), "");
    (dir, client)
}

#[test]
fn no_name_leads_out() {
    let (dir, mut c) = beside_a_secret();
    let sub = c.lookup(ROOT, "sub").unwrap().node;
    let absolute = dir.path().join("secret").display().to_string();
    let (file, _) = c.create(ROOT, "mine", libc::O_RDWR).unwrap();
    for parent in [ROOT, sub] {
        for name in [
            "..",
            ".",
            "",
            "../secret",
            "../../secret",
            "sub/../../secret",
            "/",
            &absolute,
        ] {
            let name = text(name);
            let with = |head: &[u8]| body(&[head, &name]);
            let two = |head: &[u8], other: &str| {
                [
                    body(&[head, &name, &text(other)]),
                    body(&[head, &text(other), &name]),
                ]
            };
            let mut requests = vec![
                (opcode::LOOKUP, name.clone()),
                (opcode::UNLINK, name.clone()),
                (opcode::RMDIR, name.clone()),
                (
                    opcode::MKDIR,
                    with(&[0o755u32.to_le_bytes(), [0; 4]].concat()),
                ),
                (
                    opcode::MKNOD,
                    with(&body(&[&(libc::S_IFREG | 0o644).to_le_bytes(), &[0; 12]])),
                ),
                (opcode::LINK, with(&file.node.to_le_bytes())),
                (opcode::SYMLINK, body(&[&name, &text("target")])),
                (
                    opcode::CREATE,
                    with(&body(&[
                        &libc::O_RDWR.to_le_bytes(),
                        &0o644u32.to_le_bytes(),
                        &[0; 8],
                    ])),
                ),
            ];
            requests.extend(two(&ROOT.to_le_bytes(), "mine").map(|b| (opcode::RENAME, b)));
            let head = body(&[&ROOT.to_le_bytes(), &[0; 8]]);
            requests.extend(two(&head, "mine").map(|b| (opcode::RENAME2, b)));
            for (kind, args) in requests {
                let answer = c.call(kind, parent, &args);
                assert_eq!(
                    answer,
                    Err(libc::EINVAL),
                    "{kind} {:?}",
                    String::from_utf8_lossy(&name)
                );
            }
        }
    }
    assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"secret");
    let mut outside: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    outside.sort();
    assert_eq!(outside, ["secret", "share"]);
}

#[test]
fn links_are_the_guests_to_follow() {
    let (dir, mut c) = beside_a_secret();
    let share = dir.path().join("share");
    symlink("../secret", share.join("relative")).unwrap();
    symlink(dir.path().join("secret"), share.join("absolute")).unwrap();
    symlink("..", share.join("up")).unwrap();
    symlink("/proc/self/fd/3", share.join("magic")).unwrap();
    for name in ["relative", "absolute", "up", "magic"] {
        let link = c.lookup(ROOT, name).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(c.open(link.node, libc::O_RDONLY), Err(libc::ELOOP));
        assert_eq!(c.lookup(link.node, "secret"), Err(libc::ENOTDIR));
        assert_eq!(
            c.call(opcode::OPENDIR, link.node, &[0; 8]),
            Err(libc::ENOTDIR)
        );
        // Neither does a file that is to be created follow it, whatever the flags.
        for flags in [
            libc::O_RDWR,
            libc::O_RDONLY | libc::O_PATH,
            libc::O_RDWR | libc::O_TRUNC,
        ] {
            assert!(c.create(ROOT, name, flags).is_err(), "{name}");
        }
        let args = body(&[&0u32.to_le_bytes(), &[0; 4], &text("x")]);
        assert_eq!(c.call(opcode::MKDIR, link.node, &args), Err(libc::ENOTDIR));
        let args = body(&[&ROOT.to_le_bytes(), &text("secret"), &text("stolen")]);
        assert_eq!(c.call(opcode::RENAME, link.node, &args), Err(libc::ENOTDIR));
    }
    assert_eq!(c.held().1, 0, "nothing is open");
    assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn nodes_and_handles_that_were_never_given_out_are_none() {
    let (_dir, mut c) = beside_a_secret();
    for node in [0, 2, 3, 1 << 32, u64::MAX] {
        assert_eq!(c.getattr(node), Err(libc::ESTALE));
        assert_eq!(c.lookup(node, "secret"), Err(libc::ESTALE));
        assert_eq!(c.open(node, libc::O_RDONLY), Err(libc::ESTALE));
    }
    for handle in [0, 1, 2, 3, u64::MAX] {
        assert_eq!(c.read(ROOT, handle, 0, 10), Err(libc::EBADF));
        let args = Client::io_args(handle, 0, 4096, 0, 0);
        assert_eq!(c.call(opcode::READDIRPLUS, ROOT, &args), Err(libc::EBADF));
    }
}

/// While a program on the host exchanges a directory and a link that leads out,
/// no look-up and no open gets to what lies there.
#[test]
fn a_race_against_a_link_is_never_won() {
    let (dir, mut c) = beside_a_secret();
    let share = dir.path().join("share");
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/file"), "outside").unwrap();
    fs::create_dir(share.join("dir")).unwrap();
    fs::write(share.join("dir/file"), "inside").unwrap();
    symlink("../outside", share.join("link")).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (share.join("dir"), share.join("link"));
            while !done.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, exchange)
                    .unwrap();
            }
        });
        let mut reached = 0;
        for _ in 0..2000 {
            let Ok(found) = c.lookup(ROOT, "dir") else {
                continue;
            };
            if let Ok(file) = c.lookup(found.node, "file") {
                assert_eq!(file.size, 6, "the one inside");
                reached += 1;
                if let Ok(h) = c.open(file.node, libc::O_RDONLY) {
                    assert_eq!(c.read(file.node, h, 0, 20).unwrap(), b"inside");
                    let args = body(&[&h.to_le_bytes(), &[0; 16]]);
                    c.call(opcode::RELEASE, file.node, &args).unwrap();
                }
                c.forget(file.node, 1);
            }
            c.forget(found.node, 1);
        }
        done.store(true, Ordering::Relaxed);
        assert!(reached > 0);
    });
}

#[test]
fn special_files_of_the_host_are_never_opened() {
    let (dir, mut c) = beside_a_secret();
    let socket = dir.path().join("share/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let fifo = dir.path().join("share/fifo");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
    )
    .unwrap();
    for name in ["socket", "fifo"] {
        let node = c.lookup(ROOT, name).unwrap().node;
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY] {
            assert_eq!(c.open(node, flags), Err(libc::EACCES), "{name}");
            assert_eq!(c.create(ROOT, name, flags), Err(libc::EACCES));
        }
    }
    // The devices of the host, as whoever shares /dev would give them.
    let mut c = Client::new(std::path::Path::new("/dev"), "");
    let node = c.lookup(ROOT, "zero").unwrap();
    assert_eq!(node.mode & libc::S_IFMT, libc::S_IFCHR);
    assert_eq!(c.open(node.node, libc::O_RDONLY), Err(libc::EACCES));
}
