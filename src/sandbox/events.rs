//! What happened to sandboxes and volumes: `events/log` in drupe's directory, a
//! JSON object in a line for each. Many processes write to it, and it is bounded.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files;
use super::lock::{FileLock, Kind};
use super::spec::Spec;
use super::store::Sandbox;
use super::time::Time;

/// The most bytes in each of the two files.
const MAX_FILE: u64 = 4 << 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// When.
    pub time: Time,
    /// `sandbox`, `volume`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `create`, `start`, `die` and so on, as Docker names them.
    pub action: String,
    /// To what: an identifier or a volume's name.
    pub id: String,
    /// What else is known.
    pub attributes: BTreeMap<String, String>,
}

/// Notes that something happened to a sandbox.
pub fn sandbox(sandbox: &Sandbox, spec: &Spec, action: &str, more: &[(&str, String)]) {
    let mut attributes = spec.labels.clone();
    attributes.insert("name".into(), spec.name.clone());
    attributes.insert("image".into(), spec.image.name.clone());
    attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    note(
        sandbox.store().home(),
        "sandbox",
        action,
        sandbox.id.as_str(),
        attributes,
    );
}

/// Notes that something happened to a volume.
pub fn volume(home: &Path, name: &str, action: &str) {
    note(home, "volume", action, name, BTreeMap::new());
}

fn note(home: &Path, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
    let event = Event {
        time: Time::now(),
        kind: kind.to_owned(),
        action: action.to_owned(),
        id: id.to_owned(),
        attributes,
    };
    // An event that cannot be noted is no reason to stop what it is about.
    if let Err(e) = append(home, &event, MAX_FILE) {
        log::warn!("{}: {e}: an event is not noted", paths(home)[0].display());
    }
}

/// The current file and the older one.
fn paths(home: &Path) -> [PathBuf; 2] {
    let directory = directory(home);
    [directory.join("log"), directory.join("log.1")]
}

/// Where events are: all that a monitor needs to note one.
pub fn directory(home: &Path) -> PathBuf {
    home.join("events")
}

fn lock_path(home: &Path) -> PathBuf {
    directory(home).join("lock")
}

fn append(home: &Path, event: &Event, limit: u64) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    files::private_dir(&directory(home))?;
    let [path, older] = paths(home);
    let _lock = FileLock::wait(&lock_path(home), Kind::Exclusive)?;
    let size = fs::metadata(&path).map_or(0, |m| m.len());
    if size > 0 && size + line.len() as u64 > limit {
        fs::rename(&path, &older)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(&path)?;
    file.write_all(&line)
}

/// Reads events from the oldest on, and those that come later.
#[derive(Debug)]
pub struct Follower {
    home: PathBuf,
    /// The file that was read, and how much of it.
    at: Option<(File, u64)>,
}

impl Follower {
    /// Of the events in drupe's directory.
    pub fn new(home: &Path) -> Self {
        Follower {
            home: home.to_owned(),
            at: None,
        }
    }

    /// What there is that was not there the last time.
    ///
    /// # Errors
    /// The files'.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let _lock = match directory(&self.home).is_dir() {
            // Between two events nothing moves.
            true => FileLock::wait(&lock_path(&self.home), Kind::Shared)?,
            false => return Ok(events),
        };
        let [path, older] = paths(&self.home);
        let open = |path: &Path| match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        };
        let current = open(&path)?;
        let is_current = |file: &File| -> io::Result<bool> {
            let Some(current) = &current else {
                return Ok(true);
            };
            Ok(current.metadata()?.ino() == file.metadata()?.ino())
        };
        match &mut self.at {
            // The first time.
            None => {
                if let Some(older) = open(&older)? {
                    rest(&older, &mut 0, &mut events)?;
                }
            }
            Some((file, done)) => {
                rest(file, done, &mut events)?;
                if !is_current(file)? {
                    self.at = None;
                }
            }
        }
        if let (None, Some(file)) = (&self.at, current) {
            let mut done = 0;
            rest(&file, &mut done, &mut events)?;
            self.at = Some((file, done));
        }
        Ok(events)
    }
}

/// What stands in a file behind `done` bytes; what does not parse is left out.
fn rest(file: &File, done: &mut u64, events: &mut Vec<Event>) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let len = file.metadata()?.len().min(MAX_FILE).saturating_sub(*done);
    // Bounded by MAX_FILE.
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, *done)?;
    *done += len;
    let lines = bytes.split(|b| *b == b'\n');
    events.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Event {
        Event {
            time: Time::now(),
            kind: "sandbox".into(),
            action: "start".into(),
            id: n.to_string(),
            attributes: BTreeMap::new(),
        }
    }

    #[test]
    fn a_follower_sees_each_event_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let mut follower = Follower::new(&home);
        assert!(follower.read().unwrap().is_empty());
        let mut seen = Vec::new();
        for n in 0..50 {
            append(&home, &event(n), 1000).unwrap();
            if n % 3 == 0 {
                seen.extend(follower.read().unwrap());
            }
        }
        seen.extend(follower.read().unwrap());
        let ids: Vec<usize> = seen.iter().map(|e| e.id.parse().unwrap()).collect();
        assert_eq!(ids, (0..50).collect::<Vec<_>>());
        let sizes = paths(&home).map(|p| fs::metadata(p).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        let late = Follower::new(&home).read().unwrap();
        assert_eq!(late, seen[50 - late.len()..]);
    }

    #[test]
    fn many_write_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let home = dir.path();
                scope.spawn(move || {
                    (0..20).for_each(|_| append(home, &event(n), MAX_FILE).unwrap())
                });
            }
        });
        assert_eq!(Follower::new(dir.path()).read().unwrap().len(), 160);
    }
}
