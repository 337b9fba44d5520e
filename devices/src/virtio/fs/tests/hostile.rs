//! Drivers that break the rules, and requests that no kernel would send.

use std::fs;

use proptest::prelude::*;

use super::*;

/// The device does what it should, for the next driver.
fn check_alive(c: &mut Client) {
    assert!(c.d.start(0));
    c.init();
    assert_eq!(c.getattr(ROOT).unwrap().mode & libc::S_IFMT, libc::S_IFDIR);
}

#[test]
fn chains_without_room_for_a_header_need_a_reset() {
    let (_dir, mut c) = Client::in_dir("");
    let cases: &[(&str, &[Desc])] = &[
        ("nothing", &[Desc::writable(ANSWER, 100)]),
        (
            "a short header",
            &[Desc::readable(REQUEST, 39), Desc::writable(ANSWER, 100)],
        ),
        ("no answer", &[Desc::readable(REQUEST, 100)]),
        (
            "a short answer",
            &[Desc::readable(REQUEST, 100), Desc::writable(ANSWER, 15)],
        ),
        (
            "outside memory",
            &[Desc::readable(1 << 40, 100), Desc::writable(ANSWER, 100)],
        ),
        (
            "writable first",
            &[Desc::writable(ANSWER, 100), Desc::readable(REQUEST, 100)],
        ),
    ];
    for (name, chain) in cases {
        for queue in [0, 1] {
            let request = c.header(opcode::GETATTR, ROOT, 16);
            c.d.put(REQUEST, &request);
            c.d.offer(queue, chain);
            c.d.kick(queue);
            assert!(c.d.used(queue).is_none() && c.d.needs_reset(), "{name}");
            check_alive(&mut c);
        }
    }
    // What has no answer needs no room for one.
    c.forget(ROOT, 1);
    assert!(!c.d.needs_reset());
}

#[test]
fn a_violation_ends_the_threads_of_both_queues() {
    let dir = tempfile::tempdir().unwrap();
    let spec = FsSpec::new(dir.path(), "t");
    let mut c = Client::over(Fs::open(&spec, 0, FILES).unwrap());
    for _ in 0..3 {
        check_alive(&mut c);
        c.d.offer(1, &[Desc::readable(REQUEST, 10)]);
        c.d.kick(1);
        for _ in 0..10_000 {
            if c.d.needs_reset() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(c.d.needs_reset() && c.d.used(1).is_none());
    }
}

#[test]
fn lengths_that_do_not_fit_are_errors() {
    let (_dir, mut c) = Client::in_dir("");
    // What the header says of the length, against what there is.
    for (claim, there, error) in [
        (0u32, 60u32, libc::EINVAL),
        (39, 60, libc::EINVAL),
        (61, 60, libc::EINVAL),
        (u32::MAX, 60, libc::EINVAL),
        (45, 60, libc::EINVAL),
        (0x2_0000, 0x2_0000, libc::E2BIG),
    ] {
        let mut request = c.header(opcode::LOOKUP, ROOT, 0);
        request[..4].copy_from_slice(&claim.to_le_bytes());
        request.resize(60, b'x');
        c.d.put(REQUEST, &request);
        let chain = [Desc::readable(REQUEST, there), Desc::writable(ANSWER, ROOM)];
        let written = c.d.request(1, &chain);
        assert_eq!(c.answer(written as usize), Err(error), "{claim}");
    }
    // Each request with all that is missing at its end.
    // There is nothing to be missing of these, or nothing to see.
    let silent = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
    let kinds = (0..64).filter(|kind| *kind != opcode::SYNCFS && !silent.contains(kind));
    for kind in kinds {
        for len in 0..96 {
            let answer = c.call(kind, ROOT, &vec![0; len]);
            assert!(answer.is_ok() || answer.unwrap_err() > 0);
        }
    }
    // An answer longer than there is room for.
    let request = c.header(opcode::STATFS, ROOT, 0);
    c.d.put(REQUEST, &request);
    let chain = [Desc::readable(REQUEST, 40), Desc::writable(ANSWER, 40)];
    let written = c.d.request(1, &chain);
    assert_eq!(c.answer(written as usize), Err(libc::EINVAL));
    check_alive(&mut c);
}

/// Requests made of parts that mean something, more often than not.
fn any_request() -> impl Strategy<Value = (u32, u64, Vec<u8>, u32)> {
    let number = prop_oneof![
        4 => 0u64..6,
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ];
    let word = prop_oneof![4 => 0u32..8, 1 => any::<u32>(), 1 => Just(0x1000u32)];
    let name = prop_oneof![
        6 => Just(&b"a\0"[..]),
        3 => Just(&b"b\0"[..]),
        3 => Just(&b"sub\0"[..]),
        1 => Just(&b"..\0"[..]),
        1 => Just(&b"../secret\0"[..]),
        1 => Just(&b"link\0"[..]),
        1 => Just(&b"user.a\0"[..]),
        1 => Just(&b"\0"[..]),
        1 => Just(&b"no end"[..]),
    ];
    let part = prop_oneof![
        3 => number.clone().prop_map(|n| n.to_le_bytes().to_vec()),
        3 => word.prop_map(|n| n.to_le_bytes().to_vec()),
        4 => name.prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..50),
    ];
    let parts = proptest::collection::vec(part, 0..9).prop_map(|parts| parts.concat());
    let room = prop_oneof![8 => Just(ROOM), 1 => 0u32..300];
    (0u32..54, number, parts, room)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever the requests: no panic, nothing outside the share changes, and
    /// nothing of a share that may not change.
    #[test]
    fn arbitrary_requests_stay_inside_the_share(
        requests in proptest::collection::vec(any_request(), 1..24),
        readonly in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let share = dir.path().join("share");
        fs::create_dir_all(share.join("sub")).unwrap();
        fs::write(share.join("a"), "text").unwrap();
        std::os::unix::fs::symlink("../secret", share.join("link")).unwrap();
        let mut c = Client::new(&share, if readonly { ",readonly" } else { "" });
        c.lookup(ROOT, "a").unwrap();
        c.lookup(ROOT, "sub").unwrap();
        let _ = c.open(2, if readonly { libc::O_RDONLY } else { libc::O_RDWR });
        for (kind, node, args, room) in &requests {
            // Nobody wants the host's disks to be synchronised over and over.
            if *kind == opcode::SYNCFS {
                continue;
            }
            let mut request = c.header(*kind, *node, args.len());
            request.extend(args);
            c.d.put(REQUEST, &request);
            let chain = [
                Desc::readable(REQUEST, request.len() as u32),
                Desc::writable(ANSWER, *room),
            ];
            c.d.offer(1, &chain);
            c.d.kick(1);
            if c.d.used(1).is_none() {
                prop_assert!(c.d.needs_reset());
                check_alive(&mut c);
            }
        }
        check_alive(&mut c);
        prop_assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"secret");
        let outside = fs::read_dir(dir.path()).unwrap().count();
        prop_assert_eq!(outside, 2);
        if readonly {
            prop_assert_eq!(fs::read(share.join("a")).unwrap(), b"text");
            prop_assert_eq!(fs::read_dir(&share).unwrap().count(), 3);
        }
    }
}
