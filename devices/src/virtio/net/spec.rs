//! How a network card is described.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::MacAddr;
use crate::rate_limit::{Limit, LimiterState};
use crate::spec::{Options, SpecError};

const DEVICE: &str = "net";

/// The longest name of a network interface: `IFNAMSIZ` less the final zero.
pub const MAX_TAP_NAME: usize = libc::IFNAMSIZ - 1;

/// The smallest MTU on offer: what every IPv4 link must carry (RFC 791), and the
/// least that virtio 1.2 §5.1.4.1 allows.
pub const MIN_MTU: u16 = 68;

/// How much may pass a card; "received" is from the guest's side. In JSON an
/// object of the same names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetLimits {
    /// Bytes of frames to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bw: Option<Limit>,
    /// Packets to the guest; with segmentation offloads, one of 64 KiB is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_pps: Option<Limit>,
    /// Bytes of frames from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bw: Option<Limit>,
    /// Packets from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_pps: Option<Limit>,
}

impl NetLimits {
    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == NetLimits::default()
    }

    /// Takes its options out of a description.
    ///
    /// # Errors
    /// What is no limit.
    pub fn take(options: &mut Options) -> Result<Self, SpecError> {
        Ok(NetLimits {
            rx_bw: options.value("rx-bw")?,
            rx_pps: options.value("rx-pps")?,
            tx_bw: options.value("tx-bw")?,
            tx_pps: options.value("tx-pps")?,
        })
    }

    /// Full buckets for what the guest receives.
    pub fn rx(&self) -> LimiterState {
        LimiterState::new(self.rx_bw, self.rx_pps)
    }

    /// Full buckets for what the guest sends.
    pub fn tx(&self) -> LimiterState {
        LimiterState::new(self.tx_bw, self.tx_pps)
    }
}

/// A network card whose other end is a TAP of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetSpec {
    /// Name of a TAP that exists: 1 to 15 bytes.
    pub tap: String,
    /// The guest's MAC address; one made from the TAP's name when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The MTU that the guest is told, 68 to 65535 bytes; the TAP's own when not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// How much may pass.
    #[serde(default, skip_serializing_if = "NetLimits::is_none")]
    pub limits: NetLimits,
}

impl NetSpec {
    /// A card on this TAP with everything else by default.
    pub fn new(tap: impl Into<String>) -> Self {
        NetSpec {
            tap: tap.into(),
            mac: None,
            mtu: None,
            limits: NetLimits::default(),
        }
    }

    /// Checks what the types do not: for a description that came from JSON or
    /// was put together by a program.
    ///
    /// # Errors
    /// When the kernel could not have an interface of that name, or the MTU is
    /// out of range.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_name(&self.tap).map_err(|why| bad("tap", format!("'{}' {why}", self.tap)))?;
        match self.mtu {
            Some(mtu) if mtu < MIN_MTU => Err(bad(
                "mtu",
                format!("{mtu} is not between {MIN_MTU} and {}", u16::MAX),
            )),
            _ => Ok(()),
        }
    }
}

/// `tap=NAME[,mac=MAC][,mtu=N]`, and `rx-bw`, `rx-pps`, `tx-bw`, `tx-pps`, each
/// with a limit.
impl FromStr for NetSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut options = Options::parse(DEVICE, text)?;
        let tap = options.value("tap")?;
        let mac = options.value("mac")?;
        let mtu = options.number("mtu", MIN_MTU, u16::MAX)?;
        let limits = NetLimits::take(&mut options)?;
        options.finish()?;
        let tap = tap.ok_or_else(|| bad("tap", "needs a name, as in 'tap=tap0'".to_owned()))?;
        let spec = NetSpec {
            tap,
            mac,
            mtu,
            limits,
        };
        spec.validate()?;
        Ok(spec)
    }
}

fn bad(option: &str, why: String) -> SpecError {
    SpecError::Value {
        device: DEVICE,
        option: option.to_owned(),
        why,
    }
}

/// The rules of the kernel's `dev_valid_name`; `%` besides, which would ask it
/// to make a name up.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_TAP_NAME {
        return Err("is not 1 to 15 bytes long");
    }
    let odd = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    if name == "." || name == ".." || name.contains(odd) {
        return Err("is not the name of a network interface");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_and_json_say_the_same() {
        let spec: NetSpec = "tap=tap0".parse().unwrap();
        assert_eq!(spec, NetSpec::new("tap0"));
        let spec: NetSpec = "tap=tap0,mac=02:00:00:00:00:01,mtu=1400".parse().unwrap();
        let json = r#"{"tap":"tap0","mac":"02:00:00:00:00:01","mtu":1400}"#;
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        assert_eq!(serde_json::from_str::<NetSpec>(json).unwrap(), spec);
        assert!(serde_json::from_str::<NetSpec>(r#"{"tap":"t","queues":2}"#).is_err());
        let json = serde_json::to_string(&NetSpec::new("tap0")).unwrap();
        assert_eq!(json, r#"{"tap":"tap0"}"#);
    }

    #[test]
    fn bad_descriptions_name_the_option() {
        for (text, message) in [
            (
                "",
                "net: unknown option ''; it takes tap, mac, mtu, rx-bw, rx-pps, tx-bw, tx-pps",
            ),
            ("mtu=1500", "net: tap: needs a name, as in 'tap=tap0'"),
            ("tap=", "net: tap: '' is not 1 to 15 bytes long"),
            (
                "tap=abcdefghijklmnop",
                "net: tap: 'abcdefghijklmnop' is not 1 to 15 bytes long",
            ),
            (
                "tap=tap%d",
                "net: tap: 'tap%d' is not the name of a network interface",
            ),
            (
                "tap=t,mac=01:00:00:00:00:00",
                "net: mac: '01:00:00:00:00:00': is a multicast address: the first byte must be even",
            ),
            ("tap=t,mtu=67", "net: mtu: 67 is not between 68 and 65535"),
            (
                "tap=t,bridge=br0",
                "net: unknown option 'bridge'; it takes tap, mac, mtu, rx-bw, rx-pps, tx-bw, tx-pps",
            ),
        ] {
            assert_eq!(text.parse::<NetSpec>().unwrap_err().to_string(), message);
        }
        assert!("tap=t,mtu=65536".parse::<NetSpec>().is_err());
        for name in ["a/b", "a b", "a:b", ".", "..", "a\0b", "a\tb"] {
            assert!(NetSpec::new(name).validate().is_err(), "{name:?}");
        }
        "tap=abcdefghijklmno,mtu=65535".parse::<NetSpec>().unwrap();
    }
}
