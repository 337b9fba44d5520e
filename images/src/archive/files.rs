//! The files of an archive by their names, whatever form it has.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::Input;
use crate::compress::{decompressed, is_compressed};
use crate::oci::MAX_DOCUMENT;
use crate::store::SpoolError;
use crate::tar::{Kind, TarReader};
use crate::{Error, Store};

/// The most files in an archive: some hundred images of many layers.
const MAX_FILES: usize = 100_000;
/// The most links from one name of a file to another.
const MAX_LINKS: usize = 8;

/// An archive's files.
pub struct Files {
    path: PathBuf,
    form: Form,
}

enum Form {
    Directory,
    Tar(Tar),
}

struct Tar {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
    /// Keeps a copy of what came through a pipe, or was compressed.
    _copy: Option<NamedTempFile>,
}

enum Entry {
    File {
        at: u64,
        size: u64,
    },
    /// To a name from the top.
    Link(String),
}

impl Files {
    /// Opens an archive. `store` has room for a copy, when one is needed.
    pub fn open(store: &Store, input: &Input) -> Result<Self, Error> {
        let path = input.path().to_owned();
        let failed = |source| Error::Archive {
            path: path.clone(),
            source,
        };
        let file = match input {
            Input::Path(path) if path.is_dir() => {
                return Ok(Files {
                    path: path.clone(),
                    form: Form::Directory,
                });
            }
            Input::Path(path) => File::open(path),
            Input::Stdin => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        }
        .map_err(failed)?;
        let tar = Tar::open(store, file).map_err(|e| match e {
            TarOpenError::Archive(source) => failed(source),
            TarOpenError::Store(e) => e,
            TarOpenError::Format(why) => Error::ArchiveFormat {
                path: path.clone(),
                why,
            },
        })?;
        Ok(Files {
            path,
            form: Form::Tar(tar),
        })
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        match &self.form {
            Form::Directory => self.path.join(name).is_file(),
            Form::Tar(tar) => tar.find(name).is_some(),
        }
    }

    /// Opens a file.
    pub fn read(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
        let missing = || self.error(&format!("an archive in which '{name}' is missing"));
        match &self.form {
            Form::Directory => {
                let plain = |part: &str| !matches!(part, "" | "." | "..");
                let path = self.path.join(name);
                // Another kind of file could make this wait.
                if !name.split('/').all(plain) || !path.is_file() {
                    return Err(missing());
                }
                let file = File::open(&path).map_err(|source| Error::Archive { path, source })?;
                Ok(Box::new(file))
            }
            Form::Tar(tar) => {
                let (at, size) = tar.find(name).ok_or_else(missing)?;
                let file = Arc::clone(&tar.file);
                Ok(Box::new(Section {
                    file,
                    at,
                    end: at + size,
                }))
            }
        }
    }

    /// Reads a document.
    pub fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read(name)?
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Archive {
                path: self.path.clone(),
                source,
            })?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let why = format!("an archive whose '{name}' is over {MAX_DOCUMENT} bytes");
            return Err(self.error(&why));
        }
        Ok(bytes)
    }

    /// Something is wrong with the archive.
    pub fn error(&self, why: &str) -> Error {
        Error::ArchiveFormat {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

enum TarOpenError {
    Archive(io::Error),
    Store(Error),
    Format(String),
}

impl Tar {
    fn open(store: &Store, file: File) -> Result<Self, TarOpenError> {
        use TarOpenError::Archive;
        let metadata = file.metadata().map_err(Archive)?;
        let mut copy = None;
        let mut whole = Section {
            file: Arc::new(file),
            at: 0,
            end: u64::MAX,
        };
        let direct = metadata.is_file()
            && !is_compressed(BufReader::with_capacity(8, &mut whole)).map_err(Archive)?;
        let file = if direct {
            whole.file
        } else {
            // Layers may come before what says which they are.
            let mut temp = store.temporary().map_err(TarOpenError::Store)?;
            let from: Box<dyn Read + Send> = if metadata.is_file() {
                whole.at = 0;
                Box::new(whole)
            } else {
                Box::new(
                    Arc::try_unwrap(whole.file)
                        .map_err(|_| Archive(io::Error::other("it is in use elsewhere")))?,
                )
            };
            let mut from = decompressed(from).map_err(Archive)?;
            store.spool(&mut from, &mut temp).map_err(|e| match e {
                SpoolError::Read(e) => Archive(e),
                SpoolError::Store(e) => TarOpenError::Store(e),
            })?;
            let file = temp.as_file().try_clone().map_err(Archive)?;
            copy = Some(temp);
            Arc::new(file)
        };
        let entries = index(&file)?;
        Ok(Tar {
            file,
            entries,
            _copy: copy,
        })
    }

    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match self.entries.get(name)? {
                Entry::File { at, size } => return Some((*at, *size)),
                Entry::Link(target) => name = target,
            }
        }
        None
    }
}

/// Goes from header to header.
fn index(file: &Arc<File>) -> Result<HashMap<String, Entry>, TarOpenError> {
    let end = file.metadata().map_err(TarOpenError::Archive)?.len();
    let mut entries = HashMap::new();
    let mut at = 0;
    loop {
        let section = Section {
            file: Arc::clone(file),
            at,
            end,
        };
        let mut reader = TarReader::new(section);
        let entry = reader
            .next_entry()
            .map_err(|e| TarOpenError::Format(e.to_string()))?;
        let Some(entry) = entry else {
            return Ok(entries);
        };
        let data = at + reader.position();
        let name = plain(&String::from_utf8_lossy(&entry.path));
        let found = match &entry.kind {
            Kind::File if entry.sparse.is_some() => None,
            Kind::File => Some(Entry::File {
                at: data,
                size: entry.size,
            }),
            Kind::HardLink(target) => Some(Entry::Link(plain(&String::from_utf8_lossy(target)))),
            Kind::Symlink(target) => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let target = String::from_utf8_lossy(target);
                Some(Entry::Link(plain(&format!("{directory}/{target}"))))
            }
            _ => None,
        };
        at = data;
        if entry.kind == Kind::File {
            let next = data.checked_add(entry.size.next_multiple_of(512));
            at = next
                .filter(|_| data + entry.size <= end)
                .ok_or_else(|| TarOpenError::Format(format!("truncated within '{name}'")))?;
        }
        if let Some(found) = found {
            entries.insert(name, found);
        }
        if entries.len() > MAX_FILES {
            return Err(TarOpenError::Format(format!("more than {MAX_FILES} files")));
        }
    }
}

/// A name without `.` and `..`, which stay within the archive.
fn plain(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read at its own place: several may be read at once.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = buf.len().min(left);
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
