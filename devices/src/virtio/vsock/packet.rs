//! The packets of the socket device (virtio 1.2 §5.10.6).

use vm_memory::{ByteValued, Le16, Le32, Le64};

/// Bytes of a header.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// The host's CID.
pub const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`: the only type of socket here.
pub const TYPE_STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender of the packet receives no more.
pub const SHUTDOWN_RCV: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender of the packet sends no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RCV | SHUTDOWN_SEND;

/// What a packet is for (§5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Accepts one.
    Response = 2,
    /// Refuses or ends one.
    Rst = 3,
    /// Half-closes one.
    Shutdown = 4,
    /// Carries data.
    Rw = 5,
    /// Tells the sender's credit.
    CreditUpdate = 6,
    /// Asks for the other side's credit.
    CreditRequest = 7,
}

impl Op {
    /// The operation with this number.
    pub fn from_u16(op: u16) -> Option<Op> {
        Some(match op {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Rst,
            4 => Op::Shutdown,
            5 => Op::Rw,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, packed)]
pub struct Header {
    /// CID of the sender.
    pub src_cid: Le64,
    /// CID of the receiver.
    pub dst_cid: Le64,
    /// Port of the sender.
    pub src_port: Le32,
    /// Port of the receiver.
    pub dst_port: Le32,
    /// Bytes that follow the header.
    pub len: Le32,
    /// Type of socket.
    pub socket_type: Le16,
    /// An [`Op`].
    pub op: Le16,
    /// Of [`Op::Shutdown`] only.
    pub flags: Le32,
    /// Size of the sender's receive buffer.
    pub buf_alloc: Le32,
    /// Bytes that left the sender's receive buffer since the start.
    pub fwd_cnt: Le32,
}

// SAFETY: packed, so without padding, and made of integers only: every bit
// pattern is a value.
unsafe impl ByteValued for Header {}

/// The two ports that name a connection: one guest, one host, one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The host's port.
    pub local: u32,
    /// The guest's port.
    pub peer: u32,
}

impl Header {
    /// The connection that a packet from the guest is for.
    pub fn key(&self) -> Key {
        Key {
            local: self.dst_port.into(),
            peer: self.src_port.into(),
        }
    }

    /// A header without data, credit and CID, toward the guest.
    pub fn new(key: Key, op: Op) -> Self {
        Header {
            src_cid: HOST_CID.into(),
            src_port: key.local.into(),
            dst_port: key.peer.into(),
            socket_type: TYPE_STREAM.into(),
            op: (op as u16).into(),
            ..Header::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_laid_out_as_the_standard_says() {
        assert_eq!(HEADER_SIZE, 44);
        let key = Key {
            local: 0x0403_0201,
            peer: 0x0807_0605,
        };
        let header = Header {
            dst_cid: 9.into(),
            len: 0x11.into(),
            flags: 3.into(),
            buf_alloc: 0x22.into(),
            fwd_cnt: 0x33.into(),
            ..Header::new(key, Op::Shutdown)
        };
        let bytes = [
            2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0, 0, 0,
            1, 0, 4, 0, 3, 0, 0, 0, 0x22, 0, 0, 0, 0x33, 0, 0, 0,
        ];
        assert_eq!(header.as_slice(), bytes);
        for op in 0..10 {
            assert_eq!(Op::from_u16(op).map_or(op, |o| o as u16), op);
        }
    }
}
