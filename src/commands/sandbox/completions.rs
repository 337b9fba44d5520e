//! `drupe completions`: scripts for shells, made of the command line's own
//! description. Names of sandboxes, images and volumes they ask drupe itself for,
//! when they are wanted: that is [`NAMES`], which the command line does not list.

use clap::{Arg, Command, CommandFactory};
use clap_complete::shells;

use crate::cli::Cli;
use crate::cli::volume::{NAMES, NameKind, Shell};
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::store::Store;
use crate::sandbox::volumes::Volumes;
use crate::sandbox::{images, ops};

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output's.
pub fn completions(shell: Shell) -> Result<Exit, Failure> {
    print(&script(shell))
}

fn script(shell: Shell) -> String {
    let mut command = Cli::command();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, "drupe", &mut text),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, "drupe", &mut text),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, "drupe", &mut text),
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut named = Vec::new();
    collect(&command, &mut Vec::new(), &mut named);
    match shell {
        Shell::Bash => bash(text, &named),
        Shell::Zsh => zsh(&text),
        Shell::Fish => fish(text, &named),
    }
}

/// A command that names things.
struct Named {
    /// The command's words, without drupe's.
    words: Vec<String>,
    kind: NameKind,
    /// Its options that take a value, behind which there is no name.
    valued: Vec<String>,
}

fn collect(command: &Command, words: &mut Vec<String>, named: &mut Vec<Named>) {
    let kind = command.get_positionals().find_map(kind);
    if let Some(kind) = kind {
        let valued = command
            .get_opts()
            .filter(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set());
        let spelt = |arg: &Arg| {
            let short = arg.get_short().map(|c| format!("-{c}"));
            let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
            let longs = longs.into_iter().map(|long| format!("--{long}"));
            short.into_iter().chain(longs).collect::<Vec<_>>()
        };
        named.push(Named {
            words: words.clone(),
            kind,
            valued: valued.flat_map(spelt).collect(),
        });
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let aliases = sub.get_visible_aliases();
        for name in std::iter::once(sub.get_name()).chain(aliases) {
            words.push(name.to_owned());
            collect(sub, words, named);
            words.pop();
        }
    }
}

/// What an argument names, by what it is called in the usage.
fn kind(arg: &Arg) -> Option<NameKind> {
    let name = arg.get_value_names()?.first()?;
    match name.as_str() {
        // `inspect` takes all three, and is mostly asked about sandboxes.
        "SANDBOX" | "SANDBOX|IMAGE|VOLUME" => Some(NameKind::Sandboxes),
        "IMAGE" => Some(NameKind::Images),
        "VOLUME" => Some(NameKind::Volumes),
        _ => None,
    }
}

fn bash(text: String, named: &[Named]) -> String {
    // The command that the shell calls for a completion comes last.
    let text = text.replace("complete -F _drupe ", "complete -F _drupe_with_names ");
    let cases: String = named
        .iter()
        .map(|named| {
            format!(
                "        {}) kind={} valued=' {} ' ;;\n",
                match &named.words[..] {
                    [one] => format!("{one}\\ *"),
                    words => format!("{}\\ *", words.join("\\ ")),
                },
                named.kind.name(),
                named.valued.join(" ")
            )
        })
        .collect();
    let function = format!(
        r#"_drupe_with_names() {{
    _drupe "$@"
    local at=$COMP_CWORD cur=${{COMP_WORDS[COMP_CWORD]}} prev= kind= valued= name= done=
    # Names of images have colons, at which bash may part words.
    if [[ $COMP_WORDBREAKS == *:* ]]; then
        while [[ $at -gt 2 && ( ${{COMP_WORDS[at]}} == : || ${{COMP_WORDS[at-1]}} == : ) ]]; do
            at=$((at - 1)) cur=${{COMP_WORDS[at]}}$cur
        done
        done=${{cur%"${{cur##*:}}"}}
    fi
    prev=${{COMP_WORDS[at-1]}}
    case "${{COMP_WORDS[*]:1:2}} " in
{cases}    esac
    [[ -n $kind && $cur != -* && $at -gt 1 && $valued != *" $prev "* ]] || return 0
    for name in $(compgen -W "$("${{COMP_WORDS[0]}}" {NAMES} $kind 2>/dev/null)" -- "$cur"); do
        COMPREPLY+=("${{name#"$done"}}")
    done
}}

