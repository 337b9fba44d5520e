//! What a bench run measured, as `results.json` holds it. `docs/bench.md` is the
//! description for readers of the file; a change that an older reader would
//! misread takes a new [`FORMAT`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The number of this form of the file.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// When it started, in RFC 3339.
    pub started: String,
    /// How long it took, in seconds of the clock.
    pub seconds: f64,
    /// The command, word by word, the program's name first.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured, in the order of tables and plots.
    pub targets: Vec<Target>,
    /// What was asked for and could not be measured.
    pub left_out: Vec<LeftOut>,
    /// The suites that ran, in order.
    pub suites: Vec<Suite>,
    /// What other programs have said of their measurements, word for word, for
    /// files of their own.
    #[serde(skip)]
    pub outputs: Vec<Output>,
}

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it goes to, below the directory of the results.
    pub name: String,
    /// Its words.
    pub text: String,
}

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many processors the run could use.
    pub cpus: u32,
    /// All memory, in bytes.
    pub memory_bytes: u64,
    /// The release of the host's kernel.
    pub kernel: String,
    /// What the kernel says of each weakness of processors, by its name.
    pub mitigations: BTreeMap<String, String>,
    /// The hypervisor that this machine runs under, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
    /// Whether software emulates the processor: then only ratios mean anything.
    pub emulated: bool,
    /// What times are made of.
    pub time: Time,
    /// The versions of the programs that took part, by their names.
    pub versions: BTreeMap<String, String>,
}

/// What times are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Time {
    /// The time of day.
    Clock,
    /// Counted instructions, at a nanosecond each.
    Instructions,
}

/// A place where workloads ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `host`, `container`, `vm`, `vm+container`, `qemu` or `podman`.
    pub name: String,
    /// What it is made of here, in a line.
    pub about: String,
}

/// A target that was asked for and is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The name of the target, or of the suite that nothing can run.
    pub target: String,
    /// Why, and the remedy, in a line.
    pub why: String,
}

/// The measurements of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// As on the command line: `start`, `memory`, ...
    pub name: String,
    /// What it answers, in a line.
    pub about: String,
    /// Numbers.
    pub figures: Vec<Figure>,
    /// Answers that are not numbers.
    pub tables: Vec<Table>,
    /// Targets on which it failed.
    pub failures: Vec<Failure>,
}

/// One quantity, on each target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Names it within its suite, for programs.
    pub name: String,
    /// Names it for people.
    pub title: String,
    /// `s`, `B`, `1/s`, `B/s` or `count`.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// How it was taken, in a sentence or two.
    pub how: String,
    /// One for each target that has it, in the order of [`Results::targets`].
    pub results: Vec<Measured>,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Small numbers.
    Less,
    /// Large numbers.
    More,
}

/// A quantity as measured on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The name of the target.
    pub target: String,
    /// Every sample after the warm-up, in the order taken, in the figure's unit.
    pub samples: Vec<f64>,
    /// The median of all samples, outliers too.
    pub median: f64,
    /// The low end of the median's confidence interval.
    pub low: f64,
    /// The high end.
    pub high: f64,
    /// How sure the interval is, from 0 to 1: what that many samples allow.
    pub confidence: f64,
    /// How many samples lie outside Tukey's fences. They count in the median.
    pub outliers: u32,
    /// What else there is to say, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Answers that are not numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Names it within its suite, for programs.
    pub name: String,
    /// Names it for people.
    pub title: String,
    /// How the answers were got.
    pub how: String,
    /// The names of the targets, in the order of each row's cells.
    pub columns: Vec<String>,
    /// The questions.
    pub rows: Vec<Row>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What was asked.
    pub name: String,
    /// The answers, one for each column.
    pub cells: Vec<Cell>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The answer.
    pub value: Answer,
    /// What was seen.
    pub detail: String,
}

/// Yes, no, or that the try itself told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The workload can see or reach it.
    Yes,
    /// It cannot.
    No,
    /// The try could not be made.
    Unknown,
}

/// A target on which a suite, or a part of it, failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The name of the target.
    pub target: String,
    /// Why, in a line.
    pub why: String,
}
