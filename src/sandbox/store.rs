//! The sandboxes of a user, a directory each.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;

use super::cgroups;
use super::error::SandboxError;
use super::files;
use super::id::Id;
use super::lock::{self, FileLock, Kind};
use super::names::Names;
use super::spec::{Spec, VERSION};
use super::state::{LOST, State, Status};
use super::time::Time;
use crate::cgroup::Shortage;
use crate::home;

/// A file without content, for the day on which the disk is full and it has to be
/// written down how a sandbox ended.
const SPARE: &str = "spare";
const SPARE_SIZE: usize = 8 << 10;

/// Where the sandboxes are.
#[derive(Debug)]
pub struct Store {
    home: PathBuf,
}

impl Store {
    /// The user's.
    ///
    /// # Errors
    /// When nothing says where it is.
    pub fn open() -> Result<Self, SandboxError> {
        let home = home::data_dir().map_err(|e| SandboxError::Refused(e.to_string()))?;
        // Monitors work in another directory.
        let home = std::path::absolute(&home).map_err(|e| SandboxError::io("find", &home, e))?;
        Ok(Store::at(home))
    }

    /// The one in this directory.
    pub fn at(home: PathBuf) -> Self {
        Store { home }
    }

    /// Everything of drupe's.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A directory for each sandbox.
    pub fn sandboxes(&self) -> PathBuf {
        self.home.join("sandboxes")
    }

    fn names(&self) -> Names {
        Names::new(self.home.join("names"), self.sandboxes())
    }

    /// Makes the sandbox `id`. Its name is `name`, or made up; `spec.name` says
    /// which afterwards.
    ///
    /// # Errors
    /// A name in use, or the files'; nothing is left behind then.
    pub fn create(
        &self,
        id: Id,
        spec: &mut Spec,
        name: Option<&str>,
    ) -> Result<Sandbox, SandboxError> {
        let parent = self.sandboxes();
        let new = files::unfinished(&parent, id.as_str());
        files::private_dir(&new).map_err(|e| SandboxError::io("make", &new, e))?;
        let sandbox = self.sandbox(id);
        let finished = (|| {
            let kept = sandbox.kept("");
            files::private_dir(&kept).map_err(|e| SandboxError::io("make", &kept, e))?;
            sandbox.write_state(&State::created())?;
            let spare = sandbox.kept(SPARE);
            fs::write(&spare, [0; SPARE_SIZE]).map_err(|e| SandboxError::io("write", &spare, e))?;
            let names = self.names();
            let locked = names.lock()?;
            spec.name = locked.take(name, &sandbox.id)?;
            let result = sandbox.write_spec(spec).and_then(|()| {
                fs::rename(&new, &sandbox.dir)
                    .map_err(|e| SandboxError::io("make", &sandbox.dir, e))
            });
            if result.is_err() {
                locked.free(&spec.name, &sandbox.id);
            }
            result
        })();
        if finished.is_err() {
            // Whatever stays is nobody's sandbox.
            let _ = fs::remove_dir_all(&new);
            sandbox.forget();
        }
        finished.map(|()| sandbox)
    }

    /// The sandbox of this identifier, this name, or whose identifier alone
    /// begins so; in that order.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`] or [`SandboxError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<Sandbox, SandboxError> {
        if let Ok(id) = reference.parse() {
            let sandbox = self.sandbox(id);
            if sandbox.dir.is_dir() {
                return Ok(sandbox);
            }
        }
        if let Some(id) = self.names().get(reference) {
            let sandbox = self.sandbox(id);
            if sandbox.dir.is_dir() {
                return Ok(sandbox);
            }
        }
        let mut found = match Id::is_prefix(reference) {
            true => self.ids()?.into_iter(),
            false => Vec::new().into_iter(),
        }
        .filter(|id| id.as_str().starts_with(reference));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(self.sandbox(id)),
            (Some(_), Some(_)) => Err(SandboxError::Ambiguous(reference.to_owned())),
            (None, _) => Err(SandboxError::Unknown(reference.to_owned())),
        }
    }

    /// Removes what is left of sandboxes that a crash kept from being made, or from
    /// being removed.
    pub fn sweep(&self) {
        let mut names = files::sweep(&self.sandboxes());
        // What was there before the directory was.
        for directory in ["configs", "images/holds"] {
            names.extend(files::abandoned(&self.home.join(directory)));
        }
        for name in names {
            let Ok(id) = name.parse() else { continue };
            let sandbox = self.sandbox(id);
            if sandbox.dir.try_exists().is_ok_and(|there| !there) {
                sandbox.forget();
                super::images::release(&self.home, &sandbox.id);
            }
        }
    }

    /// All sandboxes, in no order.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self) -> Result<Vec<Sandbox>, SandboxError> {
        Ok(self.ids()?.into_iter().map(|id| self.sandbox(id)).collect())
    }

    fn ids(&self) -> Result<Vec<Id>, SandboxError> {
        let parent = self.sandboxes();
        let entries = match fs::read_dir(&parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| SandboxError::io("list", &parent, e))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    fn sandbox(&self, id: Id) -> Sandbox {
        Sandbox {
            dir: self.sandboxes().join(id.as_str()),
            id,
            home: self.home.clone(),
        }
    }
}

