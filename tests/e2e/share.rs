//! virtio-fs: the same files on both sides, and no way out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{Guest, PATIENCE, host};

const MOUNT: &str = "set -e
    mkdir -p /share
    mount -t virtiofs data /share
    cd /share";

/// Shell functions that sum up what both sides must see the same: all names; the
/// contents of all files in the directories of a pattern; and what else there is
/// to a file.
const SUMMARY: &str = "
    export LC_ALL=C
    names() { find . -type f | sort | sha256sum | cut -c1-64; }
    contents() { for d in $1; do (cd $d && cat *); done | sha256sum | cut -c1-64; }
    attributes() {
        find guest-1 guest-2 guest-3 guest-4 host-9 ! -type d -printf '%p %y %s %m %n %l\\n' |
            sort | sha256sum | cut -c1-64
    }";

/// The directories in parts of a thousand files. Those that changed come first.
const PARTS: [&str; 10] = [
    "guest-*", "host-?", "host-1?", "host-2?", "host-3?", "host-4?", "host-5?", "host-6?",
    "host-7?", "host-8?",
];

/// How long in seconds the guest goes on with the next part. On a real KVM it
/// reads all of them in a small part of that; where KVM itself is emulated, each
/// request takes a thousand times as long, and some will have to do.
const READING: u32 = 60;

/// How many there are on a share.
struct Files {
    /// Directories that the guest makes, and that the host has made.
    of_guest: usize,
    of_host: usize,
    /// Files in each.
    each: usize,
}

const TEN_THOUSAND: Files = Files {
    of_guest: 10,
    of_host: 90,
    each: 100,
};
/// What else may differ between two users shows with fewer.
const SIX_HUNDRED: Files = Files {
    of_guest: 10,
    of_host: 10,
    each: 30,
};

/// What lies beside the share, and must never be seen.
const SECRET: &str = "the host's secret";

fn share(guest: &Guest) -> PathBuf {
    let dir = guest.dir.path().join("share");
    fs::create_dir(&dir).unwrap();
    fs::write(guest.dir.path().join("secret"), SECRET).unwrap();
    dir
}

fn attach(guest: Guest, path: &Path, options: &str) -> Guest {
    let share = format!("{},tag=data{options}", path.display());
    guest.arg("--share").arg(share)
}

fn summary(dir: &Path, of: &str) -> String {
    let script = format!("cd {}; {SUMMARY}\n{of}", dir.display());
    host("sh", &["-c", &script]).trim().to_owned()
}

