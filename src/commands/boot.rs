//! `drupe boot`: one VM from a kernel, until it ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use thiserror::Error;
use vmm::config::Console;
use vmm::{ConsoleIo, InputAction, InputFilter, Machine, Outcome};

use super::Failure;
use crate::cli::{self, BootArgs};
use crate::exit::Exit;
use crate::terminal::{Action, ESCAPE_HELP, EscapeFilter, Guard, line_end};
use crate::{confinement, kernels, logging};

#[derive(Debug, Error)]
#[error("console: {0}: start drupe with standard input and output, or with --console off")]
struct ConsoleError(#[source] io::Error);

/// An end of the VM other than by its own will, as it is reported.
#[derive(Debug, Error)]
#[error("{line}")]
struct Ended {
    line: String,
    source: Option<Details>,
}

/// What else is known of the end: the lines for `-v`.
#[derive(Debug, Error)]
#[error("{0}")]
struct Details(String);

/// Boots the VM and waits for its end.
///
/// # Errors
/// A bad configuration, what keeps the VM from running, or an end that is not
/// the guest's own power-off.
pub fn run(args: &BootArgs) -> Result<Exit, Failure> {
    let mut config = cli::config(args)?;
    kernels::resolve(&mut config)?;
    if let Some(vsock) = &mut config.vsock {
        vsock.path = confinement::plain(&vsock.path);
    }
    let interactive = config.console == Console::On;
    let io = match interactive {
        true => console().map_err(|e| Failure::runtime(ConsoleError(e)))?,
        false => ConsoleIo::default(),
    };
    logging::start_no_thread();
    let machine = Machine::with_stop_signals(&config, io).map_err(Failure::runtime)?;
    // Not before the machine is there: until then Ctrl-C is the user's.
    let guard = match interactive {
        true => Some(Guard::enter(libc::STDIN_FILENO)),
        false => None,
    };
    let guard = guard.transpose();
    let guard = guard.map_err(|e| Failure::runtime(ConsoleError(e)))?;
    confinement::enter(args.confine, &config, &machine, Vec::new(), None)
        .map_err(Failure::runtime)?;
    let stop_timeout = Duration::from_secs(args.stop_timeout.into());
    let outcome = machine.run(stop_timeout);
    drop(guard);
    end(&outcome.map_err(Failure::runtime)?)
}

/// The console on drupe's own standard input and output.
fn console() -> io::Result<ConsoleIo> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    Ok(ConsoleIo {
        input: Some(copy(io::stdin().as_fd())?),
        output: Some(copy(io::stdout().as_fd())?),
        filter: Some(escape_filter()),
        ..ConsoleIo::default()
    })
}

fn escape_filter() -> InputFilter {
    let mut filter = EscapeFilter::default();
    Box::new(move |input, guest| match filter.filter(input, guest) {
        Some(Action::Quit) => InputAction::Quit,
        Some(Action::Help) => {
            let end = line_end();
            logging::write(&format!("{end}drupe: {ESCAPE_HELP}{end}"));
            InputAction::Continue
        }
        None => InputAction::Continue,
    })
}

fn end(outcome: &Outcome) -> Result<Exit, Failure> {
    let exit = match outcome {
        Outcome::PowerOff => return Ok(Exit::Success),
        Outcome::Reboot => Exit::Reboot,
        Outcome::Panic => Exit::Panic,
        Outcome::TripleFault(_) => Exit::TripleFault,
        Outcome::InternalError(_) => Exit::KvmInternal,
        Outcome::Stopped(signal) => {
            let signal = signal.unwrap_or(libc::SIGINT);
            Exit::Signal(u8::try_from(signal).unwrap_or(u8::MAX))
        }
    };
    let text = outcome.to_string();
    let (line, details) = text.split_once('\n').unwrap_or((&text, ""));
    let advice = match outcome {
        Outcome::InternalError(_) => ": see 'drupe doctor'",
        _ => "",
    };
    Err(Failure {
        exit,
        error: Box::new(Ended {
            line: format!("{line}{advice}"),
            source: (!details.is_empty()).then(|| Details(details.to_owned())),
        }),
        // Nobody can ask again with -v: the VM is gone.
        explain: exit == Exit::KvmInternal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;
    use vmm::CpuReport;

    #[test]
    fn every_end_has_its_status_and_its_line() {
        let report = || Box::new(CpuReport::default());
        assert!(matches!(end(&Outcome::PowerOff), Ok(Exit::Success)));
        for (outcome, status) in [
            (Outcome::Reboot, 3),
            (Outcome::TripleFault(report()), 4),
            (Outcome::InternalError(report()), 5),
            (Outcome::Panic, 6),
            (Outcome::Stopped(Some(libc::SIGTERM)), 143),
            (Outcome::Stopped(None), 130),
        ] {
            let failure = end(&outcome).unwrap_err();
            assert_eq!(failure.exit.status(), status);
            let line = failure.error.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn registers_are_for_the_verbose() {
        let report = CpuReport {
            registers: "rip=0".to_owned(),
            ..CpuReport::default()
        };
        let failure = end(&Outcome::InternalError(Box::new(report))).unwrap_err();
        assert!(!failure.error.to_string().contains("rip"));
        let ended = failure.error.downcast_ref::<Ended>().unwrap();
        assert!(ended.source().unwrap().to_string().contains("rip=0"));
    }

    #[test]
    fn the_escape_ends_the_console() {
        let mut filter = escape_filter();
        let mut guest = Vec::new();
        assert_eq!(filter(b"a\x01", &mut guest), InputAction::Continue);
        assert_eq!(filter(b"x", &mut guest), InputAction::Quit);
        assert_eq!(guest, b"a");
    }
}
