//! The machine of a sandbox: its description, and the thread that runs it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use confine::Report;
use devices::virtio::blk::DiskSpec;
use devices::virtio::fs::FsSpec;
use devices::virtio::vsock::VsockSpec;
use rustix::event::{PollFd, PollFlags, Timespec};
use vmm::config::{NetConfig, VmConfig};
use vmm::{ConsoleIo, LimitsHandle, Machine, Outcome, Published, Remains, StopHandle};

use crate::confinement::{self, ConfinementError};
use crate::initramfs;
use crate::kernels::Kernel;
use crate::sandbox::ext4;
use crate::sandbox::guest::{LAYERS, Mounts, SCRATCH};
use crate::sandbox::lock::FileLock;
use crate::sandbox::spec::Spec;
use crate::sandbox::volumes::Volumes;

/// The machine's socket, in the sandbox's directory.
pub const SOCKET: &str = "vsock.sock";
/// The disk that takes changes to the root.
const SCRATCH_FILE: &str = "scratch.ext4";
/// What the guest's kernel says.
pub const CONSOLE: &str = "console.log";
/// The most that is kept of that, in bytes.
const CONSOLE_LIMIT: u64 = 1 << 20;
/// The guest's address on its socket device: any will do.
const CID: u64 = 3;

/// Why there is no machine.
pub type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// A machine's description, and what has to be open as long as it runs.
pub struct Blueprint {
    /// The description.
    pub config: VmConfig,
    /// Something has to be written out before it may be switched off.
    pub flush: bool,
    _initrd: File,
    _volumes: Vec<FileLock>,
}

/// Describes the machine of a sandbox whose directory is the current one.
///
/// # Errors
/// What it would need and is not to be had.
pub fn blueprint(
    spec: &Spec,
    home: &Path,
    kernel: &Kernel,
    mounts: &Mounts,
    card: Option<NetConfig>,
) -> Result<Blueprint, Refusal> {
    let modules = match kernel.modules() {
        Some(directory) => initramfs::read_modules(&directory)?,
        None => Vec::new(),
    };
    let (initrd, path) = initramfs::file(&home.join("initramfs"), &modules)?;
    let mut config = VmConfig::new(&kernel.path);
    config.initrd = Some(path);
    config.append = COMMAND_LINE.to_owned();
    config.cpus = spec.machine.cpus;
    config.memory = spec.machine.memory;
    config.vsock = Some(VsockSpec {
        path: SOCKET.into(),
        cid: CID,
    });
    config.nets.extend(card.map(|card| limited(card, spec)));
    if !spec.image.layers.is_empty() {
        config.disks.push(DiskSpec {
            id: Some(LAYERS.to_owned()),
            ..DiskSpec::of_layers(spec.image.layers.clone())
        });
    }
    let mut flush = false;
    if let Some(size) = spec.machine.disk_size {
        let path = PathBuf::from(SCRATCH_FILE);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(format!("{SCRATCH_FILE} is not a file").into()),
            Err(_) => ext4::make(&path, size)?,
        }
        config.disks.push(DiskSpec {
            id: Some(SCRATCH.to_owned()),
            ..DiskSpec::new(path)
        });
        // What is removed afterwards is not worth a write.
        flush |= !spec.auto_remove;
    }
    let volumes = Volumes::new(home);
    let mut locks = Vec::new();
    for disk in &mounts.volumes {
        let volume = volumes.find(&disk.name)?;
        locks.push(volume.lock(disk.read_only)?);
        config.disks.push(DiskSpec {
            id: Some(disk.serial.clone()),
            readonly: disk.read_only,
            ..DiskSpec::new(volume.disk())
        });
        flush |= !disk.read_only;
    }
    for share in &mounts.shares {
        config.shares.push(FsSpec {
            readonly: share.read_only,
            limits: spec.limits.share.unwrap_or_default(),
            ..FsSpec::new(&share.path, &share.tag)
        });
        flush |= !share.read_only;
    }
    for disk in &mut config.disks {
        disk.limits = spec.limits.disk.unwrap_or_default();
    }
    Ok(Blueprint {
        config,
        flush,
        _initrd: initrd,
        _volumes: locks,
    })
}

