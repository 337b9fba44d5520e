//! Layers: found in the store, or converted, several at once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use tempfile::NamedTempFile;

use super::lock::NamedLock;
use super::{Store, files, lock};
use crate::compress::decompressed;
use crate::digest::HashingReader;
use crate::layer::{Layer, LayerError};
use crate::progress::{Event, Progress};
use crate::space::{IMAGE, KeepFree};
use crate::{Digest, Error, erofs};

/// The most layers that are converted at once. More would compete for the disk.
const MAX_WORKERS: usize = 4;

/// A layer that an image needs.
pub struct Job<'a> {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The digest of what `open` gives, when that is known.
    pub blob: Option<Digest>,
    /// Opens it, compressed or not. Called when the store does not have it.
    pub open: Box<dyn FnOnce() -> Result<Box<dyn Read + Send + 'a>, Error> + Send + 'a>,
}

/// A layer in the store. It stays there as long as this exists.
#[derive(Debug)]
pub struct Held {
    /// What its file is named after.
    pub key: Digest,
    /// What it takes on disk, in bytes.
    pub size: u64,
    _file: File,
}

/// What becomes of each layer, while workers are at it.
struct Board {
    results: Mutex<Vec<Option<Digest>>>,
    failed: Mutex<bool>,
    changed: Condvar,
}

