//! One blob on its way to a file, and whoever reads along.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::client::{Client, pause};
use crate::oci::Descriptor;
use crate::progress::{Event, Progress};
use crate::space::{IMAGE, KeepFree};
use crate::store::own_lock;
use crate::{Digest, Error, Store};

/// The largest blob, in bytes.
const MAX_BLOB: u64 = 256 << 30;
/// Attempts at a blob without a byte of progress.
const ATTEMPTS: u32 = 5;
/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// A blob.
pub struct Download {
    digest: Digest,
    size: u64,
    /// The first layer that it stands for.
    layer: usize,
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    claimed: bool,
    /// Bytes that are in the file.
    available: u64,
    file: Option<Arc<File>>,
    end: Option<End>,
}

enum End {
    Complete,
    Cancelled,
    Failed(Option<Error>),
}

/// Why a download stopped before its end.
enum Stop {
    /// Another attempt may do better.
    Broken(Error),
    Lasting(Error),
    Cancelled,
}

impl Download {
    pub fn new(store: &Store, layer: &Descriptor, index: usize) -> Self {
        Download {
            digest: layer.digest,
            size: layer.size,
            layer: index,
            path: store.partial_path(layer.digest),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    /// Downloads the blob, unless that is being done or has been.
    pub fn run(&self, client: &Client, progress: Progress) {
        {
            let mut state = self.state();
            if state.claimed || state.end.is_some() {
                return;
            }
            state.claimed = true;
        }
        let end = match self.fetch(client, progress) {
            Ok(()) => End::Complete,
            Err(Stop::Cancelled) => End::Cancelled,
            Err(Stop::Broken(e) | Stop::Lasting(e)) => End::Failed(Some(e)),
        };
        self.state().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Stops it soon, and whoever reads along.
    pub fn cancel(&self) {
        self.state().end.get_or_insert(End::Cancelled);
        self.changed.notify_all();
    }

    /// The file is not needed any more, or is no good.
    pub fn discard(&self) {
        // Another process may have done so. One that stays is removed later.
        let _ = std::fs::remove_file(&self.path);
    }

    /// What went wrong with it, if something did.
    pub fn take_error(&self) -> Option<Error> {
        match &mut self.state().end {
            Some(End::Failed(error)) => error.take(),
            _ => None,
        }
    }

    /// A reader that waits for what is still to come.
    pub fn open(download: &Arc<Download>) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(Follower {
            download: Arc::clone(download),
            at: 0,
        }))
    }

    fn fetch(&self, client: &Client, progress: Progress) -> Result<(), Stop> {
        let failed = |e| Stop::Lasting(Error::store(&self.path)(e));
        if self.size > MAX_BLOB {
            let why = format!("a layer of more than {} GiB", MAX_BLOB >> 30);
            return Err(Stop::Lasting(client.error(why)));
        }
        // Locked while it grows: another process that wants it waits.
        let mut file = self.own_file().map_err(failed)?;
        let mut have = file.metadata().map_err(failed)?.len();
        if have > self.size {
            file.set_len(0).map_err(failed)?;
            have = 0;
        }
        let reader = File::open(&self.path).map_err(failed)?;
        {
            let mut state = self.state();
            state.file = Some(Arc::new(reader));
            state.available = have;
        }
        self.changed.notify_all();
        let mut attempt = 1;
        while have < self.size {
            let before = have;
            match self.continue_at(client, &mut file, &mut have, progress) {
                Ok(()) => {}
                Err(Stop::Broken(e)) => {
                    if have > before {
                        attempt = 1;
                    }
                    if attempt == ATTEMPTS {
                        return Err(Stop::Lasting(e));
                    }
                    self.wait(attempt)?;
                    attempt += 1;
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    /// One request for what is missing.
    fn continue_at(
        &self,
        client: &Client,
        file: &mut File,
        have: &mut u64,
        progress: Progress,
    ) -> Result<(), Stop> {
        let broken = |why: String| Stop::Broken(client.error(why));
        let answer = client.blob(self.digest, *have).map_err(|e| match e {
            Error::Registry { .. } => Stop::Broken(e),
            e => Stop::Lasting(e),
        })?;
        // A registry that does not know ranges begins at the beginning.
        let start = match answer.status().as_u16() {
            206 => content_range(&answer).ok_or_else(|| broken("no Content-Range".into()))?,
            416 => {
                return Err(Stop::Lasting(
                    client.error("a layer is shorter than its manifest says".into()),
                ));
            }
            _ => 0,
        };
        let in_store = |e| Stop::Lasting(Error::store(&self.path)(e));
        let mut body = answer.into_body().into_reader();
        let mut skip = have
            .checked_sub(start)
            .ok_or_else(|| broken("it leaves out a part of a layer".into()))?;
        let mut buffer = vec![0; BUFFER];
        file.seek(SeekFrom::Start(*have)).map_err(in_store)?;
        let mut keep = KeepFree::of(&*file, IMAGE).map_err(in_store)?;
        while *have < self.size {
            let n = body.read(&mut buffer).map_err(|e| broken(ended(e)))?;
            if n == 0 {
                return Err(broken(ended(io::ErrorKind::UnexpectedEof.into())));
            }
            let skipped = skip.min(n as u64);
            skip -= skipped;
            let new = &buffer[skipped as usize..n];
            if *have + new.len() as u64 > self.size {
                let why = "a layer is longer than its manifest says".into();
                return Err(Stop::Lasting(client.error(why)));
            }
            if let Err(e) = keep.write(new.len() as u64) {
                // To go on later would end here again.
                let _ = file.set_len(0);
                return Err(in_store(e));
            }
            file.write_all(new).map_err(in_store)?;
            *have += new.len() as u64;
            {
                let mut state = self.state();
                if state.end.is_some() {
                    return Err(Stop::Cancelled);
                }
                state.available = *have;
            }
            self.changed.notify_all();
            progress(Event::Downloaded {
                layer: self.layer,
                bytes: *have,
                total: self.size,
            });
        }
        Ok(())
    }

    /// The file of what is there so far, which nobody else writes to.
    fn own_file(&self) -> io::Result<File> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.path)?;
            own_lock(&file)?;
            // Removed by its last owner while this one waited.
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
    }

    /// Waits before another attempt.
    fn wait(&self, attempt: u32) -> Result<(), Stop> {
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, pause(attempt), |state| state.end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        match state.end {
            None => Ok(()),
            Some(_) => Err(Stop::Cancelled),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(e: io::Error) -> String {
    format!("the connection ended within a layer ({e}): pull again to go on")
}

/// Where a part begins.
fn content_range(answer: &ureq::http::Response<ureq::Body>) -> Option<u64> {
    let value = answer.headers().get("Content-Range")?.to_str().ok()?;
    let range = value.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// Reads a blob while it arrives.
struct Follower {
    download: Arc<Download>,
    at: u64,
}

impl Read for Follower {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.download.state();
        loop {
            if let Some(file) = state.file.clone().filter(|_| state.available > self.at) {
                let most = usize::try_from(state.available - self.at).unwrap_or(usize::MAX);
                let most = most.min(buf.len());
                drop(state);
                let n = file.read_at(&mut buf[..most], self.at)?;
                self.at += n as u64;
                return Ok(n);
            }
            match &state.end {
                Some(End::Complete) => return Ok(0),
                Some(_) => return Err(io::Error::other("the download ended early")),
                None => {}
            }
            state = self
                .download
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
