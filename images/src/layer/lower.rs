//! What the layers below have at a path, as overlayfs would merge them.

use std::collections::HashMap;
use std::io;

use crate::erofs::{Attributes, Image, Inode, NodeType};

/// What lies beneath a path.
pub enum Beneath<'a> {
    /// No such name, or a whiteout.
    Nothing,
    /// Something that is no directory.
    Other,
    /// Directories that are merged, the highest first.
    Directories(Vec<(&'a Image, Inode)>),
}

impl<'a> Beneath<'a> {
    /// The root of images, the highest first.
    pub fn root(images: &'a [Image]) -> io::Result<Self> {
        let mut roots = Vec::new();
        for image in images {
            let root = image.root()?;
            let opaque = root.is_opaque();
            roots.push((image, root));
            if opaque {
                break;
            }
        }
        Ok(Beneath::Directories(roots))
    }

    pub fn is_nothing(&self) -> bool {
        matches!(self, Beneath::Nothing)
    }

    /// The attributes of a directory.
    pub fn attributes(&self) -> Option<&Attributes> {
        match self {
            Beneath::Directories(found) => found.first().map(|(_, inode)| &inode.attributes),
            _ => None,
        }
    }

    /// The names in it.
    pub fn names(self) -> io::Result<Names<'a>> {
        let Beneath::Directories(directories) = self else {
            return Ok(Names::default());
        };
        let read = |(image, inode): (&'a Image, Inode)| Ok((image, image.names(&inode)?));
        let layers = directories.into_iter().map(read);
        Ok(Names(layers.collect::<io::Result<_>>()?))
    }
}

/// The names in directories that are merged, the highest first.
#[derive(Default)]
pub struct Names<'a>(Vec<(&'a Image, ByName)>);

/// The numbers of inodes.
type ByName = HashMap<Box<[u8]>, u64>;

impl<'a> Names<'a> {
    /// What a name stands for.
    pub fn get(&self, name: &[u8]) -> io::Result<Beneath<'a>> {
        let mut directories = Vec::new();
        for (image, names) in &self.0 {
            let Some(number) = names.get(name) else {
                continue;
            };
            let inode = image.inode(*number)?;
            match inode.kind {
                NodeType::Directory => {
                    let opaque = inode.is_opaque();
                    directories.push((*image, inode));
                    if opaque {
                        break;
                    }
                }
                NodeType::Whiteout => break,
                _ if directories.is_empty() => return Ok(Beneath::Other),
                _ => break,
            }
        }
        Ok(if directories.is_empty() {
            Beneath::Nothing
        } else {
            Beneath::Directories(directories)
        })
    }
}
