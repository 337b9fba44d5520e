//! The network card, with a wire that the input controls.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::testing::{Desc, Driver};
use devices::virtio::net::{
    HEADER_SIZE, MAX_FRAME, MAX_PIECES, MacAddr, Net, Offload, PacketBackend, features,
};
use devices::virtio::{GuestBuffer, VirtioDevice};
use event_manager::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Input;
use crate::interpreter::{self, Guest, Subject, address};

/// Packets that may wait for the guest.
const MAX_WAITING: usize = 32;

#[derive(Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Vec<Vec<u8>>,
    /// How many more packets fit; no limit if none.
    room: Option<u8>,
    error: Option<i32>,
}

#[derive(Clone)]
struct Backend {
    wire: Arc<Mutex<Wire>>,
    fd: Arc<EventFd>,
    has_offloads: bool,
}

impl Backend {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> io::Result<MutexGuard<'_, Wire>> {
        let wire = self.wire();
        match wire.error {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(wire),
        }
    }
}

impl PacketBackend for Backend {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn name(&self) -> &str {
        "wire"
    }

    fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        assert!(self.has_offloads || offload == Offload::NONE);
        self.working().map(|_| ())
    }

    fn read_packet(&mut self, buffer: &GuestBuffer<'_>, spill: &mut [u8]) -> io::Result<usize> {
        assert!(buffer.pieces().len() <= MAX_PIECES);
        let packet = self.working()?.to_guest.pop_front();
        let packet = packet.ok_or(io::ErrorKind::WouldBlock)?;
        let (head, rest) = packet.split_at(buffer.len().min(packet.len()));
        buffer.clone().write_all(head)?;
        let n = rest.len().min(spill.len());
        spill[..n].copy_from_slice(&rest[..n]);
        Ok(head.len() + n)
    }

    fn write_packet(&mut self, buffer: &GuestBuffer<'_>) -> io::Result<()> {
        assert!(buffer.pieces().len() <= MAX_PIECES);
        assert!(buffer.len() > HEADER_SIZE && buffer.len() <= HEADER_SIZE + MAX_FRAME);
        let mut wire = self.working()?;
        match &mut wire.room {
            Some(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(n) => *n -= 1,
            None => {}
        }
        let mut packet = Vec::new();
        buffer.clone().read_to_end(&mut packet)?;
        if wire.from_guest.len() < MAX_WAITING {
            wire.from_guest.push(packet);
        }
        Ok(())
    }
}

struct Bed {
    driver: Driver,
    net: Arc<Mutex<Net<Backend>>>,
    backend: Backend,
    /// The back end was gone: for this card that is the end.
    gone: bool,
}

impl Bed {
    fn net(&self) -> MutexGuard<'_, Net<Backend>> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, events: EventSet) {
        self.net().handle_event(0, events);
    }
}

impl Subject for Bed {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn request(&mut self, guest: &mut Guest, input: &mut Input) -> (usize, Vec<Desc>) {
        let shape = input.u8();
        let queue = usize::from(shape & 1);
        let mut chain = Vec::new();
        if queue == 1 {
            let slot = u64::from(shape >> 1 & 7) * 0x1000;
            let header = input.bytes(HEADER_SIZE);
            guest.put(&self.driver, slot, header);
            chain.push(Desc::readable(slot, HEADER_SIZE as u32));
        }
        for _ in 0..1 + (shape >> 4 & 3) {
            let (addr, len) = (address(&self.driver, input), input.len());
            let write = queue == 0;
            chain.push(Desc { addr, len, write });
        }
        (queue, chain)
    }

