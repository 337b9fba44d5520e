//! What a sandbox may use, for `run`, `create` and `update`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use devices::rate_limit::Limit;
use vmm::config::ByteSize;

use crate::cgroup::Rates;
use crate::sandbox::spec::{CgroupWishes, DeviceWish, Spec};

/// A limit, or `none` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitFlag(Option<Limit>);

impl FromStr for LimitFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" | "0" => Ok(LimitFlag(None)),
            text => text.parse().map(Some).map(LimitFlag),
        }
    }
}

/// A number within bounds; `none`, 0 or -1 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberFlag<const MIN: u64, const MAX: u64>(Option<u64>);

impl<const MIN: u64, const MAX: u64> FromStr for NumberFlag<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("none" | "0" | "-1", _) => Ok(NumberFlag(None)),
            (_, Ok(number)) if (MIN..=MAX).contains(&number) => Ok(NumberFlag(Some(number))),
            _ => Err(format!(
                "'{text}' is not a number from {MIN} to {MAX}, or none"
            )),
        }
    }
}

/// What passes a disk of the host in a second at most; `none` or 0 for no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateFlag {
    device: PathBuf,
    wanted: Option<u64>,
}

impl FromStr for RateFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, rate) = text
            .rsplit_once(':')
            .filter(|(device, _)| device.starts_with('/'))
            .ok_or_else(|| format!("'{text}' is not DEVICE:RATE, as /dev/sda:50M"))?;
        let wanted = match rate {
            "none" | "0" => None,
            rate => Some(rate.parse::<ByteSize>()?.bytes()),
        };
        Ok(RateFlag {
            device: device.into(),
            wanted,
        })
    }
}

/// The rates of a disk in a description, where they are added if there were none.
fn rates_of<'a>(cgroup: &'a mut CgroupWishes, device: &Path) -> &'a mut Rates {
    let devices = &mut cgroup.devices;
    let known = devices.iter().position(|wish| wish.path == device);
    let at = known.unwrap_or_else(|| {
        devices.push(DeviceWish {
            path: device.to_owned(),
            rates: Rates::default(),
        });
        devices.len() - 1
    });
    &mut devices[at].rates
}

/// The least and the most microseconds of a quota: the kernel's least, and all of
/// 1024 processors for the longest period.
type Quota = NumberFlag<1000, 1_024_000_000>;
type Period = NumberFlag<1000, 1_000_000>;
type Shares = NumberFlag<2, 262_144>;
type Weight = NumberFlag<10, 1000>;

// How much a sandbox may use.
#[derive(Debug, Default, PartialEq, Args)]
pub struct LimitArgs {
    /// Bytes that each disk reads and writes in a second, as 50M; 5M/100ms for
    /// another time, 50M+1G with a burst, none for no limit
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub disk_bps: Option<LimitFlag>,
    /// Requests of each disk in a second, likewise
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub disk_iops: Option<LimitFlag>,
    /// Bytes that each shared directory reads and writes in a second, likewise
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub share_bps: Option<LimitFlag>,
    /// Requests of each shared directory in a second
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub share_iops: Option<LimitFlag>,
    /// Bytes that it receives from the network in a second
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub network_rx_bps: Option<LimitFlag>,
    /// Packets that it receives in a second
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub network_rx_pps: Option<LimitFlag>,
    /// Bytes that it sends in a second
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub network_tx_bps: Option<LimitFlag>,
    /// Packets that it sends in a second
    #[arg(long, value_name = "LIMIT", help_heading = "Limits")]
    pub network_tx_pps: Option<LimitFlag>,
    /// Microseconds of the host's processors in each period, its monitor's work
    /// included
    #[arg(
        long,
        value_name = "US",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub cpu_quota: Option<Quota>,
    /// That period [default: 100000]
    #[arg(long, value_name = "US", help_heading = "Limits")]
    pub cpu_period: Option<Period>,
    /// Its share when processors are scarce, 2 to 262144 [default: 1024]
    #[arg(long, short = 'c', value_name = "N", help_heading = "Limits")]
    pub cpu_shares: Option<Shares>,
    /// Its share when disks are, 10 to 1000 [default: 500]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub blkio_weight: Option<Weight>,
    /// Bytes that it and its monitor read from a disk of the host in a second, as
    /// /dev/sda:50M; none for no limit
    #[arg(long, value_name = "DEVICE:RATE", help_heading = "Limits")]
    pub device_read_bps: Vec<RateFlag>,
    /// Bytes that they write to it
    #[arg(long, value_name = "DEVICE:RATE", help_heading = "Limits")]
    pub device_write_bps: Vec<RateFlag>,
    /// Times that they read from it
    #[arg(long, value_name = "DEVICE:RATE", help_heading = "Limits")]
    pub device_read_iops: Vec<RateFlag>,
    /// Times that they write to it
    #[arg(long, value_name = "DEVICE:RATE", help_heading = "Limits")]
    pub device_write_iops: Vec<RateFlag>,
}

