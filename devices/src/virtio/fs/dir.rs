//! Reading directories.

use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::abi::{Args, Dirent, ENTRY_OUT, Out, ROOT};
use super::server::{Answer, MAX_DATA, Server};
use super::tables::Open;

/// How much is read from the host at once.
const BATCH: usize = 32 << 10;

/// An answer that grows entry by entry.
struct Listing {
    out: Out,
    limit: usize,
    /// With what a look-up of each entry would say.
    plus: bool,
    /// Seconds that this may be used.
    valid: u64,
}

impl Listing {
    /// Adds an entry; false when there is no room left. `find` looks it up, and
    /// is asked only when the entry fits.
    fn add(
        &mut self,
        entry: &Dirent<'_>,
        find: impl FnOnce() -> Result<(u64, super::abi::Attr), Errno>,
    ) -> bool {
        let size = entry.size() + if self.plus { ENTRY_OUT } else { 0 };
        if self.out.len() + size > self.limit {
            return false;
        }
        let mut out = std::mem::take(&mut self.out);
        if self.plus {
            // Nobody needs these two; of an entry that is gone again, or that
            // there is no room to know, the name alone is told.
            let itself = matches!(entry.name.to_bytes(), b"." | b"..");
            let found = if itself { Err(Errno::NOENT) } else { find() };
            out = match found {
                Ok((node, attr)) => out.entry(node, &attr, self.valid),
                Err(_) => out.zeroes(ENTRY_OUT),
            };
        }
        self.out = out.dirent(entry);
        true
    }
}

impl Server {
    pub(super) fn opendir(&self, node: u64) -> Answer {
        let open = match self.top(node) {
            Some(_) => Open::Top,
            None => {
                let inode = self.directory(node)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                Open::Dir(Mutex::new(self.reopen(&inode, flags)?))
            }
        };
        let handle = self.handles.add(node, open)?;
        Ok(Out::default().open(handle).into())
    }

    pub(super) fn readdir(&self, node: u64, mut args: Args<'_>, plus: bool, room: usize) -> Answer {
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let mut listing = Listing {
            out: Out::default(),
            limit: room.min(size.min(MAX_DATA) as usize),
            plus,
            valid: self.share.cache,
        };
        match &*self.handles.get(handle, node)? {
            Open::Top => self.list_top(offset, &mut listing),
            Open::Dir(dir) => {
                let dir = dir.lock().unwrap_or_else(PoisonError::into_inner);
                seek(&*dir, SeekFrom::Start(offset))?;
                let mut batch = Vec::with_capacity(BATCH.min(listing.limit.max(512)));
                let mut entries = RawDir::new(&*dir, batch.spare_capacity_mut());
                while let Some(entry) = entries.next() {
                    let entry = match entry {
                        Ok(entry) => entry,
                        // What was found so far is told first.
                        Err(_) if listing.out.len() > 0 => break,
                        Err(e) => return Err(e),
                    };
                    let name = entry.file_name();
                    // The number of the share's parent is not the guest's business.
                    let hidden = node == ROOT && name == c"..";
                    let entry = Dirent {
                        ino: if hidden { ROOT } else { entry.ino() },
                        next: entry.next_entry_cookie(),
                        kind: entry.file_type(),
                        name,
                    };
                    if !listing.add(&entry, || self.find(node, name)) {
                        // Not even one: the guest asked for too little.
                        if listing.out.len() == 0 {
                            return Err(Errno::INVAL);
                        }
                        break;
                    }
                }
            }
            Open::File(_) => return Err(Errno::NOTDIR),
        }
        Ok(listing.out.into())
    }

    /// The directory round a single file.
    fn list_top(&self, offset: u64, listing: &mut Listing) {
        let Some(file) = self.top(ROOT) else {
            return;
        };
        let entries = [
            (c".", FileType::Directory),
            (c"..", FileType::Directory),
            (file.name.as_c_str(), FileType::RegularFile),
        ];
        for (at, (name, kind)) in (1u64..).zip(entries) {
            if at <= offset {
                continue;
            }
            let entry = Dirent {
                ino: ROOT,
                next: at,
                kind,
                name,
            };
            if !listing.add(&entry, || self.find(ROOT, name)) {
                break;
            }
        }
    }
}
