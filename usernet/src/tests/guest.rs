//! A guest without a machine: the library's own stack behind a real network, and
//! frames made by hand.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config as IfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpProtocol};

use crate::packet::{Framer, IpIn, Parsed, parse};
use crate::stack::GATEWAY_MAC;
use crate::{Card, Config, Frame, Offload, UserNet};

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// A limit for what hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Guest {
    pub net: UserNet,
    iface: Interface,
    sockets: SocketSet<'static>,
    started: Instant,
    mtu: u16,
    next_port: u16,
    /// The largest frame that came, and the segments of the unfinished ones.
    pub seen: Seen,
}

#[derive(Default)]
pub struct Seen {
    pub largest: usize,
    pub segments: Vec<u16>,
    pub unfinished: usize,
}

impl Guest {
    pub fn new(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_mtu(crate::DEFAULT_MTU, change)
    }

    /// One that may use the gateway's address for the host's loopback.
    pub fn on_loopback() -> Self {
        Self::new(|c| c.host_loopback = true)
    }

    pub fn with_mtu(mtu: u16, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            // Not the host's: a test must not ask anyone out there.
            dns: vec!["127.0.0.1:1".parse().unwrap()],
            ..Config::default()
        };
        change(&mut config);
        let mut net = UserNet::open(&config, mtu, MAC).unwrap();
        net.start(|run| Ok(std::thread::spawn(run))).unwrap();
        let mut seen = Seen::default();
        let mut device = Device {
            card: net.card(),
            mtu,
            seen: &mut seen,
        };
        let hardware = HardwareAddress::Ethernet(EthernetAddress(MAC));
        let mut iface_config = IfaceConfig::new(hardware);
        iface_config.random_seed = crate::context::random();
        let started = Instant::now();
        let mut iface = Interface::new(iface_config, &mut device, at(started));
        let a = config.addresses();
        iface.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::new(a.guest.into(), 24)).unwrap();
            addrs.push(IpCidr::new(a.guest6.into(), 64)).unwrap();
        });
        iface
            .routes_mut()
            .add_default_ipv4_route(a.gateway)
            .unwrap();
        iface
            .routes_mut()
            .add_default_ipv6_route(a.gateway6)
            .unwrap();
        Guest {
            net,
            iface,
            sockets: SocketSet::new(Vec::new()),
            started,
            mtu,
            next_port: 40000,
            seen,
        }
    }

    pub fn card(&self) -> &Card {
        self.net.card()
    }

    /// Lets the guest's stack work.
    pub fn poll(&mut self) {
        let mut device = Device {
            card: self.net.card(),
            mtu: self.mtu,
            seen: &mut self.seen,
        };
        self.iface
            .poll(at(self.started), &mut device, &mut self.sockets);
    }

    /// Polls until `done` says something.
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let limit = Instant::now() + PATIENCE;
        loop {
            self.poll();
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < limit, "never: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Polls for a while.
    pub fn wait(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.poll();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 200_000]);
        let socket = tcp::Socket::new(buffer(), buffer());
        self.sockets.add(socket)
    }

    /// Begins a connection.
    pub fn begin(&mut self, to: SocketAddr) -> SocketHandle {
        let handle = self.socket();
        let port = self.next_port;
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.iface.context(), to, port).unwrap();
        handle
    }

    pub fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let handle = self.begin(to);
        self.until("connected", |g| {
            let state = g.tcp(handle).state();
            assert_ne!(state, tcp::State::Closed, "refused");
            (state == tcp::State::Established).then_some(())
        });
        handle
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.socket();
        self.tcp(handle).listen(port).unwrap();
        handle
    }

    /// Sends all of it.
    pub fn write(&mut self, handle: SocketHandle, mut data: &[u8]) {
        while !data.is_empty() {
            let n = self.until("room to send", |g| {
                let n = g.tcp(handle).send_slice(data).unwrap();
                (n > 0).then_some(n)
            });
            data = &data[n..];
        }
        self.poll();
    }

    /// Reads to the end; `Err` when it is a reset.
    pub fn read_to_end(&mut self, handle: SocketHandle) -> Result<Vec<u8>, Vec<u8>> {
        let mut all = Vec::new();
        self.until("the end", |g| {
            loop {
                let part = g.tcp(handle).recv(|data| (data.len(), data.to_vec()));
                match part {
                    Ok(part) if part.is_empty() => return None,
                    Ok(part) => all.extend(part),
                    Err(tcp::RecvError::Finished) => return Some(Ok(())),
                    Err(_) if g.tcp(handle).state() == tcp::State::Closed => return Some(Err(())),
                    Err(_) => return None,
                }
            }
        })
        .map(|()| all.clone())
        .map_err(|()| all.clone())
    }

    pub fn read_exact(&mut self, handle: SocketHandle, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        self.until("established", |g| g.tcp(handle).may_recv().then_some(()));
        self.until("data", |g| {
            let part = g.tcp(handle).recv(|data| {
                let n = data.len().min(len - all.len());
                (n, data[..n].to_vec())
            });
            all.extend(part.unwrap());
            (all.len() == len).then_some(())
        });
        all
    }

    /// Frames to the gateway, by hand.
    pub fn framer(&self) -> Framer {
        Framer {
            gateway: EthernetAddress(MAC),
            guest: GATEWAY_MAC,
            offload: Offload::default(),
        }
    }

    pub fn send(&self, frame: Option<Frame>) {
        self.card().send(frame.unwrap().bytes);
    }

    /// The next frame, looked at by hand: the guest's own stack must not be polled.
    pub fn frame(&self) -> Vec<u8> {
        self.frame_within(PATIENCE).expect("no frame came")
    }

    pub fn frame_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(frame) = self.card().receive() {
                return Some(frame.bytes);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Nothing comes.
    pub fn silence(&self) {
        let frame = self.frame_within(Duration::from_millis(100));
        assert_eq!(frame, None);
    }

    /// Sends a datagram and returns the packet that comes back.
    pub fn exchange(&self, from: &str, to: &str, data: &[u8]) -> Packet {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        self.send(self.framer().udp(from, to, data));
        self.packet()
    }

    pub fn packet(&self) -> Packet {
        Packet::of(&self.frame())
    }
}

