//! A sandbox as [`protocol::Setup`] describes it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{Network, Setup};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::time::{ClockId, Timespec};

use crate::boot::ROOT;
use crate::cgroup::Cgroup;
use crate::disks::Disks;
use crate::error::{Context, Error, Result};
use crate::mounts::{self, FileSystem, READ_ONLY, RESTRICTED, Staged};
use crate::resolve::{Leaf, Root, type_of};
use crate::{devices, network, root, sys, volumes};

/// The size of what holds `/etc/hosts` and its like, in bytes. A workload may
/// write to them.
const FILES_SIZE: u64 = 16 << 20;
/// The guest's clock is left alone when it is as close as this to the host's.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(100);
/// The longest host name (`HOST_NAME_MAX`), in bytes.
const MAX_HOSTNAME: usize = 64;

/// What was made: what processes are started in.
#[derive(Debug)]
pub struct Sandbox {
    /// Its root, as the agent sees it.
    pub root: Root,
    /// The file system of its terminals.
    pub terminals: OwnedFd,
    /// `/dev/null`.
    pub null: OwnedFd,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// See [`Setup::privileged`].
    pub privileged: bool,
}

/// Makes it.
///
/// # Errors
/// Whatever is wrong with the request, the disks or the kernel.
pub fn setup(setup: &Setup) -> Result<Sandbox> {
    set_clock(setup.time);
    let disks = Disks::find(Path::new("/sys/block"));
    root::assemble(&setup.root, &disks)?;
    let root = Root::open(Path::new(ROOT)).context(|| "open the root".into())?;
    plain_directory(&root, "/proc")?;
    let sys = plain_directory(&root, "/sys")?;
    let dev = plain_directory(&root, "/dev")?;
    FileSystem::new("sysfs")
        .attributes(RESTRICTED)
        .attributes(match setup.privileged {
            true => MountAttrFlags::empty(),
            false => READ_ONLY,
        })
        .mount_at(sys)?;
    let terminals = devices::mount(dev, setup.shm_size, setup.privileged)?;
    // Before the files: DHCP may know name servers.
    let network = network::configure(&setup.network)?;
    set_hostname(&setup.hostname)?;
    mount_files(&root, setup, &network)?;
    for mount in &setup.mounts {
        volumes::mount(&root, mount, &disks)
            .map_err(|e| Error::request(format!("{}: {e}", mount.target.display())))?;
    }
    set_parameters(setup)?;
    let cgroup = Cgroup::new(setup.privileged)?;
    if setup.root.read_only {
        let again = Root::open(Path::new(ROOT)).context(|| "open the root".into())?;
        sys::mount_setattr(again.as_fd(), READ_ONLY, false)
            .context(|| "make the root read-only".into())?;
    }
    Ok(Sandbox {
        root,
        terminals,
        null: devices::null()?,
        cgroup,
        privileged: setup.privileged,
    })
}

/// A directory of the root that a file system of the kernel goes to. A link in
/// its place, which an image can have, is refused: it would be mounted over
/// something else.
fn plain_directory(root: &Root, path: &str) -> Result<OwnedFd> {
    let path = Path::new(path);
    match root.locate(path, false) {
        Err(rustix::io::Errno::NOENT) => root.make(path, Leaf::Directory),
        found => found,
    }
    .and_then(|found| {
        let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
        match type_of(&stat) {
            FileType::Directory => Ok(found),
            _ => Err(rustix::io::Errno::NOTDIR),
        }
    })
    .context(|| format!("{} of the image", path.display()))
}

fn set_hostname(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_graphic();
    if name.is_empty() || name.len() > MAX_HOSTNAME || !name.bytes().all(plain) {
        return Err(Error::request(format!(
            "'{name}' is no host name: it takes 1 to {MAX_HOSTNAME} printable characters"
        )));
    }
    rustix::system::sethostname(name.as_bytes()).context(|| "set the host name".into())
}

/// Sets the time of day if the guest has no clock that knows it.
fn set_clock(time: u64) {
    let host = UNIX_EPOCH + Duration::from_nanos(time);
    let guest = SystemTime::now();
    let difference = host
        .duration_since(guest)
        .or_else(|_| guest.duration_since(host))
        .unwrap_or_default();
    if difference > CLOCK_TOLERANCE {
        let time = Duration::from_nanos(time);
        let time = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        // A wrong clock is no reason to have no sandbox.
        let _ = rustix::time::clock_settime(ClockId::Realtime, time);
    }
}

