//! virtio-net over TAP, against the host's own network stack.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{Guest, host};

/// A TAP with an address of its own, gone when dropped.
pub struct Tap {
    pub name: String,
    pub host: Ipv4Addr,
    guest: Ipv4Addr,
}

impl Tap {
    /// `n` tells the TAPs of one test process apart.
    pub fn new(n: u8) -> Self {
        let tap = Tap {
            name: format!("drupetest{n}"),
            host: Ipv4Addr::new(10, 97, n, 1),
            guest: Ipv4Addr::new(10, 97, n, 2),
        };
        host("ip", &["tuntap", "add", &tap.name, "mode", "tap"]);
        host(
            "ip",
            &["addr", "add", &format!("{}/24", tap.host), "dev", &tap.name],
        );
        host("ip", &["link", "set", &tap.name, "up"]);
        tap
    }

    /// Shell lines that bring the guest's end up.
    pub fn guest_setup(&self) -> String {
        format!(
            "set -e
             nic=$(ls -d /sys/class/net/*/device | head -n 1); nic=$(basename $(dirname $nic))
             ip addr add {}/24 dev $nic
             ip link set $nic up
             for i in $(seq 100); do ping -c 1 -W 1 {} >/dev/null 2>&1 && break; sleep 0.1; done",
            self.guest, self.host
        )
    }

    pub fn attach(&self, guest: Guest, options: &str) -> Guest {
        guest
            .arg("--net")
            .arg(format!("tap={}{options}", self.name))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", &self.name])
            // A test may have removed it itself.
            .stderr(Stdio::null())
            .status();
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn iperf_runs_both_ways() {
    let tap = Tap::new(1);
    let server = Command::new("iperf3")
        .args(["-s", "-B", &tap.host.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .expect("iperf3: tools/deps installs it");
    let _server = Server(server);
    let script = format!(
        "{}
         iperf3 -c {host} -n 4M -J > /tmp/up
         iperf3 -c {host} -n 4M -R -J > /tmp/down
         iperf3 -c {host} -n 4M -P 4 -J > /tmp/four
         for way in up down four; do
             echo $way: $(grep -A6 '\"sum_received\"' /tmp/$way | sed -n 's/.*\"bytes\":[^0-9]*\\([0-9]*\\).*/\\1/p')
         done
         echo dropped: $(cat /sys/class/net/$nic/statistics/rx_errors)",
        tap.guest_setup(),
        host = tap.host
    );
    let end = tap
        .attach(Guest::tuned().args("--cpus 2").script(&script), "")
        .run()
        .succeeded();
    for way in ["up:", "down:", "four:"] {
        // What is still under way when the sender has sent all is not counted.
        assert!(end.number(way) > 0, "{way} {}", end.console);
    }
    assert_eq!(end.number("dropped:"), 0);
}

/// A card's limits, both ways: three times what passes at once takes two times as
/// long as it is refilled in.
#[test]
fn a_tap_is_held_to_its_limits() {
    const RATE: usize = 128 << 10;
    const LEAST: Duration = Duration::from_millis(1900);
    let tap = Tap::new(4);
    let listener = TcpListener::bind(SocketAddrV4::new(tap.host, 0)).unwrap();
    let script = format!(
        "{}
         bash -ec 'exec 3<>/dev/tcp/{}/{}
             head -c {size} /dev/zero >&3
             head -c {size} <&3 | wc -c >&3'",
        tap.guest_setup(),
        tap.host,
        listener.local_addr().unwrap().port(),
        size = 3 * RATE
    );
    let guest = Guest::tuned().script(&script);
    let guest = tap.attach(guest, &format!(",tx-bw={RATE},rx-bw={RATE}"));
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![1; 3 * RATE];
        let start = Instant::now();
        stream.read_exact(&mut buffer).unwrap();
        let sent = start.elapsed();
        assert!(buffer.iter().all(|byte| *byte == 0));
        let start = Instant::now();
        stream.write_all(&buffer).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (sent, start.elapsed(), answer)
    });
    guest.run().succeeded();
    let (sent, received, answer) = peer.join().unwrap();
    eprintln!("384 KiB at 128 KiB in a second: sent in {sent:?}, received in {received:?}");
    assert_eq!(answer.trim(), (3 * RATE).to_string());
    assert!(sent >= LEAST && received >= LEAST, "{sent:?}, {received:?}");
}

/// 100 MB each way, the host's compared byte by byte and the guest's by the sum
/// of what arrived; both cards of the guest, the second by its MAC address.
#[test]
fn a_hundred_megabytes_keep_their_checksum() {
    const SIZE: usize = 100_000_000;
    let (tap, second) = (Tap::new(2), Tap::new(3));
    let listener = TcpListener::bind(SocketAddrV4::new(tap.host, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let host_side = thread::spawn(move || {
        let expected = numbers(SIZE);
        let (mut from, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        from.read_to_end(&mut received).unwrap();
        drop(from);
        let (mut to, _) = listener.accept().unwrap();
        let sent = to.write_all(&expected);
        (received.len(), received == expected, sent)
    });
    let script = format!(
        "{}
         seq 1 20000000 | head -c {SIZE} | socat -b 65536 -u - TCP:{host}:{port}
         socat -b 65536 -u TCP:{host}:{port} - | cksum | sed 's/^/down: /'
         card=$(dirname $(grep -il 52:54:00:12:34:56 /sys/class/net/*/address))
         echo second: $(cat $card/mtu)",
        tap.guest_setup(),
        host = tap.host
    );
    let guest = Guest::tuned().args("--cpus 2").script(&script);
    let guest = tap.attach(guest, "");
    let guest = second.attach(guest, ",mac=52:54:00:12:34:56,mtu=1400");
    let end = guest.run().succeeded();
    let (received, same, sent) = host_side.join().unwrap();
    assert!(
        received == SIZE && same,
        "{received} bytes\n{}",
        end.console
    );
    sent.unwrap_or_else(|e| panic!("{e}\n{}", end.console));
    assert_eq!(end.number("second:"), 1400);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), numbers(SIZE)).unwrap();
    let sum = host("cksum", &[file.path().to_str().unwrap()]);
    let words = |text: &str| -> Vec<String> { text.split(' ').take(2).map(String::from).collect() };
    assert_eq!(words(end.value("down:")), words(&sum));
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
