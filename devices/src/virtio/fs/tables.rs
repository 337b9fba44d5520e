//! The nodes that the guest knows and the files that it has open. Each holds a
//! descriptor, so both are bounded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::abi::ROOT;

/// What tells two files apart: device, number, and the mount that it was reached
/// by, since the same file may be writable through one mount and not through
/// another. Numbers are not used again while a descriptor holds the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    device: (u32, u32),
    mount: u64,
    ino: u64,
}

impl Key {
    /// True when both lie on the same mount.
    pub fn same_mount(&self, other: &Key) -> bool {
        self.device == other.device && self.mount == other.mount
    }
}

/// A file or directory of the host, by a descriptor that can neither read nor
/// write it (`O_PATH`).
#[derive(Debug)]
pub struct Inode {
    /// The descriptor.
    pub fd: OwnedFd,
    /// What it is; that never changes.
    pub kind: FileType,
    /// Which one it is.
    pub key: Key,
}

impl Inode {
    /// The inode of an `O_PATH` descriptor, and its attributes.
    ///
    /// # Errors
    /// The host's.
    pub fn new(fd: OwnedFd) -> Result<(Self, Statx), Errno> {
        let st = status(&fd)?;
        let inode = Inode {
            kind: FileType::from_raw_mode(st.stx_mode.into()),
            key: Key {
                device: (st.stx_dev_major, st.stx_dev_minor),
                // Zero before Linux 5.8.
                mount: st.stx_mnt_id,
                ino: st.stx_ino,
            },
            fd,
        };
        Ok((inode, st))
    }

    /// Its attributes now.
    ///
    /// # Errors
    /// The host's.
    pub fn status(&self) -> Result<Statx, Errno> {
        status(&self.fd)
    }
}

fn status(fd: &OwnedFd) -> Result<Statx, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    statx(fd, c"", AtFlags::EMPTY_PATH, wanted)
}

struct Node {
    inode: Arc<Inode>,
    /// How often the guest was told of it, and has not forgotten.
    lookups: u64,
}

#[derive(Default)]
struct NodesInner {
    by_id: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    /// The last number given out. Numbers are never used again.
    last: u64,
}

/// What the guest knows.
pub struct Nodes {
    inner: Mutex<NodesInner>,
    root: Option<Arc<Inode>>,
    limit: usize,
}

impl Nodes {
    /// Knows the root and nothing else. Without a `root` no node has that number.
    pub fn new(root: Option<Arc<Inode>>, limit: usize) -> Self {
        let nodes = Nodes {
            inner: Mutex::default(),
            root,
            limit,
        };
        nodes.clear();
        nodes
    }

    /// Has another root, and knows nothing else.
    pub fn set_root(&mut self, root: Arc<Inode>) {
        self.root = Some(root);
        self.clear();
    }