impl Store {
    /// Sees to it that the store has all of these layers, the lowest first.
    pub(crate) fn ensure_layers(
        &self,
        jobs: Vec<Job>,
        progress: Progress,
    ) -> Result<Vec<Held>, Error> {
        let count = jobs.len();
        let workers = thread::available_parallelism().map_or(1, |n| n.get());
        let workers = workers.min(MAX_WORKERS).min(count);
        let mut chain = None;
        let mut chains = Vec::with_capacity(count);
        for job in &jobs {
            let id = job.diff_id.chain(chain);
            chain = Some(id);
            chains.push(id);
        }
        let jobs: Vec<_> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
        let board = Board {
            results: Mutex::new(vec![None; count]),
            failed: Mutex::new(false),
            changed: Condvar::new(),
        };
        let next = AtomicUsize::new(0);
        // The lowest first: a layer may wait for those below it, which are
        // either done or in other workers' hands.
        let work = || -> Result<Vec<(usize, Held)>, (usize, Error)> {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let job = jobs.get(index).and_then(|job| lock_mutex(job).take());
                let Some(job) = job else {
                    return Ok(done);
                };
                let lower = || board.wait_for(index);
                match self.ensure_layer(job, chains[index], lower, index, progress) {
                    Ok(Some(held)) => {
                        board.set(index, held.key);
                        done.push((index, held));
                    }
                    // Another one failed.
                    Ok(None) => return Ok(done),
                    Err(e) => {
                        board.fail();
                        return Err((index, e));
                    }
                }
            }
        };
        let results = thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let mut results = vec![work()];
            results.extend(others.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }));
            results
        });
        let mut layers = Vec::with_capacity(count);
        let mut errors = Vec::new();
        for result in results {
            match result {
                Ok(done) => layers.extend(done),
                Err(error) => errors.push(error),
            }
        }
        // The lowest layer's error is the same one each time.
        if let Some((_, error)) = errors.into_iter().min_by_key(|(index, _)| *index) {
            return Err(error);
        }
        layers.sort_by_key(|(index, _)| *index);
        Ok(layers.into_iter().map(|(_, held)| held).collect())
    }

    /// One layer; `None` when it would have to wait for one that failed.
    fn ensure_layer(
        &self,
        job: Job,
        chain: Digest,
        lower: impl FnOnce() -> Option<Vec<Digest>>,
        index: usize,
        progress: Progress,
    ) -> Result<Option<Held>, Error> {
        let found = |held: Held| {
            progress(Event::Present { layer: index });
            Ok(Some(held))
        };
        if let Some(held) = self.find_layer(job.diff_id, chain)? {
            return found(held);
        }
        // Another process may be at the same. Locks are named after chains and
        // never wait for one of a longer chain, so nobody waits in a circle.
        let path = self.root.join("tmp").join(chain.hex() + ".lock");
        let _lock = NamedLock::acquire(path.clone()).map_err(Error::store(path))?;
        if let Some(held) = self.find_layer(job.diff_id, chain)? {
            return found(held);
        }
        let diff_id = job.diff_id;
        let (layer, image) = self.convert(job)?;
        let in_layer = |source| self.layer_error(diff_id, source);
        let needs_lower = layer.needs_lower();
        let mut images = Vec::new();
        if needs_lower {
            let Some(keys) = lower() else {
                return Ok(None);
            };
            for key in keys.iter().rev() {
                let image = erofs::Image::open(&self.layer_path(*key));
                images.push(image.map_err(|e| in_layer(LayerError::Lower(e)))?);
            }
        }
        let key = if needs_lower { chain } else { diff_id };
        let file = layer.finish(&images, key.prefix()).map_err(in_layer)?;
        let held = self.commit_layer(key, file, image)?;
        progress(Event::Converted { layer: index });
        Ok(Some(held))
    }

    /// Reads the whole layer, and checks that it is the right one.
    fn convert(&self, job: Job) -> Result<(Layer, NamedTempFile), Error> {
        let image = self.temporary()?;
        let aside = self.temporary()?;
        let reopened = |file: &NamedTempFile| {
            file.as_file()
                .try_clone()
                .map_err(Error::store(file.path()))
        };
        let keep = KeepFree::of(image.as_file(), IMAGE).map_err(Error::store(image.path()))?;
        let (image_file, aside_file) = (reopened(&image)?, reopened(&aside)?);
        let mut raw = HashingReader::new((job.open)()?);
        let read = || -> Result<(Layer, Digest), LayerError> {
            let plain = decompressed(&mut raw).map_err(crate::tar::TarError::Read)?;
            let mut plain = HashingReader::new(keep.reading(plain));
            let layer = Layer::read(&mut plain, image_file, aside_file)?;
            Ok((layer, plain.finish().0))
        };
        let result = read();
        // What is damaged in transport makes no sense either: say the cause.
        if let Some(expected) = job.blob {
            let drained = io::copy(&mut raw, &mut io::sink());
            let (found, _) = raw.finish();
            if drained.is_ok() && found != expected {
                return Err(Error::Digest {
                    what: "a layer".into(),
                    expected,
                    found,
                });
            }
        }
        let (layer, found) = result.map_err(|source| self.layer_error(job.diff_id, source))?;
        if found != job.diff_id {
            return Err(Error::Digest {
                what: "a layer's content".into(),
                expected: job.diff_id,
                found,
            });
        }
        Ok((layer, image))
    }

    /// Puts a complete image in its place, or takes the one that is there.
    fn commit_layer(&self, key: Digest, file: File, temp: NamedTempFile) -> Result<Held, Error> {
        let path = self.layer_path(key);
        let mut temp = temp;
        file.set_permissions(fs::Permissions::from_mode(0o444))
            .and_then(|()| file.sync_all())
            .map_err(Error::store(temp.path()))?;
        loop {
            // `temporary` locked it, and the lock stays with the open file.
            temp = match temp.persist_noclobber(&path) {
                Ok(file) => {
                    files::sync_directory(&path)?;
                    return held(key, file).map_err(Error::store(&path));
                }
                Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => e.file,
                Err(e) => return Err(Error::store(&path)(e.error)),
            };
            if let Some(held) = open_layer(&path, key).map_err(Error::store(&path))? {
                return Ok(held);
            }
        }
    }

    /// Whether the store has a layer, for now.
    pub(crate) fn has_layer(&self, diff_id: Digest, chain: Digest) -> Result<bool, Error> {
        Ok(self.find_layer(diff_id, chain)?.is_some())
    }

    /// A layer that depends on nothing has its diff ID for a name, one that took
    /// something from the layers below has its chain ID.
    fn find_layer(&self, diff_id: Digest, chain: Digest) -> Result<Option<Held>, Error> {
        for key in [diff_id, chain] {
            let path = self.layer_path(key);
            if let Some(held) = open_layer(&path, key).map_err(Error::store(&path))? {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Failures to write are the store's, whatever layer it was.
    fn layer_error(&self, digest: Digest, source: LayerError) -> Error {
        match source.io() {
            Some(e) if is_of_the_store(e) => Error::Store {
                path: self.root.clone(),
                source: e.raw_os_error().map_or_else(
                    || io::Error::new(e.kind(), e.to_string()),
                    io::Error::from_raw_os_error,
                ),
            },
            _ => Error::Layer { digest, source },
        }
    }
}

fn is_of_the_store(e: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        e.kind(),
        StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem
    )
}

fn open_layer(path: &Path, key: Digest) -> io::Result<Option<Held>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    lock::share(&file)?;
    // Removed before the lock was there.
    if file.metadata()?.nlink() == 0 {
        return Ok(None);
    }
    held(key, file).map(Some)
}

fn held(key: Digest, file: File) -> io::Result<Held> {
    Ok(Held {
        key,
        size: files::disk_size(&file.metadata()?),
        _file: file,
    })
}

impl Board {
    fn set(&self, index: usize, key: Digest) {
        lock_mutex(&self.results)[index] = Some(key);
        self.changed.notify_all();
    }

    fn fail(&self) {
        *lock_mutex(&self.failed) = true;
        // Whoever is about to wait has looked at the other mutex.
        let _results = lock_mutex(&self.results);
        self.changed.notify_all();
    }

    /// The layers below `index`, the lowest first, once they are all there.
    fn wait_for(&self, index: usize) -> Option<Vec<Digest>> {
        let mut results = lock_mutex(&self.results);
        loop {
            if let Some(keys) = results[..index].iter().copied().collect() {
                return Some(keys);
            }
            if *lock_mutex(&self.failed) {
                return None;
            }
            results = self
                .changed
                .wait(results)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a mutex here guards is right at any time: a panic elsewhere does not
/// change that.
fn lock_mutex<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
