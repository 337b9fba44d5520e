//! Network interfaces: what a user writes, and the card that comes of it.

use std::fmt::Display;
use std::str::FromStr;

use devices::spec::{Options, SpecError};
use devices::virtio::SharedDevice;
use devices::virtio::net::{MacAddr, Net, NetLimits, NetSpec, TapError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use usernet::Published;

use crate::virtio::shared;

mod user;

const DEVICE: &str = "net";

/// A network card, by what is at its other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub enum NetConfig {
    /// A TAP of the host.
    Tap(NetSpec),
    /// Ordinary sockets of the host, by way of this process.
    User(UserNetSpec),
}

/// A network card whose other end are sockets of this process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct UserNetSpec {
    /// The network.
    pub user: usernet::Config,
    /// The guest's MAC address; one made from the card's number when not given.
    pub mac: Option<MacAddr>,
    /// The MTU that the guest is told, 1280 to 65535 bytes; 65520 when not given.
    pub mtu: Option<u16>,
    /// How much may pass.
    pub limits: NetLimits,
}

/// As JSON: `{"tap": "tap0"}` or `{"user": {}}`, each with `mac`, `mtu` and
/// `limits`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Fields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<usernet::Config>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(default, skip_serializing_if = "NetLimits::is_none")]
    limits: NetLimits,
}

/// Why a card has no other end.
#[derive(Debug, Error)]
pub(crate) enum NetError {
    /// The TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The network of this process.
    #[error(transparent)]
    User(#[from] usernet::Error),
    /// The card itself.
    #[error("net: cannot make a timer: {0}")]
    Timer(#[from] std::io::Error),
}

impl NetConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        let spec = match self {
            NetConfig::Tap(spec) => return spec.validate(),
            NetConfig::User(spec) => spec,
        };
        match spec.mtu {
            Some(mtu) if mtu < usernet::MIN_MTU => {
                let least = usernet::MIN_MTU;
                let why = format!("{mtu} is not between {least} and {}", u16::MAX);
                return Err(bad("mtu", why));
            }
            _ => {}
        }
        let valid = spec.user.validate();
        valid.map_err(|e| bad("user", e.to_string()))
    }
}

/// Opens card number `index`, and tells which ports were published for it.
pub(crate) fn open(
    config: &NetConfig,
    index: usize,
    published: &mut Vec<Published>,
) -> Result<SharedDevice, NetError> {
    match config {
        NetConfig::Tap(spec) => Ok(shared(Net::open(spec, index)?)),
        NetConfig::User(spec) => {
            // Its network is its own: others may have the same address.
            let mac = spec.mac.unwrap_or_else(|| MacAddr::derived("user", index));
            let mtu = spec.mtu.unwrap_or(usernet::DEFAULT_MTU);
            let net = usernet::UserNet::open(&spec.user, mtu, mac.bytes())?;
            published.extend_from_slice(net.published());
            let card = Net::new(user::UserBackend::new(net), mac, mtu)?;
            Ok(shared(card.limited(&spec.limits)))
        }
    }
}

/// `tap=NAME` or `user`, with options. Those of `user` are `host-loopback`,
/// `metadata`, `no-ipv6`, `publish=P+P...`, `policy=RULES`, `dns=A+A...`, `subnet=N`,
/// and as for a TAP, `mac=MAC`, `mtu=N` and limits.
impl FromStr for NetConfig {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut options = Options::parse(DEVICE, text)?;
        match options.first() {
            Some(first) if first == "user" => user(options).map(NetConfig::User),
            _ if text.split(',').any(|item| item.starts_with("tap=")) => {
                text.parse().map(NetConfig::Tap)
            }
            Some(first) if !first.contains('=') => {
                let why = format!(
                    "is neither 'user' nor 'tap=NAME', one of which must be given: for the TAP of this name, 'tap={first}'"
                );
                Err(bad(&first, why))
            }
            first => {
                let why = "is neither 'user' nor 'tap=NAME', one of which must be given";
                Err(bad(&first.unwrap_or_default(), why.to_owned()))
            }
        }
    }
}

fn user(mut options: Options) -> Result<UserNetSpec, SpecError> {
    let defaults = usernet::Config::default();
    let user = usernet::Config {
        host_loopback: options.flag("host-loopback")?,
        metadata: options.flag("metadata")?,
        ipv6: !options.flag("no-ipv6")?,
        publish: list(&mut options, "publish")?,
        policy: options.value("policy")?.unwrap_or(defaults.policy),
        dns: list(&mut options, "dns")?,
        subnet: options.value("subnet")?.unwrap_or(defaults.subnet),
    };
    let mac = options.value("mac")?;
    let mtu = options.value("mtu")?;
    let limits = NetLimits::take(&mut options)?;
    options.finish()?;
    let spec = UserNetSpec {
        user,
        mac,
        mtu,
        limits,
    };
    NetConfig::User(spec.clone()).validate()?;
    Ok(spec)
}

/// Several values of one option, with `+` between them.
fn list<T: FromStr<Err: Display>>(
    options: &mut Options,
    key: &'static str,
) -> Result<Vec<T>, SpecError> {
    let Some(text) = options.value::<String>(key)? else {
        return Ok(Vec::new());
    };
    let items = text.split('+').map(|item| {
        let value = item.parse();
        value.map_err(|e| options.bad(key, format!("'{item}' {e}")))
    });
    items.collect()
}

