//! How a monitor comes to be: what the one who starts it does, and what it does
//! first itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::{COMMAND, LOG, VERBOSE};
use crate::sandbox::control::{self, Attach, Request};
use crate::sandbox::error::SandboxError;
use crate::sandbox::store::Sandbox;

/// A monitor that has been started, and the connection with it.
#[derive(Debug)]
pub struct Launched {
    /// The first client's connection.
    pub stream: UnixStream,
    /// Its keeper's process.
    pub child: Child,
    /// What the two have to say, readable even when the sandbox is gone.
    pub log: File,
}

/// Starts the monitor of a sandbox and asks it for what `attach` says. The caller
/// has the lock on changes.
///
/// # Errors
/// When the process cannot be started.
pub fn launch(sandbox: &Sandbox, attach: Attach) -> Result<Launched, SandboxError> {
    let failed = |e: io::Error| SandboxError::io("start drupe for", sandbox.dir(), e);
    let (mut near, far) = UnixStream::pair().map_err(failed)?;
    let (log, stderr) = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o600)
        // Its monitor, should it have been taken over, could have put a link there.
        .custom_flags(libc::O_NOFOLLOW)
        .open(sandbox.path(LOG))
        .and_then(|file| {
            // Each start begins it anew: it cannot grow for ever.
            file.set_len(0)?;
            Ok((file.try_clone()?, file))
        })
        .map_err(failed)?;
    let child = Command::new("/proc/self/exe")
        .arg0("drupe")
        .args([COMMAND, sandbox.id.as_str()])
        .args((log::max_level() >= log::LevelFilter::Info).then_some(VERBOSE))
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(far))
        .stderr(stderr)
        .spawn()
        .map_err(failed)?;
    control::send(&mut near, &Request::Attach(attach)).map_err(|e| {
        let why = e.to_string();
        SandboxError::Silent {
            name: sandbox.label(),
            why,
        }
    })?;
    Ok(Launched {
        stream: near,
        child,
        log,
    })
}

/// In the monitor: leaves the session and the terminal of who started it, and
/// takes the connection that is in the place of standard output.
///
/// # Errors
/// The system calls'.
pub fn take() -> Result<UnixStream, super::Refusal> {
    // It fails when this is a session's leader already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let stream = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(stream)
}
