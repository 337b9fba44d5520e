//! Devices with their real back ends, and the fake driver of the unit tests that
//! runs them in the same thread.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use devices::testing::{Desc, Driver};
use devices::virtio::blk::{Blk, DiskSpec, request_type};
use devices::virtio::net::{Net, NetSpec, Tap};

/// Requests for each kick, as many as fit into the fake driver's ring.
pub const BATCH: usize = 4;
/// Bytes of the disk.
const DISK: u64 = 64 << 20;
/// A packet without its headers.
pub const PACKET: usize = 1458;
/// The card that [`card`] makes.
pub const TAP: &str = "bench0";
/// The guest's address on it.
pub const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Writes a disk of which nothing is a hole.
pub fn disk_file(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    (0..DISK >> 20).try_for_each(|n| file.write_all(&[n as u8; 1 << 20]))
}

/// A driver of that disk.
pub fn disk(path: &Path) -> io::Result<Driver> {
    let mut blk = Blk::open(&DiskSpec::new(path), 0).map_err(io::Error::other)?;
    blk.serve_on_event_loop();
    started(Driver::new(blk))
}

/// The driver, once the device has agreed with it.
pub fn started(mut driver: Driver) -> io::Result<Driver> {
    match driver.start(0) {
        true => Ok(driver),
        false => Err(io::Error::other("the device does not start")),
    }
}

/// [`BATCH`] requests of 4 KiB all over the disk.
pub fn disk_requests(driver: &mut Driver, n: usize, kind: u32) {
    for slot in 0..BATCH {
        let at = 0x1_0000 * slot as u64;
        let page = ((n * BATCH + slot) as u64).wrapping_mul(0x9e37_79b9) % (DISK / 4096);
        let mut header = u64::from(kind).to_le_bytes().to_vec();
        header.extend((page * 8).to_le_bytes());
        driver.put(at, &header);
        let data = Desc {
            addr: at + 0x1000,
            len: 4096,
            write: kind == request_type::IN,
        };
        driver.offer(
            0,
            &[Desc::readable(at, 16), data, Desc::writable(at + 0x100, 1)],
        );
    }
    driver.kick(0);
    for slot in 0..BATCH {
        assert!(driver.used(0).is_some(), "a request was not served");
        assert_eq!(driver.get(0x1_0000 * slot as u64 + 0x100, 1), [0]);
    }
}

/// Makes the TAP that [`card`] opens; it goes with the network namespace that
/// tools/bench makes.
pub fn tap() -> io::Result<()> {
    let ip = |args: &str| super::output(Command::new("ip").args(args.split(' ')));
    ip(&format!("tuntap add {TAP} mode tap vnet_hdr"))?;
    ip(&format!("link set {TAP} up")).map(drop)
}

/// A card on that TAP.
pub fn card() -> io::Result<Net<Tap>> {
    Net::open(&NetSpec::new(TAP), 0).map_err(io::Error::other)
}

/// Puts [`BATCH`] packets into the driver's memory, for [`send_packets`]. They are
/// to nobody's address: the host's kernel takes them, and drops them there.
pub fn put_packets(driver: &Driver) {
    for slot in 0..BATCH {
        let to = [2, 0, 0, 0, 0, 9];
        let frame = [&[0; 12][..], &to, &GUEST, &[0x88, 0xb5]].concat();
        driver.put(0x1_0000 * slot as u64, &frame);
    }
}

/// Sends them.
pub fn send_packets(driver: &mut Driver) {
    for slot in 0..BATCH {
        let packet = Desc::readable(0x1_0000 * slot as u64, 12 + PACKET as u32);
        driver.offer(1, &[packet]);
    }
    driver.kick(1);
    for _ in 0..BATCH {
        assert!(driver.used(1).is_some(), "a packet was not sent");
    }
}
