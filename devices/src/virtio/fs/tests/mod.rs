//! The device behind its transport, driven by a small FUSE client on the fake
//! driver.

use std::ffi::CString;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::abi::{IN_HEADER, OUT_HEADER, ROOT, init_flag, opcode};
use super::*;
use crate::testing::{Desc, Driver};

mod data;
mod device;
mod escape;
mod hostile;
mod limits;
mod meta;
mod names;

/// Where requests and answers lie.
const REQUEST: u64 = 0x1000;
const ANSWER: u64 = 0x4_0000;
const ROOM: u32 = 0x2_0000;
/// Descriptors that a share under test may hold.
const FILES: usize = 400;

/// A guest's kernel, as far as the device sees of it.
struct Client {
    d: Driver,
    fs: Arc<Mutex<Fs>>,
    unique: u64,
    /// Who asks.
    uid: u32,
    gid: u32,
}

/// What `LOOKUP` and others tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    node: u64,
    size: u64,
    mode: u32,
    nlink: u32,
    owner: (u32, u32),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn found(entry: &[u8]) -> Found {
    let attr = attr(&entry[40..]);
    Found {
        node: u64_at(entry, 0),
        ..attr
    }
}

fn attr(attr: &[u8]) -> Found {
    Found {
        node: 0,
        size: u64_at(attr, 8),
        mode: u32_at(attr, 60),
        nlink: u32_at(attr, 64),
        owner: (u32_at(attr, 68), u32_at(attr, 72)),
    }
}

/// Integers and strings, one after another.
fn body(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    CString::new(text.as_ref()).unwrap().into_bytes_with_nul()
}

impl Client {
    fn new(path: &Path, options: &str) -> Self {
        let mut client = Self::not_started(path, options);
        assert!(client.d.start(0));
        client.init();
        client
    }

    fn not_started(path: &Path, options: &str) -> Self {
        let spec: FsSpec = format!("{},tag=t{options}", path.display())
            .parse()
            .unwrap();
        let mut fs = Fs::open(&spec, 0, FILES).unwrap();
        fs.serve_on_event_loop();
        fs.limit_space(16 << 20);
        Self::over(fs)
    }

    fn over(fs: Fs) -> Self {
        let fs = Arc::new(Mutex::new(fs));
        Client {
            d: Driver::shared(fs.clone()),
            fs,
            unique: 0,
            uid: 0,
            gid: 0,
        }
    }

