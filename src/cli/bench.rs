//! `drupe bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;
use crate::bench::Plan;
use crate::bench::suites::Kind;
use crate::bench::targets::Name;

/// The suites of a run that names none: those that take seconds for each target.
const SUITES: [Kind; 4] = [Kind::Start, Kind::Memory, Kind::Syscall, Kind::Isolation];
/// The targets of a run that names none.
const TARGETS: [Name; 4] = [Name::Host, Name::Container, Name::Vm, Name::VmContainer];

// `drupe bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  drupe bench                             start, memory, syscall and isolation
  drupe bench start --targets container,vm,podman --runs 20
  drupe bench cpu syscall --out results   results/results.json and report.html, too
  drupe bench app --image app.tar         PostgreSQL and nginx under load
  drupe bench compare before/results.json after/results.json

A target that is not installed is left out, with a line that says so.")]
pub struct BenchArgs {
    /// What to do with results in place of measuring.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Where workloads run, apart by commas [default: host,container,vm,vm+container]
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    pub targets: Vec<Name>,
    /// Samples of each figure, besides one to warm up
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// What the suite app runs: a root file system in a tar
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Write the results and a page with plots into a directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the results in JSON
    #[arg(long)]
    pub json: bool,
    /// What to measure [default: start memory syscall isolation]
    #[arg(value_name = "SUITE")]
    pub suites: Vec<Kind>,
}

// What to do with results.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Tell what changed from one run to another, beyond noise
    Compare(CompareArgs),
    /// Print results again
    Show(ShowArgs),
}

// `drupe bench compare`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe bench compare --fail-on worse before/results.json after/results.json

Exit status: 0, also when something changed; with '--fail-on worse' 1 when a
figure is worse. 1 as well when a file gives no results.")]
pub struct CompareArgs {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// End with status 1 when this is found
    #[arg(long, value_name = "WHAT")]
    pub fail_on: Option<FailOn>,
    /// The results.json of the earlier run
    #[arg(value_name = "FIRST")]
    pub first: PathBuf,
    /// That of the later one
    #[arg(value_name = "SECOND")]
    pub second: PathBuf,
}

/// What `bench compare` can fail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A figure that is worse, beyond noise.
    Worse,
}

// `drupe bench show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe bench show --html report.html results/results.json")]
pub struct ShowArgs {
    /// Write the page with plots to a file, and print nothing
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// A results.json
    #[arg(value_name = "RESULTS")]
    pub results: PathBuf,
}

impl BenchArgs {
    /// What is to be measured: each once, in the order given.
    pub fn plan(&self) -> Plan {
        fn once<T: Copy + PartialEq>(given: &[T], default: &[T]) -> Vec<T> {
            let mut kept = Vec::new();
            for one in if given.is_empty() { default } else { given } {
                if !kept.contains(one) {
                    kept.push(*one);
                }
            }
            kept
        }
        Plan {
            suites: once(&self.suites, &SUITES),
            targets: once(&self.targets, &TARGETS),
            runs: self.runs.into(),
            image: self.image.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(words: &str) -> Result<Plan, String> {
        let args = ["drupe", "bench"]
            .into_iter()
            .chain(words.split_whitespace());
        match Cli::try_parse_from(args)
            .map_err(|e| e.to_string())?
            .command
        {
            Command::Bench(args) => Ok(args.plan()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn each_is_measured_once_in_the_order_given() {
        let all = plan("").unwrap();
        assert_eq!(
            (&all.suites[..], &all.targets[..]),
            (&SUITES[..], &TARGETS[..])
        );
        assert_eq!(all.runs, 10);
        let some = plan("cpu start cpu --targets podman,vm+container,podman --runs 3").unwrap();
        assert_eq!(some.suites, [Kind::Cpu, Kind::Start]);
        assert_eq!(some.targets, [Name::Podman, Name::VmContainer]);
        assert_eq!(some.runs, 3);
        assert_eq!(
            plan("app --image a.tar").unwrap().image,
            Some("a.tar".into())
        );
        for bad in ["speed", "--targets moon", "--runs 0", "--runs 1001"] {
            assert!(plan(bad).is_err(), "{bad}");
        }
    }
}
