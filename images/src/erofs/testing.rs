//! Reads all of an image, for tests.

use std::collections::BTreeMap;

use super::format::{CHUNK_BASED, FLAT_INLINE, NULL_ADDR, decode_device};
use super::reader::{Image, Inode, NodeType};
use super::tree::Attributes;
use std::io;

/// What stands at a path.
#[derive(Debug)]
pub struct Found {
    pub kind: NodeType,
    pub attributes: Attributes,
    pub links: u32,
    pub number: u64,
    /// A file's data or a link's target.
    pub data: Vec<u8>,
    pub device: (u32, u32),
    /// Which chunks of a sparse file are holes.
    pub holes: Vec<bool>,
}

/// Everything in an image by its path; the root's is empty.
pub fn everything(image: &Image) -> BTreeMap<String, Found> {
    let mut found = BTreeMap::new();
    let mut queue = vec![(String::new(), image.root_number())];
    while let Some((path, number)) = queue.pop() {
        let inode = image.inode(number).unwrap();
        if inode.kind == NodeType::Directory {
            for (name, child) in image.names(&inode).unwrap() {
                let name = String::from_utf8(name.into()).unwrap();
                if ![".", ".."].contains(&&*name) {
                    queue.push((format!("{path}/{name}"), child));
                } else if name == "." {
                    assert_eq!(child, number);
                }
            }
        }
        let previous = found.insert(path.clone(), describe(image, inode, number));
        assert!(previous.is_none(), "{path} twice");
    }
    found
}

fn describe(image: &Image, inode: Inode, number: u64) -> Found {
    let (data, holes) = match inode.kind {
        NodeType::File | NodeType::Symlink => data(image, &inode).unwrap(),
        _ => Default::default(),
    };
    Found {
        kind: inode.kind,
        links: inode.raw.nlink,
        number,
        data,
        device: decode_device(inode.raw.union),
        holes,
        attributes: inode.attributes,
    }
}

fn data(image: &Image, inode: &Inode) -> io::Result<(Vec<u8>, Vec<bool>)> {
    let raw = &inode.raw;
    let mut data = vec![0; raw.size as usize];
    let mut holes = Vec::new();
    match raw.layout {
        FLAT_INLINE => image.read_at(&mut data, inode.tail_at)?,
        CHUNK_BASED => {
            let size = 4096 << (raw.union & 31);
            for (i, chunk) in data.chunks_mut(size).enumerate() {
                let mut block = [0; 4];
                image.read_at(&mut block, inode.tail_at + i as u64 * 4)?;
                let block = u32::from_le_bytes(block);
                holes.push(block == NULL_ADDR);
                if block != NULL_ADDR {
                    image.read_at(chunk, u64::from(block) * 4096)?;
                }
            }
        }
        _ => image.read_at(&mut data, u64::from(raw.union) * 4096)?,
    }
    Ok((data, holes))
}
