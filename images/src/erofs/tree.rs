//! A file system in memory, without the data of its files.

use std::collections::BTreeMap;

use super::format::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG};
use crate::tar::{Device, Timestamp};

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What belongs to an inode besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Timestamp,
    /// Extended attributes, each name once.
    pub xattrs: Vec<Xattr>,
}

/// Where the writer put a file's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    pub(super) size: u64,
    pub(super) place: Place,
}

impl FileData {
    /// A file without data.
    pub const EMPTY: FileData = FileData {
        size: 0,
        place: Place::Blocks(0),
    };

    /// Bytes of memory that it takes besides its own.
    pub fn metadata_size(&self) -> usize {
        match &self.place {
            Place::Chunks { blocks, .. } => blocks.len() * 4,
            _ => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// From this block on.
    Blocks(u32),
    /// Kept aside, to be written behind the inode: from this byte on.
    Inline(u64),
    /// In chunks of `1 << bits` blocks; [`NULL_ADDR`](super::format::NULL_ADDR)
    /// where there is a hole.
    Chunks { bits: u8, blocks: Box<[u32]> },
}

/// What an inode holds.
#[derive(Debug)]
pub enum Content {
    /// Names and what they stand for.
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// A regular file.
    File(FileData),
    /// A symbolic link, with its target also where the writer put it.
    Symlink(Box<[u8]>, FileData),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// An inode.
#[derive(Debug)]
pub struct Node {
    /// What belongs to it.
    pub attributes: Attributes,
    /// What it holds.
    pub content: Content,
}

impl Node {
    /// Type and permissions.
    pub(super) fn mode(&self) -> u16 {
        let kind = match self.content {
            Content::Directory(_) => S_IFDIR,
            Content::File(_) => S_IFREG,
            Content::Symlink(..) => S_IFLNK,
            Content::CharDevice(_) => S_IFCHR,
            Content::BlockDevice(_) => S_IFBLK,
            Content::Fifo => S_IFIFO,
        };
        kind | self.attributes.mode & 0o7777
    }
}

/// An inode's place in its [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// Inodes, the root first. One that no name leads to is not written.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// The root.
    pub const ROOT: NodeId = NodeId(0);

    /// An empty root.
    pub fn new(attributes: Attributes) -> Self {
        let content = Content::Directory(BTreeMap::new());
        Tree {
            nodes: vec![Node {
                attributes,
                content,
            }],
        }
    }

    /// Adds an inode, still without a name. `None` when there are 2³² already.
    pub fn add(&mut self, node: Node) -> Option<NodeId> {
        let id = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.push(node);
        Some(NodeId(id))
    }

    /// An inode.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// An inode, to change it.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// How many inodes there are, with and without a name.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What a name in a directory stands for.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(directory).content {
            Content::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// Gives an inode a name in a directory, in place of what has it now.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        if let Content::Directory(children) = &mut self.node_mut(directory).content {
            children.insert(name.into(), node);
        }
    }

    /// Takes a name away.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        if let Content::Directory(children) = &mut self.node_mut(directory).content {
            children.remove(name);
        }
    }
}

impl NodeId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}
