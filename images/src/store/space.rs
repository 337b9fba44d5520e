//! Room that the store leaves on its disk: an image may be a bomb, some kilobytes
//! that become as much as there is.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

/// What of a disk stays free: a twentieth, and no more than this.
const MOST_KEPT: u64 = 1 << 30;
const KEPT_PART: u64 = 20;

/// What a file may take without a look at the disk: on one that is nearly full,
/// small images still find a place.
const SMALL: u64 = 16 << 20;
/// How much is written between two looks.
const STEP: u64 = 1 << 20;

/// What a disk has, in bytes.
struct Space {
    available: u64,
    total: u64,
}

impl Space {
    fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstatvfs(file)?;
        Ok(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn kept(&self) -> u64 {
        (self.total / KEPT_PART).min(MOST_KEPT)
    }
}

/// Looks at the disk while a file grows.
pub(crate) struct KeepFree {
    look: Box<dyn Fn() -> io::Result<Space> + Send>,
    /// What may be written before the next look.
    allowed: u64,
}

impl KeepFree {
    /// On the disk of this file.
    ///
    /// # Errors
    /// The descriptor's.
    pub fn of(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        Ok(Self::with(move || Space::of(&file)))
    }

    fn with(look: impl Fn() -> io::Result<Space> + Send + 'static) -> Self {
        KeepFree {
            look: Box::new(look),
            allowed: SMALL,
        }
    }

    /// So many bytes are about to be written.
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
        // A disk that cannot say how large it is has nothing to keep.
        if space.total > 0 && space.available < kept.saturating_add(bytes) {
            let why = format!(
                "an image of this size would leave less than {} MiB of the disk",
                kept.div_ceil(1 << 20)
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        self.allowed = STEP;
        Ok(())
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
pub(crate) struct Guarded<R> {
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

    /// A disk of this size, which is written to by nobody else.
    fn disk(total: u64, available: u64) -> (Arc<AtomicU64>, KeepFree) {
        let left = Arc::new(AtomicU64::new(available));
        let looked = left.clone();
        let look = move || {
            let available = looked.load(Ordering::Relaxed);
            Ok(Space { available, total })
        };
        (left, KeepFree::with(look))
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
        let mut here = KeepFree::of(&file).unwrap();
        here.write(SMALL).unwrap();
        assert!(Space::of(&file).unwrap().total > 0);
    }
}
