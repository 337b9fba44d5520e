//! How a disk is described, on the command line and in JSON.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::layers::MAX_LAYERS;
use crate::rate_limit::IoLimits;
use crate::spec::{Options, SpecError};

/// What messages call the device.
const DEVICE: &str = "disk";

/// The most queues of one disk. Each has a worker thread of its own; more than a
/// guest has CPUs are of no use.
pub const MAX_QUEUES: u16 = 16;

/// Length of a disk's serial number in bytes (virtio 1.2 §5.2.6,
/// `VIRTIO_BLK_T_GET_ID`).
pub const SERIAL_SIZE: usize = 20;

/// Serial number of a disk of layers that is given none.
const LAYERS_ID: &str = "layers";

/// A disk: `PATH[,readonly][,queues=N][,id=TEXT][,bw=LIMIT][,iops=LIMIT]`, or in
/// JSON a list of `layers` in place of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskSpec {
    /// Raw image file or block device; empty for a disk of layers.
    #[serde(default, skip_serializing_if = "path_is_empty")]
    pub path: PathBuf,
    /// Files that make up a read-only disk with a partition for each, in this
    /// order ([`super::LayerDisk`]); at most [`MAX_LAYERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PathBuf>,
    /// Refuse the guest's writes; several VMs may then share the disk.
    #[serde(default)]
    pub readonly: bool,
    /// Number of queues, 1 to 16, each with a thread of its own.
    #[serde(default = "one")]
    pub queues: u16,
    /// Serial number that the guest sees, at most 20 ASCII characters [default:
    /// the file's name; of a disk of layers, `layers`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How much it may do.
    #[serde(default, skip_serializing_if = "IoLimits::is_none")]
    pub limits: IoLimits,
}

fn one() -> u16 {
    1
}

fn path_is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl DiskSpec {
    /// A writable disk with one queue.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DiskSpec {
            path: path.into(),
            layers: Vec::new(),
            readonly: false,
            queues: 1,
            id: None,
            limits: IoLimits::default(),
        }
    }

    /// A read-only disk with a partition for each of these files.
    pub fn of_layers(layers: Vec<PathBuf>) -> Self {
        DiskSpec {
            layers,
            readonly: true,
            ..DiskSpec::new("")
        }
    }

    /// True when the guest's writes are refused: asked for, or because layers
    /// are shared.
    pub fn is_readonly(&self) -> bool {
        self.readonly || !self.layers.is_empty()
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
        match (path_is_empty(&self.path), self.layers.len()) {
            (true, 0) => {
                return bad("path", "is missing, as in 'disk.img,readonly'".to_owned());
            }
            (false, 0) | (true, 1..=MAX_LAYERS) => {}
            (true, n) => {
                return bad("layers", format!("{n} are more than {MAX_LAYERS}"));
            }
            (false, _) => {
                let why = "a disk has a path or layers, not both".to_owned();
                return bad("layers", why);
            }
        }
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            let why = format!("{} is not from 1 to {MAX_QUEUES}", self.queues);
            return bad("queues", why);
        }
        match &self.id {
            Some(id) if id.is_empty() || id.len() > SERIAL_SIZE || !id.bytes().all(printable) => {
                let why = format!("'{id}' is not 1 to {SERIAL_SIZE} printable ASCII characters");
                bad("id", why)
            }
            _ => Ok(()),
        }
    }

    /// The serial number, zero-padded: `id`, or what fits of the file's name.
    pub fn serial(&self) -> [u8; SERIAL_SIZE] {
        let name = match &self.id {
            Some(id) => id.as_bytes(),
            None if !self.layers.is_empty() => LAYERS_ID.as_bytes(),
            None => self
                .path
                .file_name()
                .map_or(b"".as_slice(), |n| n.as_encoded_bytes()),
        };
        let mut serial = [0; SERIAL_SIZE];
        for (to, &from) in serial.iter_mut().zip(name) {
            *to = if printable(from) { from } else { b'_' };
        }
        serial
    }
}

