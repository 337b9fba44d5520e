//! A network namespace for a container of this machine, and the pair of virtual
//! Ethernet interfaces that leads into it. The namespace has no name and no process:
//! it is there as long as this process has it open, so that it is gone, and the pair
//! with it, however this process ends.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::super::error::{Context, Error, Result};
use super::super::process;

/// The namespace, with one end of the pair in it.
#[derive(Debug)]
pub struct Veth {
    namespace: File,
    ip: PathBuf,
    /// Of the other end, on this machine.
    interface: String,
    host: Ipv4Addr,
}

impl Veth {
    /// Makes them.
    ///
    /// # Errors
    /// When there is no `ip`, or this process may not.
    pub fn new() -> Result<Self> {
        let ip = super::find("ip").ok_or_else(|| {
            Error::Failed("ip is not installed: install the package iproute2".into())
        })?;
        let own = std::process::id();
        let (host, inside) = addresses(own);
        let interface = format!("drupe-{own}");
        let made = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = unshare()?;
                let batch = format!(
                    "link set lo up\n\
                     link add eth0 type veth peer name {interface} netns {own}\n\
                     address add {inside}/30 dev eth0\n\
                     link set eth0 up\n"
                );
                run(&ip, &batch)?;
                Ok(namespace)
            });
            thread.join()
        });
        let namespace = made.unwrap_or_else(|_| Err(Error::Failed("its thread died".into())))?;
        // From here on it is taken away again.
        let veth = Veth {
            namespace,
            ip,
            interface,
            host,
        };
        let interface = &veth.interface;
        run(
            &veth.ip,
            &format!("address add {host}/30 dev {interface}\nlink set {interface} up\n"),
        )?;
        Ok(veth)
    }

    /// The namespace, as a path for as long as this is there.
    pub fn namespace(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.namespace.as_raw_fd());
        format!("/proc/{pid}/fd/{fd}").into()
    }

    /// This machine's address on the way there.
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The kernel takes its time with a namespace that nobody has any more.
        process::tidy(Command::new(&self.ip).args(["link", "delete", &self.interface]));
    }
}

/// The addresses of the two ends: of those that no router forwards (RFC 3927), so
/// that they hide no network of this machine's, and others for another process.
fn addresses(pid: u32) -> (Ipv4Addr, Ipv4Addr) {
    // Below 169.254.169.0, where clouds have services.
    let (third, block) = (1 + pid % 160, pid / 160 % 64);
    let address = |n| Ipv4Addr::new(169, 254, third as u8, (block * 4 + n) as u8);
    (address(1), address(2))
}

/// Gives the calling thread a network namespace of its own, and opens it.
fn unshare() -> Result<File> {
    const PATH: &str = "/proc/thread-self/ns/net";
    // SAFETY: what is dangerous is to stop sharing descriptors, which stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(io::Error::from)
        .context(|| "a network namespace".into())?;
    File::open(PATH).context(|| PATH.into())
}

/// Has `ip` do this, in the calling thread's namespace.
fn run(ip: &Path, batch: &str) -> Result<()> {
    let run = || {
        let mut child = Command::new(ip)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().context(|| ip.display().to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().next().unwrap_or("it said nothing");
    Err(Error::Failed(format!(
        "a pair of virtual Ethernet interfaces: ip: {}",
        crate::output::one_line(first)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_share_a_small_network_of_their_own() {
        for pid in [1, 159, 160, 4242, 4_194_304] {
            let (host, inside) = addresses(pid);
            assert!(host.is_link_local() && inside.is_link_local());
            assert_eq!(u32::from(host) + 1, u32::from(inside));
            // Neither the first nor the last of four, and of the same four.
            assert_eq!((u32::from(host) & 3, u32::from(inside) & 3), (1, 2));
            assert!((1..=160).contains(&host.octets()[2]));
        }
        assert_ne!(addresses(1000), addresses(1001));
        assert_ne!(addresses(1000), addresses(1160));
    }
}
