//! The guest's disks, by the serials that drupe gave them.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// What is known of a disk: its kernel name, as `vda`, and its serial.
#[derive(Debug, PartialEq, Eq)]
struct Disk {
    name: String,
    serial: String,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Disks(Vec<Disk>);

impl Disks {
    /// Looks for them below `block`, as `/sys/block`.
    pub fn find(block: &Path) -> Self {
        let entries = fs::read_dir(block).into_iter().flatten().flatten();
        let disks = entries.filter_map(|entry| {
            let serial = fs::read_to_string(entry.path().join("serial")).ok()?;
            Some(Disk {
                name: entry.file_name().into_string().ok()?,
                serial: serial.trim_end().to_owned(),
            })
        });
        Disks(disks.collect())
    }

    /// The device of the disk with a serial.
    ///
    /// # Errors
    /// When there is none.
    pub fn device(&self, serial: &str) -> Result<String> {
        self.named(serial).map(|name| format!("/dev/{name}"))
    }

    /// The device of a partition, counted from 1.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn partition(&self, serial: &str, number: u32) -> Result<String> {
        let name = self.named(serial)?;
        // As the kernel names them.
        let between = match name.ends_with(|c: char| c.is_ascii_digit()) {
            true => "p",
            false => "",
        };
        Ok(format!("/dev/{name}{between}{number}"))
    }

    fn named(&self, serial: &str) -> Result<&str> {
        let disk = self.0.iter().find(|disk| disk.serial == serial);
        disk.map(|disk| disk.name.as_str())
            .ok_or_else(|| Error::request(format!("the guest has no disk with serial '{serial}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_serial() {
        let sys = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "layers"), ("vdb", "scratch\n"), ("nvme0n1", "n")] {
            fs::create_dir(sys.path().join(name)).unwrap();
            fs::write(sys.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(sys.path().join("loop0")).unwrap();
        let disks = Disks::find(sys.path());
        assert_eq!(disks.device("scratch").unwrap(), "/dev/vdb");
        assert_eq!(disks.partition("layers", 127).unwrap(), "/dev/vda127");
        assert_eq!(disks.partition("n", 2).unwrap(), "/dev/nvme0n1p2");
        assert!(disks.device("vol0").is_err());
        assert!(Disks::find(Path::new("/nonexistent")).device("").is_err());
    }
}
