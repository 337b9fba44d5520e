//! The session with an agent that a thread plays.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::*;
use crate::sandbox::control;
use crate::sandbox::guest;
use crate::sandbox::spec::tests::spec;

/// An agent behind a machine's socket. Its process does as the test says.
struct FakeAgent {
    /// The connection with the process's streams.
    process: Receiver<UnixStream>,
    /// Signals that came, each answered at once.
    signals: Receiver<i32>,
    resizes: Receiver<WindowSize>,
}

impl FakeAgent {
    fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (to_process, process) = channel();
        let (to_signals, signals) = channel();
        let (to_resizes, resizes) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let channels = (&to_process, &to_signals, &to_resizes);
                if answer(stream.unwrap(), channels).is_none() {
                    return;
                }
            }
        });
        FakeAgent {
            process,
            signals,
            resizes,
        }
    }
}

type Channels<'a> = (
    &'a Sender<UnixStream>,
    &'a Sender<i32>,
    &'a Sender<WindowSize>,
);

fn answer(mut stream: UnixStream, (process, signals, resizes): Channels<'_>) -> Option<()> {
    let mut line = [0; 13];
    stream.read_exact(&mut line).ok()?;
    assert_eq!(&line, b"CONNECT 1024\n");
    stream.write_all(b"OK 1\n").ok()?;
    let frame = Frame::read_from(&mut stream).ok()??;
    let request: protocol::Request = frame.parse(FrameKind::Request).unwrap();
    let mut reply = |reply| {
        let frame = Frame::json(FrameKind::Reply, &reply).unwrap();
        frame.write_to(&mut stream).unwrap();
    };
    match request {
        protocol::Request::Start(what) if what.args == ["missing"] => {
            reply(Reply::Failed(Failure {
                message: "no such program".into(),
                status: 127,
            }));
        }
        protocol::Request::Start(_) => {
            reply(Reply::Started { process: 42 });
            process.send(stream).ok()?;
        }
        protocol::Request::Signal {
            process: 42,
            signal,
        } => {
            reply(Reply::Done);
            signals.send(signal).ok()?;
        }
        protocol::Request::Resize { process: 42, size } => {
            reply(Reply::Done);
            resizes.send(size).ok()?;
        }
        other => panic!("{other:?}"),
    }
    Some(())
}

/// A session with its process started, as the monitor has it.
struct Setting {
    session: Arc<Session>,
    agent: FakeAgent,
    process: UnixStream,
    killed: Arc<AtomicBool>,
    pump: thread::JoinHandle<Result<Exit, FrameError>>,
    dir: tempfile::TempDir,
}

fn session(dir: &Path, timeout: Duration) -> (Arc<Session>, Arc<AtomicBool>) {
    let killed = Arc::new(AtomicBool::new(false));
    let flag = killed.clone();
    let stop = Stop {
        signal: libc::SIGTERM,
        timeout,
        stdin_once: true,
    };
    let machine = Levers {
        kill: Box::new(move || flag.store(true, Ordering::SeqCst)),
        limit: Box::new(|_| {}),
    };
    (
        Arc::new(Session::new(dir.join("vsock.sock"), stop, machine)),
        killed,
    )
}

fn setting(timeout: Duration) -> Setting {
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::listen(&dir.path().join("vsock.sock"));
    let (session, killed) = session(dir.path(), timeout);
    let output = session.start(guest::process(&spec("x"), None)).unwrap();
    let process = agent.process.recv().unwrap();
    let log = log::Writer::open(dir.path(), log::Limits::default()).unwrap();
    let pumping = session.clone();
    let pump = thread::spawn(move || pumping.pump(output, log));
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let serving = session.clone();
    thread::spawn(move || serving.serve(&listener));
    Setting {
        session,
        agent,
        process,
        killed,
        pump,
        dir,
    }
}

impl Setting {
    fn ask(&self, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.path().join("control.sock")).unwrap();
        control::send(&mut stream, request).unwrap();
        stream
    }

    fn attach(&self) -> UnixStream {
        let attach = Attach {
            stdin: true,
            output: true,
            size: None,
        };
        let mut stream = self.ask(&Request::Attach(attach));
        assert_eq!(control::reply(&mut stream), Ok(Reply::Done));
        // The answer is sent a moment before the client is added.
        thread::sleep(Duration::from_millis(50));
        stream
    }

    fn says(&mut self, kind: FrameKind, bytes: &[u8]) {
        Frame::new(kind, bytes).write_to(&mut self.process).unwrap();
    }

    fn ends(&mut self, status: u8) {
        let exit = Exit {
            status,
            oom_killed: false,
        };
        Frame::json(FrameKind::Exit, &exit)
            .unwrap()
            .write_to(&mut self.process)
            .unwrap();
    }
}

fn next(stream: &mut UnixStream) -> Option<Frame> {
    Frame::read_from(stream).unwrap()
}

