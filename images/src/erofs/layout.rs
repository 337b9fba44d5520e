//! Where each inode and each directory's blocks go, before any is written.

use std::collections::BTreeMap;

use super::format::{BLOCK, DIRENT_SIZE, INODE_SIZE, SLOT, xattr_count, xattrs_size};
use super::tree::{Content, FileData, NodeId, Place, Tree};

/// Where one inode goes.
#[derive(Debug, Clone, Default)]
pub struct Spot {
    /// Bytes from the metadata's start, a multiple of [`SLOT`].
    pub offset: u64,
    /// How many names it has; 0 when nothing leads to it.
    pub links: u32,
    /// A directory's parent.
    pub parent: u32,
    /// Bytes of its extended attributes, and what the inode says of them.
    pub xattrs_size: u64,
    pub xattr_count: u16,
    /// A directory's bytes, and its first block behind all inodes.
    pub directory_size: u64,
    pub directory_block: u64,
    /// A directory's last bytes stand behind its inode.
    pub directory_inline: bool,
}

impl Spot {
    pub fn nid(&self) -> u64 {
        self.offset / SLOT
    }
}

/// The layout of all metadata.
pub struct Layout {
    /// For each inode of the tree.
    pub spots: Vec<Spot>,
    /// Inodes in the order of their offsets.
    pub order: Vec<NodeId>,
    /// Bytes of all inodes and what stands behind them.
    pub inodes_size: u64,
    /// Blocks of all directories.
    pub directory_blocks: u64,
}

/// The name of an inode's attributes that do not fit, see [`Layout::new`].
pub struct TooManyXattrs;

impl Layout {
    /// The children of a directory come one after another, and directories in
    /// the order of their depth: `ls -l` reads few blocks.
    pub fn new(tree: &Tree) -> Result<Self, TooManyXattrs> {
        let mut layout = Layout {
            spots: vec![Spot::default(); tree.len()],
            order: vec![Tree::ROOT],
            // Inode number 0 would mean "none" to programs.
            inodes_size: SLOT * 2,
            directory_blocks: 0,
        };
        layout.spots[Tree::ROOT.index()].links = 2;
        let mut next = 0;
        while let Some(&id) = layout.order.get(next) {
            next += 1;
            layout.place(tree, id)?;
            let Content::Directory(children) = &tree.node(id).content else {
                continue;
            };
            for child in children.values() {
                if layout.spots[child.index()].links == 0 {
                    layout.order.push(*child);
                }
                layout.spots[child.index()].links += 1;
                if matches!(tree.node(*child).content, Content::Directory(_)) {
                    let directory = &mut layout.spots[child.index()];
                    directory.links += 1;
                    directory.parent = id.index() as u32;
                    layout.spots[id.index()].links += 1;
                }
            }
        }
        Ok(layout)
    }

    fn place(&mut self, tree: &Tree, id: NodeId) -> Result<(), TooManyXattrs> {
        let node = tree.node(id);
        let mut spot = std::mem::take(&mut self.spots[id.index()]);
        spot.xattrs_size = xattrs_size(&node.attributes.xattrs);
        spot.xattr_count = xattr_count(spot.xattrs_size).ok_or(TooManyXattrs)?;
        let head = INODE_SIZE + spot.xattrs_size;
        // `inline` must not cross a block's end, `map` may.
        let (mut inline, mut map) = (0, 0);
        match &node.content {
            Content::Directory(children) => {
                spot.directory_size = directory_size(children);
                let tail = spot.directory_size % BLOCK;
                spot.directory_inline = fits_inline(spot.xattrs_size, tail);
                let mut blocks = spot.directory_size / BLOCK;
                if spot.directory_inline {
                    inline = tail;
                } else {
                    blocks = spot.directory_size.div_ceil(BLOCK);
                }
                spot.directory_block = self.directory_blocks;
                self.directory_blocks += blocks;
            }
            Content::File(data) | Content::Symlink(_, data) => match &data.place {
                Place::Inline(_) => inline = data.size,
                Place::Chunks { blocks, .. } => map = blocks.len() as u64 * 4,
                Place::Blocks(_) => {}
            },
            _ => {}
        }
        let mut at = self.inodes_size.next_multiple_of(SLOT);
        if (at + head) % BLOCK + inline > BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        spot.offset = at;
        self.inodes_size = at + head + inline + map;
        self.spots[id.index()] = spot;
        Ok(())
    }
}

/// Whether so many bytes can stand behind an inode with such attributes.
pub fn fits_inline(xattrs_size: u64, bytes: u64) -> bool {
    bytes > 0 && bytes <= super::INLINE_MAX && INODE_SIZE + xattrs_size + bytes <= BLOCK
}

/// A directory's entries with `.` and `..`, in the order of their bytes, as the
/// kernel looks for them.
pub fn entries(children: &BTreeMap<Box<[u8]>, NodeId>) -> impl Iterator<Item = (&[u8], Entry)> {
    let mut dots = [(&b"."[..], Entry::This), (&b".."[..], Entry::Parent)]
        .into_iter()
        .peekable();
    let mut names = children.iter().peekable();
    std::iter::from_fn(move || {
        let dot_first = match (dots.peek(), names.peek()) {
            (Some((dot, _)), Some((name, _))) => *dot < &name[..],
            (dot, _) => dot.is_some(),
        };
        if dot_first {
            dots.next()
        } else {
            names
                .next()
                .map(|(name, id)| (&name[..], Entry::Child(*id)))
        }
    })
}

/// What a directory's entry leads to.
#[derive(Debug, Clone, Copy)]
pub enum Entry {
    This,
    Parent,
    Child(NodeId),
}

/// How entries fill blocks: none crosses a block's end.
#[derive(Default)]
pub struct Packing {
    /// Bytes in the present block.
    pub used: u64,
    /// Blocks before it.
    pub full: u64,
}

impl Packing {
    /// Adds an entry. Whether it begins a new block.
    pub fn add(&mut self, name: &[u8]) -> bool {
        let size = DIRENT_SIZE + name.len() as u64;
        let begins = self.used + size > BLOCK;
        if begins {
            self.full += 1;
            self.used = 0;
        }
        self.used += size;
        begins
    }
}

fn directory_size(children: &BTreeMap<Box<[u8]>, NodeId>) -> u64 {
    let mut packing = Packing::default();
    for (name, _) in entries(children) {
        packing.add(name);
    }
    packing.full * BLOCK + packing.used
}

impl FileData {
    /// The layout of the inode's data, and the value of its union.
    pub(super) fn union(&self) -> (u16, u32) {
        use super::format::{CHUNK_BASED, FLAT_INLINE, FLAT_PLAIN};
        match &self.place {
            Place::Blocks(first) => (FLAT_PLAIN, *first),
            Place::Inline(_) => (FLAT_INLINE, 0),
            Place::Chunks { bits, .. } => (CHUNK_BASED, u32::from(*bits)),
        }
    }
}
