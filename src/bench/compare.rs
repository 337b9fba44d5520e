//! Two runs beside each other: what changed beyond noise.
//!
//! Whether a figure changed on a target is asked of all its samples by the
//! Mann-Whitney test ([`super::rank`]), not of the two intervals: intervals of
//! medians that touch would hide changes that the samples show. A hundred figures
//! at 5 % each would give five false alarms, so the bound is that of Benjamini and
//! Hochberg (1995): of what is called changed one in twenty is noise, and when
//! nothing changed, one comparison in twenty says that anything did. What happened
//! between the two runs to the machine itself no test can tell from a change.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::Serialize;

use super::rank;
use super::report::{number, word};
use super::results::{Better, Figure, Machine, Measured, Results, Time};

/// The share of false alarms.
const FALSE_ALARMS: f64 = 0.05;

/// Two runs compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What makes the two hard to compare.
    pub warnings: Vec<String>,
    /// What both have.
    pub figures: Vec<Compared>,
    /// How many samples of each in both runs would tell any change.
    pub enough_runs: usize,
    /// Answers that differ.
    pub answers: Vec<Differs>,
    /// What the first alone has: `SUITE/FIGURE on TARGET`.
    pub only_first: Vec<String>,
    /// What the second alone has.
    pub only_second: Vec<String>,
}

/// A figure on a target, in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// The suite's name.
    pub suite: String,
    /// The figure's name.
    pub figure: String,
    /// The figure's title.
    pub title: String,
    /// The target.
    pub target: String,
    /// The figure's unit.
    pub unit: String,
    /// The first median.
    pub first: f64,
    /// The second.
    pub second: f64,
    /// The second by the first; none of nothing.
    pub ratio: Option<f64>,
    /// How likely so much of a difference is without a change.
    pub probability: f64,
    /// What it comes to.
    pub verdict: Verdict,
}

/// What a difference comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Changed, the wrong way.
    Worse,
    /// Changed, the right way.
    Better,
    /// Not told from noise.
    Same,
    /// So few samples that no difference on this figure alone could have been told
    /// from noise.
    Few,
}

/// An answer that is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Differs {
    /// The suite's name.
    pub suite: String,
    /// The question.
    pub question: String,
    /// The target.
    pub target: String,
    /// The first answer.
    pub first: &'static str,
    /// The second.
    pub second: &'static str,
}

impl Comparison {
    /// Whether something is worse.
    pub fn has_worse(&self) -> bool {
        self.figures.iter().any(|one| one.verdict == Verdict::Worse)
    }
}

/// Compares the second run with the first.
pub fn compare(first: &Results, second: &Results) -> Comparison {
    let (a, b) = (keys(first), keys(second));
    let mut figures = Vec::new();
    let mut tests = Vec::new();
    for (suite, figure, m) in measured(first) {
        let Some((other, n)) = find(second, suite, &figure.name, &m.target) else {
            continue;
        };
        if other.unit != figure.unit {
            continue;
        }
        let test = rank::test(&m.samples, &n.samples);
        let least = rank::least_probability(m.samples.len(), n.samples.len());
        tests.push((figure.better, test.direction, least));
        let ratio = n.median / m.median;
        figures.push(Compared {
            suite: suite.to_owned(),
            figure: figure.name.clone(),
            title: figure.title.clone(),
            target: m.target.clone(),
            unit: figure.unit.clone(),
            first: m.median,
            second: n.median,
            ratio: ratio.is_finite().then_some(ratio),
            probability: test.probability,
            verdict: Verdict::Same,
        });
    }
    let bound = bound(figures.iter().map(|one| one.probability).collect());
    // What the greatest difference has to come to, were it the only one.
    let alone = FALSE_ALARMS / figures.len() as f64;
    for (one, (better, direction, least)) in figures.iter_mut().zip(tests) {
        one.verdict = match (one.probability <= bound, direction, better) {
            (true, Ordering::Less, Better::Less) | (true, Ordering::Greater, Better::More) => {
                Verdict::Better
            }
            (true, Ordering::Greater, Better::Less) | (true, Ordering::Less, Better::More) => {
                Verdict::Worse
            }
            _ if least > alone => Verdict::Few,
            _ => Verdict::Same,
        };
    }
    let enough = (2..100).find(|n| rank::least_probability(*n, *n) <= alone);
    Comparison {
        warnings: warnings(first, second),
        figures,
        enough_runs: enough.unwrap_or(100),
        answers: answers(first, second),
        only_first: a.difference(&b).cloned().collect(),
        only_second: b.difference(&a).cloned().collect(),
    }
}

