//! Which layers of confinement this machine has: found out by a process that
//! confines itself as one with a machine does.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use confine::{Birth, Forked, Mode, Plan, Report, State};

use super::{Check, Status};

/// The word that makes drupe such a process. The command line does not list it.
pub const COMMAND: &str = "confinement-probe";

const CHECK: &str = "confinement";

/// Is that process: its child confines itself, and says how far it got.
pub fn main() -> ExitCode {
    match confine::fork(Mode::On, None) {
        Ok(Forked::Child(birth)) => confined(birth),
        Ok(Forked::Parent(child)) => match child.wait() {
            Some(0) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        },
        Err(e) => {
            log::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn confined(birth: Birth) -> ExitCode {
    let plan = Plan {
        birth: Some(birth),
        ..Plan::default()
    };
    let report = confine::enter(&plan).map(|confined| confined.report);
    let text = report
        .map_err(io::Error::other)
        .and_then(|report| Ok(serde_json::to_string(&report)?));
    match text {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            log::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// One finding if every layer is there, else one for each that is missing.
pub(super) fn checks() -> Vec<Check> {
    match probe() {
        Ok(report) => findings(&report),
        Err(e) => vec![Check::bad(
            CHECK,
            Status::Missing,
            format!("a process cannot be confined: {e}"),
            "use a kernel with CONFIG_SECCOMP_FILTER, or --confine=off",
        )],
    }
}

fn probe() -> io::Result<Report> {
    let output = Command::new("/proc/self/exe")
        .arg0("drupe")
        .arg(COMMAND)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(why.trim().to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn findings(report: &Report) -> Vec<Check> {
    let names: Vec<_> = report.layers().map(|(layer, _)| layer.name()).collect();
    let missing = report.layers().filter_map(|(layer, state)| match state {
        State::Active => None,
        State::Missing(why) => Some(Check::bad(
            CHECK,
            Status::Warn,
            format!("no {}: {why}", layer.name()),
            "let the host have it: docs/security.md says what each layer is worth",
        )),
    });
    let missing: Vec<_> = missing.collect();
    match missing.is_empty() {
        true => vec![Check::ok(
            CHECK,
            format!("all layers: {}", names.join(", ")),
        )],
        false => missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_reason() {
        let text = r#"[{"layer":"seccomp","state":"active"},
            {"layer":"landlock","state":"missing","why":"too old"}]"#;
        let checks = findings(&serde_json::from_str(text).unwrap());
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].detail, "no Landlock: too old");
        assert_eq!(checks[0].status, Status::Warn);
        let text = r#"[{"layer":"seccomp","state":"active"}]"#;
        let checks = findings(&serde_json::from_str(text).unwrap());
        assert_eq!(checks[0].detail, "all layers: seccomp");
        assert_eq!(checks[0].status, Status::Ok);
    }
}
