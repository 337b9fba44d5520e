//! virtio-vsock and its Unix sockets on the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{Guest, PATIENCE};

fn guest(script: &str) -> (Guest, String) {
    let guest = Guest::tuned().script(script);
    let path = guest.dir.path().join("vsock").display().to_string();
    let guest = guest.arg("--vsock").arg(format!("{path},cid=42"));
    (guest, path)
}

/// Connects to `port` in the guest; what the monitor answered, and the stream.
fn connect(path: &str, port: u32) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    // A reader of one byte at a time: what follows belongs to the stream.
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0].into());
        if byte[0] == b'\n' {
            break;
        }
    }
    (answer, stream)
}

/// The same once something listens there: under emulation a program takes seconds
/// to do so.
fn connect_once_it_listens(path: &str, port: u32) -> (String, UnixStream) {
    let limit = Instant::now() + PATIENCE;
    loop {
        let (answer, stream) = connect(path, port);
        if !answer.is_empty() || Instant::now() > limit {
            return (answer, stream);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_host_reaches_a_listener_in_the_guest() {
    let (guest, path) = guest(
        "socat VSOCK-LISTEN:1234,fork SYSTEM:'tr a-z A-Z' & sleep 1
         echo ready: yes
         socat -u VSOCK-LISTEN:99 -",
    );
    let run = guest.start();
    run.wait_for("ready: yes");
    let (answer, mut stream) = connect_once_it_listens(&path, 1234);
    assert!(answer.starts_with("OK "), "{answer:?}");
    stream.write_all(b"hello from the host\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "HELLO FROM THE HOST\n");

    let (answer, _) = connect(&path, 4321);
    assert_eq!(answer, "", "nobody listens there");

    let (_, mut stream) = connect_once_it_listens(&path, 99);
    stream.write_all(b"done\n").unwrap();
    drop(stream);
    run.finish().succeeded();
    assert!(UnixStream::connect(&path).is_err(), "the socket is gone");
}

#[test]
fn the_guest_reaches_a_listener_on_the_host() {
    let (guest, path) = guest(
        "echo cid: $(od -An -tu8 -N8 /sys/bus/virtio/devices/virtio*/config 2>/dev/null)
         echo hello from the guest | socat - VSOCK-CONNECT:2:1024 | sed 's/^/answer: /'
         head -c 3000000 /dev/zero | tr '\\0' x | socat -u - VSOCK-CONNECT:2:1025
         socat -u VSOCK-CONNECT:2:1026 - | wc -c | sed 's/^/got: /'
         socat -u - VSOCK-CONNECT:2:9 </dev/null 2>/dev/null || echo refused: yes",
    );
    let listen = |port: u32| UnixListener::bind(format!("{path}_{port}")).unwrap();
    let (echo, sink, source) = (listen(1024), listen(1025), listen(1026));
    let host = thread::spawn(move || {
        let (stream, _) = echo.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (&stream)
            .write_all(format!("you said {line}").as_bytes())
            .unwrap();
        drop(stream);
        let (mut stream, _) = sink.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let (mut stream, _) = source.accept().unwrap();
        stream.write_all(&vec![b'y'; 2_000_000]).unwrap();
        (line, all)
    });
    let end = guest.run().succeeded();
    let (line, all) = host.join().unwrap();
    assert_eq!(line, "hello from the guest\n");
    assert!(all.len() == 3_000_000 && all.iter().all(|b| *b == b'x'));
    assert_eq!(end.value("answer:"), "you said hello from the guest");
    assert_eq!(end.number("got:"), 2_000_000);
    assert_eq!(end.value("refused:"), "yes");
}