    /// Forgets all but the root.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.by_id.clear();
        inner.by_key.clear();
        inner.last = inner.last.max(ROOT);
        if let Some(root) = &self.root {
            inner.by_key.insert(root.key, ROOT);
            let node = Node {
                inode: root.clone(),
                lookups: 1,
            };
            inner.by_id.insert(ROOT, node);
        }
    }

    /// The node of this number.
    ///
    /// # Errors
    /// `ESTALE` when there is none.
    pub fn get(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        let inner = self.lock();
        let node = inner.by_id.get(&id).ok_or(Errno::STALE)?;
        Ok(node.inode.clone())
    }

    /// Counts one more look-up of this inode; its number.
    ///
    /// # Errors
    /// `ENFILE` when it is new and there is no room.
    pub fn add(&self, inode: Inode) -> Result<u64, Errno> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let full = inner.by_id.len() >= self.limit;
        match inner.by_key.entry(inode.key) {
            Entry::Occupied(known) => {
                let id = *known.get();
                // Both maps know the same nodes.
                let node = inner.by_id.get_mut(&id).ok_or(Errno::STALE)?;
                node.lookups = node.lookups.saturating_add(1);
                Ok(id)
            }
            Entry::Vacant(_) if full => Err(Errno::NFILE),
            Entry::Vacant(place) => {
                inner.last += 1;
                place.insert(inner.last);
                let inode = Arc::new(inode);
                let node = Node { inode, lookups: 1 };
                inner.by_id.insert(inner.last, node);
                Ok(inner.last)
            }
        }
    }

    /// The guest forgets `count` look-ups of a node.
    pub fn forget(&self, id: u64, count: u64) {
        let mut inner = self.lock();
        let Some(node) = inner.by_id.get_mut(&id).filter(|_| id != ROOT) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0
            && let Some(node) = inner.by_id.remove(&id)
        {
            inner.by_key.remove(&node.inode.key);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    fn lock(&self) -> MutexGuard<'_, NodesInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an open file is read by.
#[derive(Debug)]
pub enum Open {
    /// A regular file.
    File(File),
    /// A directory. Its position is shared by all who read it.
    Dir(Mutex<OwnedFd>),
    /// The directory round a single file, which no host has.
    Top,
}

#[derive(Default)]
struct HandlesInner {
    by_id: HashMap<u64, (u64, Arc<Open>)>,
    last: u64,
}

/// What the guest has open.
pub struct Handles {
    inner: Mutex<HandlesInner>,
    limit: usize,
}

impl Handles {
    /// Nothing is open.
    pub fn new(limit: usize) -> Self {
        Handles {
            inner: Mutex::default(),
            limit,
        }
    }

    /// Adds an open file of this node; its number.
    ///
    /// # Errors
    /// `ENFILE` when there is no room.
    pub fn add(&self, node: u64, open: Open) -> Result<u64, Errno> {
        let mut inner = self.lock();
        if inner.by_id.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        inner.last += 1;
        let id = inner.last;
        inner.by_id.insert(id, (node, Arc::new(open)));
        Ok(id)
    }

    /// The open file of this number and node.
    ///
    /// # Errors
    /// `EBADF` when there is none.
    pub fn get(&self, id: u64, node: u64) -> Result<Arc<Open>, Errno> {
        match self.lock().by_id.get(&id) {
            Some((owner, open)) if *owner == node => Ok(open.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// Closes it.
    ///
    /// # Errors
    /// `EBADF` when it is not open.
    pub fn remove(&self, id: u64, node: u64) -> Result<(), Errno> {
        let mut inner = self.lock();
        match inner.by_id.entry(id) {
            Entry::Occupied(entry) if entry.get().0 == node => {
                entry.remove();
                Ok(())
            }
            _ => Err(Errno::BADF),
        }
    }

    /// Closes all.
    pub fn clear(&self) {
        self.lock().by_id.clear();
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    fn lock(&self) -> MutexGuard<'_, HandlesInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open};

    fn inode(path: &std::path::Path) -> Inode {
        Inode::new(open(path, OFlags::PATH, Mode::empty()).unwrap())
            .unwrap()
            .0
    }

    #[test]
    fn a_node_lives_until_its_last_lookup_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        let nodes = Nodes::new(Some(Arc::new(inode(dir.path()))), 3);
        let id = nodes.add(inode(&a)).unwrap();
        assert_eq!(nodes.add(inode(&b)).unwrap(), id, "the same file");
        assert_eq!(nodes.add(inode(dir.path())).unwrap(), ROOT);
        nodes.forget(id, 1);
        nodes.get(id).unwrap();
        nodes.forget(id, u64::MAX);
        assert_eq!(nodes.get(id).unwrap_err(), Errno::STALE);
        nodes.forget(id, 1);
        assert_ne!(nodes.add(inode(&a)).unwrap(), id, "numbers are used once");
        nodes.forget(ROOT, u64::MAX);
        nodes.get(ROOT).unwrap();

        std::fs::write(dir.path().join("c"), "").unwrap();
        nodes.add(inode(&dir.path().join("c"))).unwrap();
        std::fs::write(dir.path().join("d"), "").unwrap();
        let full = nodes.add(inode(&dir.path().join("d")));
        assert_eq!(full, Err(Errno::NFILE));
        nodes.add(inode(&a)).unwrap();
        nodes.clear();
        assert_eq!(nodes.len(), 1);
        nodes.add(inode(&dir.path().join("d"))).unwrap();
    }

    #[test]
    fn a_handle_belongs_to_its_node() {
        let handles = Handles::new(2);
        let id = handles.add(7, Open::Top).unwrap();
        handles.add(7, Open::Top).unwrap();
        assert_eq!(handles.add(7, Open::Top), Err(Errno::NFILE));
        handles.get(id, 7).unwrap();
        assert_eq!(handles.get(id, 8).unwrap_err(), Errno::BADF);
        assert_eq!(handles.remove(id, 8), Err(Errno::BADF));
        handles.remove(id, 7).unwrap();
        assert_eq!(handles.remove(id, 7), Err(Errno::BADF));
        handles.clear();
        assert_eq!(handles.len(), 0);
    }
}
