//! A network for one guest, out of ordinary sockets: Ethernet frames on one side,
//! no privileges on the other.
//!
//! ```text
//!  network card ─ Card ══ two bounded queues ══ stack, on a thread of its own
//!                                                ├ ARP, neighbour discovery, DHCP
//!                                                ├ DNS forwarder ─ host's resolvers
//!                                                ├ TCP ─ a socket each
//!                                                ├ UDP ─ a socket each
//!                                                └ echo ─ a socket each
//! ```
//!
//! The guest has the address 10.0.2.15 and fd00::15 or another in fd00::/64, its
//! gateway is .2 and its resolver .3. Whatever it sends is taken as hostile: what
//! it can make this side keep is bounded by constants, and what it may reach by a
//! [`Config`].

#![forbid(unsafe_code)]

use std::io;
use std::thread::JoinHandle;

use thiserror::Error;

mod closed;
mod config;
mod context;
mod dhcp;
mod dns;
mod guard;
mod limit;
mod link;
mod neighbour;
mod packet;
mod ping;
pub mod policy;
mod poll;
mod publish;
mod sockets;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use config::{
    Addresses, Config, ConfigError, DEFAULT_MTU, MAX_PUBLISHED, MAX_RESOLVERS, MIN_MTU,
};
pub use dns::Resolver;
pub use link::{Card, Frame, Offload, Unfinished};
pub use policy::{Policy, PolicyError, Protocol};
pub use publish::{Publish, PublishError, Published};

use stack::{Stack, Turn};

/// The descriptors that a full network needs: the soft limit is raised to as many.
const DESCRIPTORS: u64 = 4096;

/// Why there is no network.
#[derive(Debug, Error)]
pub enum Error {
    /// The description is wrong.
    #[error("network: {0}")]
    Config(#[from] ConfigError),
    /// A port is taken.
    #[error("network: the port {0} of this host is in use: stop what uses it, or publish another")]
    InUse(String),
    /// A port that ordinary users may not have.
    #[error(
        "network: no permission to use the port {0} of this host: publish one from 1024 up, or lower net.ipv4.ip_unprivileged_port_start by `sysctl`"
    )]
    Permission(String),
    /// The host has not that address.
    #[error("network: this host has no address {0}: `ip address` lists those it has")]
    NoAddress(String),
    /// A port cannot be had for another reason.
    #[error("network: the port {0} of this host cannot be published")]
    Publish(String, #[source] io::Error),
    /// The process cannot have what the stack needs.
    #[error("network: cannot be set up: raise the limit of open files (`ulimit -n`)")]
    SetUp(#[source] io::Error),
}

/// What the network's thread does.
pub type Job = Box<dyn FnOnce() + Send>;

/// A network, until it is dropped.
pub struct UserNet {
    // Before the thread, which ends when there is no card any more.
    card: Card,
    published: Vec<Published>,
    /// Until it is started.
    stack: Option<Stack>,
    thread: Thread,
}

/// A thread that is waited for.
#[derive(Debug)]
struct Thread(Option<JoinHandle<()>>);

impl std::fmt::Debug for UserNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserNet")
            .field("published", &self.published)
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

impl UserNet {
    /// Opens the published ports. Whoever connects waits until the network is
    /// started.
    ///
    /// `mtu` is that of the guest's card, at least [`MIN_MTU`], and `mac` its
    /// address.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(config: &Config, mtu: u16, mac: [u8; 6]) -> Result<Self, Error> {
        let (card, stack, published) = open_stack(config, mtu, mac)?;
        Ok(UserNet {
            card,
            published,
            stack: Some(stack),
            thread: Thread(None),
        })
    }

    /// Starts the network, on a thread that `spawn` starts; once. Of no effect
    /// when it runs.
    ///
    /// # Errors
    /// When there is no thread; it then never runs.
    pub fn start(
        &mut self,
        spawn: impl FnOnce(Job) -> io::Result<JoinHandle<()>>,
    ) -> io::Result<()> {
        let Some(mut stack) = self.stack.take() else {
            return Ok(());
        };
        let run = move || {
            loop {
                match stack.turn(None) {
                    Ok(Turn::On) => {}
                    Ok(Turn::Over) => return,
                    Err(error) => {
                        log::error!(
                            "network: it has ended, since this process cannot wait for events: {error}"
                        );
                        return;
                    }
                }
            }
        };
        self.thread = Thread(Some(spawn(Box::new(run))?));
        Ok(())
    }

    /// The guest's end of the wire.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The published ports, with those that the host chose.
    pub fn published(&self) -> &[Published] {
        &self.published
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It has said itself what it failed of.
            let _ = thread.join();
        }
    }
}

fn open_stack(
    config: &Config,
    mtu: u16,
    mac: [u8; 6],
) -> Result<(Card, Stack, Vec<Published>), Error> {
    config.validate()?;
    raise_limit();
    let (card, end) = link::link().map_err(Error::SetUp)?;
    let mtu = mtu.max(MIN_MTU);
    let mut stack = Stack::new(config, mtu, mac, end).map_err(Error::SetUp)?;
    let mut published = Vec::with_capacity(config.publish.len());
    for publish in &config.publish {
        published.push(publish::open(publish, &mut stack)?);
    }
    Ok((card, stack, published))
}

/// Raises the process's soft limit of descriptors, if it may: the usual 1024 would
/// be fewer than the connections that a guest may have.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS);
    let current = limit.current.unwrap_or(u64::MAX);
    if current < DESCRIPTORS.min(most) {
        let raised = Rlimit {
            current: Some(DESCRIPTORS.min(most)),
            maximum: limit.maximum,
        };
        // Without it there are fewer connections.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// The stack without its thread, for fuzzing: whoever holds it turns it.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use super::{Card, Config, Error, Stack};
    use std::time::Duration;

    /// A card and the stack behind it.
    pub struct Bench {
        /// The guest's end.
        pub card: Card,
        stack: Stack,
    }

    impl Bench {
        /// As [`super::UserNet::open`].
        ///
        /// # Errors
        /// The same.
        pub fn open(config: &Config, mtu: u16, mac: [u8; 6]) -> Result<Self, Error> {
            let (card, stack, _) = super::open_stack(config, mtu, mac)?;
            Ok(Bench { card, stack })
        }

        /// Does a part of what there is to do, without waiting.
        ///
        /// # Errors
        /// When the process cannot wait for events.
        pub fn turn(&mut self) -> std::io::Result<()> {
            self.stack.turn(Some(Duration::ZERO)).map(drop)
        }
    }
}
