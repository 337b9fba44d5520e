//! One FUSE request, from its chain to its answer (virtio 1.2 §5.11.6).

use std::io::{Read, Write};
use std::sync::Arc;

use rustix::io::Errno;

use super::abi::{Args, Header, IN_HEADER, OUT_HEADER, Out, WRITE_IN, init_flag, opcode, set};
use super::abi::{MAJOR, MIN_MINOR, MINOR};
use super::owner::Owners;
use super::share::{Root, Share};
use super::tables::{Handles, Inode, Nodes};
use crate::rate_limit::Limiter;
use crate::virtio::stop::Stop;
use crate::virtio::throttle::Throttle;
use crate::virtio::{Chain, GuestBuffer, Violation};

/// The most data of one read or write: 1 MiB, 256 pages.
pub const MAX_DATA: u32 = 1 << 20;
/// In pages.
const MAX_PAGES: u16 = 256;
/// The most bytes of arguments of any request but a write: a value of an
/// extended attribute and its name take the most.
const MAX_ARGS: usize = 72 << 10;
/// Requests that the guest's kernel may have in flight without a program that
/// waits for them,
const MAX_BACKGROUND: u16 = 64;
/// and from how many on it holds back.
const CONGESTION: u16 = 48;

/// A handled request.
pub(super) enum Done {
    /// The answer behind its header.
    Reply(Vec<u8>),
    /// So many bytes lie behind the header already.
    Data(usize),
}

impl From<Out> for Done {
    fn from(out: Out) -> Self {
        Done::Reply(out.into_bytes())
    }
}

/// What every handler returns.
pub(super) type Answer = Result<Done, Errno>;

/// An answer without content.
pub(super) const OK: Answer = Ok(Done::Reply(Vec::new()));

/// A share that answers requests, from any number of threads.
pub(super) struct Server {
    pub share: Share,
    pub nodes: Nodes,
    pub handles: Handles,
    /// How much may be done.
    pub throttle: Throttle,
    /// The most space in bytes that one request takes without data to fill it.
    pub max_space: u64,
}

impl Server {
    /// A server that holds at most `files` descriptors for the guest, and keeps to
    /// this limit.
    pub fn new(share: Share, files: usize, limiter: Arc<Limiter>) -> Self {
        let root = match &share.root {
            Root::Dir(inode) => Some(inode.clone()),
            Root::File(_) => None,
        };
        // What the guest only knows must not keep it from opening anything.
        let open = (files / 4).max(1);
        Server {
            nodes: Nodes::new(root, (files - open.min(files)).max(2)),
            handles: Handles::new(open),
            throttle: Throttle::new(limiter),
            max_space: u64::MAX,
            share,
        }
    }

    /// Looks at the root again, whose descriptor may be of another mount of the
    /// same directory now, and at who this process is, which a user namespace
    /// changes. Before a guest knows anything.
    pub fn look_again(&mut self) -> Result<(), Errno> {
        self.share.owners = Owners::of_process();
        if let Root::Dir(inode) = &mut self.share.root {
            let fd = rustix::io::fcntl_dupfd_cloexec(&inode.fd, 0)?;
            *inode = Arc::new(Inode::new(fd)?.0);
            self.nodes.set_root(inode.clone());
        }
        Ok(())
    }

    /// Forgets everything that a guest did: closes all that it had open.
    pub fn clear(&self) {
        self.handles.clear();
        self.nodes.clear();
    }

