//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The first two bytes of a derived address. The second bit of the first byte
/// says that the address is administered locally (IEEE 802, §8.4); this pair is
/// the one that hypervisors use by custom, so that people recognise it.
const LOCAL_PREFIX: [u8; 2] = [0x52, 0x54];

/// The address of one network card: neither multicast nor all zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

/// Why a text or six bytes are not the address of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MacError {
    /// Not six bytes in hexadecimal.
    #[error("is not of the form '52:54:00:12:34:56'")]
    Form,
    /// The lowest bit of the first byte is set.
    #[error("is a multicast address: the first byte must be even")]
    Multicast,
    /// `00:00:00:00:00:00`.
    #[error("is all zeroes")]
    Zero,
}

impl MacAddr {
    /// Checks six bytes, in the order of the wire.
    ///
    /// # Errors
    /// When the address is a multicast one or all zeroes.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        if bytes[0] & 1 != 0 {
            return Err(MacError::Multicast);
        }
        if bytes == [0; 6] {
            return Err(MacError::Zero);
        }
        Ok(MacAddr(bytes))
    }

    /// The address of card number `index` of a VM on the TAP called `tap`, when
    /// the user gives none: administered locally, and always the same.
    ///
    /// A hash rather than a random number, so that a VM which is started again
    /// keeps its address, and with it its DHCP lease, its neighbours' tables and
    /// its interface's name. The name of a TAP is its own on one host; hosts that
    /// share a link and use the same names need addresses given by hand.
    pub fn derived(tap: &str, index: usize) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325u64; // FNV-1a
        for byte in tap.bytes().chain((index as u64).to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The halves are folded: FNV mixes the high one best.
        let [a, b, c, d] = ((hash >> 32) as u32 ^ hash as u32).to_be_bytes();
        MacAddr([LOCAL_PREFIX[0], LOCAL_PREFIX[1], a, b, c, d])
    }

    /// The six bytes, in the order of the wire.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError::Form)?;
            // `from_str_radix` would take a sign as well.
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(MacError::Form);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacError::Form);
        }
        MacAddr::new(bytes)
    }
}

impl TryFrom<String> for MacAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|e| format!("the MAC address '{text}' {e}"))
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        let mac: MacAddr = "02:00:0A:ff:10:01".parse().unwrap();
        assert_eq!(mac.bytes(), [2, 0, 10, 255, 16, 1]);
        assert_eq!(mac.to_string(), "02:00:0a:ff:10:01");
        let json = serde_json::to_string(&mac).unwrap();
        assert_eq!(json, "\"02:00:0a:ff:10:01\"");
        assert_eq!(serde_json::from_str::<MacAddr>(&json).unwrap(), mac);
        let e = serde_json::from_str::<MacAddr>("\"01:00:00:00:00:00\"").unwrap_err();
        assert!(e.to_string().contains("'01:00:00:00:00:00' is a multicast"));
    }

    #[test]
    fn what_no_card_can_have_is_refused() {
        for (text, why) in [
            ("", MacError::Form),
            ("02:00:00:00:00", MacError::Form),
            ("02:00:00:00:00:00:00", MacError::Form),
            ("02-00-00-00-00-01", MacError::Form),
            ("2:0:0:0:0:1", MacError::Form),
            ("+2:00:00:00:00:01", MacError::Form),
            ("ff:ff:ff:ff:ff:ff", MacError::Multicast),
            ("01:00:5e:00:00:01", MacError::Multicast),
            ("00:00:00:00:00:00", MacError::Zero),
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(why), "{text}");
        }
    }

    #[test]
    fn derived_addresses_are_local_stable_and_differ() {
        let all: Vec<_> = (0..100)
            .map(|n| MacAddr::derived(&format!("tap{}", n / 2), n % 2))
            .collect();
        for (n, mac) in all.iter().enumerate() {
            assert_eq!(MacAddr::new(mac.bytes()), Ok(*mac));
            assert_eq!(mac.bytes()[0] & 3, 2);
            assert!(!all[..n].contains(mac));
        }
        // A change here changes the address of every VM that has no other.
        assert_eq!(MacAddr::derived("tap0", 0).to_string(), "52:54:db:31:26:93");
    }
}
