//! What `-v`, `--mount` and `--tmpfs` take, as Docker has it.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use protocol::TmpfsTop;
use vmm::config::ByteSize;

use crate::sandbox::names;

/// One of the three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// What.
    pub source: SourceFlag,
    /// Where, absolute.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceFlag {
    /// A path of the host, perhaps relative.
    Bind(PathBuf),
    /// A volume; one of the sandbox's own when it has no name.
    Volume {
        /// Its name.
        name: Option<String>,
        /// Do not fill it with what the image has there.
        no_copy: bool,
    },
    /// Guest memory.
    Tmpfs {
        /// At most this much.
        size: Option<ByteSize>,
        /// Its top directory.
        top: TmpfsTop,
    },
}

/// `-v`: `[SOURCE:]TARGET[:OPTIONS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFlag(pub MountFlag);

/// `--mount`: `type=bind,source=PATH,target=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongFlag(pub MountFlag);

/// `--tmpfs`: `TARGET[:OPTIONS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsFlag(pub MountFlag);

impl FromStr for VolumeFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [target] => (None, target, ""),
            [source, target] => (Some(source), target, ""),
            [source, target, options] => (Some(source), target, options),
            _ => return Err(format!("'{text}': write it as SOURCE:TARGET:ro")),
        };
        let (mut read_only, mut no_copy) = (false, false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                "nocopy" => no_copy = true,
                // There is nothing to relabel or to cache in another way.
                "rw" | "z" | "Z" | "cached" | "consistent" | "delegated" => {}
                _ => {
                    return Err(format!(
                        "'{option}' is no option of a volume: it takes ro, rw, nocopy"
                    ));
                }
            }
        }
        let source = match source {
            Some("") => return Err(format!("'{text}': the source is missing")),
            Some(path) if is_path(path) => {
                if no_copy {
                    return Err("nocopy is an option of named volumes".to_owned());
                }
                SourceFlag::Bind(path.into())
            }
            name => SourceFlag::Volume {
                name: name.map(volume_name).transpose()?,
                no_copy,
            },
        };
        Ok(VolumeFlag(MountFlag {
            source,
            target: absolute(target)?,
            read_only,
        }))
    }
}

impl FromStr for LongFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut source, mut target) = ("volume", None, None);
        let (mut read_only, mut no_copy, mut size) = (false, false, None);
        let mut top = TmpfsTop::default();
        for option in text.split(',') {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            };
            let needed = || value.ok_or_else(|| format!("{key} needs a value, as in {key}=VALUE"));
            match key {
                "type" => kind = needed()?,
                "source" | "src" => source = Some(needed()?),
                "target" | "destination" | "dst" => target = Some(needed()?),
                "readonly" | "ro" => read_only = switch(key, value)?,
                "volume-nocopy" => no_copy = switch(key, value)?,
                "tmpfs-size" => size = Some(needed()?.parse()?),
                "tmpfs-mode" => top.mode = Some(octal(needed()?)?),
                // There is one kernel that sees it.
                "bind-propagation" | "consistency" => drop(needed()?),
                _ => {
                    return Err(format!(
                        "unknown option '{key}': it takes type, source, target, readonly, volume-nocopy, tmpfs-size, tmpfs-mode"
                    ));
                }
            }
        }
        let target = target.ok_or("target is missing, as in target=/data")?;
        let source = match (kind, source) {
            ("bind", Some("")) | ("bind", None) => {
                return Err("source is missing: a directory or a file of the host".to_owned());
            }
            ("bind", Some(path)) => SourceFlag::Bind(path.into()),
            ("volume", name) => SourceFlag::Volume {
                name: name
                    .filter(|n| !n.is_empty())
                    .map(volume_name)
                    .transpose()?,
                no_copy,
            },
            ("tmpfs", None) => SourceFlag::Tmpfs { size, top },
            ("tmpfs", Some(_)) => return Err("a tmpfs has no source".to_owned()),
            _ => return Err(format!("type '{kind}': it takes bind, volume or tmpfs")),
        };
        if !matches!(source, SourceFlag::Tmpfs { .. }) && (size.is_some() || top.mode.is_some()) {
            return Err(format!(
                "tmpfs-size and tmpfs-mode are no options of type={kind}"
            ));
        }
        if no_copy && !matches!(source, SourceFlag::Volume { .. }) {
            return Err(format!("volume-nocopy is no option of type={kind}"));
        }
        Ok(LongFlag(MountFlag {
            source,
            target: absolute(target)?,
            read_only,
        }))
    }
}

impl FromStr for TmpfsFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let (mut read_only, mut size, mut top) = (false, None, TmpfsTop::default());
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", value)) => size = Some(value.parse()?),
                Some(("mode", value)) => top.mode = Some(octal(value)?),
                Some(("uid", value)) => top.uid = Some(number(value)?),
                Some(("gid", value)) => top.gid = Some(number(value)?),
                None if option == "ro" => read_only = true,
                None if option == "rw" => read_only = false,
                None if let Some((flag, on)) = flag(&mut top, option) => *flag = on,
                // These are about when things are written to a disk.
                None if ["async", "sync", "atime", "noatime", "relatime"].contains(&option) => {}
                _ => {
                    return Err(format!(
                        "'{option}' is no option of a tmpfs: it takes size=SIZE, mode=MODE, uid=N, gid=N, ro, rw, and exec, suid or dev or these with no before them"
                    ));
                }
            }
        }
        Ok(TmpfsFlag(MountFlag {
            source: SourceFlag::Tmpfs { size, top },
            target: absolute(target)?,
            read_only,
        }))
    }
}

