//! A network of this process behind a network card.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use devices::threads::{self, Role};
use devices::virtio::GuestBuffer;
use devices::virtio::net::{HEADER_SIZE, Offload, PacketBackend};
use usernet::{Frame, Unfinished, UserNet};

use crate::signals::with_all_blocked;

/// The header says where the checksum is to be completed
/// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`, virtio 1.2 §5.1.6).
const NEEDS_CSUM: u8 = 1;
/// The packet is TCP over IPv4 in segments that are too large
/// (`VIRTIO_NET_HDR_GSO_TCPV4`).
const GSO_TCPV4: u8 = 1;
/// What a card asks of its back end once it is gone.
const GONE: i32 = libc::EBADFD;

/// The card's back end. The thread that does the work is the network's own.
pub struct UserBackend {
    net: UserNet,
    offload: usernet::Offload,
}

impl UserBackend {
    pub fn new(net: UserNet) -> Self {
        UserBackend {
            net,
            offload: usernet::Offload::default(),
        }
    }

    fn alive(&self) -> io::Result<()> {
        match self.net.card().is_alive() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(GONE)),
        }
    }
}

impl PacketBackend for UserBackend {
    fn fd(&self) -> RawFd {
        self.net.card().event().as_raw_fd()
    }

    fn name(&self) -> &str {
        "the user-mode network"
    }

    fn has_offloads(&self) -> bool {
        true
    }

    fn start(&mut self) -> io::Result<()> {
        self.net.start(|run| {
            let name = "usernet".to_owned();
            with_all_blocked(|| threads::spawn(Role::Network, name, None, run))
        })
    }

    fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        self.offload = usernet::Offload {
            checksum: offload.csum,
            tso4: offload.tso4,
        };
        self.reset();
        Ok(())
    }

    fn reset(&mut self) {
        self.net.card().reset(self.offload);
    }

    fn read_packet(&mut self, buffer: &GuestBuffer<'_>, spill: &mut [u8]) -> io::Result<usize> {
        let Some(frame) = self.net.card().receive() else {
            self.alive()?;
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let header = header(&frame);
        let mut room = buffer.clone();
        let mut rest = spill;
        for bytes in [&header[..], &frame.bytes] {
            let (direct, spilt) = bytes.split_at(room.len().min(bytes.len()));
            room.write_all(direct)?;
            // What fits neither is cut off: the size tells.
            let n = spilt.len().min(rest.len());
            let (here, later) = rest.split_at_mut(n);
            here.copy_from_slice(spilt.get(..n).unwrap_or_default());
            rest = later;
        }
        Ok(header.len() + frame.bytes.len())
    }

    /// The header is of no interest: checksums are not looked at, and a segment
    /// may have any size.
    fn write_packet(&mut self, buffer: &GuestBuffer<'_>) -> io::Result<()> {
        let card = self.net.card();
        if !card.has_room() {
            self.alive()?;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut from = buffer.clone();
        from.advance(HEADER_SIZE);
        let mut bytes = vec![0; from.len()];
        from.read_exact(&mut bytes)?;
        card.send(bytes);
        Ok(())
    }
}

/// `virtio_net_hdr_v1`, but for the number of buffers, which the card knows.
fn header(frame: &Frame) -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    let Some(Unfinished {
        checksum_start,
        checksum_offset,
        segment_size,
        header_size,
    }) = frame.unfinished
    else {
        return header;
    };
    header[0] = NEEDS_CSUM;
    if let Some(size) = segment_size {
        header[1] = GSO_TCPV4;
        header[2..4].copy_from_slice(&header_size.to_le_bytes());
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
    header[6..8].copy_from_slice(&checksum_start.to_le_bytes());
    header[8..10].copy_from_slice(&checksum_offset.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::GuestMemory;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

    /// An ARP request for the gateway.
    fn request() -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([0x52, 0x54, 0, 0, 0, 1, 8, 6]);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1]);
        frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
        frame
    }

    #[test]
    fn packets_go_between_guest_memory_and_the_network() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let slice = |at, len| mem.get_slice(GuestAddress(at), len).unwrap();
        let config = usernet::Config::default();
        let net = UserNet::open(&config, 1500, [0x52, 0x54, 0, 0, 0, 1]).unwrap();
        let mut backend = UserBackend::new(net);
        // A driver that agrees on no offload tells of none.
        backend.start().unwrap();
        let packet = [&[0; HEADER_SIZE][..], &request()].concat();
        mem.write_slice(&packet, GuestAddress(0x100)).unwrap();
        let mut sent = GuestBuffer::new();
        sent.push(slice(0x100, 5));
        sent.push(slice(0x105, packet.len() - 5));
        backend.write_packet(&sent).unwrap();

        // Some of the answer fits the guest's room, some does not.
        let mut room = GuestBuffer::new();
        room.push(slice(0x1000, 20));
        let mut spill = [0; 100];
        let size = loop {
            match backend.read_packet(&room, &mut spill) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        assert_eq!(size, packet.len());
        let mut answer = vec![0; 20];
        mem.read_slice(&mut answer, GuestAddress(0x1000)).unwrap();
        answer.extend(&spill[..size - 20]);
        // To the guest, a reply, from the gateway.
        assert_eq!(answer[12..18], [0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!(answer[12 + 21], 2);
        assert_eq!(answer[12 + 28..12 + 32], [10, 0, 2, 2]);
        let e = backend.read_packet(&room, &mut spill).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_header_tells_what_is_to_be_finished() {
        let mut frame = Frame {
            bytes: Vec::new(),
            unfinished: None,
        };
        assert_eq!(header(&frame), [0; HEADER_SIZE]);
        frame.unfinished = Some(Unfinished {
            checksum_start: 34,
            checksum_offset: 16,
            segment_size: Some(1460),
            header_size: 54,
        });
        assert_eq!(header(&frame), [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
    }
}