/// Files of either side; then the host changes some that the guest has just read,
/// and the guest sees that at once.
fn check_files(guest: Guest, files: &Files, owner: Option<u32>) {
    let &Files {
        of_guest,
        of_host,
        each,
    } = files;
    let parts = || PARTS.iter().take(1 + of_host.div_ceil(10));
    let reading: String = parts()
        .map(|part| {
            format!(
                "[ $(($(date +%s) - start)) -gt {READING} ] || echo \"part {part}: $(contents '{part}')\"\n"
            )
        })
        .collect();
    let script = format!(
        "{MOUNT}
        {SUMMARY}
        for d in $(seq {of_guest}); do
            mkdir guest-$d
            for n in $(seq {each}); do echo guest $d $n > guest-$d/$n; done
            echo made: $d
        done
        head -c 3000000 /dev/urandom > guest-1/large
        chmod 600 guest-1/large
        ln guest-1/1 guest-2/hard
        ln -s ../guest-1/large guest-3/link
        mv guest-4/1 guest-5/moved
        rm guest-6/1
        echo all >> guest-7/1
        truncate -s 5 guest-8/1
        cat host-9/* guest-1/* > /dev/null
        ls -l host-9 guest-1 > /dev/null
        touch ready
        until [ -e go ]; do sleep 0.1; done
        echo attributes: $(attributes)
        echo names: $(names)
        start=$(date +%s)
        {reading}
        echo count: $(find . -type f | wc -l)"
    );
    let dir = share(&guest);
    for d in 0..of_host {
        let sub = dir.join(format!("host-{d}"));
        fs::create_dir(&sub).unwrap();
        for n in 0..each {
            fs::write(sub.join(n.to_string()), format!("host {d} {n}\n").repeat(n)).unwrap();
        }
    }
    if let Some(owner) = owner {
        let tree = format!("{owner}:{owner}");
        host("chown", &["-R", &tree, dir.to_str().unwrap()]);
    }
    let run = attach(guest, &dir, "").script(&script).start();
    for made in [2, 4, 6, 8, 10] {
        run.wait_for(&format!("made: {made}\r"));
    }
    let start = Instant::now();
    while !dir.join("ready").exists() {
        assert!(start.elapsed() < PATIENCE, "the guest never got ready");
        thread::sleep(Duration::from_millis(50));
    }
    // Longer, shorter, replaced, gone, renamed, closed.
    let old = |name: &str| dir.join("host-9").join(name);
    fs::write(old("20"), "longer than it was\n".repeat(500)).unwrap();
    fs::write(old("21"), "shorter\n").unwrap();
    fs::write(old("new"), "replaced\n").unwrap();
    fs::rename(old("new"), old("22")).unwrap();
    fs::remove_file(old("23")).unwrap();
    fs::rename(old("24"), dir.join("guest-9/24-of-the-host")).unwrap();
    fs::set_permissions(old("25"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::write(dir.join("guest-1/1"), "changed by the host\n").unwrap();
    fs::write(dir.join("go"), "").unwrap();
    run.wait_for("names: ");
    let end = run.finish().succeeded();
    assert_eq!(end.value("attributes:"), summary(&dir, "attributes"));
    assert_eq!(end.value("names:"), summary(&dir, "names"));
    let read: Vec<_> = parts()
        .filter(|part| end.console.contains(&format!("part {part}: ")))
        .collect();
    assert!(!read.is_empty());
    for part in read {
        let seen = end.value(&format!("part {part}:"));
        let expect = summary(&dir, &format!("contents '{part}'"));
        assert_eq!(seen, expect, "{part}");
    }
    assert!(end.number("count:") >= ((of_guest + of_host) * each) as u64);
    if let Some(owner) = owner {
        for name in ["guest-1", "guest-1/large", "guest-3/link"] {
            assert_eq!(dir.join(name).symlink_metadata().unwrap().uid(), owner);
        }
    }
    assert_eq!(end.errors, "");
}

#[test]
fn ten_thousand_files_are_the_same_on_both_sides() {
    check_files(Guest::tuned(), &TEN_THOUSAND, None);
}

/// `/dev/kvm` for everybody, for as long as this lives.
struct OpenKvm(u32);

impl OpenKvm {
    fn new() -> Self {
        let before = fs::metadata("/dev/kvm").unwrap().permissions().mode();
        fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(0o666)).unwrap();
        OpenKvm(before)
    }
}

impl Drop for OpenKvm {
    fn drop(&mut self) {
        let _ = fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(self.0));
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid has no effects.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn files_of_an_ordinary_user_are_the_same_on_both_sides() {
    if is_root() {
        let _kvm = OpenKvm::new();
        check_files(Guest::tuned_by_nobody(), &SIX_HUNDRED, Some(65534));
    }
}

#[test]
fn an_ordinary_user_is_root_in_the_guest() {
    if !is_root() {
        return;
    }
    let _kvm = OpenKvm::new();
    let script = format!(
        "{MOUNT}
        echo mine: $(stat -c %u:%g mine) others: $(stat -c %u:%g others)
        echo x > new && ln new hard && mv new newer && mkdir dir
        echo new: $(stat -c %u:%g newer)
        chown 1000 newer 2>/dev/null || echo chown: refused
        chown 0:0 newer && echo chown-root: fine
        cat unreadable 2>/dev/null || echo unreadable: refused
        mknod null c 1 3 2>/dev/null || echo mknod: refused
        mkfifo fifo && test -p fifo && echo fifo: fine
        (echo through > fifo & cat fifo)
        chmod 1777 dir
        su -s /bin/sh -c 'echo y > /share/dir/by-nobody' nobody && echo by-nobody: fine"
    );
    let guest = Guest::tuned_by_nobody();
    let dir = share(&guest);
    chown(&dir, Some(65534), Some(65534)).unwrap();
    for (name, owner, mode) in [
        ("mine", 65534, 0o644),
        ("others", 1234, 0o644),
        ("unreadable", 0, 0o600),
    ] {
        fs::write(dir.join(name), SECRET).unwrap();
        chown(dir.join(name), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let end = attach(guest, &dir, "").script(&script).run().succeeded();
    assert_eq!(end.value("mine:"), "0:0 others: 65534:65534");
    assert_eq!(end.value("new:"), "0:0");
    for key in ["chown:", "unreadable:", "mknod:"] {
        assert_eq!(end.value(key), "refused", "{key}");
    }
    for key in ["chown-root:", "fifo:", "by-nobody:"] {
        assert_eq!(end.value(key), "fine", "{key}");
    }
    assert!(end.console.contains("through") && !end.console.contains(SECRET));
    for name in ["newer", "hard", "dir", "fifo", "dir/by-nobody"] {
        let meta = dir.join(name).symlink_metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65534, 65534), "{name}");
    }
    assert_eq!(dir.join("dir").metadata().unwrap().mode() & 0o7777, 0o1777);
}

/// Programs' I/O of all kinds, and owners as they are when drupe is root.
#[test]
fn programs_work_on_a_share() {
    let fio = "fio --filename=/share/fio --size=512k --verify=crc32c --do_verify=1 --verify_fatal=1 \
               --eta=never --minimal --output=/dev/null";
    let script = format!(
        "{MOUNT}
        {fio} --name=mapped --ioengine=mmap --rw=randwrite --bs=4k
        {fio} --name=direct --ioengine=libaio --iodepth=8 --direct=1 --rw=randwrite --bs=64k
        {fio} --name=large --ioengine=psync --rw=write --bs=512k
        {fio} --name=odd --ioengine=psync --rw=randwrite --bsrange=512-30000 --bs_unaligned
        echo fio: fine
        dd if=/dev/urandom of=/tmp/large bs=1M count=4 2>/dev/null
        cp /tmp/large large && cmp large /tmp/large && cp large copy && cmp copy large && echo copy: fine
        fallocate -l 1M space && fallocate -p -o 0 -l 512K space && echo space: fine
        flock large true && echo lock: fine
        exec 3> open && rm open && echo gone >&3 && echo unlinked: fine
        echo data > script.sh && chown 1000:1000 script.sh && chmod 4755 script.sh
        su -s /bin/sh -c 'echo x >> /share/log' nobody 2>/dev/null || echo other: refused
        chmod 777 . && su -s /bin/sh -c 'echo x >> /share/log' nobody
        echo owners: $(stat -c %u log) $(stat -c %u:%g:%a script.sh)
        echo more >> script.sh; echo mode: $(stat -c %a script.sh)
        df -P . > /dev/null && sync && umount -l /share"
    );
    let guest = Guest::tuned().args("--cpus 2");
    let dir = share(&guest);
    let end = attach(guest, &dir, "").script(&script).run().succeeded();
    for key in ["fio:", "copy:", "space:", "lock:", "unlinked:"] {
        assert_eq!(end.value(key), "fine", "{key}");
    }
    assert_eq!(end.value("other:"), "refused");
    if is_root() {
        assert_eq!(end.value("owners:"), "65534 1000:1000:4755");
        assert_eq!(dir.join("log").metadata().unwrap().uid(), 65534);
        assert_eq!(
            dir.join("script.sh").metadata().unwrap().mode() & 0o7777,
            0o4755
        );
    }
    let cmp = Command::new("cmp")
        .arg(dir.join("copy"))
        .arg(dir.join("large"))
        .status();
    assert!(cmp.unwrap().success());
    assert_eq!(end.errors, "");
}

/// Links lead where the guest's own files are; nothing else leads anywhere.
#[test]
fn a_hostile_guest_stays_inside() {
    let script = format!(
        "{MOUNT}
        same() {{ [ \"$(sha256sum < $1)\" = \"$(sha256sum < $2)\" ]; }}
        same passwd /etc/passwd && same relative /etc/hostname && echo links: the-guests
        cat absolute up/secret ../secret ../../secret /share/../secret 2>&1 | grep -c 'No such file' | sed 's/^/missing: /'
        ls -a | tr '\\n' ' ' | sed 's/^/list: /'; echo
        [ $(stat -c %i ..) = $(stat -c %i /) ] && echo parent: the-guests
        mknod disk b 8 0 2>/dev/null || echo block: refused
        mknod kmsg c 1 11 2>/dev/null || echo character: refused
        ln -s ../secret mine; cat mine 2>/dev/null || echo mine: refused
        mkdir a && mv a up/b 2>/dev/null || echo up: refused
        mkdir -p deep/er && cd deep/er && mv /share/deep/er /share/out && rmdir /share/deep
        cat ../secret ../../secret 2>/dev/null || echo moved: refused
        cd /; umount /share; mount -t virtiofs -o dax=always data /share 2>/dev/null || echo dax: refused"
    );
    let guest = Guest::tuned();
    let dir = share(&guest);
    symlink("/etc/passwd", dir.join("passwd")).unwrap();
    symlink("../etc/hostname", dir.join("relative")).unwrap();
    symlink(guest.dir.path().join("secret"), dir.join("absolute")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    let end = attach(guest, &dir, "").script(&script).run().succeeded();
    assert_eq!(end.value("links:"), "the-guests");
    assert_eq!(end.value("parent:"), "the-guests");
    assert_eq!(end.number("missing:"), 5);
    assert_eq!(end.value("list:"), ". .. absolute passwd relative up");
    for key in ["block:", "character:", "mine:", "moved:"] {
        assert_eq!(end.value(key), "refused", "{key}");
    }
    assert!(!end.console.contains(SECRET));
    let beside: Vec<_> = fs::read_dir(end.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !beside.iter().any(|name| name == "b" || name == "out"),
        "{beside:?}"
    );
}

#[test]
fn readonly_shares_and_single_files() {
    let script = "
        mkdir /data /one
        mount -t virtiofs data /data && mount -t virtiofs one /one
        cd /data
        cat file
        for c in 'touch new' 'rm file' 'mv file other' 'chmod 777 file' 'ln file hard' \
                 'mkdir dir' 'truncate -s 0 file' 'ln -s x link' 'touch file'; do
            $c 2>/dev/null && echo done: $c
        done
        (echo x > file) 2>/dev/null && echo done: write
        (echo x >> file) 2>/dev/null && echo done: append
        mount -o remount,rw /data; (echo x >> file) 2>/dev/null && echo done: remounted
        echo readonly: $(ls)
        echo one: $(ls -a /one | tr '\\n' ' ')
        echo changed by the guest > /one/name
        touch /one/other 2>/dev/null || echo other: refused
        rm /one/name 2>/dev/null || echo rm: refused
        cat /one/name /one/../secret /one/secret 2>/dev/null
        mount --bind /one/name /etc/motd && cat /etc/motd | sed 's/^/bound: /'
        echo ready; read line
        sed 's/^/after: /' /one/name";
    let guest = Guest::tuned();
    let dir = share(&guest);
    fs::write(dir.join("file"), "contents\n").unwrap();
    let single = guest.dir.path().join("single");
    fs::write(&single, "one\n").unwrap();
    let link = guest.dir.path().join("name");
    symlink("single", &link).unwrap();
    let before = dir.join("file").metadata().unwrap();
    let one = format!("{},tag=one", link.display());
    let guest = attach(guest, &dir, ",readonly").arg("--share").arg(one);
    let mut run = guest.script(script).start();
    run.wait_for("ready");
    assert_eq!(
        fs::read_to_string(&single).unwrap(),
        "changed by the guest\n"
    );
    // Another file in its place is not the one that was shared.
    let other = single.with_file_name("other");
    fs::write(&other, SECRET).unwrap();
    fs::rename(&other, &single).unwrap();
    run.type_line("go on");
    let end = run.finish().succeeded();
    assert!(!end.console.contains("done: "), "{}", end.console);
    assert_eq!(end.value("after:"), "changed by the guest");
    assert_eq!(end.value("readonly:"), "file");
    assert_eq!(end.value("one:"), ". .. name");
    assert_eq!(
        (end.value("other:"), end.value("rm:")),
        ("refused", "refused")
    );
    assert_eq!(end.value("bound:"), "changed by the guest");
    assert!(!end.console.contains(SECRET));
    let after = dir.join("file").metadata().unwrap();
    assert_eq!(
        (after.ctime(), after.ctime_nsec()),
        (before.ctime(), before.ctime_nsec())
    );
}

/// A share that cannot be is one clear line, and no VM.
#[test]
fn what_cannot_be_shared_is_refused() {
    for (share, expect) in [
        (
            "/nonexistent,tag=t",
            "share '/nonexistent': no such file or directory; check the path",
        ),
        (
            "/dev/null,tag=t",
            "share '/dev/null' is a character device; give a directory",
        ),
    ] {
        let end = Guest::tuned().arg("--share").arg(share).run();
        assert_eq!(end.status.code(), Some(1));
        assert!(
            end.errors.contains(expect) && end.errors.lines().count() == 1,
            "{}",
            end.errors
        );
    }
}
