//! What a sandbox may use, for `run`, `create` and `update`.

use std::str::FromStr;

use clap::Args;
use devices::rate_limit::Limit;

use crate::sandbox::spec::Spec;

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
}

impl LimitArgs {
    /// True when nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == LimitArgs::default()
    }

    /// Changes what was said in a sandbox's description.
    pub fn apply(&self, spec: &mut Spec) {
        let mut disk = spec.limits.disk.unwrap_or_default();
        let mut net = spec.limits.net.unwrap_or_default();
        for (limit, flag) in [
            (&mut disk.bw, self.disk_bps),
            (&mut disk.iops, self.disk_iops),
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
        spec.limits.disk = Some(disk).filter(|limits| !limits.is_none());
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
            r#"{"disk":{"bw":"50M+1G","iops":"1000"},"net":{"tx-pps":"100/100ms"}}"#
        );
        for none in ["none", "0"] {
            let args = LimitArgs {
                disk_bps: flag(none),
                disk_iops: flag(none),
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
}