/// One sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its identifier.
    pub id: Id,
    dir: PathBuf,
    home: PathBuf,
}

impl Sandbox {
    /// A file of it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The store that it is of.
    pub fn store(&self) -> Store {
        Store::at(self.home.clone())
    }

    /// What it is.
    ///
    /// # Errors
    /// When the file cannot be read, or is of a newer drupe.
    pub fn spec(&self) -> Result<Spec, SandboxError> {
        let path = self.kept("config.json");
        let bytes = read_bytes(self, &path)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| e.to_string())
            .and_then(|spec: Spec| match spec.version <= VERSION {
                true => Ok(spec),
                false => Err(String::new()),
            })
            .map_err(|why| match version(&bytes) {
                // A newer drupe's: it may have anything in it.
                Some(found) if found > VERSION.into() => SandboxError::Version {
                    path,
                    found: u32::try_from(found).unwrap_or(u32::MAX),
                    known: VERSION,
                },
                _ => SandboxError::Corrupt { path, why },
            })
    }

    /// Where it stands what it is and how, and its locks: not in its directory, but
    /// out of reach of its monitor. One that has been taken over can write there what
    /// it likes: it would have the host's files shared at the next start, or live on
    /// behind a state that says that it has ended.
    fn kept(&self, file: &str) -> PathBuf {
        self.home.join("configs").join(self.id.as_str()).join(file)
    }

    /// Writes what it is. The caller has the lock on changes.
    ///
    /// # Errors
    /// The file's.
    pub fn write_spec(&self, spec: &Spec) -> Result<(), SandboxError> {
        write_json(&self.kept("config.json"), spec)
    }

    fn forget(&self) {
        // It may not be there.
        let _ = fs::remove_dir_all(self.kept(""));
    }

    /// The name by which messages call it: its own if that can be read.
    pub fn label(&self) -> String {
        self.spec()
            .map_or_else(|_| self.id.short().to_owned(), |spec| spec.name)
    }

    /// How it stands. When its monitor has died with the work half done, what it
    /// left is put right first.
    ///
    /// # Errors
    /// The file's.
    pub fn state(&self) -> Result<State, SandboxError> {
        let path = self.kept("state.json");
        let state: State = read_json(self, &path)?;
        if !state.status.is_live() || self.has_monitor()? {
            return Ok(state);
        }
        // It may have ended properly since the first look.
        let state: State = read_json(self, &path)?;
        if !state.status.is_live() {
            return Ok(state);
        }
        match self.try_lock_changes()? {
            Some(changes) => self.settle(&changes),
            None => Ok(self.lost(&state, Time::now())),
        }
    }

    /// Puts right what a monitor and its keeper left that died with the work half
    /// done, if they did. The caller has the lock on changes, and there is none of
    /// them any more.
    ///
    /// # Errors
    /// The file's.
    pub fn settle(&self, _changes: &FileLock) -> Result<State, SandboxError> {
        let state: State = read_json(self, &self.kept("state.json"))?;
        if !state.status.is_live() {
            return Ok(state);
        }
        super::network::remove_tap(state.tap.as_deref(), &self.id);
        let ended = self.lost(&state, Time::now());
        self.write_state(&ended)?;
        if let Ok(spec) = self.spec() {
            let code = ("exitCode", LOST.to_string());
            super::events::sandbox(self, &spec, "die", &[code]);
        }
        Ok(ended)
    }

    /// How one stands whose monitor died with the work half done.
    pub fn lost(&self, state: &State, at: Time) -> State {
        let shortage = cgroups::shortage(&self.home, &self.id);
        let why = match shortage {
            Some(Shortage::OwnLimit) => {
                "drupe's process for it was killed: its cgroup had no more memory \
                 (--memory, and what the monitor may have: docs/limits.md)"
            }
            Some(Shortage::Host) => {
                "drupe's process for it was killed: the host had no more memory \
                 (see its kernel log)"
            }
            None => {
                "drupe's process for it died: it was killed, \
                 perhaps for want of memory (see the host's kernel log)"
            }
        };
        let why = Some(why.to_owned());
        state.exited(LOST, shortage.is_some(), why, at)
    }

    /// Writes how it stands: for its keeper, and for who has the lock on
    /// changes while there is none.
    ///
    /// # Errors
    /// The file's.
    pub fn write_state(&self, state: &State) -> Result<(), SandboxError> {
        let path = self.kept("state.json");
        match write_json(&path, state) {
            Err(SandboxError::Io { source, .. })
                if source.kind() == io::ErrorKind::StorageFull
                    && fs::remove_file(self.kept(SPARE)).is_ok() =>
            {
                write_json(&path, state)
            }
            written => written,
        }
    }

    /// A keeper has it, and so a monitor.
    ///
    /// # Errors
    /// The lock's.
    pub fn has_monitor(&self) -> Result<bool, SandboxError> {
        let path = self.kept("lock");
        lock::is_held(&path).map_err(|e| SandboxError::io("look at", &path, e))
    }

    /// Takes what a keeper holds for its life.
    ///
    /// # Errors
    /// [`SandboxError::AlreadyRunning`], or the lock's.
    pub fn lock_life(&self) -> Result<FileLock, SandboxError> {
        let path = self.kept("lock");
        FileLock::try_take(&path, Kind::Exclusive)
            .map_err(|e| SandboxError::io("lock", &path, e))?
            .ok_or_else(|| SandboxError::AlreadyRunning(self.label()))
    }

    /// Keeps others from starting, renaming or removing it, and waits for those
    /// that are at it.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`] when it has been removed meanwhile, or the
    /// lock's.
    pub fn lock_changes(&self) -> Result<FileLock, SandboxError> {
        let path = self.kept("changes.lock");
        let lock = match self.dir.is_dir() {
            true => FileLock::wait(&path, Kind::Exclusive),
            false => Err(io::ErrorKind::NotFound.into()),
        };
        match lock {
            Ok(lock) if self.dir.is_dir() => Ok(lock),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(SandboxError::io("lock", &path, e))
            }
            _ => Err(SandboxError::Unknown(self.id.short().to_owned())),
        }
    }

    /// As [`Sandbox::lock_changes`], without waiting.
    ///
    /// # Errors
    /// The lock's.
    pub fn try_lock_changes(&self) -> Result<Option<FileLock>, SandboxError> {
        let path = self.kept("changes.lock");
        match FileLock::try_take(&path, Kind::Exclusive) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            lock => lock.map_err(|e| SandboxError::io("lock", &path, e)),
        }
    }

    /// Removes it, with everything that is in its directory. The caller has the
    /// lock on changes; nothing runs.
    ///
    /// # Errors
    /// The files'.
    pub fn remove(&self, _changes: &FileLock) -> Result<(), SandboxError> {
        let store = self.store();
        let gone = files::unfinished(&store.sandboxes(), self.id.as_str());
        {
            let names = store.names();
            let locked = names.lock()?;
            let name = self.spec().map(|spec| spec.name);
            fs::rename(&self.dir, &gone).map_err(|e| SandboxError::io("remove", &self.dir, e))?;
            self.forget();
            if let Ok(name) = name {
                locked.free(&name, &self.id);
            }
        }
        super::images::release(&self.home, &self.id);
        fs::remove_dir_all(&gone).map_err(|e| SandboxError::io("remove", &gone, e))
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// A name in use or no name, or the files'.
    pub fn rename(&self, name: &str) -> Result<(), SandboxError> {
        let _changes = self.lock_changes()?;
        let mut spec = self.spec()?;
        let store = self.store();
        let names = store.names();
        let locked = names.lock()?;
        let old = std::mem::replace(&mut spec.name, locked.take(Some(name), &self.id)?);
        if let Err(e) = self.write_spec(&spec) {
            locked.free(name, &self.id);
            return Err(e);
        }
        locked.free(&old, &self.id);
        Ok(())
    }

    /// Its directory, opened: the way to sockets in it whose path may be longer
    /// than a socket's address.
    ///
    /// # Errors
    /// The directory's.
    pub fn open_dir(&self) -> Result<OwnedFd, SandboxError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.dir, flags, Mode::empty())
            .map_err(|e| SandboxError::io("open", &self.dir, e.into()))
    }
}

/// The path of a socket in an opened directory, short enough for any.
pub fn socket_path(dir: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into()
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), SandboxError> {
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|bytes| files::write_atomically(path, &bytes))
        .map_err(|e| SandboxError::io("write", path, e))
}

/// Of a file's text, the version that it has; for one that is not read otherwise.
fn version(bytes: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    value.get("version")?.as_u64()
}

fn read_bytes(sandbox: &Sandbox, path: &Path) -> Result<Vec<u8>, SandboxError> {
    match files::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !sandbox.dir.is_dir() => {
            Err(SandboxError::Unknown(sandbox.id.short().to_owned()))
        }
        bytes => bytes.map_err(|e| SandboxError::io("read", path, e)),
    }
}

fn read_json<T: DeserializeOwned>(sandbox: &Sandbox, path: &Path) -> Result<T, SandboxError> {
    serde_json::from_slice(&read_bytes(sandbox, path)?).map_err(|e| SandboxError::Corrupt {
        path: path.to_owned(),
        why: e.to_string(),
    })
}

/// A sandbox whose monitor should have removed it and did not live to.
pub fn is_left_over(spec: &Spec, state: &State) -> bool {
    spec.auto_remove && state.status == Status::Exited
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
