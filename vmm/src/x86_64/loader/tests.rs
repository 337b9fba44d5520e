use std::io::Write;

use super::*;
use tempfile::NamedTempFile;

fn memory(mib: usize) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), mib << 20)]).unwrap()
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// An ELF kernel with one segment of `code` at 2 MiB and, when asked, a PVH note.
fn elf(code: &[u8], pvh: bool) -> Vec<u8> {
    const AT: u64 = 0x20_0000;
    let headers = 1 + u16::from(pvh);
    let note_at = 64 + u64::from(headers) * 56;
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((AT as u32 + 4).to_le_bytes());
    let code_at = note_at + note.len() as u64;

    let mut f = b"\x7fELF\x02\x01\x01".to_vec();
    f.resize(16, 0);
    f.extend(2u16.to_le_bytes());
    f.extend(62u16.to_le_bytes());
    f.extend(1u32.to_le_bytes());
    f.extend(AT.to_le_bytes());
    f.extend(64u64.to_le_bytes());
    f.extend([0; 12]);
    for half in [64, 56, headers, 0, 0, 0] {
        f.extend(u16::to_le_bytes(half));
    }
    let mut header = |kind: u32, offset: u64, addr: u64, len: u64, align: u64| {
        f.extend(kind.to_le_bytes());
        f.extend(5u32.to_le_bytes());
        for word in [offset, addr, addr, len, len, align] {
            f.extend(word.to_le_bytes());
        }
    };
    header(1, code_at, AT, code.len() as u64, 4096);
    if pvh {
        header(4, note_at, 0, note.len() as u64, 4);
    }
    f.extend(&note);
    f.extend(code);
    f
}

