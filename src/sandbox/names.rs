//! Names of sandboxes: each belongs to one. An index of small files, one for
//! each name with the identifier that it leads to, so that a name is looked up
//! and taken without a look at every sandbox.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::SandboxError;
use super::files;
use super::id::{Id, random_bytes};
use super::lock::{FileLock, Kind};

/// The longest name, in bytes: a host name and then some.
const MAX_NAME: usize = 128;
/// How often a made-up name may turn out to be taken.
const ATTEMPTS: usize = 50;

const QUALITIES: [&str; 48] = [
    "amber", "ample", "ancient", "autumn", "bitter", "blithe", "bold", "brisk", "bronze", "calm",
    "candid", "clever", "coral", "crisp", "dappled", "deep", "early", "eager", "fabled", "fair",
    "firm", "gentle", "gilded", "glossy", "golden", "hardy", "hidden", "honest", "jolly", "keen",
    "late", "lively", "lucid", "mellow", "mild", "noble", "patient", "proud", "quiet", "ripe",
    "ruddy", "silent", "smooth", "steady", "sunny", "tender", "velvet", "wild",
];
const FRUITS: [&str; 48] = [
    "acai",
    "almond",
    "ambarella",
    "apricot",
    "argan",
    "avocado",
    "bayberry",
    "capulin",
    "cashew",
    "cherry",
    "coconut",
    "coffee",
    "cornel",
    "damson",
    "date",
    "elder",
    "greengage",
    "hackberry",
    "hawthorn",
    "holly",
    "icaco",
    "jocote",
    "jujube",
    "juniper",
    "longan",
    "lucuma",
    "lychee",
    "mahaleb",
    "mango",
    "marula",
    "medlar",
    "mirabelle",
    "nance",
    "nectarine",
    "neem",
    "nutmeg",
    "olive",
    "palm",
    "peach",
    "pecan",
    "pepper",
    "pistachio",
    "plum",
    "rowan",
    "sapote",
    "sloe",
    "sumac",
    "walnut",
];

/// Checks that a name is one: a letter or a digit, then those, `_`, `.`, `-`.
///
/// # Errors
/// [`SandboxError::BadName`].
pub fn check(name: &str) -> Result<(), SandboxError> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let others = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    match first && others && (2..=MAX_NAME).contains(&name.len()) {
        true => Ok(()),
        false => Err(SandboxError::BadName(name.to_owned())),
    }
}

/// The index.
#[derive(Debug)]
pub struct Names {
    directory: PathBuf,
    sandboxes: PathBuf,
}

impl Names {
    /// The index in `directory`, whose names lead to directories in `sandboxes`.
    pub fn new(directory: PathBuf, sandboxes: PathBuf) -> Self {
        Names {
            directory,
            sandboxes,
        }
    }

    /// The sandbox of this name.
    pub fn get(&self, name: &str) -> Option<Id> {
        check(name).ok()?;
        let text = fs::read_to_string(self.directory.join(name)).ok()?;
        text.parse().ok()
    }

    /// Locks the index against everybody else's changes.
    ///
    /// # Errors
    /// The lock's.
    pub fn lock(&self) -> Result<Locked<'_>, SandboxError> {
        let path = self.directory.join(".lock");
        let failed = |source| SandboxError::io("lock", &path, source);
        files::private_dir(&self.directory).map_err(failed)?;
        let lock = FileLock::wait(&path, Kind::Exclusive).map_err(failed)?;
        Ok(Locked {
            names: self,
            _lock: lock,
        })
    }
}

/// The index while it may be changed.
#[derive(Debug)]
pub struct Locked<'a> {
    names: &'a Names,
    _lock: FileLock,
}