fn set_parameters(setup: &Setup) -> Result<()> {
    for (name, value) in &setup.sysctls {
        let path = parameter_path(name)?;
        fs::write(&path, value).context(|| format!("set {name} to '{value}'"))?;
    }
    Ok(())
}

/// The file of a kernel parameter. Dots separate its parts; in a name with
/// slashes, as of an interface with a dot in its own, these do.
fn parameter_path(name: &str) -> Result<String> {
    let path = match name.contains('/') {
        true => name.to_owned(),
        false => name.replace('.', "/"),
    };
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    match path.split('/').all(plain) {
        true => Ok(format!("/proc/sys/{path}")),
        false => Err(Error::request(format!("'{name}' is no kernel parameter"))),
    }
}

/// Mounts the files that belong to the machine and not to the image over the
/// image's, so that they are right in a read-only root, too.
fn mount_files(root: &Root, setup: &Setup, network: &Network) -> Result<()> {
    let files = FileSystem::tmpfs(FILES_SIZE, 0o755)
        .attributes(RESTRICTED)
        .mount()?;
    let files = Staged::new(&files)?;
    for (name, text) in [
        ("hostname", format!("{}\n", setup.hostname)),
        ("hosts", hosts(&setup.hostname, network)),
        ("resolv.conf", resolv_conf(network)),
    ] {
        let path = format!("/etc/{name}");
        let mount = || {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&files, name, flags, Mode::from_raw_mode(0o644))?;
            let mut left = text.as_bytes();
            while !left.is_empty() {
                left = &left[rustix::io::write(&file, left)?..];
            }
            let target = root.make(Path::new(&path), Leaf::File)?;
            let attributes = match setup.root.read_only {
                true => READ_ONLY,
                false => MountAttrFlags::empty(),
            };
            mounts::attach(&mounts::clone(&file, attributes)?, target)
        };
        mount().context(|| format!("make {path}"))?;
    }
    Ok(())
}

fn hosts(hostname: &str, network: &Network) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    for (address, name) in &network.hosts {
        text += &format!("{address}\t{name}\n");
    }
    // The name is an address of its own if it has one.
    let addresses = network.interfaces.iter().flat_map(|i| &i.addresses);
    let mut own: Vec<_> = addresses
        .filter_map(|address| address.split('/').next())
        .collect();
    if own.is_empty() {
        own.push("127.0.1.1");
    }
    let short = hostname.split('.').next().unwrap_or(hostname);
    for address in own {
        match short == hostname {
            true => text += &format!("{address}\t{hostname}\n"),
            false => text += &format!("{address}\t{hostname} {short}\n"),
        }
    }
    text
}

fn resolv_conf(network: &Network) -> String {
    let mut text = String::new();
    for server in &network.dns {
        text += &format!("nameserver {server}\n");
    }
    if !network.search.is_empty() {
        text += &format!("search {}\n", network.search.join(" "));
    }
    if !network.options.is_empty() {
        text += &format!("options {}\n", network.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Interface;

    #[test]
    fn parameters_have_their_files() {
        assert_eq!(
            parameter_path("net.ipv4.ip_forward").unwrap(),
            "/proc/sys/net/ipv4/ip_forward"
        );
        assert_eq!(
            parameter_path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        for bad in ["", ".", "a..b", "../x", "a/../../x", "/x", "a/"] {
            assert!(parameter_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_servers_are_where_programs_look() {
        let mut network = Network {
            dns: vec!["10.0.2.3".into(), "fd00::3".into()],
            search: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:2".into()],
            hosts: vec![("10.0.0.9".into(), "db".into())],
            ..Network::default()
        };
        assert_eq!(
            resolv_conf(&network),
            "nameserver 10.0.2.3\nnameserver fd00::3\n\
             search a.example b.example\noptions ndots:2\n"
        );
        assert!(hosts("box", &network).ends_with("10.0.0.9\tdb\n127.0.1.1\tbox\n"));
        network.interfaces.push(Interface {
            mac: "".into(),
            name: "eth0".into(),
            addresses: vec!["10.0.2.15/24".into(), "fd00::2/64".into()],
            gateways: vec![],
            dhcp: false,
            mtu: None,
        });
        let text = hosts("box.example", &network);
        assert!(text.ends_with("10.0.2.15\tbox.example box\nfd00::2\tbox.example box\n"));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn only_host_names_are_host_names() {
        for bad in ["", "a b", "a\nb", &"x".repeat(65)] {
            assert!(set_hostname(bad).is_err(), "{bad}");
        }
    }
}
