//! `drupe bench`: the same workloads as a process of the host, in a container, in
//! a micro-VM, and in a container in a micro-VM.
//!
//! ```text
//! targets     where workloads run: each makes a command of what is to run
//! suites      what is measured, with the workload's help
//! method      rounds of samples ─ statistics: samples in a few numbers
//! process     runs: started, timed, ended ─ children: what they used
//! peer        the other side of the workload's connections
//! work        the files of a run ─ fio: of this machine, for the root
//! machine     what figures depend on
//! results     what comes out ─ file: read again ─ report: for people
//! compare     two runs ─ rank: whether they differ beyond noise
//! ```
//!
//! Targets know nothing of suites, and suites nothing of a single target.

mod children;
pub mod compare;
mod error;
pub mod file;
mod fio;
mod machine;
mod method;
mod peer;
mod process;
mod rank;
pub mod report;
pub mod results;
mod statistics;
pub mod suites;
pub mod targets;
#[cfg(test)]
mod testing;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

pub use error::Error;
use error::{Context, Result};
use fio::Fio;
use results::{FORMAT, LeftOut, Results, Target};
use suites::{Bench, Kind, Place};
use work::Work;

/// The files in the directory that is asked for: for programs, and for people.
const FILE: &str = "results.json";
const PAGE: &str = "report.html";

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The suites, in order.
    pub suites: Vec<Kind>,
    /// The targets, in order.
    pub targets: Vec<targets::Name>,
    /// Samples that are kept of each.
    pub runs: usize,
    /// The root file system of [`Kind::App`], in a tar.
    pub image: Option<PathBuf>,
}

/// Measures.
///
/// # Errors
/// When there is no place for files, or when it is interrupted; what fails on one
/// target is part of the results.
pub fn run(plan: &Plan) -> Result<Results> {
    let (clock, started) = (Instant::now(), SystemTime::now());
    process::take_signals().context(|| "signals".into())?;
    if plan.image.is_some() && !plan.suites.contains(&Kind::App) {
        return Err(Error::Failed(
            "--image: none of the suites runs an image: name the suite app".into(),
        ));
    }
    let (fio, files) = match fio(plan) {
        Some((fio, files)) => (Some(fio), files),
        None => (None, Vec::new()),
    };
    let work = Work::new(files)?;
    let image = match &plan.image {
        Some(image) => Some(work.with_image(image, &suites::app::entries())?),
        None => None,
    };
    let mut left_out = Vec::new();
    let (mut bench, failed) = Bench::new(&plan.targets, plan.runs, &work)?;
    bench.fio = fio;
    for (name, error) in failed {
        log::warn!("target {} is left out: {error}", name.as_str());
        left_out.push(LeftOut {
            target: name.as_str().to_owned(),
            why: error.to_string(),
        });
    }
    if bench.places.is_empty() {
        return Err(Error::Failed("no target is left to measure".into()));
    }
    let mut suites = Vec::new();
    let mut result = Ok(());
    for &kind in &plan.suites {
        log::info!("suite {kind:?}");
        let done = match (kind, &image) {
            (Kind::App, Some(image)) => run_image(kind, &bench, image),
            (Kind::App, None) => {
                let why = suites::app::NO_IMAGE;
                log::warn!("suite app is left out: {why}");
                left_out.push(LeftOut {
                    target: "suite app".to_owned(),
                    why: why.to_owned(),
                });
                continue;
            }
            _ => suites::run(kind, &mut bench),
        };
        match done {
            Ok(suite) => suites.push(suite),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    // Whatever happened, nothing is left behind.
    bench.residents.clear();
    bench.end_all();
    result?;
    let mut versions = BTreeMap::new();
    for place in &bench.places {
        versions.extend(place.target.versions());
    }
    if let Some(fio) = &bench.fio {
        versions.insert("fio".to_owned(), fio.version.clone());
    }
    let target = |place: &Place| Target {
        name: place.name.as_str().to_owned(),
        about: place.target.about(),
    };
    Ok(Results {
        format: FORMAT,
        started: humantime::format_rfc3339_seconds(started).to_string(),
        seconds: clock.elapsed().as_secs_f64(),
        command: std::env::args_os()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        machine: machine::machine(versions),
        targets: bench.places.iter().map(target).collect(),
        left_out,
        suites,
        outputs: bench.outputs,
    })
}

/// Runs a suite on the same targets, with an image as their root file system.
///
/// # Errors
/// [`Error::Interrupted`] only.
fn run_image(kind: Kind, like: &Bench, work: &Work) -> Result<results::Suite> {
    let names: Vec<_> = like.places.iter().map(|place| place.name).collect();
    let (mut bench, failed) = Bench::new(&names, like.runs, work)?;
    let result = suites::run(kind, &mut bench);
    bench.end_all();
    let mut suite = result?;
    for (name, error) in failed {
        suite.fail(name.as_str(), error)?;
    }
    Ok(suite)
}

/// fio and its files, where it is asked for and there.
fn fio(plan: &Plan) -> Option<(Fio, Vec<work::Entry>)> {
    if !plan.suites.contains(&Kind::Disk) {
        return None;
    }
    Fio::new()
        .inspect_err(|error| log::warn!("disk: fio's figures are left out: {error}"))
        .ok()
}

/// The results' file.
///
/// # Errors
/// None that a reader could help.
pub fn json(results: &Results) -> Result<String> {
    let text = serde_json::to_string_pretty(results).map_err(std::io::Error::from);
    Ok(text.context(|| "the results".into())? + "\n")
}

/// Writes the results and their page into a directory, which is made.
///
/// # Errors
/// The file system's.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    let unwritable = |path: &Path| {
        let path = path.display();
        format!("{path}: give --out a directory that can be written")
    };
    fs::create_dir_all(directory).context(|| unwritable(directory))?;
    for output in &results.outputs {
        let path = directory.join(&output.name);
        let parent = path.parent().unwrap_or(directory);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, &output.text))
            .context(|| unwritable(&path))?;
    }
    for (name, text) in [(FILE, json(results)?), (PAGE, report::html::page(results))] {
        let path = directory.join(name);
        fs::write(&path, text).context(|| unwritable(&path))?;
    }
    Ok(())
}
