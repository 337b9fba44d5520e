//! How the socket device is described: `PATH[,cid=N]`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spec::{Options, SpecError};

/// The first CID that a guest may have; those below are reserved (virtio 1.2
/// §5.10.4).
pub const MIN_CID: u64 = 3;
/// The last one: all ones is `VMADDR_CID_ANY`, and the upper half is reserved.
pub const MAX_CID: u64 = 0xffff_fffe;

/// What `sun_path` holds, less its terminating NUL and the longest suffix of a
/// port's path, `_4294967295`.
pub const MAX_PATH: usize = 108 - 1 - 11;

const DEVICE: &str = "vsock";

/// The socket device: a guest's `AF_VSOCK` sockets as Unix sockets of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VsockSpec {
    /// Unix socket that host programs connect to, to reach a port of the guest.
    /// The guest's connections to port P of the host go to `PATH_P`.
    pub path: PathBuf,
    /// The guest's context ID. Several VMs may have the same one: what tells
    /// them apart on the host is the path.
    #[serde(default = "default_cid")]
    pub cid: u64,
}

fn default_cid() -> u64 {
    MIN_CID
}

impl VsockSpec {
    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// When the path is empty, too long for a Unix socket, holds a NUL or is that
    /// of another VM's port, or the CID is reserved.
    pub fn validate(&self) -> Result<(), SpecError> {
        let bad = |option: &str, why: String| SpecError::Value {
            device: DEVICE,
            option: option.to_owned(),
            why,
        };
        let path = self.path.as_os_str().as_bytes();
        if path.is_empty() {
            return Err(bad("path", "give the path of a Unix socket".to_owned()));
        }
        if path.contains(&0) {
            return Err(bad("path", "a path cannot hold a NUL byte".to_owned()));
        }
        if path.len() > MAX_PATH {
            let why = format!(
                "{} bytes are too long for a Unix socket and its ports; use at most {MAX_PATH}",
                path.len()
            );
            return Err(bad("path", why));
        }
        let name = path
            .rsplit(|b| *b == b'_')
            .next()
            .filter(|n| n.len() < path.len());
        if let Some(port) = name.filter(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit)) {
            let why = format!(
                "it ends in '_{}', which is where another VM's guest finds that port of the host; choose a name like 'vm.sock'",
                String::from_utf8_lossy(port)
            );
            return Err(bad("path", why));
        }
        if !(MIN_CID..=MAX_CID).contains(&self.cid) {
            let why = format!(
                "{} is reserved; use a number from {MIN_CID} to {MAX_CID}",
                self.cid
            );
            return Err(bad("cid", why));
        }
        Ok(())
    }
}

impl FromStr for VsockSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut options = Options::parse(DEVICE, text)?;
        let spec = VsockSpec {
            path: options.first().unwrap_or_default().into(),
            cid: options
                .number("cid", MIN_CID, MAX_CID)?
                .unwrap_or_else(default_cid),
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
        let spec: VsockSpec = "/run/a.sock,cid=52".parse().unwrap();
        assert_eq!((spec.path.to_str(), spec.cid), (Some("/run/a.sock"), 52));
        let json = r#"{"path":"/run/a.sock","cid":52}"#;
        assert_eq!(serde_json::from_str::<VsockSpec>(json).unwrap(), spec);
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        let json = r#"{"path":"a","cid":3,"port":1}"#;
        assert!(serde_json::from_str::<VsockSpec>(json).is_err());
        assert_eq!("a".parse::<VsockSpec>().unwrap().cid, 3);
    }

    #[test]
    fn reserved_cids_and_unusable_paths_are_refused() {
        for cid in ["0", "1", "2", "4294967295", "4294967296", "-1", "x"] {
            let e = format!("a,cid={cid}").parse::<VsockSpec>().unwrap_err();
            assert!(e.to_string().starts_with("vsock: cid: "), "{e}");
        }
        "a,cid=4294967294".parse::<VsockSpec>().unwrap();
        let longest = "a".repeat(MAX_PATH);
        longest.parse::<VsockSpec>().unwrap();
        for path in ["", ",cid=3", "a\0b", &format!("{longest}a")] {
            let e = path.parse::<VsockSpec>().unwrap_err();
            assert!(e.to_string().starts_with("vsock: path: "), "{e}");
        }
        for path in ["/run/vm_2", "_0", "a_b_4294967295"] {
            let e = path.parse::<VsockSpec>().unwrap_err();
            assert!(e.to_string().contains("another VM's guest"), "{e}");
        }
        for path in ["vm_2.sock", "a_", "2", "/run_2/vm", "vm2", "vm_2b"] {
            path.parse::<VsockSpec>().unwrap();
        }
        assert!("a,port=1".parse::<VsockSpec>().is_err());
    }
}
