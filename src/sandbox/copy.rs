//! Where a copy goes, as `docker cp` and `cp` have it: what exists at the
//! destination decides whether the source goes into it or in its place.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// One side of a copy, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// `-`: a tar archive on standard input or output.
    Stream,
    /// A path of the host.
    Host(PathBuf),
    /// A path in a sandbox.
    Sandbox {
        /// Which one.
        name: String,
        /// Absolute.
        path: PathBuf,
    },
}

impl Side {
    /// Reads one. What begins with `/` or `.` is a path of the host, as is what
    /// has no colon.
    pub fn parse(text: &str) -> Self {
        if text == "-" {
            return Side::Stream;
        }
        match text.split_once(':') {
            Some((name, path))
                if !text.starts_with(['/', '.']) && !name.is_empty() && !name.contains('/') =>
            {
                Side::Sandbox {
                    name: name.to_owned(),
                    // A relative path begins at the root, as Docker has it.
                    path: match path.starts_with('/') {
                        true => path.into(),
                        false => format!("/{path}").into(),
                    },
                }
            }
            _ => Side::Host(text.into()),
        }
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// A directory, or a link to one.
    Directory,
    /// Anything else.
    File,
}

/// Where an archive is unpacked, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The directory.
    pub directory: PathBuf,
    /// The name; without one, what is in the source goes there.
    pub name: Option<OsString>,
}

/// Works out where `source` goes, which is a directory or not, given what is at
/// the destination.
///
/// # Errors
/// One line that says what does not fit.
pub fn plan(
    source: &Path,
    is_directory: bool,
    destination: &Path,
    there: There,
) -> Result<Plan, String> {
    let shown = destination.display();
    match (is_directory, there) {
        (true, There::File) => Err(format!("{shown}: a directory cannot be copied over a file")),
        (false, There::Nothing) if means_directory(destination) => {
            Err(format!("{shown}: there is no such directory"))
        }
        (false, There::File) if means_directory(destination) => {
            Err(format!("{shown}: it is not a directory"))
        }
        (true, There::Directory) if means_content(source) => Ok(Plan {
            directory: destination.to_owned(),
            name: None,
        }),
        (_, There::Directory) => Ok(Plan {
            directory: destination.to_owned(),
            name: base_name(source).map(OsStr::to_owned),
        }),
        (_, There::Nothing | There::File) => {
            let name = base_name(destination).ok_or_else(|| format!("{shown}: it has no name"))?;
            let parent = destination.parent().filter(|p| !p.as_os_str().is_empty());
            Ok(Plan {
                directory: parent.unwrap_or(Path::new(".")).to_owned(),
                name: Some(name.to_owned()),
            })
        }
    }
}

/// `DIR/.` stands for what is in the directory.
fn means_content(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text == b"." || text.ends_with(b"/.") || text == b"/"
}

/// `DIR/` says that it is one.
fn means_directory(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || means_content(path)
}

/// The last part of a path; none of the root's.
fn base_name(path: &Path) -> Option<&OsStr> {
    path.file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let sandbox = |name: &str, path: &str| Side::Sandbox {
            name: name.into(),
            path: path.into(),
        };
        for (text, side) in [
            ("-", Side::Stream),
            ("web:/etc", sandbox("web", "/etc")),
            ("web:etc/x", sandbox("web", "/etc/x")),
            ("web:", sandbox("web", "/")),
            ("web:/a:b", sandbox("web", "/a:b")),
            ("file", Side::Host("file".into())),
            ("./a:b", Side::Host("./a:b".into())),
            ("/a:b", Side::Host("/a:b".into())),
            ("dir/a:b", Side::Host("dir/a:b".into())),
        ] {
            assert_eq!(Side::parse(text), side, "{text}");
        }
    }

    #[test]
    fn what_is_there_decides() {
        use There::{Directory, File, Nothing};
        let plan = |source: &str, is_dir, to: &str, there| {
            let plan = super::plan(Path::new(source), is_dir, Path::new(to), there);
            plan.map(|p| {
                (
                    p.directory.display().to_string(),
                    p.name.map(|n| n.into_string().unwrap()),
                )
            })
        };
        let ok = |dir: &str, name: Option<&str>| Ok((dir.to_owned(), name.map(str::to_owned)));
        // Files.
        assert_eq!(plan("a/f", false, "/d/g", Nothing), ok("/d", Some("g")));
        assert_eq!(plan("a/f", false, "/d/g", File), ok("/d", Some("g")));
        assert_eq!(plan("a/f", false, "/d", Directory), ok("/d", Some("f")));
        assert_eq!(plan("f", false, "g", Nothing), ok(".", Some("g")));
        assert_eq!(plan("f", false, "/", Directory), ok("/", Some("f")));
        assert!(plan("f", false, "/d/g/", Nothing).is_err());
        assert!(plan("f", false, "/d/g/", File).is_err());
        // Directories.
        assert_eq!(plan("a/s", true, "/d", Directory), ok("/d", Some("s")));
        assert_eq!(plan("a/s/", true, "/d", Directory), ok("/d", Some("s")));
        assert_eq!(plan("a/s/.", true, "/d", Directory), ok("/d", None));
        assert_eq!(plan(".", true, "/d", Directory), ok("/d", None));
        assert_eq!(plan("/", true, "d", Directory), ok("d", None));
        assert_eq!(plan("a/s", true, "/d/n", Nothing), ok("/d", Some("n")));
        assert_eq!(plan("a/s/.", true, "/d/n/", Nothing), ok("/d", Some("n")));
        assert!(plan("a/s", true, "/d/f", File).is_err());
    }
}
