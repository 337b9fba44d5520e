//! The other side of the workload's connections: drupe itself, which listens on
//! this machine. `guest-images/workload/src/net.rs` opens them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};

use super::error::{Context, Result};
use super::process::PATIENCE;

/// Bytes of one call in a stream.
const LARGE: usize = 128 << 10;
/// Connections that may wait until they are taken.
const BACKLOG: i32 = 128;

/// Listens for as long as it is there.
#[derive(Debug)]
pub struct Peer {
    listener: TcpListener,
    address: SocketAddr,
}

impl Peer {
    /// Listens on this address of the machine, which need not be there yet, and
    /// on no other.
    ///
    /// # Errors
    /// The system calls'.
    pub fn listen(address: Ipv4Addr) -> Result<Self> {
        let what = || format!("listening on {address}");
        let listener = listener(address).context(what)?;
        let address = listener.local_addr().context(what)?;
        let theirs = listener.try_clone().context(what)?;
        thread::Builder::new()
            .name("peer".to_owned())
            .spawn(move || {
                // Until it is shut down.
                while let Ok((stream, _)) = theirs.accept() {
                    // One that hangs keeps no other waiting. What goes wrong with
                    // it, the workload sees.
                    let _ = thread::Builder::new()
                        .name("stream".to_owned())
                        .spawn(move || serve(stream));
                }
            })
            .context(what)?;
        Ok(Peer { listener, address })
    }

    /// The port that it has got.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Wakes who waits in accept.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}

fn listener(address: Ipv4Addr) -> io::Result<TcpListener> {
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let protocol = Some(ipproto::TCP);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, 0))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Does what the first byte of a connection asks for, until its end.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Whose machine is gone says nothing any more.
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    match what[0] {
        b's' => {
            let mut buffer = vec![0; LARGE];
            while stream.read(&mut buffer)? > 0 {}
            stream.write_all(&[0])
        }
        b'f' => {
            let buffer = vec![0xa5; LARGE];
            loop {
                stream.write_all(&buffer)?;
            }
        }
        b'e' => {
            let mut byte = [0];
            while stream.read(&mut byte)? > 0 {
                stream.write_all(&byte)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_it_is_asked_for() {
        let peer = Peer::listen(Ipv4Addr::LOCALHOST).unwrap();
        let open = |what: &[u8]| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port())).unwrap();
            stream.write_all(what).unwrap();
            stream
        };
        // One that is open and idle keeps no other waiting.
        let idle = open(b"e");
        let mut bytes = [0; 3];
        let mut echo = open(b"eabc");
        echo.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abc");
        let mut sink = open(b"s");
        sink.write_all(&vec![1; 1 << 20]).unwrap();
        sink.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        sink.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [0]);
        let mut source = open(b"f");
        source.read_exact(&mut vec![0; 1 << 20]).unwrap();
        let mut unknown = open(b"?");
        assert_eq!(unknown.read(&mut bytes).unwrap(), 0);
        drop(idle);
    }

    #[test]
    fn nobody_listens_when_it_is_gone() {
        let peer = Peer::listen(Ipv4Addr::LOCALHOST).unwrap();
        let address = (Ipv4Addr::LOCALHOST, peer.port());
        drop(TcpStream::connect(address).unwrap());
        drop(peer);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn an_address_may_come_later() {
        // Of a network for documentation, which no machine has.
        let peer = Peer::listen(Ipv4Addr::new(192, 0, 2, 1)).unwrap();
        assert_ne!(peer.port(), 0);
    }
}
