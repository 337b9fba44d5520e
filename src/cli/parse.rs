//! From the words of a command line to a command, or to one line that says why not.

use std::ffi::OsString;
use std::mem;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches};

use super::{Cli, CliError, Command, docker, run, verbose_without_letter};
use crate::output;

/// The longest message about the command line, in characters: it repeats what
/// was typed, and a script may have typed a megabyte.
const MAX_MESSAGE: usize = 1000;

/// What the arguments amount to.
#[derive(Debug)]
pub enum Parsed {
    /// A command.
    Run(Box<Cli>),
    /// A text that was asked for: help or the version.
    Print(String),
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// [`CliError::Usage`], in one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, CliError> {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(cli) = run_alone(&args) {
        return Ok(Parsed::Run(Box::new(cli)));
    }
    let mut known = Cli::command();
    let parsed = known
        .try_get_matches_from_mut(asked_for_help(&args))
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|e| e.format(&mut known));
    if !matches!(
        &parsed,
        Ok(Cli {
            command: Command::Boot(_),
            ..
        })
    ) {
        // Thousands of pieces of memory, and a process that soon ends. That of a
        // machine stays.
        mem::forget(known);
    }
    match parsed {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(e.render().to_string()))
        }
        Err(e) => Err(CliError::Usage(usage_line(&e, &args))),
    }
}

/// A line of `drupe run`, read without the descriptions of the thirty other
/// commands, which are put together for each start otherwise. None when there is
/// anything about it: then all of them read it, and say what is wrong.
pub(super) fn run_alone(args: &[OsString]) -> Option<Cli> {
    let line = args.get(1..)?;
    line.first().filter(|word| *word == "run")?;
    let known = clap::Command::new("run").arg(verbose_without_letter());
    let mut known = run::RunArgs::augment_args(known);
    let matches = known.try_get_matches_from_mut(line);
    mem::forget(known);
    let mut matches = matches.ok()?;
    let verbose = matches.get_flag("verbose");
    let run = run::RunArgs::from_arg_matches_mut(&mut matches).ok()?;
    let command = Command::Run(Box::new(run));
    Some(Cli { verbose, command })
}

/// `drupe help COMMAND` is `drupe COMMAND --help`. clap has such a command too,
/// which would hold a copy of all others at each start.
fn asked_for_help(args: &[OsString]) -> Vec<OsString> {
    let mut args = args.to_vec();
    if args.get(1).is_some_and(|word| word == "help") {
        args.remove(1);
        args.push("--help".into());
    }
    args
}

/// Puts clap's message, of several lines, into one.
fn usage_line(error: &clap::Error, args: &[OsString]) -> String {
    let help = help_command(args);
    if error.kind() == ErrorKind::MissingSubcommand {
        // clap lists all that there are, the hidden ones too.
        let command = help.trim_end_matches(" --help");
        return format!("'{command}' wants a command: see '{help}'");
    }
    if let Some((what, advice)) = advice(error, &help) {
        return format!("no {what}: {advice}: see '{help}'");
    }
    let full = error.render().to_string();
    let paragraph: Vec<&str> = full
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let text = paragraph.join(" ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut message: String = text.chars().take(MAX_MESSAGE).collect();
    for kind in [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ] {
        match error.get(kind) {
            Some(ContextValue::String(s)) => message.push_str(&format!(" (perhaps '{s}')")),
            Some(ContextValue::Strings(s)) if !s.is_empty() => {
                message.push_str(&format!(" (perhaps '{}')", s.join("' or '")));
            }
            _ => {}
        }
    }
    format!("{}: see '{help}'", output::one_line(&message))
}

/// What docker has and drupe has not, and what to do in its place.
fn advice(error: &clap::Error, help: &str) -> Option<(String, &'static str)> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match (error.kind(), help) {
        (ErrorKind::InvalidSubcommand, "drupe --help") => {
            let word = word(ContextKind::InvalidSubcommand)?;
            Some((format!("command '{word}'"), docker::advice(word)?))
        }
        (ErrorKind::UnknownArgument, "drupe run --help" | "drupe create --help") => {
            let word = word(ContextKind::InvalidArg)?;
            Some((format!("option '{word}'"), docker::flag_advice(word)?))
        }
        _ => None,
    }
}

/// The command whose help tells more: the one that the arguments begin with.
fn help_command(args: &[OsString]) -> String {
    let mut command = "drupe".to_owned();
    let mut known = Cli::command();
    known.build();
    for word in args.iter().skip(1) {
        if word == "-v" || word == "--verbose" {
            continue;
        }
        let Some(next) = known.find_subcommand(word).cloned() else {
            break;
        };
        command.push(' ');
        command.push_str(next.get_name());
        known = next;
    }
    command + " --help"
}
