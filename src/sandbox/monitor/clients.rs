//! The clients of a monitor that wait for output, or for the end.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::{Frame, FrameKind};

/// How often a write to a client that does not read is looked at again.
const PATIENCE: Duration = Duration::from_millis(200);

/// A client.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    output: bool,
    gone: AtomicBool,
}

impl Client {
    /// A client that reads from `stream`, and there `output` as well as the end.
    ///
    /// # Errors
    /// When the connection cannot be set up.
    pub fn new(stream: &UnixStream, output: bool) -> io::Result<Self> {
        let stream = stream.try_clone()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream,
            output,
            gone: AtomicBool::new(false),
        })
    }

    /// It reads nothing any more.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Writes `bytes`, and waits for a client that is slow, until `enough`. One
    /// that has gone is not waited for.
    pub fn write(&self, mut bytes: &[u8], enough: impl Fn() -> bool) {
        while !bytes.is_empty() && !self.gone.load(Ordering::Relaxed) {
            match (&self.stream).write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !enough() => {}
                // After half a frame nothing else makes sense to it.
                Err(_) => self.leave(),
            }
        }
    }
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    list: Mutex<Vec<Arc<Client>>>,
    /// Nobody is waited for any more.
    hurry: AtomicBool,
}

impl Clients {
    /// Adds one.
    pub fn add(&self, client: Arc<Client>) {
        self.lock().push(client);
    }

    /// Lets go of those that have left.
    pub fn tidy(&self) {
        self.lock()
            .retain(|client| !client.gone.load(Ordering::Relaxed));
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// From now on, clients that do not read are left behind.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Gives output to all who want it. A client that does not read keeps the
    /// sandbox's process waiting, as a terminal does.
    pub fn output(&self, kind: FrameKind, payload: Vec<u8>) {
        if let Some(clients) = self.those(|client| client.output) {
            self.send(&clients, &Frame::new(kind, payload));
        }
    }

    /// Tells everybody the end.
    pub fn end(&self, frame: &Frame) {
        if let Some(clients) = self.those(|_| true) {
            self.send(&clients, frame);
        }
    }

    fn send(&self, clients: &[Arc<Client>], frame: &Frame) {
        let mut bytes = Vec::new();
        // Writing to memory cannot fail.
        let _ = frame.write_to(&mut bytes);
        for client in clients {
            client.write(&bytes, || self.hurry.load(Ordering::Relaxed));
        }
    }

    /// Those who are there and wanted; `None` when that is nobody.
    fn those(&self, wanted: impl Fn(&Client) -> bool) -> Option<Vec<Arc<Client>>> {
        let mut list = self.lock();
        list.retain(|client| !client.gone.load(Ordering::Relaxed));
        let those: Vec<_> = list.iter().filter(|c| wanted(c)).cloned().collect();
        (!those.is_empty()).then_some(those)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Client>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn client(clients: &Clients, output: bool) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        clients.add(Arc::new(Client::new(&near, output).unwrap()));
        far
    }

    #[test]
    fn output_goes_to_who_wants_it_and_the_end_to_all() {
        let clients = Clients::default();
        let mut reader = client(&clients, true);
        let mut waiter = client(&clients, false);
        clients.output(FrameKind::Stderr, b"text".to_vec());
        clients.end(&Frame::new(FrameKind::Exit, *b"{}"));
        let frame = |from: &mut UnixStream| Frame::read_from(from).unwrap().unwrap();
        assert_eq!(frame(&mut reader), Frame::new(FrameKind::Stderr, *b"text"));
        assert_eq!(frame(&mut reader).kind, FrameKind::Exit);
        assert_eq!(frame(&mut waiter).kind, FrameKind::Exit);
    }

    #[test]
    fn a_dead_client_stops_nobody() {
        let clients = Clients::default();
        drop(client(&clients, true));
        let mut reader = client(&clients, true);
        let piece = vec![1; 100_000];
        thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|_| clients.output(FrameKind::Stdout, piece.clone())));
            for _ in 0..20 {
                assert_eq!(
                    Frame::read_from(&mut reader).unwrap().unwrap().payload,
                    piece
                );
            }
        });
    }

    #[test]
    fn a_client_that_does_not_read_is_waited_for_until_there_is_no_time() {
        let clients = Clients::default();
        let mut slow = client(&clients, true);
        thread::scope(|scope| {
            let writer = scope.spawn(|| clients.output(FrameKind::Stdout, vec![1; 1 << 20]));
            thread::sleep(3 * PATIENCE);
            assert!(!writer.is_finished());
            assert_eq!(
                Frame::read_from(&mut slow).unwrap().unwrap().payload.len(),
                1 << 20
            );
            writer.join().unwrap();
            let writer = scope.spawn(|| clients.output(FrameKind::Stdout, vec![1; 1 << 20]));
            thread::sleep(PATIENCE);
            assert!(!writer.is_finished());
            clients.hurry();
            writer.join().unwrap();
        });
        assert!(clients.those(|_| true).is_none());
    }
}
