//! Feature bits of the network card (virtio 1.2 §5.1.3), as masks.

use virtio_bindings::virtio_net as v;

/// The device takes packets without a checksum.
pub const CSUM: u64 = 1 << v::VIRTIO_NET_F_CSUM;
/// The driver takes packets without a checksum.
pub const GUEST_CSUM: u64 = 1 << v::VIRTIO_NET_F_GUEST_CSUM;
/// The device tells the MTU.
pub const MTU: u64 = 1 << v::VIRTIO_NET_F_MTU;
/// The device has a MAC address.
pub const MAC: u64 = 1 << v::VIRTIO_NET_F_MAC;
/// The driver takes large TCP packets over IPv4.
pub const GUEST_TSO4: u64 = 1 << v::VIRTIO_NET_F_GUEST_TSO4;
/// The driver takes large TCP packets over IPv6.
pub const GUEST_TSO6: u64 = 1 << v::VIRTIO_NET_F_GUEST_TSO6;
/// The driver takes large TCP packets with ECN bits.
pub const GUEST_ECN: u64 = 1 << v::VIRTIO_NET_F_GUEST_ECN;
/// The device takes large TCP packets over IPv4.
pub const HOST_TSO4: u64 = 1 << v::VIRTIO_NET_F_HOST_TSO4;
/// The device takes large TCP packets over IPv6.
pub const HOST_TSO6: u64 = 1 << v::VIRTIO_NET_F_HOST_TSO6;
/// The device takes large TCP packets with ECN bits.
pub const HOST_ECN: u64 = 1 << v::VIRTIO_NET_F_HOST_ECN;
/// A packet for the driver may be spread over several buffers.
pub const MRG_RXBUF: u64 = 1 << v::VIRTIO_NET_F_MRG_RXBUF;
/// The device tells whether the link is up.
pub const STATUS: u64 = 1 << v::VIRTIO_NET_F_STATUS;

/// On offer with every back end.
pub const ALWAYS: u64 = MAC | MTU | STATUS | MRG_RXBUF;
/// On offer with a back end that understands the header before each packet.
pub const OFFLOADS: u64 =
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