/// An IP packet that came.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn of(frame: &[u8]) -> Self {
        let Parsed::Ip(IpIn {
            source,
            destination,
            protocol,
            payload,
            ..
        }) = parse(frame, EthernetAddress(MAC))
        else {
            panic!("no IP packet: {frame:02x?}");
        };
        Packet {
            source,
            destination,
            protocol,
            payload: payload.to_vec(),
        }
    }

    /// The data of a datagram, whose checksum is verified.
    pub fn udp(&self) -> &[u8] {
        assert_eq!(self.protocol, IpProtocol::Udp, "{self:?}");
        let udp = smoltcp::wire::UdpPacket::new_checked(&self.payload[..]).unwrap();
        let (from, to): (IpAddress, IpAddress) = (self.source.into(), self.destination.into());
        assert!(udp.verify_checksum(&from, &to));
        &self.payload[8..]
    }

    /// Type and code of an ICMP message.
    pub fn icmp(&self) -> (u8, u8) {
        assert!(
            matches!(self.protocol, IpProtocol::Icmp | IpProtocol::Icmpv6),
            "{self:?}"
        );
        (self.payload[0], self.payload[1])
    }
}

fn at(started: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(started.elapsed().as_micros() as i64 + 1)
}

struct Device<'a> {
    card: &'a Card,
    mtu: u16,
    seen: &'a mut Seen,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a Card);

impl phy::Device for Device<'_> {
    type RxToken<'a>
        = Rx
    where
        Self: 'a;
    type TxToken<'a>
        = Tx<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        if !self.card.has_room() {
            return None;
        }
        let frame = self.card.receive()?;
        self.seen.largest = self.seen.largest.max(frame.bytes.len());
        let mut bytes = frame.bytes;
        if let Some(unfinished) = frame.unfinished {
            self.seen.unfinished += 1;
            self.seen.segments.extend(unfinished.segment_size);
            finish(&mut bytes, unfinished);
        }
        Some((Rx(bytes), Tx(self.card)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        self.card.has_room().then_some(Tx(self.card))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + 14;
        capabilities
    }
}

/// What a guest's kernel or card does with a checksum that is not complete.
fn finish(bytes: &mut [u8], unfinished: crate::Unfinished) {
    let start = usize::from(unfinished.checksum_start);
    let at = start + usize::from(unfinished.checksum_offset);
    let mut sum: u64 = 0;
    for pair in bytes[start..].chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.send(bytes);
        result
    }
}