impl Locked<'_> {
    /// Gives `name`, or a made-up one, to the sandbox `id`, whose directory has
    /// to be there before the lock is let go of.
    ///
    /// # Errors
    /// [`SandboxError::NameInUse`], or the files'.
    pub fn take(&self, name: Option<&str>, id: &Id) -> Result<String, SandboxError> {
        if let Some(name) = name {
            check(name)?;
            return match self.owner(name) {
                Some(owner) => Err(SandboxError::NameInUse {
                    name: name.to_owned(),
                    id: owner.short().to_owned(),
                }),
                None => self.put(name, id).map(|()| name.to_owned()),
            };
        }
        let mut name = String::new();
        for attempt in 0..ATTEMPTS {
            name =
                made_up(attempt).map_err(|e| SandboxError::io("make", Path::new("a name"), e))?;
            if self.owner(&name).is_none() {
                self.put(&name, id)?;
                return Ok(name);
            }
        }
        Err(SandboxError::NameInUse {
            name,
            id: "many sandboxes".to_owned(),
        })
    }

    /// Frees `name` when it is that of `id`.
    pub fn free(&self, name: &str, id: &Id) {
        if self.names.get(name).as_ref() == Some(id) {
            // A name that stays leads to nothing, and is given away again.
            let _ = fs::remove_file(self.names.directory.join(name));
        }
    }

    /// Whose name it is. That of a sandbox which is gone is nobody's.
    fn owner(&self, name: &str) -> Option<Id> {
        self.names
            .get(name)
            .filter(|id| self.names.sandboxes.join(id.as_str()).exists())
    }

    fn put(&self, name: &str, id: &Id) -> Result<(), SandboxError> {
        let path = self.names.directory.join(name);
        files::write_atomically(&path, id.as_str().as_bytes())
            .map_err(|e| SandboxError::io("write", &path, e))
    }
}

/// A name that nobody chose: with a number behind it once a few were taken.
fn made_up(attempt: usize) -> io::Result<String> {
    let [a, b, c] = random_bytes()?;
    let quality = QUALITIES[usize::from(a) % QUALITIES.len()];
    let fruit = FRUITS[usize::from(b) % FRUITS.len()];
    Ok(match attempt {
        0..10 => format!("{quality}_{fruit}"),
        _ => format!("{quality}_{fruit}{c}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> (tempfile::TempDir, Names) {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::new(dir.path().join("names"), dir.path().join("sandboxes"));
        (dir, names)
    }

    fn sandbox(names: &Names) -> Id {
        let id = Id::random().unwrap();
        fs::create_dir_all(names.sandboxes.join(id.as_str())).unwrap();
        id
    }

    #[test]
    fn a_name_has_one_owner_until_it_is_free_or_gone() {
        let (_dir, names) = index();
        let (a, b) = (sandbox(&names), sandbox(&names));
        assert_eq!(names.lock().unwrap().take(Some("web"), &a).unwrap(), "web");
        assert_eq!(names.get("web").as_ref(), Some(&a));
        let taken = names.lock().unwrap().take(Some("web"), &b);
        assert!(matches!(taken, Err(SandboxError::NameInUse { .. })));
        // Only its owner frees it.
        names.lock().unwrap().free("web", &b);
        assert!(names.get("web").is_some());
        names.lock().unwrap().free("web", &a);
        assert!(names.get("web").is_none());

        names.lock().unwrap().take(Some("web"), &a).unwrap();
        fs::remove_dir(names.sandboxes.join(a.as_str())).unwrap();
        names.lock().unwrap().take(Some("web"), &b).unwrap();
        assert_eq!(names.get("web"), Some(b));
    }

    #[test]
    fn made_up_names_are_names() {
        let (_dir, names) = index();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let id = sandbox(&names);
            let name = names.lock().unwrap().take(None, &id).unwrap();
            check(&name).unwrap();
            assert!(seen.insert(name));
        }
        for word in QUALITIES.iter().chain(&FRUITS) {
            check(word).unwrap();
        }
    }

    #[test]
    fn of_many_who_want_a_name_one_gets_it() {
        let (_dir, names) = index();
        let won = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        names
                            .lock()
                            .unwrap()
                            .take(Some("same"), &sandbox(&names))
                            .is_ok()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|won| *won)
                .count()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let (_dir, names) = index();
        for name in [
            "",
            "a",
            ".lock",
            "-x",
            "a/b",
            "..",
            "a b",
            "é1",
            &"a".repeat(129),
        ] {
            assert!(check(name).is_err(), "{name}");
            assert!(names.get(name).is_none(), "{name}");
        }
        for name in ["ab", "0a", "A_b.c-d"] {
            check(name).unwrap();
        }
    }
}