    fn backend(&mut self, input: &mut Input) {
        match input.u8() % 8 {
            0..=3 => {
                let n = HEADER_SIZE + (input.len() as usize).min(MAX_FRAME + 200);
                let mut packet = vec![input.u8(); n];
                packet[..HEADER_SIZE].fill(0);
                let mut wire = self.backend.wire();
                if wire.to_guest.len() < MAX_WAITING {
                    wire.to_guest.push_back(packet);
                }
                drop(wire);
                self.event(EventSet::IN);
            }
            4 => {
                let room = input.u8();
                self.backend.wire().room = (room < 4).then_some(room);
                self.event(EventSet::OUT);
            }
            5 => {
                let up = input.u8() & 1 == 0;
                self.net().set_link(up);
            }
            6 => {
                let error = match input.u8() {
                    0..0x40 => None,
                    0x40..0x80 => Some(libc::EIO),
                    0x80..0xf0 => Some(libc::ENOBUFS),
                    _ => Some(libc::EBADFD),
                };
                self.gone |= error == Some(libc::EBADFD);
                self.backend.wire().error = error;
                self.event(EventSet::IN | EventSet::ERROR);
            }
            // Shorter than its header, or nothing at all.
            _ => {
                let n = usize::from(input.u8() % 14);
                self.backend.wire().to_guest.push_back(vec![0; n]);
                self.event(EventSet::IN | EventSet::OUT);
            }
        }
    }

    fn check(&mut self) {
        *self.backend.wire() = Wire::default();
        self.net().set_link(true);
        let all = self.features();
        assert!(self.driver.start(all));
        let frame = [7; HEADER_SIZE + 60];
        self.driver.put(0x1000, &frame);
        let chain = [Desc::readable(0x1000, frame.len() as u32)];
        assert_eq!(interpreter::request(&mut self.driver, 1, &chain), 0);
        let sent = std::mem::take(&mut self.backend.wire().from_guest);
        if self.gone && !self.net().link_up() {
            return assert!(sent.is_empty());
        }
        assert_eq!(sent, [frame]);

        let (small, large) = (vec![0; HEADER_SIZE + 60], vec![0; HEADER_SIZE + 9000]);
        self.driver.offer(0, &[Desc::writable(0x1000, 2048)]);
        for _ in 0..5 {
            self.driver.offer(0, &[Desc::writable(0x2000, 2048)]);
        }
        self.driver.kick(0);
        self.backend.wire().to_guest.extend([small, large]);
        self.event(EventSet::IN);
        let used: Vec<_> = std::iter::from_fn(|| self.driver.used(0)).collect();
        assert_eq!(used[0], (0, HEADER_SIZE as u32 + 60));
        assert_eq!(used.len(), 6);
        let large: u32 = used[1..].iter().map(|u| u.1).sum();
        assert_eq!(large as usize, HEADER_SIZE + 9000);
        assert_eq!(self.driver.get(0x1000 + 10, 2), [1, 0]);
        // Room for as much as before is taken, and what is not needed given back.
        let offers: Vec<_> = (0..6)
            .map(|_| self.driver.offer(0, &[Desc::writable(0x2000, 2048)]))
            .collect();
        self.driver.kick(0);
        let mut wire = self.backend.wire();
        wire.to_guest.extend(vec![vec![0; HEADER_SIZE + 60]; 6]);
        drop(wire);
        self.event(EventSet::IN);
        let used: Vec<_> = std::iter::from_fn(|| self.driver.used(0)).collect();
        assert!(used.iter().map(|u| &u.0).eq(&offers), "{used:?}");
        assert!(!self.driver.needs_reset());
    }
}

/// A hostile driver for a network card.
pub fn net(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let fd = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let backend = Backend {
        wire: Arc::default(),
        fd: Arc::new(fd),
        has_offloads: how & 1 == 0,
    };
    let mac = MacAddr::derived("fuzz", 0);
    let net = Arc::new(Mutex::new(Net::new(backend.clone(), mac, 1500).unwrap()));
    let mut bed = Bed {
        driver: Driver::shared(net.clone()),
        net,
        backend,
        gone: false,
    };
    assert_eq!(bed.features() & features::MAC, features::MAC);
    interpreter::run(&mut bed, input.rest());
}
