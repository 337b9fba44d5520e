//! The socket device, with real Unix sockets on the host's side.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use devices::testing::{Desc, Driver, RING_SIZE};
use devices::virtio::VirtioDevice;
use devices::virtio::vsock::{MAX_RESETS, MAX_STREAMS, Vsock, VsockSpec};
use event_manager::EventSet;

use crate::Input;
use crate::interpreter::{self, Guest, Subject, address};

const CID: u64 = 7;
const HEADER_SIZE: usize = 44;
const RX: usize = 0;
const TX: usize = 1;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const RW: u8 = 5;
/// Programs of the host at one time.
const MAX_HOSTS: usize = 8;
/// The first port that the device takes for a host program.
const FIRST_PORT: u32 = 1 << 30;
/// What each connection holds for its host at most (`BUF_ALLOC`).
const MAX_HELD: usize = 256 * 1024;

/// The fields of a packet's header that a driver chooses.
#[derive(Default)]
struct Packet {
    src_cid: u64,
    dst_cid: u64,
    guest_port: u32,
    host_port: u32,
    len: u32,
    kind: u16,
    op: u8,
    flags: u32,
    alloc: u32,
    forwarded: u32,
}

impl Packet {
    fn new(guest_port: u32, host_port: u32, op: u8) -> Self {
        Packet {
            src_cid: CID,
            dst_cid: 2,
            guest_port,
            host_port,
            kind: 1,
            op,
            alloc: 1 << 20,
            ..Packet::default()
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_SIZE);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.guest_port.to_le_bytes());
        bytes.extend(self.host_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(u16::from(self.op).to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.alloc.to_le_bytes());
        bytes.extend(self.forwarded.to_le_bytes());
        bytes
    }
}

/// What all runs share: a directory, with programs that listen on two ports.
struct Place {
    path: PathBuf,
    listeners: [UnixListener; 2],
}

impl Place {
    fn get() -> &'static Place {
        static PLACE: OnceLock<Place> = OnceLock::new();
        PLACE.get_or_init(|| {
            let dir = PathBuf::from(format!("/dev/shm/drupe-fuzz-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            let listeners = [0, 1].map(|port| {
                let path = dir.join(format!("v_{port}"));
                let _ = std::fs::remove_file(&path);
                let listener = UnixListener::bind(path).expect("a listener");
                listener.set_nonblocking(true).expect("non-blocking");
                listener
            });
            // Their files go at the end; what was opened stays.
            extern "C" fn clean() {
                if let Some(dir) = Place::get().path.parent() {
                    let _ = std::fs::remove_dir_all(dir);
                }
            }
            // SAFETY: a function without arguments that does not unwind.
            unsafe { libc::atexit(clean) };
            Place {
                path: dir.join("v"),
                listeners,
            }
        })
    }
}

struct Bed {
    driver: Driver,
    vsock: Arc<Mutex<Vsock>>,
    epoll: i32,
    hosts: Vec<UnixStream>,
}

impl Bed {
    fn vsock(&self) -> MutexGuard<'_, Vsock> {
        self.vsock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> bool {
        let mut fd = libc::pollfd {
            fd: self.epoll,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut fd, 1, 0) > 0 }
    }

    /// # Panics
    /// When the device never comes to rest.
    fn pump(&mut self) {
        for _ in 0..1000 {
            let kicked = self.driver.run_own_kicks();
            let ready = self.ready();
            if ready {
                self.vsock().handle_event(0, EventSet::IN);
            }
            if !kicked && !ready {
                return;
            }
        }
        panic!("the device spins");
    }

    fn dial(&mut self) -> Option<UnixStream> {
        let host = UnixStream::connect(&Place::get().path).ok()?;
        host.set_nonblocking(true).ok()?;
        Some(host)
    }

    fn accept(&mut self) {
        for listener in &Place::get().listeners {
            while let Ok((host, _)) = listener.accept() {
                if self.hosts.len() < MAX_HOSTS {
                    let _ = host.set_nonblocking(true);
                    self.hosts.push(host);
                }
            }
        }
    }

    /// An honest driver sends a packet.
    fn send(&mut self, packet: &Packet, data: &[u8]) {
        self.driver.put(0x4000, &packet.bytes());
        self.driver.put(0x4100, data);
        let mut chain = vec![Desc::readable(0x4000, HEADER_SIZE as u32)];
        if !data.is_empty() {
            chain.push(Desc::readable(0x4100, data.len() as u32));
        }
        assert_eq!(interpreter::request(&mut self.driver, TX, &chain), 0);
        self.pump();
    }

    /// The next packet for an honest driver; its buffer is offered again.
    fn recv(&mut self) -> Vec<u8> {
        self.pump();
        let (_, len) = self.driver.used(RX).expect("a packet");
        let packet = self.driver.get(0x8000, len as usize);
        self.driver.offer(RX, &[Desc::writable(0x8000, 4096)]);
        self.driver.kick(RX);
        packet
    }
}

fn port(input: &mut Input) -> u32 {
    match input.u8() {
        n @ 0..0x80 => u32::from(n % 4),
        n @ 0x80..0xf8 => FIRST_PORT + u32::from(n % 4),
        _ => input.u32(),
    }
}

fn counter(input: &mut Input) -> u32 {
    match input.u8() {
        0..0x80 => 0,
        n @ 0x80..0xc0 => 1 << (n & 31),
        _ => input.len(),
    }
}

