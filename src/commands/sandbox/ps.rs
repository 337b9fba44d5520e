//! `drupe ps`.

use serde::Serialize;

use super::table::{json, short, table};
use crate::cli::Format;
use crate::cli::sandbox::{Filter, PsArgs};
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::network::{inside, outside};
use crate::sandbox::ops;
use crate::sandbox::spec::{Publish, Spec};
use crate::sandbox::state::{State, Status};
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::time::{Time, rough};

/// The most characters of a command in a list.
const COMMAND: usize = 20;

/// A sandbox in a list, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    names: String,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: Vec<String>,
    created_at: Time,
    state: &'static str,
    status: String,
    exit_code: Option<u8>,
    pid: Option<u32>,
    ports: Vec<String>,
    labels: std::collections::BTreeMap<String, String>,
    mounts: Vec<String>,
}

/// Lists sandboxes.
///
/// # Errors
/// When they cannot be listed.
pub fn run(args: &PsArgs) -> Result<Exit, Failure> {
    let mut list = ops::list(&Store::open()?)?;
    let by_state = args
        .filter
        .iter()
        .any(|f| matches!(f, Filter::Status(_) | Filter::Exited(_)));
    if args.latest {
        list.truncate(1);
    } else if !args.all && !by_state {
        list.retain(|(_, _, state)| state.status.is_live());
    }
    list.retain(|(sandbox, spec, state)| passes(&args.filter, sandbox, spec, state));
    if args.quiet {
        let ids = list.iter().map(|(sandbox, ..)| match args.no_trunc {
            true => format!("{}\n", sandbox.id),
            false => format!("{}\n", sandbox.id.short()),
        });
        return print(&ids.collect::<String>());
    }
    match args.format {
        Format::Json => json(&list.iter().map(row).collect::<Vec<_>>()),
        Format::Text => print(&text(&list, args.no_trunc)),
    }
}

/// Filters of one kind: one of them has to fit, as Docker has it, but every label.
fn passes(filters: &[Filter], sandbox: &Sandbox, spec: &Spec, state: &State) -> bool {
    let fits = |filter: &Filter| match filter {
        Filter::Name(text) => spec.name.contains(text.as_str()),
        Filter::Id(text) => sandbox.id.as_str().starts_with(text.as_str()),
        Filter::Status(status) => state.status.name() == status,
        Filter::Label(name, value) => spec
            .labels
            .get(name)
            .is_some_and(|found| value.as_ref().is_none_or(|value| value == found)),
        Filter::Ancestor(image) => {
            let id = spec.image.id.trim_start_matches("sha256:");
            spec.image.name == *image
                || (image.len() >= 4 && id.starts_with(image.trim_start_matches("sha256:")))
        }
        Filter::Exited(code) => state.status == Status::Exited && state.exit_code == Some(*code),
    };
    let same = std::mem::discriminant::<Filter>;
    filters.iter().all(|filter| match filter {
        Filter::Label(..) => fits(filter),
        _ => filters.iter().filter(|f| same(f) == same(filter)).any(fits),
    })
}

fn row((sandbox, spec, state): &(Sandbox, Spec, State)) -> Row {
    let target = |mount: &crate::sandbox::spec::Mount| mount.target.display().to_string();
    Row {
        id: sandbox.id.to_string(),
        names: spec.name.clone(),
        image: spec.image.name.clone(),
        image_id: spec.image.id.clone(),
        command: spec.process.args.clone(),
        created_at: spec.created,
        state: state.status.name(),
        status: state.text(),
        exit_code: state.exit_code,
        pid: state.pid,
        ports: ports(spec, state),
        labels: spec.labels.clone(),
        mounts: spec.mounts.iter().map(target).collect(),
    }
}

/// The ports that lead in, and those that it only says it serves.
fn ports(spec: &Spec, state: &State) -> Vec<String> {
    let arrows = |publish: &Publish| {
        let inside = inside(publish.to);
        outside(publish)
            .into_iter()
            .map(move |outside| format!("{outside}->{inside}"))
    };
    let published = state.ports.iter().flat_map(arrows);
    let exposed = spec.network.expose.iter().filter(|port| {
        state.status.is_live() && !state.ports.iter().any(|publish| publish.to == **port)
    });
    let exposed = exposed.map(|port| inside(*port));
    published.chain(exposed).collect()
}

fn text(list: &[(Sandbox, Spec, State)], whole: bool) -> String {
    let head = [
        "SANDBOX ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    table(
        head,
        list.iter().map(|(sandbox, spec, state)| {
            let command = spec.process.args.join(" ");
            let (id, command) = match whole {
                true => (sandbox.id.as_str(), format!("\"{command}\"")),
                false => (
                    sandbox.id.short(),
                    format!("\"{}\"", short(&command, COMMAND)),
                ),
            };
            [
                id.to_owned(),
                spec.image.name.clone(),
                command,
                format!("{} ago", rough(spec.created.elapsed())),
                state.text(),
                ports(spec, state).join(", "),
                spec.name.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::id::Id;
    use crate::sandbox::spec::{Port, Protocol, tests::spec};

    fn example() -> (tempfile::TempDir, Sandbox, Spec, State) {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec("");
        spec.labels.insert("tier".into(), "web".into());
        let store = Store::at(dir.path().to_owned());
        let sandbox = store
            .create(Id::random().unwrap(), &mut spec, Some("front"))
            .unwrap();
        let spec = sandbox.spec().unwrap();
        let state = State::created().exited(3, false, None, Time::now());
        (dir, sandbox, spec, state)
    }

    #[test]
    fn filters_are_dockers() {
        let (_dir, sandbox, spec, state) = example();
        let id = format!("id={}", sandbox.id.short());
        for (filters, expected) in [
            (vec!["name=ron"], true),
            (vec!["name=back"], false),
            (vec!["name=back", "name=front"], true),
            (vec![id.as_str()], true),
            (vec!["status=exited", "name=x"], false),
            (vec!["status=running", "status=exited"], true),
            (vec!["label=tier"], true),
            (vec!["label=tier=web"], true),
            (vec!["label=tier", "label=tier=db"], false),
            (vec!["ancestor=image:tag"], true),
            (vec!["exited=3"], true),
            (vec!["exited=4"], false),
        ] {
            let parsed: Vec<Filter> = filters.iter().map(|f| f.parse().unwrap()).collect();
            assert_eq!(
                passes(&parsed, &sandbox, &spec, &state),
                expected,
                "{filters:?}"
            );
        }
        for text in ["name", "colour=red", "status=dead", "exited=x"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_shows_what_matters() {
        let (_dir, sandbox, mut spec, mut state) = example();
        state.status = Status::Running;
        let to = |port| Port {
            port,
            protocol: Protocol::Tcp,
        };
        spec.network.expose = vec![to(80), to(443)];
        state.ports = vec![Publish {
            ip: None,
            first: 8080,
            last: 8080,
            to: to(80),
        }];
        assert_eq!(
            ports(&spec, &state),
            ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "443/tcp"]
        );
        let list = [(sandbox.clone(), spec, state)];
        let text = text(&list, false);
        assert_eq!(text.lines().count(), 2);
        for part in [
            sandbox.id.short(),
            "image:tag",
            "\"sh\"",
            "front",
            "8080->80",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let value = serde_json::to_value(row(&list[0])).unwrap();
        assert_eq!(value["ID"], sandbox.id.as_str());
        assert_eq!(value["State"], "running");
    }
}
