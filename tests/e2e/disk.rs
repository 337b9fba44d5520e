//! virtio-blk: what is written is what is read, and what was flushed is safe.

use std::fs;

use crate::guest::{Guest, host};

const MIB: u64 = 1 << 20;

#[test]
fn fio_reads_back_what_it_wrote() {
    let fio = "fio --filename=/dev/vdc --direct=1 --ioengine=libaio --verify=crc32c --do_verify=1 \
               --verify_fatal=1 --eta=never --minimal --output=/dev/null --group_reporting";
    let script = format!(
        "set -e
         {fio} --name=random --rw=randwrite --bs=4k --iodepth=16 --size=2m
         {fio} --name=sequential --rw=write --bs=128k --iodepth=4 --size=8m
         {fio} --name=odd --rw=randwrite --bsrange=512-64k --blockalign=512 --iodepth=8 --size=2m
         echo verified: yes"
    );
    let (guest, _) = Guest::tuned()
        .args("--cpus 2")
        .script(&script)
        .data_disk(16 * MIB, ",queues=2");
    assert_eq!(guest.run().succeeded().value("verified:"), "yes");
}

#[test]
fn disks_have_their_size_names_and_modes() {
    let script = "
        echo size: $(blockdev --getsize64 /dev/vdc)
        echo queues: $(ls /sys/block/vdc/mq | wc -l)
        echo readonly: $(blockdev --getro /dev/vda)$(blockdev --getro /dev/vdc)
        echo serial: $(cat /sys/block/vdc/serial)
        echo cache: $(cat /sys/block/vdc/queue/write_cache)
        dd if=/dev/zero of=/dev/vda count=1 oflag=direct 2>/dev/null || echo write: refused
    ";
    let (guest, _) = Guest::tuned()
        .args("--cpus 2")
        .script(script)
        .data_disk(3 * MIB, ",queues=2,id=some-name");
    let end = guest.run().succeeded();
    assert_eq!(end.number("size:"), 3 * MIB);
    assert_eq!(end.number("queues:"), 2);
    assert_eq!(end.value("readonly:"), "10");
    assert_eq!(end.value("serial:"), "some-name");
    assert_eq!(end.value("cache:"), "write back");
    assert_eq!(end.value("write:"), "refused");
}

#[test]
fn discard_gives_the_hosts_space_back() {
    use std::os::unix::fs::MetadataExt;
    let script = "set -e
        dd if=/dev/urandom of=/dev/vdc bs=1M count=8 oflag=direct 2>/dev/null
        sync
        blkdiscard /dev/vdc
        echo zeroes: $(cmp -n 8388608 /dev/vdc /dev/zero && echo yes)
        dd if=/dev/urandom of=/dev/vdc bs=1M count=1 oflag=direct 2>/dev/null
        blkdiscard --zeroout /dev/vdc
        echo zeroed: $(cmp -n 8388608 /dev/vdc /dev/zero && echo yes)";
    let (guest, path) = Guest::tuned().script(script).data_disk(8 * MIB, "");
    let run = guest.start();
    run.wait_for("zeroes: yes");
    run.wait_for("zeroed: yes");
    run.wait_for("drupe-exit: 0");
    let allocated = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(allocated <= 2 * MIB, "{allocated} bytes are allocated");
    run.finish().succeeded();
}

/// The files of an image's layers are partitions of one disk, in their order.
#[test]
fn layers_are_partitions_of_a_disk() {
    let script = "
        disk=$(basename $(dirname $(grep -l '^layers$' /sys/block/vd*/serial)))
        echo partitions: $(ls -d /sys/block/$disk/$disk* | wc -l)
        echo readonly: $(cat /sys/block/$disk/ro)
        for n in 1 2 60; do
            echo size-$n: $(blockdev --getsize64 /dev/$disk$n)
            echo hash-$n: $(sha256sum < /dev/$disk$n)
        done
        dd if=/dev/zero of=/dev/${disk}2 count=1 oflag=direct 2>/dev/null || echo write: refused";
    let guest = Guest::tuned().script(script);
    let mut layers = Vec::new();
    for n in 1..=60u8 {
        let path = guest.dir.path().join(format!("layer{n}"));
        fs::write(&path, vec![n; 4096 * usize::from(n)]).unwrap();
        layers.push(format!("{:?}", path.display().to_string()));
    }
    let config = guest.dir.path().join("config.json");
    let json = format!(r#"{{"disks": [{{"layers": [{}]}}]}}"#, layers.join(","));
    fs::write(&config, json).unwrap();
    // The disks of the file come first.
    let guest = guest.arg("--config").arg(config).append("root=/dev/vdb");
    let end = guest.run().succeeded();
    assert_eq!(end.number("partitions:"), 60);
    assert_eq!(
        (end.value("readonly:"), end.value("write:")),
        ("1", "refused")
    );
    for n in [1u8, 2, 60] {
        let size = 4096 * u64::from(n);
        assert_eq!(end.number(&format!("size-{n}:")), size);
        let path = format!("{}/layer{n}", end.dir().display());
        let expect = host("sha256sum", &[&path]);
        let hash = end.value(&format!("hash-{n}:"));
        assert_eq!(hash.split(' ').next(), expect.split(' ').next());
    }
}

/// Each block that the guest says is flushed holds its number after `kill -9`,
/// while other writes were under way.
#[test]
fn flushed_writes_survive_a_kill() {
    const BLOCKS: u64 = 12;
    let script = "
        head -c 262144 /dev/urandom > /tmp/noise
        while :; do dd if=/tmp/noise of=/dev/vdc bs=64k seek=256 oflag=direct 2>/dev/null; done &
        n=0
        while :; do
            printf 'block %04d %4084s\\n' $n x |
                dd of=/dev/vdc bs=4k seek=$n oflag=direct conv=notrunc,fdatasync iflag=fullblock 2>/dev/null || exit 1
            echo flushed: $n
            n=$((n + 1))
        done";
    let (guest, path) = Guest::tuned()
        .args("--cpus 2")
        .script(script)
        .data_disk(32 * MIB, ",queues=2");
    let run = guest.start();
    run.wait_for(&format!("flushed: {BLOCKS}\r"));
    run.signal(libc::SIGKILL);
    let end = run.finish();
    let last: u64 = end
        .console
        .lines()
        .rev()
        .find_map(|l| l.strip_prefix("flushed: ")?.parse().ok())
        .unwrap();
    assert!(last >= BLOCKS);
    let data = fs::read(&path).unwrap();
    for n in 0..=last {
        let block = &data[n as usize * 4096..][..10];
        assert_eq!(block, format!("block {n:04}").as_bytes());
    }
}
