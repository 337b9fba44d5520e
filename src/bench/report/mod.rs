//! What a person reads of the results: a table for the terminal, and a page with
//! plots. Pure functions of the results, which may come from a file that somebody
//! else wrote: nothing in them is trusted to be harmless to a terminal or a
//! browser.

pub mod compared;
pub mod html;
pub mod math;
pub mod number;
mod plot;
pub mod text;

use super::results::{Answer, Better, Figure, Machine, Measured, Time};

/// What has to be known before any time of this machine is read.
pub fn caution(machine: &Machine) -> Option<&'static str> {
    match (machine.emulated, machine.time) {
        (true, Time::Clock) => Some(
            "The processor of this machine is emulated: times are clock times of an emulated \
             machine, and only ratios mean anything.",
        ),
        (true, Time::Instructions) => Some(
            "The processor of this machine is emulated: times are counted instructions, a \
             nanosecond each, and only ratios mean anything.",
        ),
        (false, Time::Instructions) => Some(
            "Times are counted instructions, a nanosecond each, and no clock times: only ratios \
             mean anything.",
        ),
        (false, Time::Clock) => None,
    }
}

fn direction(better: Better) -> &'static str {
    match better {
        Better::Less => "less is better",
        Better::More => "more is better",
    }
}

/// An answer, in a word.
pub fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Yes => "yes",
        Answer::No => "no",
        Answer::Unknown => "unknown",
    }
}

/// What the others of a figure are put in relation to: the first target, and
/// where it is missing the first that there is.
fn base(figure: &Figure) -> Option<&Measured> {
    figure.results.first()
}

fn machine_line(machine: &Machine) -> String {
    let mut line = format!(
        "{}, {} CPU{}, {}, Linux {}",
        machine.cpu,
        machine.cpus,
        if machine.cpus == 1 { "" } else { "s" },
        number::with_unit("B", machine.memory_bytes as f64),
        machine.kernel
    );
    if let Some(hypervisor) = &machine.virtualization {
        line += &format!(", under {hypervisor}");
    }
    line
}

/// A confidence in per cent, rounded down: 95.9 % is no 96.
fn per_cent(confidence: f64) -> String {
    format!("{} %", (confidence.clamp(0.0, 1.0) * 100.0) as u32)
}
