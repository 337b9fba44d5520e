//! Entry by entry, as a program that unpacks the layer would do it, in a tree.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Read;

use super::lower::{self, Beneath};
use super::path::{self, Place, error};
use super::{LayerError, MAX_METADATA, METADATA_PER_ENTRY, OPAQUE_XATTR};
use crate::erofs::{
    self, Attributes, Content, FileData, ImageWriter, Node, NodeId, Tree, xattr_is_kept,
};
use crate::tar::{Device, Entry, Kind, TarReader, Timestamp};

/// The most symbolic links on the way to one entry, as Linux has it.
const MAX_LINKS: usize = 40;
/// The longest target of a symbolic link, in bytes.
const MAX_TARGET: usize = 4095;
/// The longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX` is one
/// more, which the format cannot say).
const MAX_XATTR: usize = u16::MAX as usize;

const WHITEOUT: Device = Device { major: 0, minor: 0 };

/// What is known of an inode besides what the tree has.
#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    /// A directory without an entry of its own.
    implied: bool,
    /// A directory that hides what is below.
    opaque: bool,
    whiteout: bool,
}

/// A layer's tree as it grows.
pub struct Builder {
    tree: Tree,
    marks: HashMap<NodeId, Mark>,
    /// Memory taken, roughly, in bytes; and what links cost to follow.
    metadata: u64,
}

fn implied_attributes(mtime: Timestamp) -> Attributes {
    Attributes {
        mode: 0o755,
        mtime,
        ..Attributes::default()
    }
}

impl Builder {
    pub fn new() -> Self {
        Builder {
            tree: Tree::new(implied_attributes(Timestamp::default())),
            marks: HashMap::new(),
            metadata: 0,
        }
    }

    /// The root counts for nothing here: its attributes are those of the
    /// writable layer on top.
    pub fn needs_lower(&self) -> bool {
        let mut nodes = self.marks.iter();
        nodes.any(|(id, mark)| *id != Tree::ROOT && (mark.implied || mark.whiteout))
    }

    /// Adds one entry; its data are read and written.
    pub fn add<R: Read>(
        &mut self,
        entry: Entry,
        tar: &mut TarReader<R>,
        writer: &mut ImageWriter,
    ) -> Result<(), LayerError> {
        let name = entry.path.clone();
        let (directories, place) = path::parse(&name)?;
        self.charge(name.len())?;
        let parent = match place {
            Place::Ignored => return Ok(()),
            _ => self.directory(&directories, entry.mtime, &name)?,
        };
        match place {
            Place::Ignored => {}
            Place::Opaque => self.mark(parent).opaque = true,
            Place::Whiteout(hidden) => self.hide(parent, hidden)?,
            Place::Root if entry.kind == Kind::Directory => {
                self.tree.node_mut(Tree::ROOT).attributes = self.attributes(&entry)?;
            }
            Place::Root => return Err(error(&name, "is in the place of the root directory")),
            Place::Name(last) => self.insert(parent, last, entry, tar, writer)?,
        }
        Ok(())
    }

    fn insert<R: Read>(
        &mut self,
        parent: NodeId,
        name: &[u8],
        entry: Entry,
        tar: &mut TarReader<R>,
        writer: &mut ImageWriter,
    ) -> Result<(), LayerError> {
        let present = self.tree.child(parent, name);
        let content = match &entry.kind {
            Kind::HardLink(target) => {
                let node = self.link_target(target, &entry)?;
                self.tree.link(parent, name, node);
                // As podman and Docker do. Extended attributes stay: the place
                // of the data was chosen with them.
                let attributes = &mut self.tree.node_mut(node).attributes;
                attributes.mode = entry.mode;
                (attributes.uid, attributes.gid) = (entry.uid, entry.gid);
                attributes.mtime = entry.mtime;
                return Ok(());
            }
            Kind::Directory => {
                // Said again: its content stays.
                if let Some(id) = present.filter(|id| self.is_directory(*id)) {
                    let attributes = self.attributes(&entry)?;
                    self.tree.node_mut(id).attributes = attributes;
                    if let Some(mark) = self.marks.get_mut(&id) {
                        mark.implied = false;
                    }
                    return Ok(());
                }
                Content::Directory(BTreeMap::new())
            }
            Kind::File => Content::File(FileData::EMPTY),
            Kind::Symlink(target) if target.is_empty() => {
                return Err(error(&entry.path, "is a symbolic link to nothing"));
            }
            Kind::Symlink(target) if target.len() > MAX_TARGET || target.contains(&0) => {
                return Err(error(&entry.path, "is a symbolic link that no Linux takes"));
            }
            Kind::Symlink(target) => {
                self.charge(target.len())?;
                Content::Symlink(target.clone().into(), FileData::EMPTY)
            }
            Kind::CharDevice(device) => Content::CharDevice(*device),
            Kind::BlockDevice(device) => Content::BlockDevice(*device),
            Kind::Fifo => Content::Fifo,
        };
        let attributes = self.attributes(&entry)?;
        let content = match content {
            Content::File(_) => Content::File(match &entry.sparse {
                // What has no hole is a file like any other.
                Some(map) if map.iter().map(|s| s.len).sum::<u64>() < entry.size => {
                    writer.write_sparse(tar, entry.size, map)?
                }
                _ => writer.write_file(tar, entry.size, &attributes.xattrs)?,
            }),
            Content::Symlink(target, _) => {
                let size = target.len() as u64;
                let data = writer.write_file(&mut &target[..], size, &attributes.xattrs)?;
                Content::Symlink(target, data)
            }
            other => other,
        };
        if let Content::File(data) = &content {
            self.charge(data.metadata_size())?;
        }
        let is_directory = matches!(content, Content::Directory(_));
        let node = self.new_node(parent, name, attributes, content)?;
        // Above a whiteout, a directory shows nothing of the one below.
        let hides = present
            .and_then(|id| self.marks.get(&id))
            .is_some_and(|m| m.whiteout);
        if is_directory && hides {
            self.mark(node).opaque = true;
        }
        Ok(())
    }