fn limited(mut card: NetConfig, spec: &Spec) -> NetConfig {
    let limits = match &mut card {
        NetConfig::Tap(card) => &mut card.limits,
        NetConfig::User(card) => &mut card.limits,
    };
    *limits = spec.limits.net.unwrap_or_default();
    card
}

/// The kernel's command line: warnings go to the console, and a panic ends the
/// machine at once.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// How a machine ended, and what is to be freed of it.
type Ended = (Result<Outcome, vmm::Error>, Option<Remains>);

/// A machine that runs.
pub struct Vm {
    /// Ends it.
    pub handle: StopHandle,
    /// Limits its devices.
    pub limits: LimitsHandle,
    /// The ports that lead to it.
    pub published: Vec<Published>,
    /// What this process is confined by.
    pub confinement: Report,
    thread: JoinHandle<Ended>,
    /// Hung up when its thread has ended.
    ended: io::PipeReader,
}

impl Vm {
    /// Makes the machine, has this process confined by `confine`, and starts the
    /// machine on a thread of its own. This thread serves clients from here on.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn start(
        config: &VmConfig,
        confine: impl FnOnce(&Machine) -> Result<Report, ConfinementError>,
    ) -> Result<Self, Refusal> {
        let machine = Machine::new(config, console())?;
        let confinement = confine(&machine)?;
        let (handle, limits) = (machine.stop_handle(), machine.limits_handle());
        let published = machine.published().to_vec();
        let (ended, alive) = io::pipe()?;
        let (go, wait) = mpsc::sync_channel(1);
        let run = move || {
            let _alive = alive;
            match wait.recv() {
                // Without stop signals, nothing asks it to end.
                Ok(()) => {
                    let (outcome, remains) = machine.run_to_end(Duration::ZERO);
                    (outcome, Some(remains))
                }
                Err(_) => (Ok(Outcome::Stopped(None)), None),
            }
        };
        let thread = thread::Builder::new()
            .name("machine".to_owned())
            .spawn(run)?;
        // Not before that thread is there, which has a role of its own, and before
        // the guest runs.
        confinement::enter_control()?;
        // It waits for this.
        let _ = go.send(());
        Ok(Vm {
            handle,
            limits,
            published,
            confinement,
            thread,
            ended,
        })
    }

    /// Waits until the guest dials `ready`; false when the machine ended first,
    /// or the time was over.
    ///
    /// # Errors
    /// The system call's.
    pub fn wait_ready(&self, ready: &UnixListener, time: Duration) -> io::Result<bool> {
        let end = Instant::now() + time;
        loop {
            let mut fds = [
                PollFd::new(ready, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
            ];
            match poll(&mut fds, end)? {
                0 => return Ok(false),
                _ if !fds[1].revents().is_empty() => return Ok(false),
                _ if !fds[0].revents().is_empty() => return Ok(true),
                _ => {}
            }
        }
    }

    /// Waits for the machine's end; false when it has not come in time.
    ///
    /// # Errors
    /// The system call's.
    pub fn wait_end(&self, time: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::from_borrowed_fd(self.ended.as_fd(), PollFlags::IN)];
        Ok(poll(&mut fds, Instant::now() + time)? > 0)
    }

    /// Waits for the machine's end, however long it takes, and says what it was.
    /// Its files and sockets are free then; its memory is not before the second
    /// value is dropped, which may take its time.
    pub fn join(self) -> (String, Option<Remains>) {
        match self.thread.join() {
            Ok((Ok(outcome), remains)) => (outcome.to_string(), remains),
            Ok((Err(e), remains)) => (e.to_string(), remains),
            Err(_) => ("the machine's thread failed".to_owned(), None),
        }
    }
}

/// Waits for one of `fds` until `end`; 0 when the time is over.
fn poll(fds: &mut [PollFd<'_>], end: Instant) -> io::Result<usize> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// The guest's console: a file of bounded size, begun anew for each start.
fn console() -> ConsoleIo {
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).mode(0o600);
    // No link that an earlier monitor left: what a guest says goes there.
    let options = options.custom_flags(libc::O_NOFOLLOW);
    let file = options.open(CONSOLE).and_then(|file| {
        file.set_len(0)?;
        Ok::<File, io::Error>(file)
    });
    ConsoleIo {
        // Without a file, nobody will know what the guest's kernel said.
        output: file.ok(),
        limit: Some(CONSOLE_LIMIT),
        ..ConsoleIo::default()
    }
}
