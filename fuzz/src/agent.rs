//! What an agent says to the monitor and to `drupe`, and the log that comes of
//! it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use protocol::{Exit, Frame, FrameKind, Reply, Request};
use serde::de::DeserializeOwned;
use vmm::config::ByteSize;

use crate::Input;
use crate::dir::Dir;
use crate::sandbox::agent::{Agent, FrameReader};
use crate::sandbox::log::{self, Piece, Stream};
use crate::sandbox::spec::Spec;
use crate::sandbox::state::State;

/// Fits into a socket that nobody reads yet.
const MAX_STREAM: usize = 64 << 10;
const JSON: [&[u8]; 8] = [
    b"\"done\"",
    b"{\"started\":{\"process\":7}}",
    b"{\"failed\":{\"message\":\"no\",\"status\":127}}",
    b"{\"entry\":{\"mode\":33188,\"size\":3,\"link\":null}}",
    b"{\"processes\":[]}",
    b"{\"status\":0,\"oom_killed\":false}",
    b"\"stats\"",
    b"{}",
];

/// The first byte chooses who reads.
pub fn agent(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    match how % 6 {
        0 => replies(&stream(&mut input)),
        1 => archive(&stream(&mut input)),
        2 => output(&stream(&mut input), how >= 0x80),
        3 => hostile_log(input.rest()),
        4 => {
            messages::<Request>(input.rest());
            messages::<Reply>(input.rest());
        }
        _ => files(input.rest()),
    }
}

/// Frames, some of which are none.
fn stream(input: &mut Input) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !input.is_empty() && bytes.len() < MAX_STREAM {
        let kind = input.u8();
        let payload = match kind & 0x18 {
            0 => JSON[usize::from(input.u8()) % JSON.len()].to_vec(),
            8 => vec![input.u8(); input.len() as usize & 0x3fff],
            _ => {
                let n = usize::from(input.u8());
                input.bytes(n).to_vec()
            }
        };
        let len = match kind {
            0xf0.. => input.u32(),
            _ => payload.len() as u32,
        };
        bytes.push(kind % 8);
        bytes.extend(len.to_le_bytes());
        bytes.extend(payload);
    }
    bytes.truncate(MAX_STREAM);
    bytes
}

/// As whoever asked reads its answer.
fn replies(bytes: &[u8]) {
    let (near, mut far) = UnixStream::pair().expect("sockets");
    far.write_all(bytes).expect("room");
    drop(far);
    let mut agent = Agent::on(near);
    while let Ok(reply) = agent.reply(Some(Duration::from_secs(1))) {
        assert!(!matches!(reply, Reply::Failed(_)));
    }
}

/// As `drupe cp` reads an archive: never more than came.
fn archive(bytes: &[u8]) {
    let (near, mut far) = UnixStream::pair().expect("sockets");
    far.write_all(bytes).expect("room");
    drop(far);
    let mut read = Vec::new();
    let _ = FrameReader::new(near, FrameKind::Stdout).read_to_end(&mut read);
    assert!(read.len() <= bytes.len());
}

/// As the monitor passes output on: the log has all of it, in order, in one file
/// or in many.
fn output(bytes: &[u8], many: bool) {
    let dir = Dir::new();
    let limits = match many {
        true => log::Limits {
            max_size: ByteSize(4 << 10),
            max_files: 100,
        },
        false => log::Limits::default(),
    };
    let mut writer = log::Writer::open(&dir.inner(), limits).expect("a log");
    let mut said = Vec::new();
    let mut from = bytes;
    while let Ok(Some(frame)) = Frame::read_from(&mut from) {
        let mut again = Vec::new();
        frame.write_to(&mut again).expect("memory");
        assert_eq!(
            Frame::read_from(&mut &again[..]).ok().flatten().as_ref(),
            Some(&frame)
        );
        match frame.kind {
            FrameKind::Stdout => {
                writer.write(Stream::Stdout, &frame.payload).expect("a log");
                said.extend(frame.payload);
            }
            FrameKind::Exit => {
                let _ = frame.parse::<Exit>(FrameKind::Exit);
            }
            _ => {}
        }
    }
    let read: Vec<u8> = pieces(&dir).into_iter().flat_map(|p| p.bytes).collect();
    assert!(read == said, "the log has other bytes");
}

fn pieces(dir: &Dir) -> Vec<Piece> {
    let mut reader = log::Reader::open(&dir.inner()).expect("a log");
    std::iter::from_fn(|| reader.next().expect("a log")).collect()
}

/// A log that was damaged, and goes on.
fn hostile_log(bytes: &[u8]) {
    let dir = Dir::new();
    fs::write(dir.inner().join(log::FILE), bytes).expect("a file");
    let before = pieces(&dir).len();
    let mut writer = log::Writer::open(&dir.inner(), log::Limits::default()).expect("a log");
    writer.write(Stream::Stderr, b"after").expect("a log");
    let after = pieces(&dir);
    assert!(after.len() > before, "a line was lost");
    assert_eq!(after.last().map(|p| &p.bytes[..]), Some(&b"after"[..]));
}

/// What was understood means the same when it is said again.
fn messages<T: DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&message).expect("JSON can say it");
        let again: T = serde_json::from_slice(&again).expect("JSON can be read back");
        assert_eq!(again, message);
    }
}

/// A sandbox's own files, which a monitor that was taken over can write.
fn files(bytes: &[u8]) {
    messages::<State>(bytes);
    messages::<Spec>(bytes);
    if let Ok(state) = serde_json::from_slice::<State>(bytes) {
        let _ = state.text();
    }
}