#[test]
fn streams_go_both_ways_and_into_the_log() {
    let mut setting = setting(Duration::ZERO);
    let mut client = setting.attach();
    Frame::new(FrameKind::Stdin, *b"in\0")
        .write_to(&mut client)
        .unwrap();
    assert_eq!(
        next(&mut setting.process).unwrap(),
        Frame::new(FrameKind::Stdin, *b"in\0")
    );
    setting.says(FrameKind::Stdout, b"out\xff");
    setting.says(FrameKind::Stderr, b"err");
    assert_eq!(
        next(&mut client).unwrap(),
        Frame::new(FrameKind::Stdout, *b"out\xff")
    );
    assert_eq!(
        next(&mut client).unwrap(),
        Frame::new(FrameKind::Stderr, *b"err")
    );
    // The end of its input is the end of the process's.
    Frame::new(FrameKind::Stdin, [])
        .write_to(&mut client)
        .unwrap();
    assert_eq!(
        next(&mut setting.process).unwrap(),
        Frame::new(FrameKind::Stdin, [])
    );
    setting.says(FrameKind::Stdout, b"");
    setting.ends(7);
    assert_eq!(setting.pump.join().unwrap().unwrap().status, 7);
    let mut log = log::Reader::open(setting.dir.path()).unwrap();
    let pieces: Vec<_> = std::iter::from_fn(|| log.next().unwrap())
        .map(|p| (p.stream, p.bytes))
        .collect();
    assert_eq!(
        pieces,
        [
            (Stream::Stdout, b"out\xff".to_vec()),
            (Stream::Stderr, b"err".to_vec())
        ]
    );
}

#[test]
fn a_client_that_detaches_leaves_the_input_open_and_one_that_dies_does_not() {
    let mut setting = setting(Duration::ZERO);
    let mut client = setting.attach();
    control::send(&mut client, &Request::Detach).unwrap();
    drop(client);
    let mut client = setting.attach();
    Frame::new(FrameKind::Stdin, *b"more")
        .write_to(&mut client)
        .unwrap();
    assert_eq!(next(&mut setting.process).unwrap().payload, b"more");
    drop(client);
    assert_eq!(
        next(&mut setting.process).unwrap(),
        Frame::new(FrameKind::Stdin, [])
    );
}

#[test]
fn signals_and_sizes_reach_the_process() {
    let setting = setting(Duration::ZERO);
    let mut stream = setting.ask(&Request::Signal(libc::SIGUSR1));
    assert_eq!(control::reply(&mut stream), Ok(Reply::Done));
    assert_eq!(setting.agent.signals.recv().unwrap(), libc::SIGUSR1);
    let size = WindowSize { rows: 5, cols: 6 };
    let mut stream = setting.ask(&Request::Resize(size));
    assert_eq!(control::reply(&mut stream), Ok(Reply::Done));
    assert_eq!(setting.agent.resizes.recv().unwrap(), size);
    let mut stream = setting.ask(&Request::Signal(-1));
    // What signals there are is the guest's business.
    assert_eq!(control::reply(&mut stream), Ok(Reply::Done));
}

#[test]
fn a_stop_asks_first_and_kills_afterwards() {
    let mut setting = setting(Duration::from_millis(300));
    let waiter = setting.ask(&Request::Wait);
    let _stop = setting.ask(&Request::Stop {
        signal: Some(libc::SIGUSR2),
        timeout: None,
    });
    let before = Instant::now();
    assert_eq!(setting.agent.signals.recv().unwrap(), libc::SIGUSR2);
    assert_eq!(setting.agent.signals.recv().unwrap(), libc::SIGKILL);
    assert!(before.elapsed() >= Duration::from_millis(300));
    setting.ends(137);
    let exit = setting.pump.join().unwrap().unwrap();
    assert!(!setting.killed.load(Ordering::SeqCst));
    setting
        .session
        .clients
        .end(&Frame::json(FrameKind::Exit, &exit).unwrap());
    assert_eq!(control::wait_for_exit(&waiter, None).unwrap().status, 137);
}

#[test]
fn a_process_that_ends_when_asked_is_not_killed() {
    let mut setting = setting(Duration::from_secs(60));
    let stopping = setting.session.clone();
    let stop = thread::spawn(move || stopping.stop(None, None));
    assert_eq!(setting.agent.signals.recv().unwrap(), libc::SIGTERM);
    setting.ends(0);
    stop.join().unwrap();
    assert!(setting.agent.signals.try_recv().is_err());
    assert!(!setting.killed.load(Ordering::SeqCst));
}

#[test]
fn when_the_machine_ends_the_session_knows() {
    let setting = setting(Duration::ZERO);
    drop(setting.process);
    assert!(setting.pump.join().unwrap().is_err());
}

#[test]
fn before_the_start_only_an_end_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (session, killed) = session(dir.path(), Duration::ZERO);
    assert!(session.signal(libc::SIGUSR1).is_err());
    assert!(!killed.load(Ordering::SeqCst));
    session.signal(libc::SIGTERM).unwrap();
    assert!(killed.load(Ordering::SeqCst));
    let agent = FakeAgent::listen(&dir.path().join("vsock.sock"));
    let mut process = guest::process(&spec("x"), None);
    process.args = vec!["missing".into()];
    let Err(AgentError::Failed(failure)) = session.start(process) else {
        panic!("it started");
    };
    assert_eq!(failure.status, 127);
    drop(agent);
}

#[test]
fn of_clients_that_have_left_nothing_is_kept() {
    let setting = setting(Duration::ZERO);
    for _ in 0..20 {
        let mut waiter = setting.ask(&Request::Wait);
        assert_eq!(control::reply(&mut waiter), Ok(Reply::Done));
    }
    drop(setting.attach());
    let end = Instant::now() + Duration::from_secs(20);
    while setting.session.clients.len() > 0 {
        assert!(Instant::now() < end, "{}", setting.session.clients.len());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_shortage_of_descriptors_does_not_end_the_service() {
    for (code, goes_on) in [
        (libc::EMFILE, true),
        (libc::ENFILE, true),
        (libc::EINVAL, false),
        (libc::EBADF, false),
    ] {
        assert_eq!(passes(&io::Error::from_raw_os_error(code)), goes_on);
    }
}