    /// Hides a name of the layers below. What this layer has under it stays.
    fn hide(&mut self, parent: NodeId, name: &[u8]) -> Result<(), LayerError> {
        match self.tree.child(parent, name) {
            Some(id) if self.is_directory(id) => self.mark(id).opaque = true,
            Some(_) => {}
            None => {
                let content = Content::CharDevice(WHITEOUT);
                let id = self.new_node(parent, name, Attributes::default(), content)?;
                self.mark(id).whiteout = true;
            }
        }
        Ok(())
    }

    /// The directory that `components` lead to, by way of this layer's symbolic
    /// links, as a program that unpacks within the root would get there. What is
    /// missing is made.
    fn directory(
        &mut self,
        components: &[&[u8]],
        mtime: Timestamp,
        entry: &[u8],
    ) -> Result<NodeId, LayerError> {
        let mut way = vec![Tree::ROOT];
        let mut ahead: VecDeque<Box<[u8]>> = components.iter().map(|c| (*c).into()).collect();
        let (mut links, mut work) = (0, 0);
        while let Some(name) = ahead.pop_front() {
            let here = way.last().copied().unwrap_or(Tree::ROOT);
            match &*name {
                b"" | b"." => continue,
                // The root's parent is the root.
                b".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            let child = self.tree.child(here, &name);
            let whiteout = child
                .and_then(|id| self.marks.get(&id))
                .is_some_and(|m| m.whiteout);
            match child.map(|id| (id, &self.tree.node(id).content)) {
                Some((id, Content::Directory(_))) => {
                    if way.is_empty() {
                        way.push(Tree::ROOT);
                    }
                    way.push(id);
                }
                Some((_, Content::Symlink(target, _))) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(error(entry, "lies beneath too many symbolic links"));
                    }
                    // The way that the link leads is work, which has an end, too.
                    work += target.len();
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    for part in target.rsplit(|b| *b == b'/') {
                        ahead.push_front(part.into());
                    }
                }
                Some(_) if !whiteout => {
                    return Err(error(entry, "lies beneath something that is no directory"));
                }
                _ => {
                    if name.len() > 255 {
                        return Err(error(entry, "lies beneath a link with too long a name"));
                    }
                    let content = Content::Directory(BTreeMap::new());
                    let id = self.new_node(here, &name, implied_attributes(mtime), content)?;
                    *self.mark(id) = Mark {
                        implied: true,
                        opaque: whiteout,
                        whiteout: false,
                    };
                    if way.is_empty() {
                        way.push(Tree::ROOT);
                    }
                    way.push(id);
                }
            }
        }
        if work > 0 {
            self.charge(work)?;
        }
        Ok(way.last().copied().unwrap_or(Tree::ROOT))
    }

    fn link_target(&mut self, target: &[u8], entry: &Entry) -> Result<NodeId, LayerError> {
        let missing = || {
            error(
                &entry.path,
                "is a hard link to what the layer does not have",
            )
        };
        let mut components = path::components(target)
            .map_err(|_| error(&entry.path, "is a hard link that leads out of the layer"))?;
        let last = components.pop().ok_or_else(missing)?;
        let before = self.tree.len();
        let parent = self.directory(&components, entry.mtime, &entry.path)?;
        if self.tree.len() != before {
            return Err(missing());
        }
        let node = self.tree.child(parent, last).ok_or_else(missing)?;
        if self.is_directory(node) {
            return Err(error(&entry.path, "is a hard link to a directory"));
        }
        if self.marks.get(&node).is_some_and(|mark| mark.whiteout) {
            return Err(missing());
        }
        Ok(node)
    }

    fn new_node(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId, LayerError> {
        self.charge(name.len())?;
        let node = Node {
            attributes,
            content,
        };
        let id = self.tree.add(node).ok_or_else(too_much)?;
        self.tree.link(parent, name, id);
        Ok(id)
    }

    /// An entry's attributes. Extended ones are left out that the image cannot
    /// hold, that belong to the host's policy (as podman does), or that would
    /// speak to overlayfs.
    fn attributes(&mut self, entry: &Entry) -> Result<Attributes, LayerError> {
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            let private = name.starts_with(b"trusted.overlay.")
                || name.starts_with(b"user.overlay.")
                || name == b"security.selinux";
            if private || !xattr_is_kept(name) {
                continue;
            }
            if value.len() > MAX_XATTR {
                return Err(error(
                    &entry.path,
                    "has an extended attribute of over 64 KiB",
                ));
            }
            self.charge(name.len() + value.len())?;
            xattrs.push((name.as_slice().into(), value.as_slice().into()));
        }
        xattrs.sort();
        Ok(Attributes {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs,
        })
    }

    fn charge(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.metadata += METADATA_PER_ENTRY + bytes as u64;
        if self.metadata > MAX_METADATA {
            return Err(too_much());
        }
        Ok(())
    }

    fn mark(&mut self, id: NodeId) -> &mut Mark {
        self.marks.entry(id).or_default()
    }

    fn is_directory(&self, id: NodeId) -> bool {
        matches!(self.tree.node(id).content, Content::Directory(_))
    }

    /// The tree, with what the layers below have to say about it.
    pub fn finish(mut self, lower: &[erofs::Image]) -> Result<Tree, LayerError> {
        if self.needs_lower() {
            self.consult(lower).map_err(LayerError::Lower)?;
        }
        let opaque = self.marks.iter().filter(|(_, mark)| mark.opaque);
        for (id, _) in opaque {
            let xattrs = &mut self.tree.node_mut(*id).attributes.xattrs;
            xattrs.push((OPAQUE_XATTR.into(), (*b"y").into()));
            xattrs.sort();
        }
        Ok(self.tree)
    }

    fn consult(&mut self, lower: &[erofs::Image]) -> std::io::Result<()> {
        let wanted = self.directories_to_visit();
        let mut queue = VecDeque::from([(Tree::ROOT, Beneath::root(lower)?)]);
        while let Some((directory, beneath)) = queue.pop_front() {
            let Content::Directory(children) = &self.tree.node(directory).content else {
                continue;
            };
            let opaque = self.marks.get(&directory).is_some_and(|mark| mark.opaque);
            let beneath = if opaque {
                lower::Names::default()
            } else {
                beneath.names()?
            };
            let mut idle = Vec::new();
            let mut known = Vec::new();
            for (name, child) in children {
                let mark = self.marks.get(child).copied().unwrap_or_default();
                if mark.whiteout && beneath.get(name)?.is_nothing() {
                    idle.push(name.clone());
                } else if wanted.contains_key(child) {
                    let found = beneath.get(name)?;
                    if let (true, Some(attributes)) = (mark.implied, found.attributes()) {
                        known.push((*child, attributes.clone()));
                    }
                    queue.push_back((*child, found));
                }
            }
            for name in idle {
                self.tree.unlink(directory, &name);
            }
            for (id, attributes) in known {
                self.tree.node_mut(id).attributes = attributes;
            }
        }
        Ok(())
    }

    /// Directories that lead to a mark, or have one.
    fn directories_to_visit(&self) -> HashMap<NodeId, ()> {
        let mut parents = HashMap::new();
        let mut queue = VecDeque::from([Tree::ROOT]);
        let mut wanted = HashMap::new();
        while let Some(directory) = queue.pop_front() {
            let Content::Directory(children) = &self.tree.node(directory).content else {
                continue;
            };
            for child in children.values() {
                if self.is_directory(*child) {
                    parents.insert(*child, directory);
                    queue.push_back(*child);
                }
                if self.marks.contains_key(child) {
                    let mut at = Some(*child).filter(|id| self.is_directory(*id));
                    at = at.or(Some(directory));
                    while let Some(id) = at.filter(|id| wanted.insert(*id, ()).is_none()) {
                        at = parents.get(&id).copied();
                    }
                }
            }
        }
        wanted
    }
}

fn too_much() -> LayerError {
    LayerError::Limit(format!(
        "{} MiB of names and attributes",
        MAX_METADATA >> 20
    ))
}
