//! The device behind its queues, with real Unix sockets on the host's side and
//! a guest that is played by hand.

mod connect;
mod data;
mod file;
mod hostile;
mod random;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_manager::EventSet;
use tempfile::TempDir;
use vm_memory::ByteValued;

use super::credit::{BUF_ALLOC, MIN_ALLOC};
use super::packet::{HEADER_SIZE, HOST_CID, Header, Key, Op, TYPE_STREAM};
use super::{Vsock, VsockSpec};
use crate::testing::{Desc, Driver, RING_SIZE};
use crate::virtio::{Activation, DeviceType, EventSource, VirtioDevice};

pub const CID: u64 = 7;
const RX: usize = 0;
const TX: usize = 1;
const RX_BUFFERS: u64 = 0x1_0000;
const RX_STRIDE: u64 = 0x2000;
const TX_BUFFERS: u64 = 0x4_0000;
const TX_STRIDE: u64 = 0x4000;
/// The most data that [`Guest::send`] takes.
pub const MAX_SEND: usize = 0x3000;

/// Lets a test look into the device that the driver has.
struct Shared(Arc<Mutex<Vsock>>);

impl VirtioDevice for Shared {
    fn device_type(&self) -> DeviceType {
        self.0.lock().unwrap().device_type()
    }
    fn features(&self) -> u64 {
        self.0.lock().unwrap().features()
    }
    fn queue_sizes(&self) -> &[u16] {
        super::QUEUE_SIZES
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.0.lock().unwrap().read_config(offset, data);
    }
    fn activate(&mut self, activation: Activation) {
        self.0.lock().unwrap().activate(activation);
    }
    fn reset(&mut self) {
        self.0.lock().unwrap().reset();
    }
    fn event_sources(&self) -> Vec<EventSource> {
        self.0.lock().unwrap().event_sources()
    }
    fn handle_kick(&mut self, queue: u16) {
        self.0.lock().unwrap().handle_kick(queue);
    }
    fn handle_event(&mut self, token: u16, events: EventSet) {
        self.0.lock().unwrap().handle_event(token, events);
    }
}

#[derive(Debug)]
pub struct Packet {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Packet {
    pub fn op(&self) -> Op {
        Op::from_u16(self.header.op.into()).unwrap()
    }
    pub fn flags(&self) -> u32 {
        self.header.flags.into()
    }
}

pub struct Guest {
    pub d: Driver,
    pub device: Arc<Mutex<Vsock>>,
    pub path: PathBuf,
    /// Packets from the device.
    pub inbox: VecDeque<Packet>,
    /// Size of each RX buffer.
    pub rx_len: u32,
    /// RX buffers that are not on offer.
    rx_free: Vec<u64>,
    feeding: bool,
    rx_offered: VecDeque<u64>,
    tx_next: u64,
    epoll: RawFd,
    _dir: TempDir,
}

impl Guest {
    /// A device whose driver has not started.
    pub fn idle() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let spec = VsockSpec {
            path: path.clone(),
            cid: CID,
        };
        let device = Arc::new(Mutex::new(Vsock::open(&spec).unwrap()));
        let epoll = device.lock().unwrap().event_sources()[0].fd;
        Guest {
            d: Driver::new(Shared(device.clone())),
            device,
            path,
            inbox: VecDeque::new(),
            rx_len: 4096,
            rx_free: Vec::new(),
            feeding: true,
            rx_offered: VecDeque::new(),
            tx_next: 0,
            epoll,
            _dir: dir,
        }
    }

    pub fn new() -> Self {
        let mut guest = Self::idle();
        guest.start();
        guest
    }

    /// (Re)starts the driver, with all RX buffers on offer.
    pub fn start(&mut self) {
        assert!(self.d.start(0));
        self.inbox.clear();
        self.rx_offered.clear();
        self.feeding = true;
        self.rx_free = (0..u64::from(RING_SIZE) / 2)
            .map(|i| RX_BUFFERS + i * RX_STRIDE)
            .collect();
        self.pump();
    }

    /// From now on, used RX buffers are not given back.
    pub fn starve(&mut self) {
        self.feeding = false;
    }

    /// Gives the RX buffers back after [`Guest::starve`].
    pub fn feed(&mut self) {
        self.feeding = true;
        self.pump();
    }

