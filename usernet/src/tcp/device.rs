//! The library's view of the wire: IP packets, one in at a time.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol};

use crate::context::Context;
use crate::link::Offload;
use crate::packet::{ETHERNET, ip_checksum_only};

/// The largest packet that the guest may be left to cut up.
const LARGEST: usize = 65535;

/// The wire, with the packet that just came, if any.
pub struct Wire<'a> {
    cx: &'a Context,
    packet: Option<&'a [u8]>,
    /// There was no room for a packet.
    pub full: bool,
    /// Packets were sent.
    pub sent: bool,
}

impl<'a> Wire<'a> {
    pub fn new(cx: &'a Context, packet: Option<&'a [u8]>) -> Self {
        Wire {
            cx,
            packet,
            full: false,
            sent: false,
        }
    }
}

/// What the library is to leave undone.
pub fn capabilities(mtu: u16, offload: Offload) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu.into();
    capabilities.checksum = ip_checksum_only();
    if offload.checksum && offload.tso4 {
        capabilities.segmentation.tcpv4 = std::num::NonZeroUsize::new(LARGEST);
    }
    capabilities
}

pub struct Rx<'a>(&'a [u8]);

pub struct Tx<'a> {
    cx: &'a Context,
    meta: PacketMeta,
    sent: &'a mut bool,
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = Rx<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Tx<'b>
    where
        Self: 'b;

    /// There is room for an answer: no packet is taken from the guest else.
    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let packet = self.packet.take()?;
        Some((
            Rx(packet),
            Tx {
                cx: self.cx,
                meta: PacketMeta::default(),
                sent: &mut self.sent,
            },
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        if !self.cx.link.has_room() {
            self.full = true;
            return None;
        }
        Some(Tx {
            cx: self.cx,
            meta: PacketMeta::default(),
            sent: &mut self.sent,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.cx.mtu, self.cx.framer.offload)
    }
}

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = self.cx.framer.ip_frame(false, len);
        let result = f(&mut bytes[ETHERNET..]);
        if bytes.get(ETHERNET).is_some_and(|version| version >> 4 == 6) {
            EthernetFrame::new_unchecked(&mut bytes[..]).set_ethertype(EthernetProtocol::Ipv6);
        }
        let segment_size = self.meta.segmentation_offload_size.map(|size| size.get());
        self.cx
            .link
            .send(self.cx.framer.finish(bytes, segment_size));
        *self.sent = true;
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}
