//! What an entry's name says: where it belongs, and whether it is a whiteout.

use super::LayerError;

/// The longest name of a directory's entry, and the longest path, in bytes
/// (`NAME_MAX`, `PATH_MAX`): Linux takes no longer ones.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;

const WHITEOUT: &[u8] = b".wh.";
/// Names that belonged to AUFS, save the one below.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What to do with an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// It is the root directory.
    Root,
    /// It stands under this name.
    Name(&'a [u8]),
    /// It hides this name of the layers below.
    Whiteout(&'a [u8]),
    /// Its directory hides the one below.
    Opaque,
    /// It means nothing.
    Ignored,
}

/// The directories that lead to an entry, from the root, and the entry's place
/// in the last one.
pub fn parse(path: &[u8]) -> Result<(Vec<&[u8]>, Place<'_>), LayerError> {
    let mut components = components(path)?;
    let Some(name) = components.pop() else {
        return Ok((components, Place::Root));
    };
    let place = if name == OPAQUE {
        Place::Opaque
    } else if name.starts_with(WHITEOUT_META) {
        Place::Ignored
    } else {
        match name.strip_prefix(WHITEOUT) {
            Some(b"" | b"." | b"..") => return Err(error(path, "is a whiteout of no name")),
            Some(hidden) => Place::Whiteout(hidden),
            None => Place::Name(name),
        }
    };
    if components.iter().any(|c| c.starts_with(WHITEOUT_META)) {
        return Ok((components, Place::Ignored));
    }
    if components.iter().any(|c| c.starts_with(WHITEOUT)) {
        return Err(error(path, "lies beneath a whiteout"));
    }
    Ok((components, place))
}

/// A path's components from the root, with `.` and `..` resolved as text.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, LayerError> {
    let mut components = Vec::new();
    if path.len() > MAX_PATH {
        return Err(error(path, "has a path longer than 4096 bytes"));
    }
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components
                    .pop()
                    .ok_or_else(|| error(path, "leads out of the layer's root"))?;
            }
            name if name.len() > MAX_NAME => {
                return Err(error(path, "has a name longer than 255 bytes"));
            }
            name if name.contains(&0) => return Err(error(path, "has a zero byte in its name")),
            name => components.push(name),
        }
    }
    Ok(components)
}

pub fn error(path: &[u8], what: &'static str) -> LayerError {
    // A message repeats as much as helps.
    const SHOWN: usize = 200;
    let mut name = String::from_utf8_lossy(&path[..path.len().min(SHOWN)]).into_owned();
    if path.len() > SHOWN {
        name.push('…');
    }
    LayerError::Entry { name, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Option<(String, Place<'_>)> {
        let (directories, place) = parse(path.as_bytes()).ok()?;
        let directories = directories.join(&b'/');
        Some((String::from_utf8(directories).unwrap(), place))
    }

    #[test]
    fn names_lead_where_they_should() {
        let name = |n: &'static str| Place::Name(n.as_bytes());
        for (path, directories, place) in [
            ("a/b/c", "a/b", name("c")),
            ("./a//b/./c/", "a/b", name("c")),
            ("/etc/passwd", "etc", name("passwd")),
            ("a/../b", "", name("b")),
            (".", "", Place::Root),
            ("./", "", Place::Root),
            ("/", "", Place::Root),
            ("", "", Place::Root),
            ("a/.wh.b", "a", Place::Whiteout(b"b")),
            ("a/.wh.b.wh.", "a", Place::Whiteout(b"b.wh.")),
            ("a/.wh..wh..opq", "a", Place::Opaque),
            (".wh..wh.plnk", "", Place::Ignored),
            (".wh..wh.plnk/1.2", ".wh..wh.plnk", Place::Ignored),
            ("a/.whb", "a", name(".whb")),
        ] {
            assert_eq!(parsed(path), Some((directories.into(), place)), "{path}");
        }
    }

    #[test]
    fn what_leads_out_or_nowhere_is_refused() {
        let long = "x".repeat(256);
        let deep = "d/".repeat(2049);
        for path in [
            "..",
            "../a",
            "a/../../b",
            "/../a",
            "a\0b",
            ".wh.",
            ".wh..",
            ".wh...",
            ".wh.a/b",
            &long,
            &deep,
        ] {
            assert_eq!(parsed(path), None, "{path:?}");
        }
        assert!(parsed(&long[1..]).is_some());
    }
}