impl Subject for Bed {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn request(&mut self, guest: &mut Guest, input: &mut Input) -> (usize, Vec<Desc>) {
        let shape = input.u8();
        let slot = u64::from(shape & 7) * 0x1000;
        if shape & 0x18 == 0 {
            // A buffer to receive into.
            let chain = [Desc::writable(slot, HEADER_SIZE as u32), {
                Desc::writable(slot + 0x100, 1 + input.len() % 0x4000)
            }];
            return (RX, chain.to_vec());
        }
        let op = input.u8() % 9;
        let mut packet = Packet::new(port(input), port(input), op);
        packet.alloc = 1 << 16;
        if shape & 0x20 != 0 {
            packet.flags = u32::from(input.u8() % 5);
        }
        if shape & 0x40 != 0 {
            packet.alloc = counter(input);
            packet.forwarded = counter(input);
        }
        let mut chain = vec![Desc::readable(slot, HEADER_SIZE as u32)];
        if op == RW {
            let (addr, len) = (address(&self.driver, input), input.len());
            packet.len = len;
            chain.push(Desc::readable(addr, len));
        }
        if shape & 0x80 != 0 {
            match input.u8() % 4 {
                0 => packet.src_cid = input.u64(),
                1 => packet.dst_cid = input.u64(),
                2 => packet.kind = input.u16(),
                _ => packet.len = input.len(),
            }
        }
        guest.put(&self.driver, slot, &packet.bytes());
        (TX, chain)
    }

    fn backend(&mut self, input: &mut Input) {
        let what = input.u8();
        let n = self.hosts.len();
        let i = usize::from(what >> 4);
        match what % 8 {
            0 | 1 if n < MAX_HOSTS => {
                if let Some(mut host) = self.dial() {
                    let port = input.u8();
                    let _ = match port {
                        0..0xe0 => writeln!(host, "CONNECT {}", port % 4),
                        _ => host.write_all(input.bytes((port & 31).into())),
                    };
                    self.hosts.push(host);
                }
            }
            2 | 3 if n > 0 => {
                let data = vec![what; (input.len() as usize).min(1 << 18)];
                let _ = self.hosts[i % n].write(&data);
            }
            4 if n > 0 => {
                let mut data = vec![0; (input.len() as usize).min(1 << 18)];
                let _ = self.hosts[i % n].read(&mut data);
            }
            5 if n > 0 => drop(self.hosts.swap_remove(i % n)),
            6 if n > 0 => {
                use std::net::Shutdown::{Both, Read, Write};
                let how = [Read, Write, Both][usize::from(input.u8() % 3)];
                let _ = self.hosts[i % n].shutdown(how);
            }
            7 => {
                // So much time passes.
                let seconds = input.u8() % 16;
                self.vsock().expire(Duration::from_secs(seconds.into()));
            }
            _ => {}
        }
    }

    fn events(&mut self) {
        for _ in 0..4 {
            if !self.ready() {
                break;
            }
            assert!(
                !self.driver.needs_reset(),
                "a device that waits for its reset is quiet"
            );
            self.vsock().handle_event(0, EventSet::IN);
        }
        self.accept();
        let vsock = self.vsock();
        let (streams, ready, resets) = vsock.sizes();
        assert!(streams <= MAX_STREAMS && ready <= streams);
        assert!(resets <= MAX_RESETS + MAX_STREAMS);
        assert!(vsock.most_held() <= MAX_HELD);
    }

    fn check(&mut self) {
        // Whoever waits is taken in, asked what he wants, and sent away.
        assert!(self.driver.start(0));
        self.pump();
        self.hosts.clear();
        self.accept();
        self.hosts.clear();
        assert!(self.driver.start(0));
        assert_eq!(self.vsock().sizes(), (0, 0, 0));

        for _ in 0..RING_SIZE / 2 {
            self.driver.offer(RX, &[Desc::writable(0x8000, 4096)]);
        }
        self.driver.kick(RX);
        let mut host = self.dial().expect("the device listens");
        writeln!(host, "CONNECT 77").expect("a line");
        let request = self.recv();
        assert_eq!((request[20], request[30]), (77, REQUEST));
        let local = u32::from_le_bytes([request[16], request[17], request[18], request[19]]);
        self.send(&Packet::new(77, local, RESPONSE), &[]);
        let mut data = Packet::new(77, local, RW);
        data.len = 5;
        self.send(&data, b"works");
        let mut said = [0; 64];
        let n = host.read(&mut said).expect("an answer");
        let expected = format!("OK {local}\nworks");
        assert_eq!(said[..n], *expected.as_bytes());
        host.write_all(b"both ways").expect("room");
        let packet = self.recv();
        assert_eq!(
            (packet[30], &packet[HEADER_SIZE..]),
            (RW, &b"both ways"[..])
        );
        drop(host);
        self.driver.write(0x70, 0);
        assert!(!self.ready());
    }
}

/// A hostile driver for the socket device, and programs of the host that come
/// and go.
pub fn vsock(data: &[u8]) {
    let spec = VsockSpec {
        path: Place::get().path.clone(),
        cid: CID,
    };
    let vsock = Vsock::open(&spec).expect("the socket device");
    let epoll = vsock.event_sources()[0].fd;
    let vsock = Arc::new(Mutex::new(vsock));
    let mut bed = Bed {
        driver: Driver::shared(vsock.clone()),
        vsock,
        epoll,
        hosts: Vec::new(),
    };
    interpreter::run(&mut bed, data);
    drop(bed);
    // For the next run, nobody waits to be accepted.
    for listener in &Place::get().listeners {
        while let Err(e) = listener.accept().map(drop) {
            if e.kind() == ErrorKind::WouldBlock {
                break;
            }
        }
    }
}
