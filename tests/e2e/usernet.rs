//! The network of ordinary sockets, as a process without any capability gives it:
//! against servers of this host on an address of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{Guest, PATIENCE, host};

/// An address of this host that is not loopback's; gone when dropped.
struct Address(Ipv4Addr);

impl Address {
    /// `n` tells the addresses of one test process apart.
    fn new(n: u8) -> Self {
        let address = Address(Ipv4Addr::new(10, 98, n, 1));
        host("ip", &["addr", "add", &address.prefix(), "dev", "lo"]);
        let six = address.six();
        host("ip", &["addr", "add", &six, "dev", "lo", "nodad"]);
        // As systemd sets it: every user may ping.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        address
    }

    fn prefix(&self) -> String {
        format!("{}/32", self.0)
    }

    fn six(&self) -> String {
        format!("fd98::{}", self.0.octets()[2])
    }

    fn listener(&self) -> TcpListener {
        TcpListener::bind((self.0, 0)).unwrap()
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        for addr in [self.prefix(), self.six()] {
            let _ = Command::new("ip")
                .args(["addr", "del", &addr, "dev", "lo"])
                .status();
        }
    }
}

/// Shell lines that give the card its addresses.
const SETUP: &str = "set -e
    nic=$(ls -d /sys/class/net/*/device | head -n 1); nic=$(basename $(dirname $nic))
    ip link set $nic up
    ip addr add 10.0.2.15/24 dev $nic
    ip -6 addr add fd00::15/64 dev $nic nodad
    ip route add default via 10.0.2.2
    ip -6 route replace default via fd00::2
    echo nameserver 10.0.2.3 > /etc/resolv.conf
";

fn guest(net: &str, script: &str) -> Guest {
    Guest::tuned()
        .args("--cpus 2")
        .script(&format!("{SETUP}\n{script}"))
        .arg("--net")
        .arg(net)
        .unprivileged()
}

/// A resolver that knows one address for everything.
fn resolver(addr: Ipv4Addr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut query) {
            // The question ends behind its name, with type and class.
            let name = query[12..len].iter().position(|b| *b == 0).unwrap();
            let end = 12 + name + 5;
            let mut answer = query[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
            if answer[end - 3] == 1 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(addr.octets());
            }
            socket.send_to(&answer, peer).unwrap();
        }
    });
    at
}

/// What `seq 1 20000000 | head -c SIZE` prints.
fn numbers(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 16);
    for n in 1.. {
        if bytes.len() >= size {
            break;
        }
        writeln!(bytes, "{n}").unwrap();
    }
    bytes.truncate(size);
    bytes
}

#[test]
fn a_guest_reaches_what_its_host_reaches() {
    const SIZE: usize = 20_000_000;
    let address = Address::new(1);
    let (up, down, six) = (
        address.listener(),
        address.listener(),
        TcpListener::bind((address.six().as_str(), 0)).unwrap(),
    );
    let port = |l: &TcpListener| l.local_addr().unwrap().port();
    let (up_port, down_port, six_port) = (port(&up), port(&down), port(&six));
    let closed = port(&address.listener());
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind((address.0, 0)).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    let received = thread::spawn(move || {
        let mut all = Vec::new();
        up.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all
    });
    thread::spawn(move || {
        let (mut stream, _) = down.accept().unwrap();
        stream.write_all(&numbers(SIZE)).unwrap();
    });
    thread::spawn(move || {
        let (mut stream, _) = six.accept().unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        stream.write_all(question.trim().as_bytes()).unwrap();
    });
    thread::spawn(move || {
        let mut room = [0; 65536];
        while let Ok((len, peer)) = udp.recv_from(&mut room) {
            udp.send_to(&room[..len], peer).unwrap();
        }
    });
    let script = format!(
        "echo mtu: $(cat /sys/class/net/$nic/mtu)
         echo name: $(getent ahostsv4 anything.example | awk 'NR == 1 {{ print $1 }}')
         seq 1 20000000 | head -c {SIZE} | socat -b 65536 -u - TCP:anything.example:{up_port}
         socat -b 65536 -u TCP:{addr}:{down_port} - | cksum | sed 's/^/down: /'
         echo six: $(echo over six | socat -t 20 - TCP6:[{six}]:{six_port})
         echo udp: $(head -c 30000 /dev/zero | tr '\\0' u | socat -t 5 -b 65000 - UDP:{addr}:{udp_port} | wc -c)
         ping -c 2 -W 20 {addr} >/tmp/ping && echo ping: yes
         ping -c 1 -W 20 fd00::2 >/dev/null && echo ping6: yes
         ping -c 1 -W 20 {six} >/dev/null && echo ping6-out: yes
         refused() {{ # NAME TARGET
             if socat -u OPEN:/dev/null $2 2>/tmp/why; then echo $1: open; else echo $1: $(sed 's/.*: //' /tmp/why); fi
         }}
         start=$(cut -d. -f1 /proc/uptime)
         refused closed-port TCP:{addr}:{closed}
         refused gateway TCP:10.0.2.2:{loopback}
         refused metadata TCP:169.254.169.254:80
         refused nowhere TCP6:[2001:db8::1]:80
         echo waited: $(($(cut -d. -f1 /proc/uptime) - start))
         grep -H . /sys/class/net/$nic/statistics/*errors | grep -v ':0$' || echo errors: none",
        addr = address.0,
        six = address.six(),
        loopback = port(&loopback),
    );
    let dns = resolver(address.0);
    let end = guest(&format!("user,dns={dns}"), &script).run().succeeded();
    assert!(received.join().unwrap() == numbers(SIZE), "{}", end.console);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), numbers(SIZE)).unwrap();
    let sum = host("cksum", &[file.path().to_str().unwrap()]);
    let words = |text: &str| -> Vec<String> { text.split(' ').take(2).map(String::from).collect() };
    assert_eq!(words(end.value("down:")), words(&sum));
    assert_eq!(end.number("mtu:"), 65520);
    assert_eq!(end.value("name:"), address.0.to_string());
    assert_eq!(end.value("six:"), "over six");
    assert_eq!(end.number("udp:"), 30000);
    for name in ["ping:", "ping6:", "ping6-out:"] {
        assert_eq!(end.value(name), "yes", "{name}");
    }
    for name in ["closed-port:", "gateway:"] {
        assert_eq!(end.value(name), "Connection refused", "{name}");
    }
    for name in ["metadata:", "nowhere:"] {
        let why = end.value(name);
        assert!(
            why != "open" && why != "Connection timed out",
            "{name} {why}"
        );
    }
    // Each of them was told at once.
    assert!(end.number("waited:") < 60, "{}", end.console);
    assert_eq!(end.value("errors:"), "none");
    assert_eq!(end.errors, "");
}

/// Large segments of a guest whose MTU is small, both ways, for a tuned and a
/// distribution's kernel.
#[test]
fn iperf_runs_both_ways_with_an_mtu_of_1500() {
    let address = Address::new(2);
    let server = Command::new("iperf3")
        .args(["-s", "-B", &address.0.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .expect("iperf3: tools/deps installs it");
    let _server = Kill(server);
    let script = format!(
        "{SETUP}
         iperf3 -c {host} -t 2 -J > /tmp/up
         iperf3 -c {host} -t 2 -R -J > /tmp/down
         iperf3 -c {host} -t 2 -P 4 -J > /tmp/four
         for way in up down four; do
             echo $way: $(grep -A6 '\"sum_received\"' /tmp/$way | sed -n 's/.*\"bytes\":[^0-9]*\\([0-9]*\\).*/\\1/p')
         done",
        host = address.0
    );
    for guest in [Guest::tuned(), Guest::stock()] {
        let guest = guest.args("--cpus 2 --net user,mtu=1500").script(&script);
        let end = guest.unprivileged().run().succeeded();
        for way in ["up:", "down:", "four:"] {
            // Under emulation on a busy machine.
            assert!(end.number(way) > 1 << 17, "{way} {}", end.console);
        }
    }
}

