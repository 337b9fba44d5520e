//! `drupe man`: manual pages, made of the command line's own description.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use thiserror::Error;

use crate::cli::Cli;
use crate::commands::Failure;
use crate::exit::Exit;

/// What the pages are of, in their foot.
const SOURCE: &str = concat!("drupe ", env!("CARGO_PKG_VERSION"));
/// In their head.
const MANUAL: &str = "User Commands";

#[derive(Debug, Error)]
#[error("{path}: {source}: give a directory that can be written")]
struct ManError {
    path: PathBuf,
    source: io::Error,
}

/// Writes a manual page for drupe and each of its commands.
///
/// # Errors
/// When a page cannot be written.
pub fn pages(directory: &Path) -> Result<Exit, Failure> {
    let write = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let mut command = Cli::command();
        command.build();
        every(&command, None, &|command, parent| {
            let path = directory.join(format!("{}.1", page_name(command)));
            File::create(path)?.write_all(&page(command, parent)?)
        })
    };
    write().map(|()| Exit::Success).map_err(|source| {
        Failure::runtime(ManError {
            path: directory.to_owned(),
            source,
        })
    })
}

/// Does something to a command and to each below it.
fn every(
    command: &Command,
    parent: Option<&Command>,
    act: &dyn Fn(&Command, Option<&Command>) -> io::Result<()>,
) -> io::Result<()> {
    act(command, parent)?;
    let below = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    below
        .into_iter()
        .try_for_each(|sub| every(sub, Some(command), act))
}

/// `drupe-volume-create`.
fn page_name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, parent: Option<&Command>) -> io::Result<Vec<u8>> {
    let name = page_name(command).to_owned();
    let after = command.get_after_help().map(ToString::to_string);
    let has_commands = command.has_subcommands();
    let see_also = parent.map(|parent| {
        let siblings = parent.get_subcommands().filter(|sub| !sub.is_hide_set());
        // drupe itself has them all.
        let few = parent
            .get_display_name()
            .is_some_and(|name| name.contains('-'));
        let siblings = siblings.filter(|sub| few && page_name(sub) != name);
        let names = std::iter::once(page_name(parent)).chain(siblings.map(page_name));
        names.map(str::to_owned).collect::<Vec<_>>()
    });
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let command = words(command.clone()).override_usage(usage);
    let man = Man::new(command);
    // The page's own head: with no date in it, clap's would move the rest up.
    let title = name.to_uppercase();
    let mut text = format!(".TH {title} 1 \"\" \"{SOURCE}\" \"{MANUAL}\"\n").into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::default();
    for (title, lines) in sections(after.as_deref().unwrap_or_default()) {
        roff.control("SH", [title]);
        section(&mut roff, &lines);
    }
    if let Some(pages) = see_also {
        roff.control("SH", ["SEE ALSO"]);
        let mut line: Vec<Inline> = Vec::new();
        for page in pages {
            let comma = if line.is_empty() { "" } else { ", " };
            line.extend([roman(comma), bold(page), roman("(1)")]);
        }
        roff.text(line);
    }
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// The command with each of its arguments shown as in its usage: one that takes
/// a name and then words of its own has the names of both.
fn words(command: Command) -> Command {
    command.mut_args(|arg| {
        let names = arg.get_value_names().unwrap_or_default();
        let both = match names.first().map(|name| name.as_str()) {
            Some("IMAGE") if names.len() == 2 => Some("IMAGE [COMMAND...]"),
            Some("SANDBOX") if names.len() == 2 => Some("SANDBOX COMMAND..."),
            _ => None,
        };
        // The choices stand in the help where they need words.
        let arg = arg.hide_possible_values(true);
        match both {
            Some(both) if arg.is_positional() => arg.value_name(both),
            _ => arg,
        }
    })
}

/// The sections of what stands below a command's options: each paragraph begins
/// with what it is about.
fn sections(text: &str) -> Vec<(&'static str, Vec<String>)> {
    let mut sections: Vec<(&'static str, Vec<String>)> = Vec::new();
    for paragraph in text.split("\n\n").filter(|text| !text.trim().is_empty()) {
        let mut lines: Vec<String> = paragraph.lines().map(str::to_owned).collect();
        let first = lines.first().cloned().unwrap_or_default();
        let title = match first.split([':', ',']).next().unwrap_or_default() {
            "Example" | "Examples" => "EXAMPLES",
            "Exit status" => "EXIT STATUS",
            "Keys" => "KEYS",
            _ => "NOTES",
        };
        let named = ["Example:", "Examples:", "Exit status:", "Keys:"];
        if let Some(rest) = named.iter().find_map(|name| first.strip_prefix(name)) {
            match rest.trim() {
                "" => drop(lines.remove(0)),
                rest => {
                    let mut letters = rest.chars();
                    let first = letters.next().into_iter().flat_map(char::to_uppercase);
                    lines[0] = first.chain(letters).collect();
                }
            }
        }
        match sections.iter_mut().find(|(known, _)| *known == title) {
            Some((_, list)) => {
                list.push(String::new());
                list.extend(lines);
            }
            None => sections.push((title, lines)),
        }
    }
    sections
}

/// Lines as they are where they are indented, and text otherwise.
fn section(roff: &mut Roff, lines: &[String]) {
    let mut as_is = false;
    for line in lines {
        let indented = line.starts_with("  ");
        if indented != as_is {
            roff.control(if indented { "nf" } else { "fi" }, []);
            as_is = indented;
        }
        match line.is_empty() {
            true => roff.control("PP", []),
            false => roff.text([roman(line.as_str())]),
        };
    }
    if as_is {
        roff.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_as_manuals_have_them() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        let read = |page: &str| fs::read_to_string(dir.path().join(page)).unwrap();
        for page in ["drupe.1", "drupe-run.1", "drupe-volume-create.1"] {
            let text = read(page);
            let title = page.trim_end_matches(".1").to_uppercase();
            let head = format!(".TH {title} 1 \"\" \"{SOURCE}\" \"User Commands\"\n");
            assert!(text.contains(&head), "{text}");
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"));
            assert!(!text.contains("EXTRA"), "{text}");
        }
        let run = read("drupe-run.1");
        assert!(run.contains("[OPTIONS] <IMAGE> [COMMAND]..."), "{run}");
        for title in ["EXAMPLES", "\"EXIT STATUS\"", "KEYS", "\"SEE ALSO\""] {
            assert!(run.contains(&format!(".SH {title}\n")), "{title}: {run}");
        }
        let create = read("drupe-volume-create.1");
        assert!(
            create.contains("\\fBdrupe\\-volume\\-rm\\fR(1)"),
            "{create}"
        );
    }

    #[test]
    fn paragraphs_become_sections() {
        let text =
            "Examples:\n  a b\n  c\n\nKeys, with -it: x.\n\nExit status: 1.\n\nMore\n\nYet more";
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            sections(text),
            [
                ("EXAMPLES", lines(&["  a b", "  c"])),
                ("KEYS", lines(&["Keys, with -it: x."])),
                ("EXIT STATUS", lines(&["1."])),
                ("NOTES", lines(&["More", "", "Yet more"])),
            ]
        );
    }
}