"#
    );
    match text.rfind("if [[ \"${BASH_VERSINFO[0]}\"") {
        Some(at) => format!("{}{function}{}", &text[..at], &text[at..]),
        None => text,
    }
}

fn zsh(text: &str) -> String {
    // An argument stands there by its name in the code and its help, with a
    // function that completes it.
    let mut out = String::new();
    for line in text.lines() {
        let argument = line.trim_start_matches(['\'', '"', '*']);
        let kind = match argument.trim_start_matches(':') {
            rest if rest == argument => None,
            rest => match rest.split_whitespace().next().unwrap_or_default() {
                "sandbox" | "sandboxes" => Some(NameKind::Sandboxes),
                "image" | "images" => Some(NameKind::Images),
                "volumes" => Some(NameKind::Volumes),
                "names" if rest.contains("sandboxes, images or volumes") => {
                    Some(NameKind::Sandboxes)
                }
                "command" if rest.contains("Name or identifier") => Some(NameKind::Sandboxes),
                _ => None,
            },
        };
        match kind {
            Some(kind) => {
                let function = format!(":_drupe_{}", kind.name());
                out += &line.replacen(":_default", &function, 1);
            }
            None => out += line,
        }
        out.push('\n');
    }
    let functions: String = NameKind::ALL
        .iter()
        .map(|kind| {
            let kind = kind.name();
            format!(
                "_drupe_{kind}() {{\n    local -a names; names=(${{(f)\"$(_call_program names drupe {NAMES} {kind} 2>/dev/null)\"}})\n    compadd -a names\n}}\n"
            )
        })
        .collect();
    match out.rfind("if [ \"$funcstack[1]\"") {
        Some(at) => format!("{}{functions}\n{}", &out[..at], &out[at..]),
        None => out,
    }
}

fn fish(mut text: String, named: &[Named]) -> String {
    for named in named {
        let condition = match &named.words[..] {
            [one] => format!("__fish_drupe_using_subcommand {one}"),
            [first, rest @ ..] => format!(
                "__fish_drupe_using_subcommand {first}; and __fish_seen_subcommand_from {}",
                rest.join(" ")
            ),
            [] => continue,
        };
        let kind = named.kind.name();
        text += &format!("complete -c drupe -n \"{condition}\" -f -a \"(drupe {NAMES} {kind})\"\n");
    }
    text
}

/// Prints the names of what there is, a line for each.
///
/// # Errors
/// When they cannot be listed.
pub fn names(kind: NameKind) -> Result<Exit, Failure> {
    let store = Store::open()?;
    let mut names: Vec<String> = match kind {
        NameKind::Sandboxes => {
            let list = ops::list(&store)?.into_iter();
            list.map(|(_, spec, _)| spec.name).collect()
        }
        NameKind::Images => {
            let list = images::store(store.home())?.list()?.into_iter();
            let names = list.flat_map(|image| image.names);
            names.map(|name| name.familiar()).collect()
        }
        NameKind::Volumes => {
            let list = Volumes::new(store.home()).list()?.into_iter();
            list.map(|volume| volume.name).collect()
        }
    };
    names.sort();
    print(
        &names
            .iter()
            .map(|name| format!("{name}\n"))
            .collect::<String>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_commands_and_names() {
        for (shell, stop, pull, volume) in [
            (
                Shell::Bash,
                "stop\\ *) kind=sandboxes",
                "run\\ *) kind=images valued=' --detach-keys",
                "volume\\ rm\\ *) kind=volumes",
            ),
            (
                Shell::Zsh,
                "'*::sandboxes -- Names or identifiers:_drupe_sandboxes'",
                ":_drupe_images'",
                "'*::volumes -- Names:_drupe_volumes'",
            ),
            (
                Shell::Fish,
                "subcommand stop\" -f -a \"(drupe names sandboxes)\"",
                "subcommand run\" -f -a \"(drupe names images)\"",
                "subcommand volume; and __fish_seen_subcommand_from rm\" -f -a \"(drupe names volumes)\"",
            ),
        ] {
            let text = script(shell);
            assert!(text.contains("network-policy") && !text.contains("sandbox-monitor"));
            for part in [stop, pull, volume] {
                assert!(text.contains(part), "{shell:?}: {part}");
            }
        }
    }
}