/// The largest probability that still counts as a change: the largest of the
/// sorted `p_k` with `p_k <= k / count * FALSE_ALARMS`. Below 0 if there is none.
fn bound(mut probabilities: Vec<f64>) -> f64 {
    probabilities.sort_by(f64::total_cmp);
    let count = probabilities.len() as f64;
    let allowed = |k: u32| f64::from(k) / count * FALSE_ALARMS;
    let kept = (1..)
        .zip(&probabilities)
        .filter(|(k, p)| **p <= allowed(*k));
    kept.map(|(_, p)| *p).last().unwrap_or(-1.0)
}

fn measured(results: &Results) -> impl Iterator<Item = (&str, &Figure, &Measured)> {
    results.suites.iter().flat_map(|suite| {
        suite.figures.iter().flat_map(move |figure| {
            figure
                .results
                .iter()
                .map(move |m| (suite.name.as_str(), figure, m))
        })
    })
}

fn find<'a>(
    results: &'a Results,
    suite: &str,
    figure: &str,
    target: &str,
) -> Option<(&'a Figure, &'a Measured)> {
    measured(results)
        .find(|(s, f, m)| *s == suite && f.name == figure && m.target == target)
        .map(|(_, f, m)| (f, m))
}

fn keys(results: &Results) -> BTreeSet<String> {
    measured(results)
        .map(|(suite, figure, m)| {
            format!(
                "{suite}/{} on {}, in {}",
                figure.name, m.target, figure.unit
            )
        })
        .collect()
}

fn answers(first: &Results, second: &Results) -> Vec<Differs> {
    let all = |results: &Results| {
        let mut all = Vec::new();
        for suite in &results.suites {
            for table in &suite.tables {
                for row in &table.rows {
                    for (target, cell) in table.columns.iter().zip(&row.cells) {
                        let key = (suite.name.clone(), row.name.clone(), target.clone());
                        all.push((key, word(cell.value)));
                    }
                }
            }
        }
        all
    };
    let others = all(second);
    let differs = |(key, was): ((String, String, String), &'static str)| {
        let (_, is) = others.iter().find(|(other, _)| *other == key)?;
        let (suite, question, target) = key;
        (was != *is).then_some(Differs {
            suite,
            question,
            target,
            first: was,
            second: is,
        })
    };
    all(first).into_iter().filter_map(differs).collect()
}

fn warnings(first: &Results, second: &Results) -> Vec<String> {
    let (a, b) = (&first.machine, &second.machine);
    let mut warnings = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            warnings.push(format!("the two ran {what}: {a} and {b}"));
        }
    };
    let kind = |m: &Machine| {
        let time = match m.time {
            Time::Clock => "clock times",
            Time::Instructions => "counted instructions",
        };
        match m.emulated {
            true => format!("{time} of an emulated machine"),
            false => time.to_owned(),
        }
    };
    differ("by other times", kind(a), kind(b));
    differ("on other processors", a.cpu.clone(), b.cpu.clone());
    differ(
        "with another number of CPUs",
        a.cpus.to_string(),
        b.cpus.to_string(),
    );
    let memory = |bytes: u64| number::with_unit("B", bytes as f64);
    differ(
        "with other memory",
        memory(a.memory_bytes),
        memory(b.memory_bytes),
    );
    differ("on other kernels", a.kernel.clone(), b.kernel.clone());
    for (name, was) in &a.mitigations {
        if b.mitigations.get(name).is_some_and(|is| is != was) {
            differ(
                &format!("with other mitigations of {name}"),
                was.clone(),
                b.mitigations[name].clone(),
            );
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
