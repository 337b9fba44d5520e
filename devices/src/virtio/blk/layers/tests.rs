use std::fs;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use gpt_crate::disk::LogicalBlockSize;
use gpt_crate::mbr::ProtectiveMBR;
use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

use super::*;
use crate::testing::{Desc, Driver};
use crate::virtio::blk::{Blk, DiskSpec, request_type};

/// Files of these sizes, each with a pattern of its own.
fn files(dir: &Path, sizes: &[usize]) -> Vec<PathBuf> {
    let path = |n: usize| dir.join(format!("{n}.erofs"));
    for (n, &size) in sizes.iter().enumerate() {
        fs::write(path(n), pattern(n, size)).unwrap();
    }
    (0..sizes.len()).map(path).collect()
}

fn pattern(n: usize, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + n * 31 + 1) as u8 | 1).collect()
}

fn disk(sizes: &[usize]) -> (TempDir, LayerDisk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = LayerDisk::open(&files(dir.path(), sizes)).unwrap();
    (dir, disk)
}

fn read(disk: &LayerDisk, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mem = crate::GuestMemory::from_ranges(&[(GuestAddress(0), len + 4096)]).unwrap();
    mem.write_slice(&vec![0xee; len], GuestAddress(0)).unwrap();
    let mut buffer = GuestBuffer::new();
    // Pieces of odd sizes.
    let mut at = 0;
    while at < len {
        let n = (len - at).min(3001);
        buffer.push(mem.get_slice(GuestAddress(at as u64), n).unwrap());
        at += n;
    }
    disk.read_at(buffer, offset)?;
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    Ok(bytes)
}

fn whole(disk: &LayerDisk) -> Vec<u8> {
    read(disk, 0, disk.size() as usize).unwrap()
}

#[test]
fn another_reader_finds_the_partitions_and_the_files_in_them() {
    let sizes = [4096, 512, 1 << 20, (1 << 20) + 4097, 70_000];
    let (_dir, disk) = disk(&sizes);
    let image = whole(&disk);
    let mbr = ProtectiveMBR::from_bytes(&image[..512], LogicalBlockSize::Lb512).unwrap();
    assert_eq!(mbr.partition(0).unwrap().os_type, 0xee);

    // `open` checks both headers and both checksums.
    let table = gpt_crate::GptConfig::new()
        .writable(false)
        .open_from_device(Cursor::new(image.clone()))
        .unwrap();
    let (primary, backup) = (
        table.primary_header().unwrap(),
        table.backup_header().unwrap(),
    );
    assert_eq!(primary.backup_lba, disk.size() / 512 - 1);
    assert_eq!(backup.backup_lba, 1);
    assert_eq!(primary.first_usable, 34);
    assert_eq!(primary.last_usable, backup.part_start - 1);
    assert_eq!(primary.crc32_parts, backup.crc32_parts);
    let partitions = table.partitions();
    assert_eq!(partitions.len(), sizes.len());
    let mut guids = vec![primary.disk_guid];
    for (n, &size) in sizes.iter().enumerate() {
        let partition = &partitions[&(n as u32 + 1)];
        assert_eq!(
            partition.part_type_guid,
            gpt_crate::partition_types::LINUX_FS
        );
        assert_eq!(partition.name, format!("layer{}", n + 1));
        assert!(!guids.contains(&partition.part_guid));
        guids.push(partition.part_guid);
        let start = partition.first_lba as usize * 512;
        let len = (partition.last_lba - partition.first_lba + 1) as usize * 512;
        assert!(start.is_multiple_of(4096) && len.is_multiple_of(4096));
        assert!(len - size < 4096);
        let (file, padding) = image[start..start + len].split_at(size);
        assert!(file == pattern(n, size) && padding.iter().all(|b| *b == 0));
    }
    // The second time it is the same disk.
    let (_dir, again) = self::disk(&sizes);
    assert!(whole(&again) == image);
}

#[test]
fn as_many_as_there_may_be() {
    let (_dir, disk) = disk(&[512; MAX_LAYERS]);
    let image = whole(&disk);
    let table = gpt_crate::GptConfig::new()
        .writable(false)
        .open_from_device(Cursor::new(image))
        .unwrap();
    assert_eq!(table.partitions().len(), MAX_LAYERS);
}

