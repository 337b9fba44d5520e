//! The whole network, with a guest of the library's on one side and sockets of
//! this process on the other.

mod dns;
mod guest;
mod hostile;
mod link_local;
mod publish;
mod tcp;
mod udp;

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}