impl TryFrom<Fields> for NetConfig {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let Fields {
            tap,
            user,
            mac,
            mtu,
            limits,
        } = fields;
        match (tap, user) {
            (Some(tap), None) => Ok(NetConfig::Tap(NetSpec {
                tap,
                mac,
                mtu,
                limits,
            })),
            (None, Some(user)) => Ok(NetConfig::User(UserNetSpec {
                user,
                mac,
                mtu,
                limits,
            })),
            _ => Err("net: give one of 'tap' and 'user'".to_owned()),
        }
    }
}

impl From<NetConfig> for Fields {
    fn from(config: NetConfig) -> Fields {
        match config {
            NetConfig::Tap(spec) => Fields {
                tap: Some(spec.tap),
                user: None,
                mac: spec.mac,
                mtu: spec.mtu,
                limits: spec.limits,
            },
            NetConfig::User(spec) => Fields {
                tap: None,
                user: Some(spec.user),
                mac: spec.mac,
                mtu: spec.mtu,
                limits: spec.limits,
            },
        }
    }
}

fn bad(option: &str, why: String) -> SpecError {
    SpecError::Value {
        device: DEVICE,
        option: option.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(text: &str, json: &str) -> NetConfig {
        let config: NetConfig = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(serde_json::from_str::<NetConfig>(json).unwrap(), config);
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<NetConfig>(&again).unwrap(), config);
        config.validate().unwrap();
        config
    }

    #[test]
    fn the_command_line_and_json_say_the_same() {
        let tap = both("tap=tap0,mtu=1400", r#"{"tap":"tap0","mtu":1400}"#);
        assert!(matches!(tap, NetConfig::Tap(_)));
        let user = both("user", r#"{"user":{}}"#);
        assert_eq!(user, NetConfig::User(UserNetSpec::default()));
        let user = both(
            "user,host-loopback,metadata,no-ipv6,subnet=192.168.7.0/24,mtu=1500,\
             mac=02:00:00:00:00:01,publish=8080:80+[::1]:53:53/udp,dns=1.1.1.1+[::1]:5353,\
             policy=allow:10.0.0.0/8:80+443,,allow:*.debian.org,,deny",
            r#"{"user":{"host-loopback":true,"metadata":true,"ipv6":false,
                "subnet":"192.168.7.0/24","dns":["1.1.1.1","[::1]:5353"],
                "publish":[{"host-port":8080,"guest-port":80},
                    {"host-ip":"::1","host-port":53,"guest-port":53,"protocol":"udp"}],
                "policy":{"default":"deny","rules":[
                    {"action":"allow","target":"10.0.0.0/8","ports":["80","443"]},
                    {"action":"allow","target":"*.debian.org"}]}},
                "mac":"02:00:00:00:00:01","mtu":1500}"#,
        );
        assert!(matches!(user, NetConfig::User(s) if s.user.publish.len() == 2));
        for (text, json) in [("tap=t", r#""tap":"t""#), ("user", r#""user":{}"#)] {
            both(
                &format!("{text},rx-bw=1M,tx-pps=100/100ms+50"),
                &format!(r#"{{{json},"limits":{{"rx-bw":"1M","tx-pps":"100/100ms+50"}}}}"#),
            );
        }
    }

    #[test]
    fn bad_descriptions_name_the_option() {
        for (text, message) in [
            (
                "",
                "net: : is neither 'user' nor 'tap=NAME', one of which must be given",
            ),
            (
                "tap0",
                "net: tap0: is neither 'user' nor 'tap=NAME', one of which must be given: \
                 for the TAP of this name, 'tap=tap0'",
            ),
            (
                "user,publish=99999:1",
                "net: publish: '99999:1' has '99999', which is not a port: give 1 to 65535",
            ),
            (
                "mac=1",
                "net: mac=1: is neither 'user' nor 'tap=NAME', one of which must be given",
            ),
            ("tap=", "net: tap: '' is not 1 to 15 bytes long"),
            (
                "user,mtu=1000",
                "net: mtu: 1000 is not between 1280 and 65535",
            ),
            (
                "user,bridge=br0",
                "net: unknown option 'bridge'; it takes host-loopback, metadata, no-ipv6, publish, policy, dns, subnet, mac, mtu, rx-bw, rx-pps, tx-bw, tx-pps",
            ),
            (
                "user,publish=80+x",
                "net: publish: 'x' has 'x', which is not a port: give 1 to 65535",
            ),
            (
                "user,policy=permit",
                "net: policy: 'permit': 'permit' is no rule: write 'allow' or 'deny', or 'allow:TARGET[:PORTS][/PROTOCOL]'",
            ),
            (
                "user,subnet=10.0.0.0/30",
                "net: user: subnet: 10.0.0.0/30 is not a network of private size: give a /8 to /27 of unicast addresses",
            ),
        ] {
            assert_eq!(text.parse::<NetConfig>().unwrap_err().to_string(), message);
        }
        for json in [
            "{}",
            r#"{"tap":"a","user":{}}"#,
            r#"{"user":{"policies":1}}"#,
            r#"{"usr":{}}"#,
        ] {
            assert!(serde_json::from_str::<NetConfig>(json).is_err(), "{json}");
        }
    }
}
