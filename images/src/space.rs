//! Room that is left on a disk when something comes from outside, which may be a
//! bomb: an image, some kilobytes that become as much as there is, or an archive
//! without end.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;

/// What of a disk stays free: a twentieth, and no more than this.
const MOST_KEPT: u64 = 1 << 30;
const KEPT_PART: u64 = 20;
/// The most inodes that stay free: what ext4 has on that much of a disk.
const MOST_FILES_KEPT: u64 = MOST_KEPT / (16 << 10);

/// What may be taken without a look at the disk: on one that is nearly full, what is
/// small still finds a place.
const SMALL: u64 = 16 << 20;
/// How much is written between two looks.
const STEP: u64 = 1 << 20;
/// What a file takes beside what is in it, in bytes: its place in a directory, and
/// where inodes have none of their own, its inode. Also what is lost at either end of
/// a piece of it.
const FILE: u64 = 4 << 10;

/// What grows in the store.
pub(crate) const IMAGE: &str = "an image of this size";

/// What a disk has.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Bytes that may be written.
    pub available: u64,
    /// All of its bytes; 0 where it cannot say.
    pub total: u64,
    /// Inodes that may be made.
    pub files: u64,
    /// All of its inodes; 0 where they are not counted.
    pub all_files: u64,
}

impl Space {
    fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstatvfs(file)?;
        Ok(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            files: stat.f_favail,
            all_files: stat.f_files,
        })
    }

    fn kept(&self) -> u64 {
        (self.total / KEPT_PART).min(MOST_KEPT)
    }

    fn kept_files(&self) -> u64 {
        (self.all_files / KEPT_PART).min(MOST_FILES_KEPT)
    }
}

/// Looks at the disk while files grow on it.
pub struct KeepFree {
    look: Box<dyn Fn() -> io::Result<Space> + Send>,
    /// What grows, as the error calls it.
    what: &'static str,
    /// What may be written before the next look.
    allowed: u64,
    /// Files are made, and not only written.
    makes_files: bool,
}

impl KeepFree {
    /// On the disk of this file or directory. What grows there is called `what` in
    /// the error: "an image of this size".
    ///
    /// # Errors
    /// The descriptor's.
    pub fn of(file: impl AsFd, what: &'static str) -> io::Result<Self> {
        let file = file.as_fd().try_clone_to_owned()?;
        Ok(Self::with(what, move || Space::of(&file)))
    }

    /// On a disk that has what `look` tells.
    pub fn with(what: &'static str, look: impl Fn() -> io::Result<Space> + Send + 'static) -> Self {
        KeepFree {
            look: Box::new(look),
            what,
            allowed: SMALL,
            makes_files: false,
        }
    }

    /// So many bytes are about to be written behind the others.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when too little would be left.
    pub fn write(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(left) = self.allowed.checked_sub(bytes) {
            self.allowed = left;
            return Ok(());
        }
        let space = (self.look)()?;
        let kept = space.kept();
        let full = |left: String| {
            let why = format!("{} would leave less than {left} of the disk", self.what);
            Err(io::Error::new(io::ErrorKind::StorageFull, why))
        };
        // A disk that cannot say how large it is has nothing to keep.
        if space.total > 0 && space.available < kept.saturating_add(bytes) {
            return full(format!("{} MiB", kept.div_ceil(1 << 20)));
        }
        let files = if self.makes_files { STEP / FILE } else { 0 };
        let kept = space.kept_files();
        if files > 0 && space.all_files > 0 && space.files < kept.saturating_add(files) {
            return full(format!("{kept} inodes"));
        }
        self.allowed = STEP;
        Ok(())
    }

    /// A piece of a file with holes is about to be written: it may begin and end
    /// within a block.
    ///
    /// # Errors
    /// As [`KeepFree::write`].
    pub fn write_piece(&mut self, bytes: u64) -> io::Result<()> {
        self.write(bytes.saturating_add(FILE))
    }

    /// A file, a directory or a link is about to be made.
    ///
    /// # Errors
    /// As [`KeepFree::write`], also when too few inodes would be left.
    pub fn make(&mut self) -> io::Result<()> {
        self.makes_files = true;
        self.write(FILE)
    }

