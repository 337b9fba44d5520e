//! Configuration: the JSON text, and what stands on the command line.

use std::fmt::Debug;
use std::str::FromStr;

use devices::virtio::blk::DiskSpec;
use devices::virtio::net::MacAddr;
use devices::virtio::vsock::VsockSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use usernet::policy::{Destination, Policy, Protocol};
use vmm::config::{ByteSize, NetConfig, VmConfig};

/// What was understood comes back from JSON as it was.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    // A path need not be text; these are, since they came from text.
    let text = serde_json::to_string(value).expect("JSON can say it");
    let again: T = serde_json::from_str(&text).expect("JSON can be read back");
    assert_eq!(again, *value);
}

fn spec<T>(text: &str, validate: impl Fn(&T) -> bool)
where
    T: FromStr<Err: ToString> + Serialize + DeserializeOwned + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(spec) => {
            assert!(validate(&spec), "{text:?} was not validated");
            round_trip(&spec);
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// The first byte chooses the reader of the rest.
pub fn config(data: &[u8]) {
    let Some((which, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        let _ = serde_json::from_slice::<VmConfig>(text);
        return;
    };
    match which % 8 {
        0 => spec(text, |s: &DiskSpec| {
            let _ = s.serial();
            s.validate().is_ok()
        }),
        1 => spec(text, |s: &NetConfig| s.validate().is_ok()),
        2 => spec(text, |s: &VsockSpec| s.validate().is_ok()),
        3 => spec(text, |m: &MacAddr| m.to_string().parse() == Ok(*m)),
        4 => spec(text, |s: &ByteSize| s.to_string().parse() == Ok(*s)),
        5 => spec(text, |p: &Policy| {
            let anywhere = Destination {
                protocol: Protocol::Tcp,
                addr: [1, 2, 3, 4].into(),
                port: Some(443),
            };
            let _ = p.decide(anywhere, |_, pattern| pattern.to_string() == "example.org");
            p.to_string().parse().as_ref() == Ok(p) && p.validate().is_ok()
        }),
        _ => {
            if let Ok(config) = serde_json::from_str::<VmConfig>(text) {
                round_trip(&config);
                if let Err(e) = config.validate() {
                    assert!(!e.to_string().is_empty());
                }
            }
        }
    }
}
