//! Frames: a kind, a length and a payload.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The longest payload, in bytes. Long enough for a process with a large
/// environment; short enough to be held in memory for each connection.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes before the payload: the kind, and the length in little endian.
const HEADER: usize = 5;

/// What went wrong with a frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The other side does not speak the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(String),
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`Request`](crate::Request) in JSON.
    Request = 1,
    /// A [`Reply`](crate::Reply) in JSON.
    Reply = 2,
    /// Bytes for standard input, or of an archive; empty at their end.
    Stdin = 3,
    /// Bytes from standard output, or of an archive; empty at their end.
    Stdout = 4,
    /// Bytes from standard error; empty at their end.
    Stderr = 5,
    /// The [`Exit`](crate::Exit) of a process in JSON, behind all of its output.
    Exit = 6,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::*;
        [Request, Reply, Stdin, Stdout, Stderr, Exit]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// Its bytes, [`MAX_PAYLOAD`] at most.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of bytes.
    pub fn new(kind: FrameKind, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        debug_assert!(payload.len() <= MAX_PAYLOAD);
        Frame { kind, payload }
    }

    /// A frame of JSON.
    ///
    /// # Errors
    /// When the message does not fit.
    pub fn json(kind: FrameKind, message: &impl Serialize) -> Result<Self, FrameError> {
        let payload =
            serde_json::to_vec(message).map_err(|e| FrameError::Protocol(e.to_string()))?;
        if payload.len() > MAX_PAYLOAD {
            return Err(FrameError::Protocol(format!(
                "a message of {} bytes; {MAX_PAYLOAD} are the most",
                payload.len()
            )));
        }
        Ok(Frame { kind, payload })
    }

    /// The payload as JSON.
    ///
    /// # Errors
    /// When the frame is of another kind, or does not parse.
    pub fn parse<T: DeserializeOwned>(&self, kind: FrameKind) -> Result<T, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Protocol(format!(
                "{:?} where {kind:?} was due",
                self.kind
            )));
        }
        // It repeats what it did not expect.
        serde_json::from_slice(&self.payload)
            .map_err(|e| FrameError::Protocol(crate::shorten(e.to_string())))
    }

    /// Writes the frame with one `write_all`.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.push(self.kind as u8);
        // Fits: MAX_PAYLOAD does.
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        to.write_all(&bytes)
    }

    /// Reads one frame; `None` at the end of the stream between two frames.
    ///
    /// # Errors
    /// The reader's, a stream that ends within a frame, or no frame at all.
    pub fn read_from(from: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut header = [0; HEADER];
        loop {
            match from.read(&mut header[..1]) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        from.read_exact(&mut header[1..])?;
        let [kind, len @ ..] = header;
        let kind = FrameKind::from_byte(kind)
            .ok_or_else(|| FrameError::Protocol(format!("a frame of kind {kind}")))?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_PAYLOAD {
            return Err(FrameError::Protocol(format!("a frame of {len} bytes")));
        }
        let mut payload = Vec::new();
        // Memory grows with what really comes, not with what was announced.
        from.take(len as u64).read_to_end(&mut payload)?;
        if payload.len() < len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(Some(Frame { kind, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let frames = [
            Frame::new(FrameKind::Stdin, *b"\0\xff\n"),
            Frame::new(FrameKind::Stdout, []),
            Frame::json(FrameKind::Exit, &"x").unwrap(),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write_to(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read_from(&mut from).unwrap().as_ref(), Some(frame));
        }
        assert!(Frame::read_from(&mut from).unwrap().is_none());
        assert_eq!(frames[2].parse::<String>(FrameKind::Exit).unwrap(), "x");
        assert!(frames[2].parse::<String>(FrameKind::Reply).is_err());
        assert!(frames[0].parse::<String>(FrameKind::Stdin).is_err());
    }

    #[test]
    fn an_error_is_shorter_than_what_it_is_about() {
        use crate::{Failure, MAX_MESSAGE, Reply};
        let parse = |json: String| {
            let frame = Frame::new(FrameKind::Reply, json);
            frame.parse::<Reply>(FrameKind::Reply)
        };
        let long = "ü\\u001b[2J".repeat(50_000);
        for json in [
            format!(r#"{{"{long}":1}}"#),
            format!(r#"{{"stats":"{long}"}}"#),
            format!(r#""{long}""#),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.chars().count() < MAX_MESSAGE + 100, "{}", error.len());
        }
        let json = format!(r#"{{"failed":{{"message":"{long}","status":0}}}}"#);
        let Ok(Reply::Failed(Failure { message, status })) = parse(json) else {
            panic!("it is a failure");
        };
        assert_eq!(message.chars().count(), MAX_MESSAGE + 1);
        assert!(message.ends_with('…'));
        assert_eq!(status, 125, "a failure is no success");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let read = |bytes: &[u8]| Frame::read_from(&mut &bytes[..]);
        assert!(matches!(
            read(&[9, 0, 0, 0, 0]),
            Err(FrameError::Protocol(_))
        ));
        assert!(matches!(
            read(&[3, 1, 0, 16, 0]),
            Err(FrameError::Protocol(_))
        ));
        assert!(matches!(read(&[3, 4, 0, 0, 0, 1]), Err(FrameError::Io(_))));
        assert!(matches!(read(&[3, 4]), Err(FrameError::Io(_))));
        assert!(Frame::json(FrameKind::Reply, &"x".repeat(MAX_PAYLOAD)).is_err());
    }
}
