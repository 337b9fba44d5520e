//! EROFS disk images: a writer and a reader for what drupe needs of the format.
//!
//! Images have blocks of 4096 bytes, extended inodes, and nothing compressed.
//! The names are those of the kernel's documentation, "Enhanced Read-Only File
//! System". A file of [`INLINE_MAX`] bytes or less stands behind its inode
//! (`FLAT_INLINE`), a sparse one is `CHUNK_BASED` with a block map, and every
//! other begins at a block of its own (`FLAT_PLAIN`), so that it can be mapped.
//!
//! ```text
//! block 0           superblock at byte 1024
//! blocks 1…         data of files, as they were written
//! meta_blkaddr…     inodes with extended attributes, small data, block maps
//! …                 blocks of directories
//! ```

mod format;
mod layout;
mod output;
mod reader;
#[cfg(test)]
pub mod testing;
mod tree;
mod writer;

pub use format::xattr_is_kept;
pub use reader::{Image, Inode, NodeType};
pub use tree::{Attributes, Content, FileData, Node, NodeId, Tree};
pub use writer::{ErofsError, ImageWriter};

/// The longest file that stands behind its inode, in bytes. Longer ones would
/// leave more of a block unused than one of their own does.
pub const INLINE_MAX: u64 = 2048;
