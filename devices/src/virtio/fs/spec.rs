//! How a share is described, on the command line and in JSON.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rate_limit::IoLimits;
use crate::spec::{Options, SpecError};

const DEVICE: &str = "share";

/// Length of a tag in bytes (virtio 1.2 §5.11.4).
pub const TAG_SIZE: usize = 36;

/// The longest time that a guest may use what it was told before: an hour.
pub const MAX_CACHE: u32 = 3600;

/// A directory or a file of the host for the guest:
/// `PATH,tag=NAME[,readonly][,cache=SECONDS][,bw=LIMIT][,iops=LIMIT]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FsSpec {
    /// The directory; or a regular file, which the guest then finds under its
    /// name in an otherwise empty directory.
    pub path: PathBuf,
    /// What the guest mounts it by, 1 to 36 bytes: `mount -t virtiofs TAG DIR`.
    pub tag: String,
    /// Refuse all that would change the share, whatever the guest does.
    #[serde(default)]
    pub readonly: bool,
    /// How long, in seconds, the guest may go on with names and attributes that
    /// it was told, without asking again: 0, the default, for a share that the
    /// host changes; at most 3600.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache: u32,
    /// How much it may do.
    #[serde(default, skip_serializing_if = "IoLimits::is_none")]
    pub limits: IoLimits,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl FsSpec {
    /// A writable share.
    pub fn new(path: impl Into<PathBuf>, tag: impl Into<String>) -> Self {
        FsSpec {
            path: path.into(),
            tag: tag.into(),
            readonly: false,
            cache: 0,
            limits: IoLimits::default(),
        }
    }

    /// Checks what neither the command line's nor JSON's grammar can say. Opens
    /// nothing.
    ///
    /// # Errors
    /// [`SpecError::Value`], naming the option that is out of bounds.
    pub fn validate(&self) -> Result<(), SpecError> {
        let bad = |option: &str, why: String| {
            Err(SpecError::Value {
                device: DEVICE,
                option: option.to_owned(),
                why,
            })
        };
        let path = self.path.as_os_str().as_bytes();
        if path.is_empty() {
            let why = "is missing, as in '/srv/data,tag=data'".to_owned();
            return bad("path", why);
        }
        if path.contains(&0) {
            return bad("path", "a path cannot hold a NUL byte".to_owned());
        }
        let tag = self.tag.as_bytes();
        if tag.is_empty() || tag.len() > TAG_SIZE || !tag.iter().all(u8::is_ascii_graphic) {
            let why = format!(
                "'{}' is not 1 to {TAG_SIZE} printable ASCII characters without blanks",
                self.tag
            );
            return bad("tag", why);
        }
        if self.cache > MAX_CACHE {
            let why = format!("{} is not from 0 to {MAX_CACHE} seconds", self.cache);
            return bad("cache", why);
        }
        Ok(())
    }
}

impl FromStr for FsSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut options = Options::parse(DEVICE, text)?;
        let path = options.first().unwrap_or_default();
        let tag = options.value::<String>("tag")?;
        let readonly = options.flag("readonly")?;
        let cache = options.value("cache")?.unwrap_or(0);
        let limits = IoLimits {
            bw: options.value("bw")?,
            iops: options.value("iops")?,
        };
        let missing = options.bad("tag", "is missing, as in 'tag=data'".to_owned());
        options.finish()?;
        let spec = FsSpec {
            readonly,
            cache,
            limits,
            ..FsSpec::new(path, tag.ok_or(missing)?)
        };
        spec.validate()?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_say_the_same() {
        let spec: FsSpec = "/a b,tag=x,readonly,cache=2".parse().unwrap();
        let json = r#"{"path":"/a b","tag":"x","readonly":true,"cache":2}"#;
        assert_eq!(serde_json::from_str::<FsSpec>(json).unwrap(), spec);
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        let spec: FsSpec = "d,tag=x,bw=50M,iops=100/100ms".parse().unwrap();
        let json =
            r#"{"path":"d","tag":"x","readonly":false,"limits":{"bw":"50M","iops":"100/100ms"}}"#;
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        assert_eq!(serde_json::from_str::<FsSpec>(json).unwrap(), spec);
        assert_eq!("d,tag=x".parse::<FsSpec>().unwrap(), FsSpec::new("d", "x"));
        assert!(serde_json::from_str::<FsSpec>(r#"{"path":"d"}"#).is_err());
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        let long = format!("d,tag={}", "t".repeat(TAG_SIZE + 1));
        for (text, message) in [
            ("", "share: tag: is missing, as in 'tag=data'"),
            (
                ",tag=t",
                "share: path: is missing, as in '/srv/data,tag=data'",
            ),
            ("d", "share: tag: is missing, as in 'tag=data'"),
            (
                "d,tag=a b",
                "share: tag: 'a b' is not 1 to 36 printable ASCII characters without blanks",
            ),
            (
                "d,tag=t,cache=3601",
                "share: cache: 3601 is not from 0 to 3600 seconds",
            ),
            (
                "d,tag=t,ro",
                "share: unknown option 'ro'; it takes tag, readonly, cache, bw, iops",
            ),
        ] {
            let e = text.parse::<FsSpec>().unwrap_err();
            assert_eq!(e.to_string(), message, "{text}");
        }
        assert!(long.parse::<FsSpec>().is_err());
        assert!(FsSpec::new("a\0b", "t").validate().is_err());
    }
}
