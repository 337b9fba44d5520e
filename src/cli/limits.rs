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
        assert!("fast".parse::<LimitFlag>().is_err());
    }
}