/// A bzImage with one setup sector and `payload` bytes of kernel.
fn bzimage(payload: usize) -> Vec<u8> {
    let mut f = vec![0; 1024];
    f[0x1f1] = 1;
    f[0x1f4..0x1f8].copy_from_slice(&((payload / 16) as u32).to_le_bytes());
    f[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
    f[0x202..0x206].copy_from_slice(b"HdrS");
    f[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    f[0x211] = 1;
    f[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    f[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    f[0x236..0x238].copy_from_slice(&1u16.to_le_bytes());
    f[0x258..0x260].copy_from_slice(&0x10_0000u64.to_le_bytes());
    f[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    f.resize(1024 + payload, 0x90);
    f
}

fn try_load(kernel: &[u8], change: impl FnOnce(&mut VmConfig)) -> Result<Entry, Error> {
    let kernel = file(kernel);
    let mut config = VmConfig::new(kernel.path());
    change(&mut config);
    load(&memory(16), &config)
}

fn message(kernel: &[u8], change: impl FnOnce(&mut VmConfig)) -> String {
    let message = try_load(kernel, change).unwrap_err().to_string();
    assert!(!message.contains('\n'));
    message
}

#[test]
fn elf_is_entered_by_pvh_when_it_can_be() {
    let entry = |pvh, protocol| {
        try_load(&elf(b"\xf4code", pvh), |c| c.boot_protocol = protocol)
            .map(|e| (e.address.0, e.protocol))
    };
    use BootProtocol::*;
    assert_eq!(entry(true, Auto).unwrap(), (0x20_0004, Pvh));
    assert_eq!(entry(true, Linux).unwrap(), (0x20_0000, Linux));
    assert_eq!(entry(false, Auto).unwrap(), (0x20_0000, Linux));
    assert!(
        entry(false, Pvh)
            .unwrap_err()
            .to_string()
            .contains("no PVH note")
    );
}

#[test]
fn bzimage_is_entered_at_its_64_bit_entry() {
    let entry = try_load(&bzimage(4096), |_| ()).unwrap();
    assert_eq!(entry.address, GuestAddress(0x10_0200));
    assert!(message(&bzimage(4096), |c| c.boot_protocol = BootProtocol::Pvh).contains("vmlinux"));
}

#[test]
fn what_is_no_kernel_is_named() {
    let elf = elf(b"\xf4code", true);
    let bz = bzimage(4096);
    let changed = |bytes: &[u8], at: usize, to: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    for (bytes, says) in [
        (vec![], "is empty"),
        (b"#!/bin/sh\necho no kernel\n".to_vec(), "not a kernel"),
        (b"\x1f\x8b\x08rest".to_vec(), "gzip"),
        (elf[..40].to_vec(), "truncated"),
        (elf[..100].to_vec(), "truncated"),
        (elf[..elf.len() - 1].to_vec(), "truncated"),
        (changed(&elf, 18, &[3, 0]), "another machine"),
        (changed(&elf, 16, &[1, 0]), "object"),
        (changed(&elf, 56, &[0, 0]), "program headers"),
        (changed(&elf, 64 + 24, &[0; 8]), "above 1 MiB"),
        (changed(&elf, 64 + 24, &[0xff; 8]), "past the end"),
        (
            changed(&elf, 64 + 40, &(1u64 << 30).to_le_bytes()),
            "more with --memory",
        ),
        (bz[..0x240].to_vec(), "truncated"),
        (bz[..3000].to_vec(), "truncated"),
        (changed(&bz, 0x236, &[0, 0]), "32-bit"),
        (
            changed(&bz, 0x260, &(1u32 << 30).to_le_bytes()),
            "more with --memory",
        ),
        (changed(&bz, 0x258, &[0xff; 8]), "more with --memory"),
        (
            changed(&elf, 64 + 24, &(u64::MAX - 0x1000).to_le_bytes()),
            "more with --memory",
        ),
        // In the file alone, and below 1 MiB.
        (
            changed(&changed(&elf, 64 + 40, &[0; 8]), 64 + 24, &[0; 8]),
            "above 1 MiB",
        ),
    ] {
        let message = message(&bytes, |_| ());
        assert!(message.contains(says), "{message} should say {says}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = load(&memory(16), &VmConfig::new("/nonexistent/vmlinuz")).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("kernel /nonexistent/vmlinuz: No such file")
    );
    let directory = load(&memory(16), &VmConfig::new("/")).unwrap_err();
    assert!(directory.to_string().contains("not a regular file"));
}

#[test]
fn the_initrd_lies_at_the_top_and_must_fit() {
    let small = file(&[7; 5000]);
    let kernel = file(&bzimage(4096));
    let mem = memory(16);
    let mut config = VmConfig::new(kernel.path());
    config.initrd = Some(small.path().to_owned());
    load(&mem, &config).unwrap();
    let at = GuestAddress((16 << 20) - 8192);
    assert_eq!(mem.read_obj::<u8>(at).unwrap(), 7);

    let large = file(&vec![7; 15 << 20]);
    config.initrd = Some(large.path().to_owned());
    let message = load(&mem, &config).unwrap_err().to_string();
    assert!(
        message.contains("does not fit") && message.contains("--memory"),
        "{message}"
    );
    let huge = NamedTempFile::new().unwrap();
    huge.as_file().set_len(1 << 40).unwrap();
    config.initrd = Some(huge.path().to_owned());
    assert!(
        load(&mem, &config)
            .unwrap_err()
            .to_string()
            .contains("does not fit")
    );
    config.initrd = Some(file(b"").path().to_owned());
    assert!(load(&mem, &config).is_err());
}

#[test]
fn the_initrd_lies_behind_memory_that_the_kernel_has_no_bytes_for() {
    // The PVH note's header becomes that of a segment that ends at 15 MiB.
    let mut kernel = elf(b"\xf4code", true);
    let header = 64 + 56;
    kernel[header] = 1;
    kernel[header + 24..header + 32].copy_from_slice(&0x20_0000u64.to_le_bytes());
    kernel[header + 32..header + 40].fill(0);
    kernel[header + 40..header + 48].copy_from_slice(&(13u64 << 20).to_le_bytes());
    let small = file(&[7; 1 << 20]);
    try_load(&kernel, |c| c.initrd = Some(small.path().to_owned())).unwrap();
    let large = file(&[7; (1 << 20) + 1]);
    assert!(
        message(&kernel, |c| c.initrd = Some(large.path().to_owned())).contains("does not fit")
    );
}

proptest::proptest! {
    /// No file, however broken, makes the loader panic or write outside memory.
    #[test]
    fn broken_headers_never_panic(
        at in 0usize..0x300,
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..16),
        cut in 0usize..6000,
        is_elf in proptest::bool::ANY,
    ) {
        let mut image = if is_elf { elf(b"\xf4code", true) } else { bzimage(4096) };
        for (i, b) in bytes.iter().enumerate() {
            if let Some(slot) = image.get_mut(at + i) {
                *slot = *b;
            }
        }
        image.truncate(cut.max(1));
        let _ = try_load(&image, |_| ());
    }
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let config = VmConfig::new(&pipe);
    let error = load(&memory(16), &config).unwrap_err().to_string();
    assert!(error.contains("not a regular file: give"), "{error}");
    let error = try_load(&elf(b"\xf4", false), |c| c.initrd = Some(pipe)).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn notes_without_end_are_refused() {
    // The note's header is the second: its size in the file is 32 bytes in.
    const NOTE_SIZE: usize = 64 + 56 + 32;
    let mut kernel = elf(b"\xf4", true);
    assert!(try_load(&kernel, |_| ()).is_ok());
    kernel[NOTE_SIZE..NOTE_SIZE + 8].copy_from_slice(&(MAX_NOTES_SIZE + 1).to_le_bytes());
    kernel.resize(kernel.len() + 2 * MAX_NOTES_SIZE as usize, 0);
    let error = try_load(&kernel, |_| ()).unwrap_err().to_string();
    assert!(error.contains("more notes than"), "{error}");
}

/// Gives a byte at a time, and is interrupted before each second one.
struct Drip(Vec<u8>, bool);

impl ReadVolatile for Drip {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        self.1 = !self.1;
        if self.1 {
            return Err(VolatileMemoryError::IOError(ErrorKind::Interrupted.into()));
        }
        let n = self.0.len().min(1).min(buf.len());
        buf.copy_from(&self.0[..n]);
        self.0.drain(..n);
        Ok(n)
    }
}

#[test]
fn reads_that_give_less_are_no_end() {
    let mem = memory(16);
    let bytes: Vec<u8> = (1..=100).collect();
    let mut whole = WholeReads(Drip(bytes.clone(), false));
    mem.read_exact_volatile_from(GuestAddress(0x1000), &mut whole, 100)
        .unwrap();
    let mut seen = [0; 100];
    mem.read_slice(&mut seen, GuestAddress(0x1000)).unwrap();
    assert_eq!(seen[..], bytes);
    assert!(
        mem.read_exact_volatile_from(GuestAddress(0x1000), &mut whole, 1)
            .is_err()
    );
}
