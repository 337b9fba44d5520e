//! `drupe events`.

use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::cli::process::Pair;
use crate::cli::sandbox::EventsArgs;
use crate::cli::{CliError, Format};
use crate::commands::{Failure, print_on};
use crate::exit::Exit;
use crate::sandbox::events::{Event, Follower};
use crate::sandbox::store::Store;
use crate::sandbox::time::Time;

/// How often it is looked for new ones.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
#[error("the events: {0}")]
struct EventsError(#[source] std::io::Error);

/// Prints what happens, and what happened.
///
/// # Errors
/// When it cannot be read.
pub fn run(args: &EventsArgs) -> Result<Exit, Failure> {
    let now = Time::now();
    let point = |text: &Option<String>, flag: &str| {
        let parsed = text.as_deref().map(|text| Time::parse_point(text, now));
        parsed
            .transpose()
            .map_err(|e| CliError::Usage(format!("{flag}: {e}")))
    };
    let since = point(&args.since, "--since")?;
    // A time to come can only be written as one.
    let until = point(&args.until, "--until")?;
    for Pair(key, _) in &args.filter {
        if ![
            "sandbox",
            "container",
            "volume",
            "event",
            "type",
            "image",
            "label",
        ]
        .contains(&key.as_str())
        {
            let why = format!(
                "--filter: '{key}': filter by sandbox=, volume=, event=, type=, image= or label="
            );
            return Err(CliError::Usage(why).into());
        }
    }
    let mut follower = Follower::new(Store::open()?.home());
    let since = since.unwrap_or(now);
    loop {
        let events = follower
            .read()
            .map_err(|e| Failure::runtime(EventsError(e)))?;
        for event in events {
            if event.time >= since
                && until.is_none_or(|until| event.time <= until)
                && passes(&args.filter, &event)
                && !show(&event, args.format)?
            {
                return Ok(Exit::Success);
            }
        }
        if until.is_some_and(|until| Time::now() > until) {
            return Ok(Exit::Success);
        }
        thread::sleep(TICK);
    }
}

fn passes(filters: &[Pair], event: &Event) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let fits = |Pair(key, value): &Pair| match key.as_str() {
        "sandbox" | "container" => {
            event.kind == "sandbox"
                && (event.id.starts_with(value.as_str()) || attribute("name") == Some(value))
        }
        "volume" => event.kind == "volume" && event.id == *value,
        "event" => event.action == *value,
        // What Docker calls a container is a sandbox here.
        "type" => event.kind == *value || (value == "container" && event.kind == "sandbox"),
        "image" => attribute("image") == Some(value),
        _ => match value.split_once('=') {
            Some((name, value)) => attribute(name) == Some(value),
            None => attribute(value).is_some(),
        },
    };
    filters
        .iter()
        .all(|filter| filters.iter().filter(|other| other.0 == filter.0).any(fits))
}

/// Prints an event; false when nobody reads it any more.
fn show(event: &Event, format: Format) -> Result<bool, Failure> {
    let line = match format {
        Format::Json => {
            let text = serde_json::to_string(event).map_err(Failure::runtime)?;
            crate::output::json_for_terminal(&text)
        }
        Format::Text => text(event),
    };
    print_on(&format!("{line}\n"))
}

fn text(event: &Event) -> String {
    let attributes = event.attributes.iter().map(|(k, v)| format!("{k}={v}"));
    let attributes = attributes.collect::<Vec<_>>().join(", ");
    let line = format!(
        "{} {} {} {}",
        event.time, event.kind, event.action, event.id
    );
    crate::output::one_line(&match attributes.is_empty() {
        true => line,
        false => format!("{line} ({attributes})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_one_kind_are_choices() {
        let event = Event {
            time: "2026-01-31T12:00:00Z".parse().unwrap(),
            kind: "sandbox".into(),
            action: "die".into(),
            id: "abcdef".into(),
            attributes: [("name", "web"), ("exitCode", "0")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        for (filters, expected) in [
            (vec!["sandbox=web"], true),
            (vec!["container=abc"], true),
            (vec!["sandbox=db"], false),
            (vec!["event=start", "event=die"], true),
            (vec!["event=die", "sandbox=db"], false),
            (vec!["type=container"], true),
            (vec!["type=volume"], false),
            (vec!["label=exitCode=0"], true),
            (vec!["label=other"], false),
        ] {
            let parsed: Vec<Pair> = filters.iter().map(|f| f.parse().unwrap()).collect();
            assert_eq!(passes(&parsed, &event), expected, "{filters:?}");
        }
        assert_eq!(
            text(&event),
            "2026-01-31T12:00:00.000000000Z sandbox die abcdef (exitCode=0, name=web)"
        );
    }
}
