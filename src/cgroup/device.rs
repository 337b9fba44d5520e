//! What a group may do on each of the host's block devices.

use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::{Error, Rates, Setting, Version};
use rustix::fs::{major, minor};

/// A block device with its rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimit {
    device: (u32, u32),
    rates: Rates,
}

impl DeviceLimit {
    /// For the device of this name.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(path: &Path, rates: Rates) -> Result<Self, Error> {
        let refuse = |why: String| Error::Device {
            path: path.to_owned(),
            why,
        };
        let metadata =
            fs::metadata(path).map_err(|e: io::Error| refuse(format!("cannot be limited: {e}")))?;
        if !metadata.file_type().is_block_device() {
            let why = "is no block device: name a disk, as /dev/sda";
            return Err(refuse(why.to_owned()));
        }
        let number = metadata.st_rdev();
        let device = (major(number), minor(number));
        let (major, minor) = device;
        // The kernel keeps limits for whole disks, and says `no such device` here.
        if Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists() {
            let why = "is a partition: name the disk that it is on";
            return Err(refuse(why.to_owned()));
        }
        Ok(DeviceLimit { device, rates })
    }

    /// What is to be written for it, if `all` also for what has no limit.
    pub(super) fn settings(&self, version: Version, all: bool) -> Vec<Setting> {
        let Rates {
            read_bps,
            write_bps,
            read_iops,
            write_iops,
        } = self.rates;
        let (major, minor) = self.device;
        if version == Version::V2 {
            if self.rates.is_none() && !all {
                return Vec::new();
            }
            let rate = |rate: Option<u64>| rate.map_or("max".to_owned(), |rate| rate.to_string());
            let value = format!(
                "{major}:{minor} rbps={} wbps={} riops={} wiops={}",
                rate(read_bps),
                rate(write_bps),
                rate(read_iops),
                rate(write_iops)
            );
            return vec![("io", "io.max", value)];
        }
        let files = [
            ("blkio.throttle.read_bps_device", read_bps),
            ("blkio.throttle.write_bps_device", write_bps),
            ("blkio.throttle.read_iops_device", read_iops),
            ("blkio.throttle.write_iops_device", write_iops),
        ];
        let wanted = files.into_iter().filter(|(_, rate)| all || rate.is_some());
        let settings = wanted.map(|(file, rate)| {
            // None is 0.
            let value = format!("{major}:{minor} {}", rate.unwrap_or(0));
            ("blkio", file, value)
        });
        settings.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_each_version_has_them() {
        let limit = |rates| DeviceLimit {
            device: (8, 16),
            rates,
        };
        let text = |limit: &DeviceLimit, version, all| {
            let settings = limit.settings(version, all).into_iter();
            let lines = settings.map(|(controller, file, value)| {
                assert!(file.starts_with(controller));
                format!("{file}={value}")
            });
            lines.collect::<Vec<_>>().join("; ")
        };
        let some = limit(Rates {
            write_bps: Some(1 << 20),
            read_iops: Some(7),
            ..Rates::default()
        });
        assert_eq!(
            text(&some, Version::V2, false),
            "io.max=8:16 rbps=max wbps=1048576 riops=7 wiops=max"
        );
        assert_eq!(
            text(&some, Version::V1, false),
            "blkio.throttle.write_bps_device=8:16 1048576; \
             blkio.throttle.read_iops_device=8:16 7"
        );
        let none = limit(Rates::default());
        assert_eq!(text(&none, Version::V2, false), "");
        assert_eq!(text(&none, Version::V1, false), "");
        assert_eq!(
            text(&none, Version::V2, true),
            "io.max=8:16 rbps=max wbps=max riops=max wiops=max"
        );
        let lifted = text(&none, Version::V1, true);
        assert_eq!(lifted.matches(" 0").count(), 4, "{lifted}");
    }

    #[test]
    fn only_disks_have_rates() {
        for (path, why) in [
            ("/dev/null", "is no block device"),
            ("/", "is no block device"),
            ("/dev/no such disk", "No such file"),
        ] {
            let error = DeviceLimit::new(Path::new(path), Rates::default());
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(path) && error.contains(why), "{error}");
        }
    }
}
