//! `drupe doctor`: can this machine run VMs, and what is to be done if not?
//!
//! Every check finds out by trying or by reading what the kernel says; none
//! changes anything. A finding that is not good comes with its fix.

pub mod confinement;
mod host;
mod kvm;

use serde::Serialize;
use vmm::probe::probe_host;

use super::{Failure, json, print};
use crate::cgroup;
use crate::cli::{DoctorArgs, Format, Topic};
use crate::exit::Exit;
use crate::output;
use host::Host;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// As it should be.
    Ok,
    /// VMs run without it; something else does not work or is slower.
    Warn,
    /// No VM runs without it.
    Missing,
}

impl Status {
    fn mark(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Missing => "missing",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    detail: String,
    fix: Option<String>,
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Check {
            check,
            status: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn bad(
        check: &'static str,
        status: Status,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Check {
            check,
            status,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }

    /// For people, with the detail behind a column for the names of this width.
    fn line(&self, width: usize) -> String {
        let detail = output::one_line(&self.detail);
        let mut line = format!("{:8} {:width$} {detail}\n", self.status.mark(), self.check);
        if let Some(fix) = &self.fix {
            let fix = output::one_line(fix);
            line.push_str(&format!("{:8} {:width$} fix: {fix}\n", "", ""));
        }
        line
    }
}

/// Runs `drupe doctor`.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let host = Host::new("/");
    let kvm = probe_host();
    let can_run = kvm.can_run();
    let checks = match args.check {
        Some(Topic::Kvm) => vec![kvm::verdict(&kvm, &host)],
        None => {
            let mut checks = vec![host.cpu(), host.kernel()];
            checks.extend(kvm::checks(&kvm, &host));
            checks.extend(host.checks());
            checks.push(cgroups());
            checks.extend(confinement::checks());
            checks
        }
    };
    let text = match (args.format, args.check) {
        (Format::Json, _) => json(&checks)?,
        (Format::Text, Some(_)) => verdicts(&checks),
        (Format::Text, None) => report(&checks, can_run),
    };
    print(&text)?;
    Ok(if can_run { Exit::Success } else { Exit::Error })
}

/// Whether a sandbox gets a control group: a group without a process is made, and
/// removed.
fn cgroups() -> Check {
    const CHECK: &str = "cgroups";
    let tried = cgroup::Host::find().and_then(|host| host.try_out().map(|()| host.version()));
    match tried {
        Ok(version) => Check::ok(
            CHECK,
            format!("{version}: each sandbox gets one of its own"),
        ),
        Err(e) => Check::bad(
            CHECK,
            Status::Warn,
            format!("sandboxes run without: {e}"),
            "see docs/limits.md; without one, the host's memory and processors are bounded \
             by what the machine has alone",
        ),
    }
}

fn report(checks: &[Check], can_run: bool) -> String {
    let width = checks.iter().map(|c| c.check.len()).max().unwrap_or(0);
    let mut text: String = checks.iter().map(|c| c.line(width)).collect();
    text.push_str(if can_run {
        "\nThis machine can run VMs.\n"
    } else {
        "\nThis machine cannot run VMs: see what is missing above.\n"
    });
    text
}

fn verdicts(checks: &[Check]) -> String {
    let line = |c: &Check| {
        let detail = output::one_line(&c.detail);
        format!("{}: {}: {detail}\n", c.check, c.status.mark())
    };
    checks.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_print_with_their_fix() {
        let checks = [
            Check::ok("cpu", "a\nb"),
            Check::bad("longer", Status::Warn, "no", "do"),
        ];
        assert_eq!(
            report(&checks, false),
            "ok       cpu    a\\nb\n\
             warn     longer no\n                fix: do\n\n\
             This machine cannot run VMs: see what is missing above.\n"
        );
        assert_eq!(verdicts(&checks[1..]), "longer: warn: no\n");
    }

    #[test]
    fn json_has_the_four_fields() {
        let check = Check::bad("kvm", Status::Missing, "d", "f");
        assert_eq!(
            serde_json::to_string(&check).unwrap(),
            r#"{"check":"kvm","status":"missing","detail":"d","fix":"f"}"#
        );
    }
}
