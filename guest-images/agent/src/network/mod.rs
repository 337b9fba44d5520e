//! The guest's network interfaces.

mod dhcp;
mod lease;
mod netlink;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use protocol::{Interface, Network};

use crate::error::{Context, Error, Result};
use netlink::Netlink;

/// The loopback's index, in every kernel.
const LOOPBACK: u32 = 1;
/// The longest name of an interface (`IFNAMSIZ` less the NUL), in bytes.
const MAX_NAME: usize = 15;

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits.
    pub length: u8,
}

impl Prefix {
    fn parse(text: &str) -> Result<Self> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let length: u8 = length.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (length <= most).then_some(Prefix { address, length })
        };
        parse().ok_or_else(|| {
            Error::request(format!("'{text}' is no address: write it as 10.0.2.15/24"))
        })
    }

    /// Whether another address is on the same link.
    pub fn contains(&self, other: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
            IpAddr::V6(a) => a.to_bits(),
        };
        let mask = match self.length {
            0 => 0,
            length => u128::MAX << (128 - u32::from(length)),
        };
        self.address.is_ipv4() == other.is_ipv4() && bits(self.address) & mask == bits(other) & mask
    }
}

/// Sets up the interfaces. What comes back is the network with what DHCP had to
/// add to it.
///
/// # Errors
/// An interface that is not there, what is no address, no answer of a DHCP
/// server, or what the kernel says.
pub fn configure(network: &Network) -> Result<Network> {
    let mut network = network.clone();
    let mut netlink = Netlink::open().context(|| "open a netlink socket".into())?;
    netlink
        .set_link(LOOPBACK, None, None, true)
        .context(|| "bring up the loopback interface".into())?;
    let indices = find(&network.interfaces, Path::new("/sys/class/net"))?;
    rename(&mut netlink, &network.interfaces, &indices)?;
    for (n, (index, _)) in indices.iter().enumerate() {
        let interface = &network.interfaces[n];
        let what = || format!("interface {}", interface.name);
        netlink
            .set_link(*index, None, interface.mtu, true)
            .with_name(what)?;
        let prefixes: Vec<_> = interface
            .addresses
            .iter()
            .map(|text| Prefix::parse(text))
            .collect::<Result<_>>()?;
        for prefix in &prefixes {
            netlink.add_address(*index, *prefix).with_name(what)?;
        }
        for gateway in &interface.gateways {
            let gateway: IpAddr = gateway.parse().map_err(|_| {
                Error::request(format!("'{gateway}' is no gateway: write it as 10.0.2.2"))
            })?;
            let on_link = prefixes.iter().any(|prefix| prefix.contains(gateway));
            netlink
                .set_gateway(*index, gateway, on_link)
                .with_name(what)?;
        }
        if interface.dhcp {
            let lease = lease::acquire(*index, &interface.name, &interface.mac)?;
            network
                .dns
                .extend(lease.dns.iter().map(ToString::to_string));
            network.search.extend(lease.domain.clone());
            let address = format!("{}/{}", lease.address, lease.prefix);
            network.interfaces[n].addresses.push(address);
        }
    }
    Ok(network)
}

/// [`Context`] for something that has a name.
trait WithName<T> {
    fn with_name(self, name: impl Fn() -> String) -> Result<T>;
}

impl<T> WithName<T> for std::result::Result<T, rustix::io::Errno> {
    fn with_name(self, name: impl Fn() -> String) -> Result<T> {
        self.context(name)
    }
}

/// Index and present name of each interface, found by its address.
fn find(interfaces: &[Interface], class: &Path) -> Result<Vec<(u32, String)>> {
    if interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let read = |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let mut there = Vec::new();
    for entry in fs::read_dir(class).into_iter().flatten().flatten() {
        let (Ok(mac), Ok(index)) = (
            read(entry.path().join("address")),
            read(entry.path().join("ifindex")),
        ) else {
            continue;
        };
        if let Ok(index) = index.parse::<u32>() {
            let name = entry.file_name().to_string_lossy().into_owned();
            there.push((mac, index, name));
        }
    }
    let find = |interface: &Interface| {
        let name = &interface.name;
        let plain = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
            return Err(Error::request(format!("'{name}' is no interface's name")));
        }
        let found = there
            .iter()
            .find(|(mac, ..)| mac.eq_ignore_ascii_case(&interface.mac));
        found
            .map(|(_, index, name)| (*index, name.clone()))
            .ok_or_else(|| {
                Error::request(format!("no interface has the address {}", interface.mac))
            })
    };
    interfaces.iter().map(find).collect()
}

/// Gives the interfaces their names; by way of others, since one may have the
/// name that another shall get.
fn rename(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    indices: &[(u32, String)],
) -> Result<()> {
    let all = interfaces.iter().zip(indices);
    let wrong: Vec<_> = all.filter(|(i, (_, name))| i.name != *name).collect();
    if wrong.len() > 1 {
        for (interface, (index, _)) in &wrong {
            let name = format!("drupe{index}");
            netlink
                .set_link(*index, Some(&name), None, false)
                .context(|| format!("rename to {}", interface.name))?;
        }
    }
    for (interface, (index, _)) in wrong {
        netlink
            .set_link(*index, Some(&interface.name), None, false)
            .context(|| format!("rename to {}", interface.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(mac: &str, name: &str) -> Interface {
        Interface {
            mac: mac.into(),
            name: name.into(),
            addresses: vec![],
            gateways: vec![],
            dhcp: false,
            mtu: None,
        }
    }

    #[test]
    fn interfaces_are_found_by_their_address() {
        let class = tempfile::tempdir().unwrap();
        for (name, index, mac) in [
            ("lo", 1, "00:00:00:00:00:00"),
            ("eth0", 5, "02:0a:00:00:00:01"),
        ] {
            let directory = class.path().join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("ifindex"), format!("{index}\n")).unwrap();
            fs::write(directory.join("address"), format!("{mac}\n")).unwrap();
        }
        let find = |mac, name| super::find(&[interface(mac, name)], class.path());
        let found = find("02:0A:00:00:00:01", "net0").unwrap();
        assert_eq!(found, [(5, "eth0".to_owned())]);
        let error = find("02:0a:00:00:00:02", "net0").unwrap_err();
        assert!(error.to_string().contains("no interface has the address"));
        for name in ["", "a b", "a/b", "0123456789abcdef"] {
            assert!(find("02:0a:00:00:00:01", name).is_err(), "{name}");
        }
    }

    #[test]
    fn addresses_have_prefixes() {
        let prefix = Prefix::parse("10.0.2.15/24").unwrap();
        assert!(prefix.contains("10.0.2.2".parse().unwrap()));
        assert!(!prefix.contains("10.0.3.2".parse().unwrap()));
        assert!(!prefix.contains("::".parse().unwrap()));
        let prefix = Prefix::parse("fd00::2/64").unwrap();
        assert!(prefix.contains("fd00::1".parse().unwrap()));
        assert!(!prefix.contains("fe80::1".parse().unwrap()));
        assert!(
            Prefix::parse("0.0.0.0/0")
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        assert!(
            Prefix::parse("1.1.1.1/32")
                .unwrap()
                .contains("1.1.1.1".parse().unwrap())
        );
        for bad in [
            "10.0.0.1",
            "10.0.0.1/33",
            "x/1",
            "fd00::/129",
            "",
            "/",
            "1.1.1.1/-1",
        ] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }
}
