//! The suites: one module for each, with the quantities that it measures and how.

pub mod app;
mod cpu;
mod density;
mod disk;
mod isolation;
mod memory;
mod net;
mod start;
mod syscall;

use std::path::PathBuf;
use std::thread;

use clap::ValueEnum;

use super::children::Children;
use super::error::{Context, Error, Result};
use super::fio::Fio;
use super::process::{self, Ended, Run};
use super::results::{Failure, Output, Suite};
use super::targets::{self, Name, Size, Target};
use super::work::Work;

/// The name of a suite on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Time to the first instruction of the workload and to its end
    Start,
    /// Memory of one instance, and of several
    Memory,
    /// How many instances fit
    Density,
    /// Computing, on one CPU and on all
    Cpu,
    /// What a kernel does for a process
    Syscall,
    /// Reading and writing a disk
    Disk,
    /// Throughput and round trips between the workload and this machine
    Net,
    /// PostgreSQL and nginx under load, of the image that --image gives
    App,
    /// What can be seen and reached of the host
    Isolation,
}

/// A target that takes part.
pub struct Place {
    /// Its name.
    pub name: Name,
    /// It.
    pub target: Box<dyn Target>,
}

/// What suites run on.
pub struct Bench {
    /// The targets, in order.
    pub places: Vec<Place>,
    /// Rounds that are kept.
    pub runs: usize,
    /// Where runs' errors go.
    pub errors: PathBuf,
    /// Processes that a target keeps between runs, as podman without root does.
    pub residents: Vec<u32>,
    /// fio, where it is in the targets' roots.
    pub fio: Option<Fio>,
    /// What it said.
    pub outputs: Vec<Output>,
}

impl Bench {
    /// On these targets, with the files of `work`; those that cannot be had come
    /// with it.
    ///
    /// # Errors
    /// An interruption.
    pub fn new(names: &[Name], runs: usize, work: &Work) -> Result<(Self, Vec<(Name, Error)>)> {
        let (mut places, mut failed) = (Vec::new(), Vec::new());
        for &name in names {
            process::check()?;
            match targets::make(name, work) {
                Ok(target) => places.push(Place { name, target }),
                Err(error) => failed.push((name, error)),
            }
        }
        let bench = Bench {
            places,
            runs,
            errors: work.path("errors"),
            residents: process::all(&[]),
            fio: None,
            outputs: Vec::new(),
        };
        Ok((bench, failed))
    }

    /// The targets' names.
    pub fn names(&self) -> Vec<&'static str> {
        self.places
            .iter()
            .map(|place| place.name.as_str())
            .collect()
    }

    /// Starts the workload on a target.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&mut self, at: usize, args: &[&str], size: Size) -> Result<Run> {
        let mut command = self.places[at].target.command(args, size)?;
        Run::start(&mut command, &self.errors)
    }

    /// Runs the workload on a target to its end, and takes away what it left.
    ///
    /// # Errors
    /// When it fails there, or hangs.
    pub fn run(&mut self, at: usize, args: &[&str], size: Size) -> Result<Ended> {
        let used = || Children::now().context(|| "/proc/self/stat".into());
        let before = used()?;
        let result = self.start(at, args, size).and_then(Run::wait);
        let result = result.and_then(|ended| self.places[at].target.ended(ended));
        if result.is_err() {
            process::kill_all(&self.residents);
        }
        process::reap_all(&self.residents);
        // What takes things away is no part of the run.
        let after = used()?;
        self.places[at].target.clean();
        result.map(|ended| Ended {
            cpu: (after.cpu_ms - before.cpu_ms) / 1e3,
            ..ended
        })
    }

    /// Ends everything that runs.
    pub fn end_all(&mut self) {
        for at in 0..self.places.len() {
            self.end(at);
        }
    }

    /// Ends everything that runs on a target.
    pub fn end(&mut self, at: usize) {
        process::kill_all(&self.residents);
        process::reap_all(&self.residents);
        self.places[at].target.clean();
    }
}

/// Runs a suite.
///
/// # Errors
/// [`Error::Interrupted`] only.
pub fn run(kind: Kind, bench: &mut Bench) -> Result<Suite> {
    let (name, about) = match kind {
        Kind::Start => ("start", start::ABOUT),
        Kind::Memory => ("memory", memory::ABOUT),
        Kind::Density => ("density", density::ABOUT),
        Kind::Cpu => ("cpu", cpu::ABOUT),
        Kind::Syscall => ("syscall", syscall::ABOUT),
        Kind::Disk => ("disk", disk::ABOUT),
        Kind::Net => ("net", net::ABOUT),
        Kind::App => ("app", app::ABOUT),
        Kind::Isolation => ("isolation", isolation::ABOUT),
    };
    let mut suite = Suite {
        name: name.to_owned(),
        about: about.to_owned(),
        figures: Vec::new(),
        tables: Vec::new(),
        failures: Vec::new(),
    };
    match kind {
        Kind::Start => start::run(bench, &mut suite)?,
        Kind::Memory => memory::run(bench, &mut suite)?,
        Kind::Density => density::run(bench, &mut suite)?,
        Kind::Cpu => cpu::run(bench, &mut suite)?,
        Kind::Syscall => syscall::run(bench, &mut suite)?,
        Kind::Disk => disk::run(bench, &mut suite)?,
        Kind::Net => net::run(bench, &mut suite)?,
        Kind::App => app::run(bench, &mut suite)?,
        Kind::Isolation => isolation::run(bench, &mut suite)?,
    }
    Ok(suite)
}

impl Suite {
    /// The numbers of the targets of these names on which nothing has failed.
    fn well(&self, names: &[&str]) -> Vec<usize> {
        let failed = |name: &str| self.failures.iter().any(|f| f.target == name);
        (0..names.len()).filter(|at| !failed(names[*at])).collect()
    }

    /// Records that it failed on a target.
    ///
    /// # Errors
    /// An interruption, which is no failure of a target.
    pub(super) fn fail(&mut self, target: &str, error: Error) -> Result<()> {
        if let Error::Interrupted(_) = error {
            return Err(error);
        }
        self.failures.push(Failure {
            target: target.to_owned(),
            why: error.to_string(),
        });
        Ok(())
    }
}

/// The CPUs of this machine, as far as a machine can have them.
fn all_cpus() -> usize {
    let cpus = thread::available_parallelism().map_or(1, |n| n.get());
    cpus.min(usize::from(vmm::config::MAX_CPUS))
}

/// The seconds for one of those that the workload has counted: of its line `NAME
/// COUNT NANOSECONDS`.
fn counted(output: &str, name: &str) -> Result<f64> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let mut words = line.unwrap_or_default().split_whitespace();
    let mut number = || words.next()?.parse::<u64>().ok();
    match (number(), number()) {
        (Some(count), Some(nanoseconds)) if count > 0 => {
            Ok(nanoseconds as f64 / 1e9 / count as f64)
        }
        _ => Err(Error::Failed(format!(
            "the workload said nothing of {name}: {}",
            crate::output::one_line(output.lines().last().unwrap_or("no output"))
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let output = "getpid 1000 2000000\r\nread 4 0\nreading 1 1\n";
        assert_eq!(counted(output, "getpid").unwrap(), 2e-6);
        assert_eq!(counted(output, "read").unwrap(), 0.0);
        assert!(counted(output, "fault").is_err());
        assert!(counted("getpid 0 5", "getpid").is_err());
        assert!(
            counted("failed 2", "getpid")
                .unwrap_err()
                .to_string()
                .contains("failed 2")
        );
    }
}