#[test]
fn a_file_past_two_tebibytes_has_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    if file.set_len(3 << 40).is_err() {
        return;
    }
    let disk = LayerDisk::open(&[path.clone(), path]).unwrap();
    let head = read(&disk, 0, 34 * 512).unwrap();
    assert_eq!(head[458..462], [0xff; 4], "more than the MBR can say");
    let second = u64::from_le_bytes(head[1024 + 128 + 32..][..8].try_into().unwrap());
    assert_eq!(second * 512, (3 << 40) + ALIGNMENT);
    assert_eq!(read(&disk, second * 512 - 512, 1024).unwrap(), [0; 1024]);
}

#[test]
fn files_that_cannot_be_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = files(dir.path(), &[4096]);
    paths.push(dir.path().join("none"));
    let message = LayerDisk::open(&paths).unwrap_err().to_string();
    assert!(message.contains("none': no such file"), "{message}");
    // Another VM may read the layer, and none may write it.
    let _one = LayerDisk::open(&paths[..1]).unwrap();
    LayerDisk::open(&paths[..1]).unwrap();
    let writer = FileDisk::open(&paths[0], false).unwrap_err();
    assert!(writer.to_string().contains("is in use"));
    // Without any there is a disk without partitions.
    let empty = LayerDisk::open(&[]).unwrap();
    let mut image = Cursor::new(whole(&empty));
    let table = gpt_crate::GptConfig::new()
        .writable(false)
        .open_from_device(&mut image)
        .unwrap();
    assert!(table.partitions().is_empty());
    let mut last = [0; 8];
    image.seek(SeekFrom::End(-512)).unwrap();
    image.read_exact(&mut last).unwrap();
    assert_eq!(&last, b"EFI PART");
}

/// Behind the device: reads work, writes are refused, and a file that is cut off
/// while in use is the guest's I/O error.
#[test]
fn the_guest_reads_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let paths = files(dir.path(), &[8192, 4096]);
    let spec = DiskSpec::of_layers(paths.clone());
    let mut d = Driver::new(Blk::open(&spec, 0).unwrap());
    let offered = d.offered();
    assert!(d.start(offered));
    let mut request = |kind: u32, sector: u64, data: Desc| {
        d.put(0x1000, &u64::from(kind).to_le_bytes());
        d.put(0x1008, &sector.to_le_bytes());
        let chain = [Desc::readable(0x1000, 16), data, Desc::writable(0x1800, 1)];
        d.request(0, &chain);
        (d.get(0x1800, 1)[0], d.get(data.addr, data.len as usize))
    };
    let first = ALIGNMENT / SECTOR_SIZE;
    let data = Desc::writable(0x2000, 1024);
    let (status, bytes) = request(request_type::IN, first + 1, data);
    assert_eq!((status, &bytes[..]), (0, &pattern(0, 8192)[512..1536]));
    let id = request(request_type::GET_ID, 0, Desc::writable(0x2000, 20)).1;
    assert_eq!(&id[..7], b"layers\0");
    let write = request(request_type::OUT, first, Desc::readable(0x2000, 512)).0;
    assert_eq!(write, 1);
    assert_eq!(fs::read(&paths[0]).unwrap(), pattern(0, 8192));

    let file = fs::OpenOptions::new().write(true).open(&paths[0]).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(request(request_type::IN, first, data).0, 0);
    assert_eq!(request(request_type::IN, first + 7, data).0, 1);
    assert_eq!(
        request(request_type::IN, first + 2048, data).0,
        0,
        "the other"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any piece of the disk is that piece of the whole.
    #[test]
    fn any_read_is_a_piece_of_the_whole(
        sizes in proptest::collection::vec(512usize..10_000, 0..4),
        reads in proptest::collection::vec((any::<u64>(), 1usize..40), 1..12),
    ) {
        let (_dir, disk) = disk(&sizes);
        let image = whole(&disk);
        for (at, sectors) in reads {
            // Near where something begins or ends more often than not.
            let total = disk.size() / SECTOR_SIZE;
            let edges = disk.extents.iter().flat_map(|e| [e.start, e.end()]);
            let edges: Vec<u64> = edges.map(|e| e / SECTOR_SIZE).collect();
            let edge = edges[at as usize % edges.len()];
            let sector = match at % 5 {
                0 => (at >> 8) % total,
                _ => edge.saturating_sub((at >> 8) % 20).min(total - 1),
            };
            let len = (sectors as u64).min(total - sector) * SECTOR_SIZE;
            let offset = sector * SECTOR_SIZE;
            let bytes = read(&disk, offset, len as usize).unwrap();
            prop_assert!(bytes == image[offset as usize..][..len as usize]);
        }
    }
}
