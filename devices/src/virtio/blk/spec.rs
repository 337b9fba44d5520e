//! How a disk is described, on the command line and in JSON.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spec::{Options, SpecError};

/// What messages call the device.
const DEVICE: &str = "disk";

/// The most queues of one disk. Each has a worker thread of its own; more than a
/// guest has CPUs are of no use.
pub const MAX_QUEUES: u16 = 16;

/// Length of a disk's serial number in bytes (virtio 1.2 §5.2.6,
/// `VIRTIO_BLK_T_GET_ID`).
pub const SERIAL_SIZE: usize = 20;

/// A disk: `PATH[,readonly][,queues=N][,id=TEXT]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskSpec {
    /// Raw image file or block device.
    pub path: PathBuf,
    /// Refuse the guest's writes; several VMs may then share the disk.
    #[serde(default)]
    pub readonly: bool,
    /// Number of queues, 1 to 16, each with a thread of its own.
    #[serde(default = "one")]
    pub queues: u16,
    /// Serial number that the guest sees, at most 20 ASCII characters [default:
    /// the file's name].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

fn one() -> u16 {
    1
}

impl DiskSpec {
    /// A writable disk with one queue.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DiskSpec {
            path: path.into(),
            readonly: false,
            queues: 1,
            id: None,
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
        if self.path.as_os_str().is_empty() {
            return bad("path", "is missing, as in 'disk.img,readonly'".to_owned());
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
        let spec = DiskSpec {
            path: options.first().unwrap_or_default().into(),
            readonly: options.flag("readonly")?,
            queues: options.number("queues", 1, MAX_QUEUES)?.unwrap_or_else(one),
            id: options.value("id")?,
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
                "a,ro",
                "disk: unknown option 'ro'; it takes readonly, queues, id",
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
