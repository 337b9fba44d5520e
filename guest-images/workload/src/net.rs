//! Streams to and from drupe on the host, which listens there
//! (`src/bench/peer.rs`), timed. The first byte of a connection says what is to
//! happen on it.

use crate::calls;
use crate::out::Line;
use crate::sys::{self, Errno, Result};

/// Bytes of one call in a stream.
const LARGE: usize = 128 << 10;
/// Connections that are opened at most: each keeps a port for a minute.
const MOST: u64 = 200;

/// What the other side is to do: read until the end and say so, write until the
/// end, or send each byte back.
const SINK: u8 = b's';
const SOURCE: u8 = b'f';
const ECHO: u8 = b'e';

/// Prints, of each, how many bytes, round trips or connections there were, and the
/// nanoseconds that all took.
pub fn run(host: [u8; 4], port: u16, budget: u64) -> Result<()> {
    let mut memory = sys::Memory::new(LARGE)?;
    let buffer = memory.bytes();
    buffer.fill(0xa5);
    let open = |what: u8| {
        let socket = sys::connect(host, port)?;
        all(sys::write(socket, &[what])?, 1)?;
        Ok(socket)
    };
    // What is on its way when the time is up counts when it has arrived.
    let socket = open(SINK)?;
    let (mut count, start) = (0, sys::now());
    loop {
        count += sys::write(socket, buffer)? as u64;
        if sys::now() - start >= budget {
            break;
        }
    }
    sys::end_sending(socket)?;
    all(sys::read(socket, &mut buffer[..1])?, 1)?;
    report("out", count, sys::now() - start);
    sys::close(socket);

    let socket = open(SOURCE)?;
    // From the first that comes on: the way there is not part of it.
    all(sys::read(socket, &mut buffer[..1])?, 1)?;
    let (mut count, start) = (0, sys::now());
    let time = loop {
        count += some(sys::read(socket, buffer)?)?;
        let time = sys::now() - start;
        if time >= budget {
            break time;
        }
    };
    report("in", count, time);
    sys::close(socket);

    let socket = open(ECHO)?;
    let mut byte = [0];
    let echo = |byte: &mut [u8]| {
        all(sys::write(socket, byte)?, 1)?;
        all(sys::read(socket, byte)?, 1)
    };
    calls::measure("round-trip", budget, 10, || echo(&mut byte))?;
    sys::close(socket);

    let (mut count, mut time) = (0, 0);
    loop {
        let start = sys::now();
        let socket = sys::connect(host, port)?;
        time += sys::now() - start;
        count += 1;
        // The other side has taken it before the next one comes: none has to
        // wait in a queue.
        all(sys::write(socket, &[ECHO, 0])?, 2)?;
        all(sys::read(socket, &mut byte)?, 1)?;
        sys::close(socket);
        if count == MOST || time >= budget {
            break;
        }
    }
    report("connect", count, time);
    Ok(())
}

fn report(name: &str, count: u64, time: u64) {
    Line::new().word(name).number(count).number(time).end();
}

/// Less is the end of the connection.
fn all(done: usize, wanted: usize) -> Result<()> {
    match done == wanted {
        true => Ok(()),
        false => Err(Errno::ECONNRESET),
    }
}

fn some(done: usize) -> Result<u64> {
    match done {
        0 => Err(Errno::ECONNRESET),
        n => Ok(n as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    /// The other side in short.
    fn peer(listener: TcpListener) {
        for mut stream in listener.incoming().map(|stream| stream.unwrap()).take(4) {
            let mut what = [0];
            stream.read_exact(&mut what).unwrap();
            match what[0] {
                SINK => {
                    let read = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
                    assert!(read > 0);
                    stream.write_all(b".").unwrap();
                }
                SOURCE => while stream.write_all(&[0; 4096]).is_ok() {},
                ECHO => {
                    while let Ok(1) = stream.read(&mut what) {
                        if stream.write_all(&what).is_err() {
                            break;
                        }
                    }
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn it_speaks_with_the_other_side() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = thread::spawn(|| peer(listener));
        // No time for more than one of each.
        run([127, 0, 0, 1], port, 0).unwrap();
        peer.join().unwrap();
        // Nobody listens any more.
        assert_eq!(run([127, 0, 0, 1], port, 0), Err(Errno::ECONNREFUSED));
    }
}
