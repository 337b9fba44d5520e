//! A disk that is full, a disk that fails, an interface that goes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::{Guest, host};
use crate::net::Tap;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What the guest writes at once.
const BLOCK: u64 = 256 * KIB;
/// More than the full disk takes.
const BLOCKS: u64 = 32;

/// A file system in memory; gone when dropped.
struct Small(PathBuf);

impl Small {
    fn new(path: &Path, bytes: u64) -> Self {
        fs::create_dir(path).unwrap();
        let text = path.to_str().unwrap();
        host(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", text],
        );
        Small(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk that can be made to fail: device-mapper over a file.
struct Mapped {
    name: String,
    device: String,
    sectors: u64,
}

impl Mapped {
    fn new(file: &Path) -> Self {
        host("modprobe", &["-a", "dm_mod", "loop"]);
        let device = host("losetup", &["--find", "--show", file.to_str().unwrap()]);
        let mapped = Mapped {
            name: format!("drupe-test-{}", std::process::id()),
            device: device.trim().to_owned(),
            sectors: fs::metadata(file).unwrap().len() / 512,
        };
        let table = mapped.table(true);
        mapped.dmsetup(&["create", "--table", &table]);
        mapped
    }

    fn table(&self, whole: bool) -> String {
        match whole {
            true => format!("0 {} linear {} 0", self.sectors, self.device),
            false => format!("0 {} error", self.sectors),
        }
    }

    /// Each with the name behind its verb. Nobody may be there who makes nodes.
    fn dmsetup(&self, args: &[&str]) {
        let mut command = Command::new("dmsetup");
        command.env("DM_DISABLE_UDEV", "1");
        let output = command
            .arg(args[0])
            .arg(&self.name)
            .args(&args[1..])
            .output();
        let output = output.expect("dmsetup: tools/deps installs it");
        assert!(output.status.success(), "dmsetup {args:?}: {output:?}");
    }

    fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }

    /// From now on every access fails, or none.
    fn change(&self, whole: bool) {
        let table = self.table(whole);
        self.dmsetup(&["suspend", "--noflush"]);
        self.dmsetup(&["load", "--table", &table]);
        self.dmsetup(&["resume"]);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = Command::new("dmsetup")
            .args(["remove", "--force", &self.name])
            .env("DM_DISABLE_UDEV", "1")
            .status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// The byte that the guest fills a block with.
fn letter(block: u64) -> u8 {
    b'a' + (block % 26) as u8
}

#[test]
fn what_fails_on_the_host_fails_in_the_guest_and_is_told() {
    if !super::is_real_root() {
        return;
    }
    let tap = Tap::new(9);
    let work = tempfile::tempdir().unwrap();
    let small = Small::new(&work.path().join("small"), 4 * MIB);
    let full = small.0.join("disk");
    fs::File::create(&full)
        .unwrap()
        .set_len(BLOCKS * BLOCK)
        .unwrap();
    let backing = work.path().join("backing");
    fs::File::create(&backing)
        .unwrap()
        .set_len(16 * MIB)
        .unwrap();
    let mapped = Mapped::new(&backing);

    let script = format!(
        r#"{setup}
        set +e
        fill() {{ head -c {BLOCK} /dev/zero | tr '\0' "\\$(printf %o $((97 + $1 % 26)))"; }}
        acknowledged=
        for n in $(seq 0 {last}); do
            fill $n | dd of=/dev/vdc bs={BLOCK} seek=$n oflag=direct iflag=fullblock 2>/dev/null &&
                acknowledged="$acknowledged $n"
        done
        echo acknowledged: $acknowledged
        fill 0 | dd of=/dev/vdd bs={BLOCK} conv=fsync,notrunc iflag=fullblock 2>/dev/null
        echo flushed: $?
        echo now: break; read line
        fill 1 | dd of=/dev/vdd bs={BLOCK} seek=1 conv=fsync,notrunc iflag=fullblock 2>/dev/null
        echo flush-of-broken: $?
        dd if=/dev/vdd of=/dev/null bs=64k skip=200 count=1 iflag=direct 2>/dev/null
        echo read-of-broken: $?
        echo now: mend; read line
        fill 2 | dd of=/dev/vdd bs={BLOCK} seek=2 conv=fsync,notrunc iflag=fullblock 2>/dev/null
        echo flush-after-loss: $?
        dd if=/dev/vdd bs={BLOCK} count=1 iflag=direct 2>/dev/null | tr -d a | wc -c > /tmp/other
        echo others: $(cat /tmp/other)
        echo now: cut; ping -f -w 2 {to} >/dev/null
        for n in $(seq 100); do [ $(cat /sys/class/net/$nic/carrier) = 0 ] && break; sleep 0.1; done
        echo carrier: $(cat /sys/class/net/$nic/carrier)"#,
        setup = tap.guest_setup(),
        last = BLOCKS - 1,
        to = tap.host,
    );
    let mut run = tap
        .attach(Guest::tuned().script(&script), "")
        .disk(&full, "")
        .disk(&mapped.path(), "")
        .start();
    run.wait_for("now: break");
    mapped.change(false);
    run.type_line("broken");
    run.wait_for("now: mend");
    mapped.change(true);
    run.type_line("mended");
    run.wait_for("now: cut");
    host("ip", &["link", "del", &tap.name]);
    let end = run.finish().succeeded();

    // What was acknowledged is there, though there was no room for the rest.
    let acknowledged: Vec<u64> = end
        .value("acknowledged:")
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(
        (8..BLOCKS as usize).contains(&acknowledged.len()),
        "{acknowledged:?}"
    );
    let file = fs::File::open(&full).unwrap();
    for n in acknowledged {
        let mut block = vec![0; BLOCK as usize];
        file.read_exact_at(&mut block, n * BLOCK).unwrap();
        assert!(block.iter().all(|b| *b == letter(n)), "block {n} was lost");
    }
    // A write that was lost stays lost, even when the disk works again.
    assert_eq!(end.number("flushed:"), 0);
    for failed in ["flush-of-broken:", "read-of-broken:", "flush-after-loss:"] {
        assert_ne!(end.number(failed), 0, "{failed}");
    }
    assert_eq!(end.number("others:"), 0);
    assert_eq!(end.number("carrier:"), 0);
    // drupe says what happened, once.
    let said = |text: &str| {
        end.errors
            .lines()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(said("No space left on device"), 1, "{}", end.errors);
    // A write or a flush, and a read.
    assert!(
        (2..=3).contains(&said("Input/output error")),
        "{}",
        end.errors
    );
    assert_eq!(said("is gone: the link of"), 1, "{}", end.errors);
}