    pub fn ready(&self) -> bool {
        let mut fd = libc::pollfd {
            fd: self.epoll,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut fd, 1, 0) > 0 }
    }

    /// Plays the event loop until nothing is ready. A device that would spin
    /// does not come out of this.
    pub fn pump(&mut self) {
        for _ in 0..20_000 {
            self.offer_rx();
            if self.ready() {
                let device = self.d.device.clone();
                device.lock().unwrap().handle_event(0, EventSet::IN);
            }
            self.d.kick(RX);
            self.d.kick(TX);
            if !self.collect() && !self.ready() {
                return;
            }
        }
        panic!("the device spins");
    }

    fn offer_rx(&mut self) {
        if !self.feeding {
            return;
        }
        for addr in std::mem::take(&mut self.rx_free) {
            self.d.offer(RX, &[Desc::writable(addr, self.rx_len)]);
            self.rx_offered.push_back(addr);
        }
    }

    /// Takes used RX buffers; true when there were any.
    pub fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some((_, len)) = self.d.used(RX) {
            any = true;
            let addr = self.rx_offered.pop_front().unwrap();
            let bytes = self.d.get(addr, len as usize);
            let header = *Header::from_slice(&bytes[..HEADER_SIZE]).unwrap();
            let data = bytes[HEADER_SIZE..].to_vec();
            assert_eq!(u32::from(header.len) as usize, data.len());
            assert_eq!(u64::from(header.src_cid), HOST_CID);
            assert_eq!(u64::from(header.dst_cid), CID);
            self.inbox.push_back(Packet { header, data });
            self.rx_free.push(addr);
        }
        any
    }

    /// Pumps until `done`; ten seconds at most.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Guest) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            self.pump();
            if done(self) {
                return;
            }
            assert!(Instant::now() < end, "waited too long: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next packet.
    pub fn recv(&mut self) -> Packet {
        self.until("a packet", |g| !g.inbox.is_empty());
        self.inbox.pop_front().unwrap()
    }

    /// The next packet, which has this operation.
    pub fn expect(&mut self, op: Op) -> Packet {
        let packet = self.recv();
        assert_eq!(packet.op(), op, "{packet:?}");
        packet
    }

    pub fn nothing(&mut self) {
        self.pump();
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
    }

    /// Puts a packet into the TX queue.
    pub fn offer(&mut self, header: &Header, data: &[u8]) {
        assert!(data.len() <= MAX_SEND);
        let at = TX_BUFFERS + self.tx_next % u64::from(RING_SIZE) * TX_STRIDE;
        self.tx_next += 1;
        self.d.put(at, header.as_slice());
        self.d.put(at + 0x100, data);
        let mut chain = vec![Desc::readable(at, HEADER_SIZE as u32)];
        if !data.is_empty() {
            chain.push(Desc::readable(at + 0x100, data.len() as u32));
        }
        self.d.offer(TX, &chain);
    }

    pub fn send_raw(&mut self, header: &Header, data: &[u8]) {
        self.offer(header, data);
        self.d.kick(TX);
        while self.d.used(TX).is_none() {
            self.pump();
        }
    }

    /// Sends a packet with ample credit.
    pub fn send(&mut self, key: Key, op: Op, data: &[u8]) {
        self.send_raw(&header(key, op, data.len()), data);
    }

    pub fn shutdown(&mut self, key: Key, flags: u32) {
        let header = Header {
            flags: flags.into(),
            ..header(key, Op::Shutdown, 0)
        };
        self.send_raw(&header, &[]);
    }

    /// A listener of the host's on `port`.
    pub fn host_listens(&self, port: u32) -> UnixListener {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        UnixListener::bind(path).unwrap()
    }

    /// A host program that has sent its line.
    pub fn host_dials(&self, port: u32) -> UnixStream {
        let mut host = UnixStream::connect(&self.path).unwrap();
        writeln!(host, "CONNECT {port}").unwrap();
        host.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        host
    }

    /// A connection that a host program made and the guest accepted.
    pub fn connected(&mut self, port: u32) -> (UnixStream, Key) {
        let host = self.host_dials(port);
        let request = self.expect(Op::Request);
        let key = key_of(&request);
        assert_eq!(key.peer, port);
        self.send(key, Op::Response, &[]);
        let line = format!("OK {}\n", key.local);
        assert_eq!(read(&host, line.len()), line.as_bytes());
        (host, key)
    }

    /// A connection that the guest made to a listener of the host's.
    pub fn dialled(&mut self, listener: &UnixListener, key: Key) -> UnixStream {
        self.send(key, Op::Request, &[]);
        let response = self.expect(Op::Response);
        assert_eq!(key_of(&response), key);
        assert_eq!(u32::from(response.header.buf_alloc), BUF_ALLOC);
        let (host, _) = listener.accept().unwrap();
        host.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        host
    }

    /// Does what is due when this much time has passed.
    pub fn expire_in(&mut self, time: Duration) {
        let then = Instant::now() + time;
        self.device.lock().unwrap().muxer.expire(then);
        self.pump();
    }

    /// Streams, ready connections and resets that wait.
    pub fn sizes(&self) -> (usize, usize, usize) {
        self.device.lock().unwrap().muxer.sizes()
    }
}

/// A header from the guest, with ample credit.
pub fn header(key: Key, op: Op, len: usize) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID.into(),
        src_port: key.peer.into(),
        dst_port: key.local.into(),
        len: (len as u32).into(),
        socket_type: TYPE_STREAM.into(),
        op: (op as u16).into(),
        buf_alloc: u32::MAX.into(),
        ..Header::default()
    }
}

pub fn key_of(packet: &Packet) -> Key {
    Key {
        local: packet.header.src_port.into(),
        peer: packet.header.dst_port.into(),
    }
}

pub fn read(mut stream: &UnixStream, n: usize) -> Vec<u8> {
    let mut data = vec![0; n];
    stream.read_exact(&mut data).unwrap();
    data
}

/// True when the other end is closed and everything was read.
pub fn at_end(mut stream: &UnixStream) -> bool {
    // A reset is an end, too: what the host sent was not read.
    stream.read(&mut [0]).map_or_else(
        |e| e.kind() == std::io::ErrorKind::ConnectionReset,
        |n| n == 0,
    )
}

/// Bytes that repeat at no power of two.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}
