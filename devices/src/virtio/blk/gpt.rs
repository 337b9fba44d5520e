//! The GUID partition table around a disk's partitions (UEFI 2.10 §5.2, §5.3).

use super::SECTOR_SIZE;

/// Entries of the table: what every reader expects, and the least that the
/// standard allows (16 KiB).
pub const ENTRIES: usize = 128;
/// Size of an entry in bytes.
const ENTRY_SIZE: usize = 128;
/// Sectors of all entries.
const TABLE_SECTORS: u64 = (ENTRIES * ENTRY_SIZE) as u64 / SECTOR_SIZE;
/// Sectors before the first that a partition may have: the protective MBR, the
/// primary header and its entries.
pub const HEAD_SECTORS: u64 = 2 + TABLE_SECTORS;
/// Sectors behind the last one: the backup's entries, then its header.
pub const TAIL_SECTORS: u64 = TABLE_SECTORS + 1;

const HEADER_SIZE: usize = 92;
/// Type of a partition with a Linux file system,
/// 0FC63DAF-8483-4772-8E79-3D69D8477DE4, in its byte order on disk.
const LINUX_DATA: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// A partition: where it lies, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// First sector.
    pub start: u64,
    /// Length, at least one.
    pub sectors: u64,
}

/// The bytes before and behind the partitions of a disk of `sectors`:
/// [`HEAD_SECTORS`] and [`TAIL_SECTORS`] long. The partitions lie between them,
/// and are [`ENTRIES`] at most.
///
/// Every identifier follows from a partition's number alone, so that a disk of
/// the same files is the same disk each time.
pub fn table(partitions: &[Partition], sectors: u64) -> (Vec<u8>, Vec<u8>) {
    let mut entries = vec![0; ENTRIES * ENTRY_SIZE];
    for (n, partition) in partitions.iter().enumerate().take(ENTRIES) {
        write_entry(&mut entries[n * ENTRY_SIZE..][..ENTRY_SIZE], n, partition);
    }
    let crc = crc32fast::hash(&entries);
    let last = sectors - 1;

    let mut head = protective_mbr(sectors);
    head.extend(header(1, last, 2, crc));
    head.extend(&entries);
    let mut tail = entries;
    tail.extend(header(last, 1, last - TABLE_SECTORS, crc));
    (head, tail)
}

/// A GUID of this table: number 0 is the disk's, those from 1 its partitions'.
/// Version 8, "custom", of RFC 9562.
fn guid(number: u8) -> [u8; 16] {
    let mut guid = *b"drupe-\x00\x80\x80layers\x00";
    guid[15] = number;
    guid
}

fn write_entry(entry: &mut [u8], n: usize, partition: &Partition) {
    let number = n + 1;
    entry[..16].copy_from_slice(&LINUX_DATA);
    entry[16..32].copy_from_slice(&guid(number as u8));
    entry[32..40].copy_from_slice(&partition.start.to_le_bytes());
    // The last sector, inclusive.
    let last = partition.start + partition.sectors - 1;
    entry[40..48].copy_from_slice(&last.to_le_bytes());
    let name = format!("layer{number}");
    for (to, unit) in entry[56..].chunks_exact_mut(2).zip(name.encode_utf16()) {
        to.copy_from_slice(&unit.to_le_bytes());
    }
}

/// One sector with the header that lies at `this`, whose copy lies at `other` and
/// whose entries lie from `entries`.
fn header(this: u64, other: u64, entries: u64, entries_crc: u32) -> [u8; SECTOR_SIZE as usize] {
    let last_usable = this.max(other) - TAIL_SECTORS;
    let mut sector = [0; SECTOR_SIZE as usize];
    let mut put = |at: usize, value: &[u8]| sector[at..at + value.len()].copy_from_slice(value);
    put(0, b"EFI PART");
    // Revision 1.0.
    put(8, &0x1_0000u32.to_le_bytes());
    put(12, &(HEADER_SIZE as u32).to_le_bytes());
    put(24, &this.to_le_bytes());
    put(32, &other.to_le_bytes());
    put(40, &HEAD_SECTORS.to_le_bytes());
    put(48, &last_usable.to_le_bytes());
    put(56, &guid(0));
    put(72, &entries.to_le_bytes());
    put(80, &(ENTRIES as u32).to_le_bytes());
    put(84, &(ENTRY_SIZE as u32).to_le_bytes());
    put(88, &entries_crc.to_le_bytes());
    let crc = crc32fast::hash(&sector[..HEADER_SIZE]);
    sector[16..20].copy_from_slice(&crc.to_le_bytes());
    sector
}

/// The first sector: one partition of type 0xEE over the whole disk, so that
/// nobody takes the disk for empty.
fn protective_mbr(sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR_SIZE as usize];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    // Not bootable, from cylinder 0, head 0, sector 2, to the largest address.
    mbr[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&size.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}
