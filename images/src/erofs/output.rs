//! A file that is written front to back, with holes where nothing was written;
//! and a place to put small data aside.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;

/// The image being written.
pub struct Output {
    file: File,
    buffer: Box<[u8]>,
    /// Less than the buffer's size between calls.
    filled: usize,
    /// Where in the file the buffer begins.
    start: u64,
}

impl Output {
    pub fn new(file: File, position: u64) -> Self {
        Output {
            file,
            buffer: vec![0; BUFFER].into(),
            filled: 0,
            start: position,
        }
    }

    pub fn position(&self) -> u64 {
        self.start + self.filled as u64
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(BUFFER - self.filled);
            self.buffer[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Copies exactly `len` bytes.
    pub fn copy_from(&mut self, from: &mut impl Read, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let room = (BUFFER - self.filled).min(usize::try_from(len).unwrap_or(usize::MAX));
            let n = match from.read(&mut self.buffer[self.filled..self.filled + room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.filled += n;
            len -= n as u64;
            if self.filled == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Goes on at `position`, at or behind the present one. What lies between
    /// reads as zeroes.
    pub fn advance_to(&mut self, position: u64) -> io::Result<()> {
        let gap = position.saturating_sub(self.position());
        // A short gap costs less in the buffer than as another write.
        if gap < (BUFFER - self.filled) as u64 {
            let end = self.filled + gap as usize;
            self.buffer[self.filled..end].fill(0);
            self.filled = end;
            return Ok(());
        }
        self.flush()?;
        self.start = position;
        Ok(())
    }

    /// The file, complete, `position` bytes long.
    pub fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        self.file.set_len(self.start)?;
        Ok(self.file)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file
            .write_all_at(&self.buffer[..self.filled], self.start)?;
        self.start += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

/// Bytes that are held in memory before the rest goes to a file.
const ASIDE_IN_MEMORY: usize = 16 << 20;

/// Small data that are written behind their inodes later on: their number has
/// no bound that memory could hold.
pub struct Aside {
    memory: Vec<u8>,
    file: File,
    /// What is waiting to be written to the file.
    tail: Vec<u8>,
    in_file: u64,
}

impl Aside {
    /// `file` is empty, and belongs to nobody else.
    pub fn new(file: File) -> Self {
        Aside {
            memory: Vec::new(),
            file,
            tail: Vec::new(),
            in_file: 0,
        }
    }

    /// Adds exactly `len` bytes and tells where they are.
    pub fn copy_from(&mut self, from: &mut impl Read, len: u64) -> io::Result<u64> {
        let at = (self.memory.len() + self.tail.len()) as u64 + self.in_file;
        let fits = self.memory.len() as u64 + len <= ASIDE_IN_MEMORY as u64;
        let to = if fits && self.tail.is_empty() && self.in_file == 0 {
            &mut self.memory
        } else {
            &mut self.tail
        };
        let before = to.len();
        from.take(len).read_to_end(to)?;
        if ((to.len() - before) as u64) < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.tail.len() >= BUFFER {
            self.file.write_all_at(&self.tail, self.in_file)?;
            self.in_file += self.tail.len() as u64;
            self.tail.clear();
        }
        Ok(at)
    }

    /// Nothing more is added.
    pub fn close(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.tail, self.in_file)?;
        self.tail = Vec::new();
        Ok(())
    }

    /// Appends `len` bytes from `at` to `out`.
    pub fn read(&self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let in_memory = self.memory.len() as u64;
        if at < in_memory {
            let at = at as usize;
            let bytes = self.memory.get(at..at + len);
            out.extend(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            return Ok(());
        }
        let start = out.len();
        out.resize(start + len, 0);
        self.file.read_exact_at(&mut out[start..], at - in_memory)
    }
}