    /// What is read from `from` is about to be written.
    pub fn reading<R>(self, from: R) -> Guarded<R> {
        Guarded { from, keep: self }
    }
}

impl fmt::Debug for KeepFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("KeepFree");
        f.field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// See [`KeepFree::reading`].
#[derive(Debug)]
pub struct Guarded<R> {
    from: R,
    keep: KeepFree,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.keep.write(n as u64)?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const NOTHING: Space = Space {
        available: 0,
        total: 0,
        files: 0,
        all_files: 0,
    };

    /// A disk of this size, which is written to by nobody else.
    fn disk(total: u64, available: u64) -> (Arc<AtomicU64>, KeepFree) {
        let left = Arc::new(AtomicU64::new(available));
        let looked = left.clone();
        let look = move || {
            let available = looked.load(Ordering::Relaxed);
            Ok(Space {
                available,
                total,
                ..NOTHING
            })
        };
        (left, KeepFree::with("it", look))
    }

    #[test]
    fn a_bomb_stops_before_the_disk_is_full() {
        for (total, kept) in [(100 << 30, 1 << 30), (4 << 30, (4 << 30) / 20)] {
            let (left, keep) = disk(total, total / 2);
            let mut bomb = keep.reading(io::repeat(0));
            let mut buffer = vec![0; 256 << 10];
            let error = loop {
                match bomb.read(&mut buffer) {
                    Ok(n) => left.fetch_sub(n as u64, Ordering::Relaxed),
                    Err(e) => break e,
                };
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(
                error.to_string().contains("would leave less than"),
                "{error}"
            );
            let left = left.load(Ordering::Relaxed);
            assert!(left >= kept - STEP && left < kept + 2 * STEP, "{left}");
        }
    }

    #[test]
    fn small_files_find_a_place_on_a_disk_that_is_nearly_full() {
        let (_, mut keep) = disk(100 << 30, 1 << 20);
        keep.write(SMALL).unwrap();
        assert!(keep.write(1).is_err());
        let (_, mut keep) = disk(0, 0);
        keep.write(2 * SMALL).unwrap();
        // The one that is here.
        let file = tempfile::tempfile().unwrap();
        let mut here = KeepFree::of(&file, "it").unwrap();
        here.write(SMALL).unwrap();
        assert!(Space::of(&file).unwrap().total > 0);
    }

    #[test]
    fn files_without_content_stop_before_the_inodes_are_gone() {
        for (all_files, kept) in [(100 << 20, MOST_FILES_KEPT), (100_000, 5_000)] {
            let left = Arc::new(AtomicU64::new(all_files / 2));
            let looked = left.clone();
            let look = move || {
                Ok(Space {
                    available: 1 << 40,
                    total: 1 << 41,
                    files: looked.load(Ordering::Relaxed),
                    all_files,
                })
            };
            let mut keep = KeepFree::with("it", look);
            let error = loop {
                match keep.make() {
                    Ok(()) => left.fetch_sub(1, Ordering::Relaxed),
                    Err(e) => break e,
                };
                // Each look is made for the bytes.
                if let Err(e) = keep.write(STEP - FILE) {
                    break e;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let text = format!("it would leave less than {kept} inodes of the disk");
            assert_eq!(error.to_string(), text);
            let left = left.load(Ordering::Relaxed);
            assert!(left >= kept && left < kept + 2 * STEP / FILE, "{left}");
        }
        // Where inodes are not counted, or none is made.
        let mut keep = disk(1 << 40, 1 << 40).1;
        (0..10_000).try_for_each(|_| keep.make()).unwrap();
        let full = || {
            Ok(Space {
                available: 1 << 40,
                total: 1 << 40,
                files: 1,
                all_files: 1 << 20,
            })
        };
        KeepFree::with("it", full).write(1 << 30).unwrap();
    }

    #[test]
    fn pieces_take_a_block_and_more() {
        let (left, mut keep) = disk(100 << 30, 50 << 30);
        let error = loop {
            match keep.write_piece(1) {
                Ok(()) => left.fetch_sub(4096, Ordering::Relaxed),
                Err(e) => break e,
            };
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(left.load(Ordering::Relaxed) >= MOST_KEPT - STEP);
    }
}
