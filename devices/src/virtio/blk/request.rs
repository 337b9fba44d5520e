//! One request, from its chain to its status (virtio 1.2 §5.2.6).

use std::io::{self, Write};
use std::sync::Arc;

use super::backend::DiskBackend;
use super::config::{
    MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEGMENTS,
};
use super::spec::SERIAL_SIZE;
use super::{SECTOR_SIZE, config};
use crate::rate_log::FailureLog;
use crate::virtio::stop::Stop;
use crate::virtio::throttle::Throttle;
use crate::virtio::{Chain, GuestBuffer, Violation};

/// Request types, `VIRTIO_BLK_T_*`.
pub mod request_type {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Make durable.
    pub const FLUSH: u32 = 4;
    /// Tell the serial number.
    pub const GET_ID: u32 = 8;
    /// Free space.
    pub const DISCARD: u32 = 11;
    /// Fill with zeroes.
    pub const WRITE_ZEROES: u32 = 13;
}

/// `VIRTIO_BLK_S_*`: the last byte of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The request is out of bounds, or the host failed it.
    IoErr = 1,
    /// The device does not know this kind of request.
    Unsupp = 2,
}

/// Type, reserved, sector.
const HEADER_SIZE: usize = 16;

/// `struct virtio_blk_discard_write_zeroes`.
const SEGMENT_SIZE: usize = 16;

/// The one flag of such a segment.
const FLAG_UNMAP: u32 = 1;

/// The most data that is moved before the worker looks whether it should stop: a
/// reset waits no longer than this takes.
const MAX_TRANSFER: usize = 16 << 20;

/// Why a request did not end well.
enum Failure {
    /// What the guest is told.
    Status(Status),
    /// The host's error: the log is told as well.
    Host(io::Error),
    /// The device is being reset: the request is dropped.
    Stopped,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Host(e)
    }
}

const IOERR: Failure = Failure::Status(Status::IoErr);
const UNSUPP: Failure = Failure::Status(Status::Unsupp);

/// What to do with the requests of one use of the device, from `DRIVER_OK` to
/// reset; shared by the workers of all queues.
pub(super) struct Requests {
    /// Device name for the log.
    pub name: String,
    /// The contents.
    pub backend: Arc<dyn DiskBackend>,
    /// What [`request_type::GET_ID`] answers.
    pub serial: [u8; SERIAL_SIZE],
    /// The features that the driver accepted.
    pub features: u64,
    /// Writes are refused, whatever the driver accepted.
    pub readonly: bool,
    /// How much may be done.
    pub throttle: Throttle,
    /// Raised to drop requests.
    pub stop: Arc<Stop>,
    /// What has been told. The disk's, so that a reset does not begin it anew.
    pub failures: Arc<FailureLog>,
}

/// A range of a discard or of zeroes, checked.
struct Segment {
    offset: u64,
    len: u64,
    unmap: bool,
}

impl Requests {
    /// Carries out one request. Returns how many bytes were written to the chain,
    /// its status included; none when the device was stopped meanwhile.
    ///
    /// How the driver splits header, data and status into descriptors is its own
    /// affair (§2.7.4): the header is the first 16 readable bytes, the status the
    /// last writable one.
    ///
    /// # Errors
    /// When the chain has no room for header or status.
    pub fn process(&self, queue: u16, chain: Chain<'_>) -> Result<Option<u32>, Violation> {
        let head = chain.head;
        let bad = |why| Violation::Chain { queue, head, why };
        let mut readable = chain.readable;
        let mut status = chain.writable;
        let Some(room) = status.len().checked_sub(1) else {
            return Err(bad("a request without room for its status"));
        };
        let data_in = status.split_to(room);
        let header: [u8; HEADER_SIZE] = readable
            .read_obj()
            .map_err(|_| bad("a request shorter than its header"))?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes(sector);

        let result = match kind {
            request_type::IN => self.read(sector, data_in),
            request_type::OUT => self.write(sector, readable),
            request_type::FLUSH => self.flush(),
            request_type::GET_ID => self.get_id(data_in),
            request_type::DISCARD => self.discard(readable),
            request_type::WRITE_ZEROES => self.write_zeroes(readable),
            _ => Err(UNSUPP),
        };
        let (code, written) = match result {
            Ok(written) => (Status::Ok, written),
            Err(Failure::Status(code)) => (code, 0),
            Err(Failure::Host(e)) => {
                self.log(kind, sector, &e);
                (Status::IoErr, 0)
            }
            Err(Failure::Stopped) => return Ok(None),
        };
        // Exactly one byte is left, so this cannot fail.
        let _ = status.write_all(&[code as u8]);
        Ok(Some(written.saturating_add(1)))
    }

    fn read(&self, sector: u64, mut into: GuestBuffer<'_>) -> Result<u32, Failure> {
        let len = into.len();
        let mut offset = self.range(sector, len as u64)?;
        self.limit(len as u64)?;
        while !into.is_empty() {
            self.check_stop()?;
            let part = into.split_to(MAX_TRANSFER);
            let n = part.len() as u64;
            self.backend.read_at(part, offset)?;
            offset += n;
        }
        // A chain holds less than 4 GiB.
        Ok(u32::try_from(len).unwrap_or(u32::MAX))
    }

