//! How a host program says which port of the guest it wants: one line,
//! `CONNECT <port>\n`, as with Firecracker and Cloud Hypervisor.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::connection::REQUEST_TIMEOUT;
use super::sock;

/// The longest line, its end included: `CONNECT 4294967295\n` and some.
const MAX_LINE: usize = 32;

/// A host program that has connected and not said its line yet.
#[derive(Debug)]
pub struct Handshake {
    stream: UnixStream,
    line: Vec<u8>,
    /// When it is sent away.
    pub deadline: Instant,
}

impl Handshake {
    /// Waits for the line of `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Handshake {
            stream,
            line: Vec::new(),
            deadline: Instant::now() + REQUEST_TIMEOUT,
        }
    }

    /// Takes what has arrived, up to the end of the line; what follows is the
    /// guest's. The port, once it is known.
    ///
    /// # Errors
    /// When there is no such line, or no more of it.
    pub fn read(&mut self) -> io::Result<Option<u32>> {
        let mut buf = [0; MAX_LINE];
        let room = MAX_LINE - self.line.len();
        let seen = match sock::peek(&self.stream, &mut buf[..room]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        if seen == 0 {
            // The end, or a line without one.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let end = buf[..seen].iter().position(|&b| b == b'\n');
        let take = end.map_or(seen, |end| end + 1);
        self.stream.read_exact(&mut buf[..take])?;
        self.line.extend(&buf[..take]);
        if end.is_none() {
            return Ok(None);
        }
        match parse(&self.line) {
            Some(port) => Ok(Some(port)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The stream, for the connection.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl AsRawFd for Handshake {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let command = words.next()?;
    let port = words.next()?;
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    (command.eq_ignore_ascii_case("CONNECT") && digits && words.next().is_none())
        .then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_the_line_is_taken_however_it_comes() {
        let (mut host, device) = UnixStream::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        let mut handshake = Handshake::new(device);
        assert_eq!(handshake.read().unwrap(), None);
        host.write_all(b"CONNECT 4294").unwrap();
        assert_eq!(handshake.read().unwrap(), None);
        host.write_all(b"967295\nfor the guest\n").unwrap();
        assert_eq!(handshake.read().unwrap(), Some(u32::MAX));
        let mut rest = [0; 64];
        let n = handshake.into_stream().read(&mut rest).unwrap();
        assert_eq!(&rest[..n], b"for the guest\n");
    }

    #[test]
    fn other_lines_are_refused() {
        assert_eq!(parse(b"connect 7\r\n"), Some(7));
        for line in [
            "\n",
            "CONNECT\n",
            "CONNECT 4294967296\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 1 2\n",
            "CONNECT1\n",
            "HELLO 1\n",
            "CONNECT \u{663}\n",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
        let (mut host, device) = UnixStream::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        let mut handshake = Handshake::new(device);
        host.write_all(&[b'1'; 100]).unwrap();
        assert_eq!(handshake.read().unwrap(), None);
        handshake.read().unwrap_err();
    }
}