/// What `exec`, `nosuid` and their like say. Without them a tmpfs has none of the
/// three, as with docker.
fn flag<'a>(top: &'a mut TmpfsTop, option: &str) -> Option<(&'a mut bool, bool)> {
    let (name, on) = match option.strip_prefix("no") {
        Some(name) => (name, false),
        None => (option, true),
    };
    let flag = match name {
        "exec" => &mut top.exec,
        "suid" => &mut top.suid,
        "dev" => &mut top.dev,
        _ => return None,
    };
    Some((flag, on))
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.parse();
    number.map_err(|_| format!("'{text}' is no number of a user or a group: write it as 1000"))
}

/// A source that is a path and no name.
fn is_path(text: &str) -> bool {
    text.starts_with(['/', '.', '~'])
}

fn volume_name(name: &str) -> Result<String, String> {
    match names::check(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) if name.contains('/') => Err(format!(
            "'{name}' is no name of a volume: write a path of the host as ./{name}"
        )),
        Err(_) => Err(format!(
            "'{name}' is no name of a volume: begin with a letter or a digit, go on with those, '_', '.' or '-', 2 to 128 in all"
        )),
    }
}

/// A place in the sandbox: absolute, and not its root.
pub fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("'{text}' is not an absolute path of the sandbox"));
    }
    // `..` goes no further up than the root, there as here.
    let clean = path.components().fold(PathBuf::new(), |mut clean, part| {
        match part {
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
        clean
    });
    match clean == Path::new("/") {
        true => Err(format!("'{text}': the root itself cannot be mounted over")),
        false => Ok(clean),
    }
}

fn switch(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other}: it takes true or false")),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("'{text}' is no mode: write it as 1777"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &str, target: &str, read_only: bool) -> MountFlag {
        MountFlag {
            source: SourceFlag::Bind(path.into()),
            target: target.into(),
            read_only,
        }
    }

    fn volume(name: Option<&str>, target: &str, read_only: bool, no_copy: bool) -> MountFlag {
        MountFlag {
            source: SourceFlag::Volume {
                name: name.map(str::to_owned),
                no_copy,
            },
            target: target.into(),
            read_only,
        }
    }

    #[test]
    fn the_short_form() {
        let parse = |text: &str| text.parse::<VolumeFlag>().map(|flag| flag.0);
        for (text, expected) in [
            ("/src:/dst", bind("/src", "/dst", false)),
            ("./src:/dst:ro", bind("./src", "/dst", true)),
            ("/a b:/dst/:rw,z", bind("/a b", "/dst", false)),
            ("data:/dst", volume(Some("data"), "/dst", false, false)),
            (
                "data:/dst:nocopy,ro",
                volume(Some("data"), "/dst", true, true),
            ),
            ("/dst", volume(None, "/dst", false, false)),
            ("/src:/a/../b/./c", bind("/src", "/b/c", false)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "dst",
            "/src:dst",
            ":/dst",
            "/src:",
            "/src:/dst:x",
            "/a:/b:ro:x",
            "a/b:/dst",
            "a:/dst",
            "/src:/",
            "/src:/..",
            "/src:/dst:nocopy",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_long_form() {
        let parse = |text: &str| text.parse::<LongFlag>().map(|flag| flag.0);
        for (text, expected) in [
            (
                "type=bind,source=/s,target=/t,readonly",
                bind("/s", "/t", true),
            ),
            (
                "type=bind,src=s,dst=/t,ro=false,bind-propagation=rslave",
                bind("s", "/t", false),
            ),
            (
                "source=data,destination=/t",
                volume(Some("data"), "/t", false, false),
            ),
            (
                "type=volume,target=/t,volume-nocopy=true",
                volume(None, "/t", false, true),
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=64M,tmpfs-mode=1770",
                MountFlag {
                    source: SourceFlag::Tmpfs {
                        size: Some(ByteSize(64 << 20)),
                        top: TmpfsTop {
                            mode: Some(0o1770),
                            ..TmpfsTop::default()
                        },
                    },
                    target: "/t".into(),
                    read_only: false,
                },
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "type=bind,target=/t",
            "type=bind,source=/s",
            "type=nfs,target=/t",
            "target=t",
            "type=tmpfs,source=x,target=/t",
            "type=tmpfs,target=/t,tmpfs-mode=9",
            "target=/t,what",
            "type=bind,source=/s,target=/t,tmpfs-size=1M",
            "target=/t,readonly=maybe",
            "type=tmpfs,target=/t,volume-nocopy",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory() {
        let parse = |text: &str| text.parse::<TmpfsFlag>().map(|flag| flag.0);
        let plain = parse("/run").unwrap();
        assert_eq!(
            plain.source,
            SourceFlag::Tmpfs {
                size: None,
                top: TmpfsTop::default()
            }
        );
        let sized = parse("/run:rw,nosuid,noexec,size=64k,mode=755").unwrap();
        let expected = SourceFlag::Tmpfs {
            size: Some(ByteSize(64 << 10)),
            top: TmpfsTop {
                mode: Some(0o755),
                ..TmpfsTop::default()
            },
        };
        assert_eq!(sized.source, expected);
        let owned = parse("/run:exec,suid,nosuid,dev,noatime,uid=1000,gid=50").unwrap();
        let top = TmpfsTop {
            uid: Some(1000),
            gid: Some(50),
            exec: true,
            dev: true,
            ..TmpfsTop::default()
        };
        assert_eq!(owned.source, SourceFlag::Tmpfs { size: None, top });
        for text in [
            "run",
            "/run:size=x",
            "/run:what",
            "/run:mode=8",
            "/run:uid=-1",
            "/run:noexecs",
            "/run:exec=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