    /// Answers one request. Returns how many bytes were written to the chain; none
    /// when the device was stopped while the request waited for the limit.
    ///
    /// How the driver splits the parts into descriptors is its own affair
    /// (virtio 1.2 §2.7.4).
    ///
    /// # Errors
    /// When the chain has no room for the header of either side. Whatever else
    /// is wrong is answered by an error number.
    pub fn process(
        &self,
        queue: u16,
        chain: Chain<'_>,
        stop: &Stop,
    ) -> Result<Option<u32>, Violation> {
        let head = chain.head;
        let bad = |why| Violation::Chain { queue, head, why };
        let Chain {
            mut readable,
            mut writable,
            ..
        } = chain;
        let mut bytes = [0; IN_HEADER];
        let header = readable
            .read_exact(&mut bytes)
            .ok()
            .and_then(|()| Header::parse(&bytes).ok())
            .ok_or(bad("a request shorter than its header"))?;
        let mut front = writable.split_to(OUT_HEADER);
        if is_silent(header.opcode) {
            // Not even what is wrong with it can be said.
            let _ = self.parse_and_call(&header, readable, &mut writable);
            return Ok(Some(0));
        }
        if front.len() < OUT_HEADER {
            return Err(bad("a request without room for its answer"));
        }
        // Whatever the guest does with its memory meanwhile: no read or write moves
        // more than what there is room for.
        let bytes = (readable.len() + writable.len()) as u64;
        match self.throttle.wait(bytes, stop) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // It cannot wait, so that nothing would hold it to its limit.
            Err(_) => return Err(bad("a request that the host cannot hold back")),
        }
        let answer = self
            .parse_and_call(&header, readable, &mut writable)
            .and_then(|done| match done {
                Done::Data(len) => Ok(len),
                Done::Reply(bytes) => match writable.write_all(&bytes) {
                    Ok(()) => Ok(bytes.len()),
                    Err(_) => Err(Errno::INVAL),
                },
            });
        let (error, len) = match answer {
            Ok(len) => (0, len),
            Err(e) => (e.raw_os_error(), 0),
        };
        let total = (OUT_HEADER + len) as u32;
        let out = Out::default()
            .u32(total)
            .u32(error.wrapping_neg() as u32)
            .u64(header.unique);
        // There is room, as was seen above.
        let _ = front.write_all(&out.into_bytes());
        Ok(Some(total))
    }

    /// Copies the arguments, so that the guest cannot change what was checked.
    fn parse_and_call(
        &self,
        header: &Header,
        mut readable: GuestBuffer<'_>,
        writable: &mut GuestBuffer<'_>,
    ) -> Answer {
        let len = (header.len as usize)
            .checked_sub(IN_HEADER)
            .filter(|len| *len <= readable.len())
            .ok_or(Errno::INVAL)?;
        let mut body = readable.split_to(len);
        let of_args = match header.opcode {
            opcode::WRITE => len.min(WRITE_IN),
            _ if len > MAX_ARGS => return Err(Errno::TOOBIG),
            _ => len,
        };
        let mut bytes = vec![0; of_args];
        body.read_exact(&mut bytes).map_err(|_| Errno::INVAL)?;
        let args = Args::new(&bytes);
        if self.share.readonly && changes(header.opcode, args) {
            return Err(Errno::ROFS);
        }
        self.call(header, args, body, writable)
    }

    fn call(
        &self,
        header: &Header,
        args: Args<'_>,
        payload: GuestBuffer<'_>,
        room: &mut GuestBuffer<'_>,
    ) -> Answer {
        let node = header.node;
        match header.opcode {
            opcode::LOOKUP => self.lookup(node, args),
            opcode::FORGET => self.forget(node, args),
            opcode::BATCH_FORGET => self.batch_forget(args),
            opcode::GETATTR => self.getattr(node),
            opcode::SETATTR => self.setattr(node, args),
            opcode::READLINK => self.readlink(node),
            opcode::SYMLINK => self.symlink(header, args),
            opcode::MKNOD => self.mknod(header, args),
            opcode::MKDIR => self.mkdir(header, args),
            opcode::UNLINK => self.unlink(node, args, false),
            opcode::RMDIR => self.unlink(node, args, true),
            opcode::RENAME => self.rename(node, args, false),
            opcode::RENAME2 => self.rename(node, args, true),
            opcode::LINK => self.link(node, args),
            opcode::CREATE => self.create(header, args),
            opcode::OPEN => self.open(node, args),
            opcode::READ => self.read(node, args, room),
            opcode::WRITE => self.write(node, args, payload),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(node, args),
            opcode::FSYNC | opcode::FSYNCDIR => self.fsync(node, args),
            opcode::FALLOCATE => self.fallocate(node, args),
            opcode::LSEEK => self.lseek(node, args),
            opcode::COPY_FILE_RANGE => self.copy_file_range(node, args),
            opcode::STATFS => self.statfs(node),
            opcode::SYNCFS => self.syncfs(node),
            opcode::GETXATTR => self.getxattr(node, args),
            opcode::LISTXATTR => self.listxattr(node, args),
            opcode::SETXATTR => self.setxattr(node, args),
            opcode::REMOVEXATTR => self.removexattr(node, args),
            opcode::OPENDIR => self.opendir(node),
            opcode::READDIR => self.readdir(node, args, false, room.len()),
            opcode::READDIRPLUS => self.readdir(node, args, true, room.len()),
            opcode::INIT => self.init(args),
            opcode::DESTROY => {
                self.clear();
                OK
            }
            // A request once begun is carried out.
            opcode::INTERRUPT => OK,
            opcode::IOCTL => Err(Errno::NOTTY),
            // The guest's kernel does these itself, or does without: locks among
            // them, and flushes, as nothing that was written waits here.
            _ => Err(Errno::NOSYS),
        }
    }

    /// Agrees upon the protocol. A guest that begins anew has nothing open.
    fn init(&self, mut args: Args<'_>) -> Answer {
        let (major, minor) = (args.u32()?, args.u32()?);
        let (readahead, flags) = (args.u32()?, args.u32()?);
        if major > MAJOR {
            // The guest comes back with a version that both know.
            return Ok(Out::default().u32(MAJOR).u32(MINOR).zeroes(56).into());
        }
        if major < MAJOR || minor < MIN_MINOR {
            return Err(Errno::PROTO);
        }
        self.clear();
        Ok(Out::default()
            .u32(MAJOR)
            .u32(MINOR)
            .u32(readahead.min(MAX_DATA))
            .u32(flags & init_flag::OFFERED)
            .u16(MAX_BACKGROUND)
            .u16(CONGESTION)
            .u32(MAX_DATA)
            // Times are exact to the nanosecond.
            .u32(1)
            .u16(MAX_PAGES)
            .zeroes(2 + 4 + 28)
            .into())
    }

    /// The node as a file of the host. What the directory round a single file
    /// cannot do is refused here.
    pub(super) fn inode(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        if self.top(node).is_some() {
            return Err(Errno::PERM);
        }
        self.nodes.get(node)
    }

    /// The single file, when this node is the directory round it.
    pub(super) fn top(&self, node: u64) -> Option<&super::share::SingleFile> {
        match &self.share.root {
            Root::File(file) if node == super::abi::ROOT => Some(file),
            _ => None,
        }
    }
}