fn printable(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

impl FromStr for DiskSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut options = Options::parse(DEVICE, text)?;
        let path = options.first().unwrap_or_default();
        let spec = DiskSpec {
            readonly: options.flag("readonly")?,
            queues: options.number("queues", 1, MAX_QUEUES)?.unwrap_or_else(one),
            id: options.value("id")?,
            limits: IoLimits {
                bw: options.value("bw")?,
                iops: options.value("iops")?,
            },
            ..DiskSpec::new(path)
        };
        options.finish()?;
        spec.validate()?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_say_the_same() {
        let spec: DiskSpec = "/a b,readonly,queues=4,id=root disk".parse().unwrap();
        let json = r#"{"path":"/a b","readonly":true,"queues":4,"id":"root disk"}"#;
        assert_eq!(serde_json::from_str::<DiskSpec>(json).unwrap(), spec);
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        let plain: DiskSpec = serde_json::from_str(r#"{"path":"x.img"}"#).unwrap();
        assert_eq!(plain, "x.img".parse().unwrap());
        assert_eq!(plain, DiskSpec::new("x.img"));
        assert!(serde_json::from_str::<DiskSpec>(r#"{"path":"x","ro":true}"#).is_err());
        let spec: DiskSpec = "x,bw=50M+1G,iops=100/100ms".parse().unwrap();
        let json = r#"{"path":"x","readonly":false,"queues":1,"limits":{"bw":"50M+1G","iops":"100/100ms"}}"#;
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        assert_eq!(serde_json::from_str::<DiskSpec>(json).unwrap(), spec);
    }

    #[test]
    fn a_disk_has_a_path_or_layers() {
        let parse = |json: &str| serde_json::from_str::<DiskSpec>(json).unwrap();
        let spec = parse(r#"{"layers":["a","b"]}"#);
        spec.validate().unwrap();
        assert!(spec.is_readonly() && !spec.readonly);
        assert_eq!(&spec.serial()[..7], b"layers\0");
        let made = DiskSpec::of_layers(vec!["a".into(), "b".into()]);
        assert_eq!(parse(&serde_json::to_string(&made).unwrap()), made);
        let named = parse(r#"{"layers":["a"],"id":"base"}"#);
        assert_eq!(&named.serial()[..5], b"base\0");

        let refusal = |spec: &DiskSpec| spec.validate().unwrap_err().to_string();
        let both = refusal(&parse(r#"{"path":"a","layers":["b"]}"#));
        assert_eq!(both, "disk: layers: a disk has a path or layers, not both");
        let none = refusal(&parse(r#"{"layers":[]}"#));
        assert!(none.contains("path: is missing"), "{none}");
        let many = refusal(&DiskSpec::of_layers(vec!["a".into(); MAX_LAYERS + 1]));
        assert_eq!(many, "disk: layers: 128 are more than 127");
        DiskSpec::of_layers(vec!["a".into(); MAX_LAYERS])
            .validate()
            .unwrap();
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        for (text, message) in [
            ("", "disk: path: is missing, as in 'disk.img,readonly'"),
            ("a,queues=0", "disk: queues: 0 is not from 1 to 16"),
            (
                "a,queues=99999",
                "disk: queues: '99999' is not a number from 1 to 16",
            ),
            ("a,queues=17", "disk: queues: 17 is not from 1 to 16"),
            (
                "a,id=123456789012345678901",
                "disk: id: '123456789012345678901' is not 1 to 20 printable ASCII characters",
            ),
            (
                "a,id=ä",
                "disk: id: 'ä' is not 1 to 20 printable ASCII characters",
            ),
            (
                "a,bw=fast",
                "disk: bw: 'fast': 'fast' is not a limit: write it as 50M, 5M/100ms or 50M+1G (burst)",
            ),
            (
                "a,ro",
                "disk: unknown option 'ro'; it takes readonly, queues, id, bw, iops",
            ),
        ] {
            let e = text.parse::<DiskSpec>().unwrap_err();
            assert_eq!(e.to_string(), message);
        }
    }

    #[test]
    fn the_serial_defaults_to_the_file_name() {
        let serial = |text: &str| text.parse::<DiskSpec>().unwrap().serial();
        assert_eq!(&serial("/x/root.img")[..9], b"root.img\0");
        assert_eq!(
            &serial("/x/a-name-longer-than-twenty.img"),
            b"a-name-longer-than-t"
        );
        assert_eq!(&serial("/x/ä")[..3], b"__\0");
        assert_eq!(&serial("/x/y,id=z")[..2], b"z\0");
        assert_eq!(serial("/"), [0; 20]);
    }
}