    fn write(&self, sector: u64, mut from: GuestBuffer<'_>) -> Result<u32, Failure> {
        self.check_writable()?;
        let mut offset = self.range(sector, from.len() as u64)?;
        self.limit(from.len() as u64)?;
        while !from.is_empty() {
            self.check_stop()?;
            let part = from.split_to(MAX_TRANSFER);
            let n = part.len() as u64;
            self.backend.write_at(part, offset)?;
            offset += n;
        }
        self.write_through()
    }

    fn flush(&self) -> Result<u32, Failure> {
        self.limit(0)?;
        self.backend.flush()?;
        Ok(0)
    }

    fn get_id(&self, mut into: GuestBuffer<'_>) -> Result<u32, Failure> {
        self.limit(0)?;
        let n = into.len().min(SERIAL_SIZE);
        into.write_all(&self.serial[..n])?;
        Ok(n as u32)
    }

    fn discard(&self, list: GuestBuffer<'_>) -> Result<u32, Failure> {
        self.check_negotiated(config::F_DISCARD)?;
        // A discard that asks to unmap is refused (§5.2.6.2).
        let segments = self.segments(list, MAX_DISCARD_SEGMENTS, MAX_DISCARD_SECTORS, 0)?;
        self.limit(0)?;
        for Segment { offset, len, .. } in segments {
            self.check_stop()?;
            self.backend.discard(offset, len)?;
        }
        self.write_through()
    }

    fn write_zeroes(&self, list: GuestBuffer<'_>) -> Result<u32, Failure> {
        self.check_negotiated(config::F_WRITE_ZEROES)?;
        let segments = self.segments(
            list,
            MAX_WRITE_ZEROES_SEGMENTS,
            MAX_WRITE_ZEROES_SECTORS,
            FLAG_UNMAP,
        )?;
        // The host may have to write them out.
        self.limit(segments.iter().map(|segment| segment.len).sum())?;
        for Segment { offset, len, unmap } in segments {
            self.check_stop()?;
            self.backend.write_zeroes(offset, len, unmap)?;
        }
        self.write_through()
    }

    /// The segments of a discard or of zeroes, all of them checked before the
    /// first is carried out; empty ones are left out.
    fn segments(
        &self,
        mut list: GuestBuffer<'_>,
        max_segments: u32,
        max_sectors: u32,
        flags_allowed: u32,
    ) -> Result<Vec<Segment>, Failure> {
        self.check_writable()?;
        let count = list.len() / SEGMENT_SIZE;
        if count == 0 || !list.len().is_multiple_of(SEGMENT_SIZE) || count > max_segments as usize {
            return Err(IOERR);
        }
        let mut segments = Vec::with_capacity(count);
        while !list.is_empty() {
            let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3]: [u8; SEGMENT_SIZE] =
                list.read_obj()?;
            let sector = u64::from_le_bytes(sector);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes([f0, f1, f2, f3]);
            if flags & !flags_allowed != 0 {
                return Err(UNSUPP);
            }
            if sectors > max_sectors {
                return Err(IOERR);
            }
            let len = u64::from(sectors) * SECTOR_SIZE;
            let offset = self.range(sector, len)?;
            if len > 0 {
                segments.push(Segment {
                    offset,
                    len,
                    unmap: flags & FLAG_UNMAP != 0,
                });
            }
        }
        Ok(segments)
    }

    /// The offset of `len` bytes at `sector`, if they are whole sectors inside
    /// the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        if !len.is_multiple_of(SECTOR_SIZE) {
            return Err(IOERR);
        }
        let capacity = self.backend.size() / SECTOR_SIZE;
        match sector.checked_add(len / SECTOR_SIZE) {
            // No overflow: the sector lies inside the disk.
            Some(end) if end <= capacity => Ok(sector * SECTOR_SIZE),
            _ => Err(IOERR),
        }
    }

    /// A driver that cannot flush gets every write made durable before its
    /// status (§5.2.6.2).
    fn write_through(&self) -> Result<u32, Failure> {
        if self.features & config::F_FLUSH == 0 {
            self.backend.flush()?;
        }
        Ok(0)
    }

    /// Waits until the limits let one request of so many bytes pass. A request that
    /// is refused for what it says does not come here, and costs nothing.
    fn limit(&self, bytes: u64) -> Result<(), Failure> {
        match self.throttle.wait(bytes, &self.stop)? {
            true => Ok(()),
            false => Err(Failure::Stopped),
        }
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.readonly { Err(IOERR) } else { Ok(()) }
    }

    fn check_negotiated(&self, feature: u64) -> Result<(), Failure> {
        if self.features & feature == 0 {
            return Err(UNSUPP);
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<(), Failure> {
        if self.stop.is_raised() {
            return Err(Failure::Stopped);
        }
        Ok(())
    }

    fn log(&self, kind: u32, sector: u64, e: &io::Error) {
        let what = match kind {
            request_type::IN => "read",
            request_type::OUT => "write",
            request_type::FLUSH => "flush",
            request_type::DISCARD => "discard",
            _ => "write of zeroes",
        };
        if self.failures.allow(what, e.raw_os_error().unwrap_or(0)) {
            log::warn!("{}: {what} at sector {sector} failed: {e}", self.name);
        }
    }
}