/// Whether a request may keep a thread for long: all but those that only ask for
/// what the host knows by heart, as a rule. A guess, by what the guest's memory
/// holds now.
pub(super) fn may_take_long(chain: &Chain<'_>) -> bool {
    let mut bytes = [0; IN_HEADER];
    let header = chain.readable.clone().split_to(IN_HEADER);
    let read = { header }.read_exact(&mut bytes);
    let Some(header) = read.ok().and_then(|()| Header::parse(&bytes).ok()) else {
        return false;
    };
    !matches!(
        header.opcode,
        opcode::LOOKUP
            | opcode::FORGET
            | opcode::GETATTR
            | opcode::READLINK
            | opcode::STATFS
            | opcode::RELEASE
            | opcode::GETXATTR
            | opcode::LISTXATTR
            | opcode::OPENDIR
            | opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::RELEASEDIR
            | opcode::LSEEK
    )
}

/// Whether a request has no answer.
fn is_silent(kind: u32) -> bool {
    matches!(
        kind,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
    )
}

/// Whether a request would change the share. An unknown one does nothing.
fn changes(kind: u32, mut args: Args<'_>) -> bool {
    match kind {
        opcode::SETATTR => args.u32().is_ok_and(|valid| valid & !set::FH != 0),
        opcode::SYMLINK
        | opcode::MKNOD
        | opcode::MKDIR
        | opcode::UNLINK
        | opcode::RMDIR
        | opcode::RENAME
        | opcode::RENAME2
        | opcode::LINK
        | opcode::CREATE
        | opcode::WRITE
        | opcode::FALLOCATE
        | opcode::COPY_FILE_RANGE
        | opcode::SETXATTR
        | opcode::REMOVEXATTR => true,
        opcode::OPEN => args.u32().is_ok_and(super::data::writes),
        _ => false,
    }
}