struct Kill(std::process::Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn published_ports_lead_into_the_guest() {
    let _address = Address::new(3);
    let net = "user,publish=18080:80+127.0.0.1:18053:53/udp+[::1]:18081:81";
    let run = guest(
        net,
        // socat gives an answer half a second once the question has ended, unless
        // told otherwise: not enough for a new process under emulation.
        "socat -t 300 TCP-LISTEN:80,fork,reuseaddr SYSTEM:'cat; echo end' &
         socat -t 300 UDP-RECVFROM:53,fork EXEC:cat &
         for i in $(seq 600); do
             grep -q ':0050 ' /proc/net/tcp && grep -q ':0035 ' /proc/net/udp && break; sleep 0.1
         done
         echo listening
         sleep 1000",
    )
    .start();
    run.wait_for("listening");
    for _ in 0..3 {
        let mut stream = TcpStream::connect("127.0.0.1:18080").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&numbers(300_000)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer == [&numbers(300_000)[..], b"end\n"].concat());
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"datagram", "127.0.0.1:18053").unwrap();
    let mut room = [0; 99];
    let (len, _) = client.recv_from(&mut room).unwrap();
    assert_eq!(&room[..len], b"datagram");
    // Nothing listens on port 81 of the guest.
    let mut stream = TcpStream::connect("[::1]:18081").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let refused = stream.read(&mut [0]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);

    // A second one cannot have the same port, and says so.
    let second = guest("user,publish=18080:80", "true").run();
    assert_eq!(second.status.code(), Some(1), "{}", second.errors);
    let line = "the port 18080/tcp of this host is in use";
    assert!(second.errors.contains(line), "{}", second.errors);

    run.signal(libc::SIGQUIT);
    // The thread of the network leaves signals to the VM.
    assert_eq!(run.finish().status.code(), Some(131));
    TcpListener::bind("0.0.0.0:18080").unwrap();
    UdpSocket::bind("127.0.0.1:18053").unwrap();
}

