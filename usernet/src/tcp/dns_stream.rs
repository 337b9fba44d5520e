//! A TCP connection to the DNS forwarder (RFC 7766): messages with their length in
//! front, any number of them, answered as the answers come.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

/// The longest query; one that says that it is longer ends the connection.
const MAX_QUERY: usize = 4096;
/// The most queries of one connection that wait for answers.
const MAX_WAITING: usize = 8;
/// No more queries are taken while more bytes of answers than these wait.
const MAX_UNSENT: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct DnsStream {
    /// A query that is not whole.
    part: Vec<u8>,
    /// Whole ones, to be fetched.
    pub queries: Vec<Vec<u8>>,
    waiting: usize,
    out: VecDeque<u8>,
    ended: bool,
}

impl DnsStream {
    /// Takes bytes of the guest.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if !self.takes_more() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let before = self.part.len();
        let want = match self.part.split_first_chunk::<2>() {
            None => 2,
            Some((len, _)) => 2 + usize::from(u16::from_be_bytes(*len)),
        };
        if want > 2 + MAX_QUERY {
            return Err(ErrorKind::InvalidData.into());
        }
        let n = data.len().min(want - before);
        self.part
            .extend_from_slice(data.get(..n).unwrap_or_default());
        if let Some((len, message)) = self.part.split_first_chunk::<2>()
            && message.len() == usize::from(u16::from_be_bytes(*len))
        {
            self.queries.push(message.to_vec());
            self.part.clear();
            self.waiting += 1;
        }
        Ok(n)
    }

    /// True when [`Self::write`] takes bytes.
    pub fn takes_more(&self) -> bool {
        self.waiting < MAX_WAITING && self.out.len() <= MAX_UNSENT
    }

    /// An answer, to be read.
    pub fn answer(&mut self, message: &[u8]) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Ok(len) = u16::try_from(message.len()) {
            self.out.extend(len.to_be_bytes());
            self.out.extend(message);
        }
    }

    /// Gives bytes for the guest; none at the end, which is when the guest has
    /// ended and all is answered.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.out.is_empty() && !(self.ended && self.waiting == 0) {
            return Err(ErrorKind::WouldBlock.into());
        }
        io::Read::read(&mut self.out, room)
    }

    /// The guest sends no more.
    pub fn end(&mut self) {
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_any_pieces() {
        let mut stream = DnsStream::default();
        let bytes = [&[0, 3][..], b"abc", &[0, 0], &[0, 1], b"x"].concat();
        for piece in bytes.chunks(1) {
            assert_eq!(stream.write(piece).unwrap(), 1);
        }
        assert_eq!(stream.queries, [&b"abc"[..], b"", b"x"]);
        let mut stream = DnsStream::default();
        let mut left = &bytes[..];
        while !left.is_empty() {
            let n = stream.write(left).unwrap();
            left = &left[n..];
        }
        assert_eq!(stream.queries, [&b"abc"[..], b"", b"x"]);
        stream.answer(b"12");
        let mut room = [0; 9];
        assert_eq!(stream.read(&mut room).unwrap(), 4);
        assert_eq!(&room[..4], b"\0\x0212");
        stream.end();
        assert!(stream.read(&mut room).is_err());
        stream.answer(b"");
        stream.answer(b"");
        assert_eq!(stream.read(&mut room).unwrap(), 4);
        assert_eq!(stream.read(&mut room).unwrap(), 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut stream = DnsStream::default();
        for _ in 0..MAX_WAITING {
            stream.write(&[0, 1]).unwrap();
            stream.write(b"x").unwrap();
        }
        let full = stream.write(b"x").unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        stream.answer(&[0; 65535]);
        assert!(!stream.takes_more());
        let mut room = vec![0; 70000];
        stream.read(&mut room).unwrap();
        assert!(stream.takes_more());
        stream.write(&[0xff, 0xff]).unwrap();
        let bad = stream.write(b"x").unwrap_err();
        assert_eq!(bad.kind(), ErrorKind::InvalidData);
    }
}