    fn in_dir(options: &str) -> (TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path(), options);
        (dir, client)
    }

    fn init(&mut self) -> Vec<u8> {
        let words = [7u32, 45, 0x2_0000, u32::MAX, u32::MAX];
        let mut args: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        args.resize(64, 0);
        self.call(opcode::INIT, 0, &args).unwrap()
    }

    fn header(&mut self, kind: u32, node: u64, len: usize) -> Vec<u8> {
        self.unique += 1;
        let len = (IN_HEADER + len) as u32;
        let mut header = Vec::new();
        header.extend(len.to_le_bytes());
        header.extend(kind.to_le_bytes());
        header.extend(self.unique.to_le_bytes());
        header.extend(node.to_le_bytes());
        for word in [self.uid, self.gid, 77, 0] {
            header.extend(word.to_le_bytes());
        }
        header
    }

    /// One request with its answer behind the header, or the error number.
    fn call(&mut self, kind: u32, node: u64, args: &[u8]) -> Result<Vec<u8>, i32> {
        let mut request = self.header(kind, node, args.len());
        request.extend(args);
        assert!(request.len() < (ANSWER - REQUEST) as usize);
        self.d.put(REQUEST, &request);
        self.d.put(ANSWER, &[0xee; 64]);
        let chain = [
            Desc::readable(REQUEST, IN_HEADER as u32),
            Desc::readable(REQUEST + IN_HEADER as u64, args.len() as u32),
            Desc::writable(ANSWER, OUT_HEADER as u32),
            Desc::writable(ANSWER + OUT_HEADER as u64, ROOM),
        ];
        let written = self.d.request(1, &chain) as usize;
        self.answer(written)
    }

    fn answer(&mut self, written: usize) -> Result<Vec<u8>, i32> {
        let answer = self.d.get(ANSWER, written);
        assert_eq!(u32_at(&answer, 0) as usize, written);
        assert_eq!(u64_at(&answer, 8), self.unique);
        match u32_at(&answer, 4) as i32 {
            0 => Ok(answer[OUT_HEADER..].to_vec()),
            error => {
                assert_eq!(written, OUT_HEADER);
                Err(-error)
            }
        }
    }

    fn lookup(&mut self, node: u64, name: impl AsRef<[u8]>) -> Result<Found, i32> {
        let answer = self.call(opcode::LOOKUP, node, &text(name))?;
        assert_eq!(answer.len(), 128);
        assert_eq!(answer[16..40], [0; 24], "valid for no time");
        Ok(found(&answer))
    }

    fn forget(&mut self, node: u64, count: u64) {
        let mut request = self.header(opcode::FORGET, node, 8);
        request.extend(count.to_le_bytes());
        self.d.put(REQUEST, &request);
        let chain = [Desc::readable(REQUEST, request.len() as u32)];
        assert_eq!(self.d.request(0, &chain), 0);
    }

    fn getattr(&mut self, node: u64) -> Result<Found, i32> {
        let answer = self.call(opcode::GETATTR, node, &[0; 16])?;
        assert_eq!((answer.len(), &answer[..16]), (104, &[0; 16][..]));
        Ok(Found {
            node,
            ..attr(&answer[16..])
        })
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let args = body(&[&(flags as u32).to_le_bytes(), &[0; 4]]);
        let answer = self.call(opcode::OPEN, node, &args)?;
        Ok(u64_at(&answer, 0))
    }

    fn create(&mut self, node: u64, name: &str, flags: i32) -> Result<(Found, u64), i32> {
        let args = body(&[
            &(flags as u32 | libc::O_CREAT as u32).to_le_bytes(),
            &(libc::S_IFREG | 0o644).to_le_bytes(),
            &[0; 8],
            &text(name),
        ]);
        let answer = self.call(opcode::CREATE, node, &args)?;
        assert_eq!(answer.len(), 144);
        Ok((found(&answer), u64_at(&answer, 128)))
    }

    fn mkdir(&mut self, node: u64, name: &str) -> Result<Found, i32> {
        let args = body(&[&0o755u32.to_le_bytes(), &[0; 4], &text(name)]);
        let answer = self.call(opcode::MKDIR, node, &args)?;
        Ok(found(&answer))
    }

    fn io_args(handle: u64, offset: u64, size: u32, kind: u32, flags: i32) -> Vec<u8> {
        body(&[
            &handle.to_le_bytes(),
            &offset.to_le_bytes(),
            &size.to_le_bytes(),
            &kind.to_le_bytes(),
            &[0; 8],
            &(flags as u32).to_le_bytes(),
            &[0; 4],
        ])
    }

    fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let args = Self::io_args(handle, offset, size, 0, 0);
        self.call(opcode::READ, node, &args)
    }

    fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        self.write_as(node, handle, offset, data, 0, 0)
    }

    fn write_as(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        kind: u32,
        flags: i32,
    ) -> Result<u32, i32> {
        let mut args = Self::io_args(handle, offset, data.len() as u32, kind, flags);
        args.extend(data);
        let answer = self.call(opcode::WRITE, node, &args)?;
        Ok(u32_at(&answer, 0))
    }

    /// All entries, with their look-ups if `plus`.
    fn list(&mut self, node: u64, plus: bool, size: u32) -> Result<Vec<(String, Found)>, i32> {
        let answer = self.call(opcode::OPENDIR, node, &[0; 8])?;
        let handle = u64_at(&answer, 0);
        let mut entries = Vec::new();
        let mut next = 0;
        loop {
            let kind = match plus {
                true => opcode::READDIRPLUS,
                false => opcode::READDIR,
            };
            let args = Self::io_args(handle, next, size, 0, 0);
            let answer = self.call(kind, node, &args)?;
            if answer.is_empty() {
                break;
            }
            assert!(answer.len() <= size as usize);
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let mut entry = found(&[0; 128]);
                if plus {
                    entry = found(rest);
                    rest = &rest[128..];
                }
                next = u64_at(rest, 8);
                let len = u32_at(rest, 16) as usize;
                entry.mode = u32_at(rest, 20) << 12;
                let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
                entries.push((name, entry));
                rest = &rest[24 + len.next_multiple_of(8)..];
            }
        }
        let args = body(&[&handle.to_le_bytes(), &[0; 16]]);
        self.call(opcode::RELEASEDIR, node, &args)?;
        Ok(entries)
    }

    fn names(&mut self, node: u64) -> Vec<String> {
        let list = self.list(node, false, 4096).unwrap();
        let mut names: Vec<_> = list.into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    /// Descriptors that the device holds for the guest.
    fn held(&self) -> (usize, usize) {
        let fs = self.fs.lock().unwrap();
        (fs.server.nodes.len(), fs.server.handles.len())
    }
}
