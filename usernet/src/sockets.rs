//! The host's sockets, none of which ever blocks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// When a connection that carries nothing is asked whether its other end is there
/// still. The guest's own questions end here.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// How often it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

fn socket(addr: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(net::socket_with(family, kind, flags, None)?)
}

/// Begins a connection.
///
/// # Errors
/// What is known to be wrong at once.
pub fn connect_tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to, SocketType::STREAM)?;
    prepare(&socket)?;
    match net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(e) => Err(e.into()),
    }
}

/// Makes a connection fit for forwarding: what the guest sends goes out as it
/// comes, since the guest has waited to gather it already.
pub fn prepare(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
    Ok(sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?)
}

/// True when a connection that was begun is there.
pub fn is_connected(stream: &TcpStream) -> bool {
    stream.peer_addr().is_ok()
}

/// Closes a connection by a reset.
pub fn reset(stream: TcpStream) {
    // Without it, it is closed all the same.
    let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// A socket for datagrams to and from one address.
pub fn connect_udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(to, SocketType::DGRAM)?;
    net::connect(&socket, &to)?;
    Ok(socket.into())
}

/// A socket for echo requests to one address, as users may have if the host's
/// `net.ipv4.ping_group_range` lets their group.
pub fn connect_ping(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    net::connect(&socket, &SocketAddr::new(to, 0))?;
    Ok(socket.into())
}

/// Listens for connections.
pub fn listen_tcp(ip: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    bind(ip, port, |addr, dual| {
        let socket = socket(addr, SocketType::STREAM)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        take_both(&socket, addr, dual)?;
        net::bind(&socket, &addr)?;
        net::listen(&socket, BACKLOG)?;
        Ok(socket)
    })
    .map(TcpListener::from)
}

/// Waits for datagrams from anywhere.
pub fn listen_udp(ip: Option<IpAddr>, port: u16) -> io::Result<UdpSocket> {
    bind(ip, port, |addr, dual| {
        let socket = socket(addr, SocketType::DGRAM)?;
        take_both(&socket, addr, dual)?;
        net::bind(&socket, &addr)?;
        Ok(socket)
    })
    .map(UdpSocket::from)
}

fn take_both(socket: &OwnedFd, addr: SocketAddr, dual: bool) -> io::Result<()> {
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, !dual)?;
    }
    Ok(())
}

/// Without an address, one socket takes IPv6 and IPv4 both; on a host without
/// IPv6, IPv4 alone.
fn bind(
    ip: Option<IpAddr>,
    port: u16,
    open: impl Fn(SocketAddr, bool) -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    if let Some(ip) = ip {
        return open(SocketAddr::new(ip, port), false);
    }
    match open(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), true) {
        Err(e) if no_ipv6(&e) => open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), false),
        other => other,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::AFNOSUPPORT.raw_os_error())
        || code == Some(Errno::ADDRNOTAVAIL.raw_os_error())
}

/// Takes one connection.
pub fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let socket = net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    prepare(&socket)?;
    Ok(socket.into())
}

/// True when the process or the host has no more descriptors or memory: nothing
/// that the other end did.
pub fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let code = error.raw_os_error();
    exhausted.iter().any(|e| code == Some(e.raw_os_error()))
}
