//! A guest of `guest-images/hostile` that measures how long its own requests take,
//! each time it is told to. It runs on every KVM.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// The largest disk that a guest writes to, in bytes (`load.rs` there).
const DISK: u64 = 64 << 20;

/// A guest that runs. It goes with this.
pub struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What a guest answers.
#[derive(Clone, Copy)]
pub enum Request {
    /// A read of its disk.
    Disk,
    /// A question to the gateway of its network.
    Net,
}

impl Running {
    /// Starts a guest that does this, with all of its threads on one CPU, and waits
    /// until it says so. Files are in `dir`.
    pub fn start(dir: &Path, command: &str, cpu: usize, options: &[&str]) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let (kernel, disk) = (dir.join("kernel"), dir.join("disk"));
        fs::write(&kernel, hostile::KERNEL)?;
        fs::write(&disk, [hostile::DISK_BYTE; 4096])?;
        fs::File::options().write(true).open(&disk)?.set_len(DISK)?;
        let mut child = Command::new("taskset")
            .args(["-c", &cpu.to_string(), env!("CARGO_BIN_EXE_drupe"), "boot"])
            .args(["--memory", hostile::MEMORY, "--append", command])
            .arg("--kernel")
            .arg(&kernel)
            .arg("--disk")
            .arg(&disk)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A load is told what is wrong with it.
            .stderr(Stdio::null())
            .spawn()?;
        let gone = || io::Error::other("a guest without input or output");
        let input = child.stdin.take().ok_or_else(gone)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let mut guest = Running {
            child,
            input,
            output,
        };
        let said = guest.line()?;
        match said.ends_with("ing") || said == "ready" {
            true => Ok(guest),
            false => Err(io::Error::other(format!("the guest says {said:?}"))),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// The median time of some requests, in ticks of the CPU's clock.
    pub fn measure(&mut self, request: Request) -> io::Result<f64> {
        let key = match request {
            Request::Disk => b"m",
            Request::Net => b"n",
        };
        self.input.write_all(key)?;
        let said = self.line()?;
        let ticks = said.strip_prefix("median: ").and_then(|n| n.parse().ok());
        ticks.ok_or_else(|| io::Error::other(format!("the guest says {said:?}")))
    }

    /// Stands still until it is to go on.
    pub fn pause(&self, pause: bool) -> io::Result<()> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever it does, it is of no more use.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