#[test]
fn a_policy_says_what_a_guest_may_reach() {
    let address = Address::new(4);
    let listener = address.listener();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"hello\n");
        }
    });
    let other = address.listener();
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let loopback_port = loopback.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = loopback.accept().unwrap();
        stream.write_all(b"hello\n").unwrap();
    });
    let dns = resolver(address.0);
    let net = format!(
        "user,host-loopback,dns={dns},policy=allow:*.example:{port}/tcp,,allow:10.0.2.2:{loopback_port}"
    );
    let script = format!(
        "ask() {{ socat -t 20 -u TCP:$1 - 2>/dev/null || echo no; }}
         echo before: $(ask {addr}:{port})
         echo named: $(ask a.example:{port})
         echo after: $(ask {addr}:{port})
         echo port: $(ask {addr}:{other})
         echo other: $(getent ahostsv4 a.example.org || echo no)
         echo loopback: $(ask 10.0.2.2:{loopback_port})
         ping -c 1 -W 5 {addr} >/dev/null && echo ping: yes || echo ping: no",
        addr = address.0,
        other = other.local_addr().unwrap().port(),
    );
    let end = guest(&net, &script).run().succeeded();
    for (key, value) in [
        ("before:", "no"),
        ("named:", "hello"),
        ("after:", "hello"),
        ("port:", "no"),
        ("other:", "no"),
        ("loopback:", "hello"),
        ("ping:", "no"),
    ] {
        assert_eq!(end.value(key), value, "{key} {}", end.console);
    }
}

/// A distribution's own client gets addresses, routes and the resolver.
#[test]
fn networkd_is_served_by_dhcp_and_router_advertisements() {
    let script = "mkdir -p /run/systemd/network /run/systemd/netif/leases
        printf '[Match]\\nType=ether\\n[Network]\\nDHCP=ipv4\\nIPv6AcceptRA=yes\\n' > /run/systemd/network/a.network
        /lib/systemd/systemd-udevd --daemon 2>/dev/null
        udevadm trigger --subsystem-match=net && udevadm settle
        chown -R systemd-network: /run/systemd/netif
        tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
        /lib/systemd/systemd-networkd >/tmp/networkd 2>&1 &
        for i in $(seq 300); do
            ip -6 addr show scope global | grep -q fd00 && ip -4 route | grep -q ^default && break
            sleep 0.2
        done
        ip -6 addr show scope global | sed -n 's/ *inet6 \\(fd00::\\).*/six: \\1/p'
        ip -4 addr show scope global | sed -n 's/ *inet \\([^ ]*\\).*/four: \\1/p'
        ip -4 route | sed -n 's/^default via \\([^ ]*\\).*/route: \\1/p'
        ip -6 route | sed -n 's/^default .*via \\([^ ]*\\).*/route6: \\1/p'
        grep -h ^DNS= /run/systemd/netif/leases/* | sed 's/DNS=/dns: /'
        ping -c 1 -W 20 10.0.2.2 >/dev/null && echo ping: yes
        cat /tmp/networkd";
    let end = Guest::tuned()
        .args("--net user")
        .script(script)
        .unprivileged()
        .run()
        .succeeded();
    assert_eq!(end.value("four:"), "10.0.2.15/24");
    assert_eq!(end.value("route:"), "10.0.2.2");
    assert_eq!(end.value("route6:"), "fe80::2");
    assert_eq!(end.value("dns:"), "10.0.2.3");
    assert_eq!(end.value("six:"), "fd00::");
    assert_eq!(end.value("ping:"), "yes");
}

/// A guest that reboots in the middle of everything leaves nothing behind.
#[test]
fn connections_end_with_the_guest() {
    let address = Address::new(5);
    let listener = address.listener();
    let to = listener.local_addr().unwrap();
    let run = guest(
        "user",
        &format!("socat -u TCP:{to} OPEN:/tmp/x,creat & sleep 1000"),
    )
    .start();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let began = Instant::now();
    run.signal(libc::SIGQUIT);
    // The thread of the network leaves signals to the VM.
    assert_eq!(run.finish().status.code(), Some(131));
    let end = stream.read(&mut [0]);
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(began.elapsed() < Duration::from_secs(60));
}