impl LimitArgs {
    /// True when nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == LimitArgs::default()
    }

    /// Changes what was said in a sandbox's description.
    pub fn apply(&self, spec: &mut Spec) {
        let mut disk = spec.limits.disk.unwrap_or_default();
        let mut share = spec.limits.share.unwrap_or_default();
        let mut net = spec.limits.net.unwrap_or_default();
        for (limit, flag) in [
            (&mut disk.bw, self.disk_bps),
            (&mut disk.iops, self.disk_iops),
            (&mut share.bw, self.share_bps),
            (&mut share.iops, self.share_iops),
            (&mut net.rx_bw, self.network_rx_bps),
            (&mut net.rx_pps, self.network_rx_pps),
            (&mut net.tx_bw, self.network_tx_bps),
            (&mut net.tx_pps, self.network_tx_pps),
        ] {
            if let Some(LimitFlag(wanted)) = flag {
                *limit = wanted;
            }
        }
        let cgroup = &mut spec.cgroup;
        if let Some(NumberFlag(wanted)) = self.cpu_quota {
            cgroup.cpu_quota = wanted;
        }
        if let Some(NumberFlag(wanted)) = self.cpu_period {
            cgroup.cpu_period = wanted;
        }
        if let Some(NumberFlag(wanted)) = self.cpu_shares {
            cgroup.cpu_shares = wanted;
        }
        if let Some(NumberFlag(wanted)) = self.blkio_weight {
            // At most 1000.
            cgroup.blkio_weight = wanted.and_then(|weight| weight.try_into().ok());
        }
        type Field = fn(&mut Rates) -> &mut Option<u64>;
        let fields: [(&Vec<RateFlag>, Field); 4] = [
            (&self.device_read_bps, |rates| &mut rates.read_bps),
            (&self.device_write_bps, |rates| &mut rates.write_bps),
            (&self.device_read_iops, |rates| &mut rates.read_iops),
            (&self.device_write_iops, |rates| &mut rates.write_iops),
        ];
        for (flags, rate) in fields {
            for RateFlag { device, wanted } in flags {
                *rate(rates_of(cgroup, device)) = *wanted;
            }
        }
        spec.limits.disk = Some(disk).filter(|limits| !limits.is_none());
        spec.limits.share = Some(share).filter(|limits| !limits.is_none());
        spec.limits.net = Some(net).filter(|limits| !limits.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spec::tests::spec;

    #[test]
    fn what_is_not_said_stays() {
        let mut spec = spec("x");
        let before = spec.clone();
        LimitArgs::default().apply(&mut spec);
        assert_eq!(spec, before);
        let flag = |text: &str| Some(text.parse().unwrap());
        let args = LimitArgs {
            disk_bps: flag("50M+1G"),
            share_iops: flag("7"),
            network_tx_pps: flag("100/100ms"),
            ..LimitArgs::default()
        };
        args.apply(&mut spec);
        let iops = LimitArgs {
            disk_iops: flag("1000"),
            ..LimitArgs::default()
        };
        iops.apply(&mut spec);
        let text = serde_json::to_string(&spec.limits).unwrap();
        assert_eq!(
            text,
            r#"{"disk":{"bw":"50M+1G","iops":"1000"},"share":{"iops":"7"},"net":{"tx-pps":"100/100ms"}}"#
        );
        for none in ["none", "0"] {
            let args = LimitArgs {
                disk_bps: flag(none),
                disk_iops: flag(none),
                share_iops: flag(none),
                network_tx_pps: flag(none),
                ..LimitArgs::default()
            };
            args.apply(&mut spec);
            assert_eq!(spec, before);
        }
        let args = LimitArgs {
            cpu_quota: Some("50000".parse().unwrap()),
            blkio_weight: Some("1000".parse().unwrap()),
            ..LimitArgs::default()
        };
        args.apply(&mut spec);
        assert_eq!(
            (spec.cgroup.cpu_quota, spec.cgroup.blkio_weight),
            (Some(50_000), Some(1000))
        );
        let args = LimitArgs {
            cpu_quota: Some("-1".parse().unwrap()),
            blkio_weight: Some("none".parse().unwrap()),
            ..LimitArgs::default()
        };
        args.apply(&mut spec);
        assert_eq!(spec, before);
        assert!("999".parse::<Quota>().is_err() && "x".parse::<Shares>().is_err());
        assert!("fast".parse::<LimitFlag>().is_err());
    }

    #[test]
    fn disks_of_the_host_have_rates() {
        let mut spec = spec("x");
        let flag = |text: &str| vec![text.parse::<RateFlag>().unwrap()];
        let args = LimitArgs {
            device_write_bps: flag("/dev/sda:1mb"),
            device_read_iops: vec![
                "/dev/disk/by-id/a:b:7".parse().unwrap(),
                "/dev/sda:8".parse().unwrap(),
            ],
            ..LimitArgs::default()
        };
        args.apply(&mut spec);
        let text = serde_json::to_string(&spec.cgroup.devices).unwrap();
        assert_eq!(
            text,
            r#"[{"path":"/dev/sda","rates":{"write-bps":1048576,"read-iops":8}},"#.to_owned()
                + r#"{"path":"/dev/disk/by-id/a:b","rates":{"read-iops":7}}]"#
        );
        assert!(spec.cgroup.needs_group());
        let args = LimitArgs {
            device_write_bps: flag("/dev/sda:none"),
            device_read_iops: vec![
                "/dev/disk/by-id/a:b:0".parse().unwrap(),
                "/dev/sda:none".parse().unwrap(),
            ],
            ..LimitArgs::default()
        };
        args.apply(&mut spec);
        // They have to be lifted.
        assert_eq!(spec.cgroup.devices.len(), 2);
        assert!(!spec.cgroup.needs_group());
        for text in [
            "",
            "/dev/sda",
            "sda:1",
            "/dev/sda:",
            "/dev/sda:-1",
            "/dev/sda:1x",
        ] {
            assert!(text.parse::<RateFlag>().is_err(), "{text}");
        }
    }
}
