//! How images are printed.

use std::time::{SystemTime, UNIX_EPOCH};

use images::{Digest, Image, Reference, parse_rfc3339};
use serde_json::{Value, json};

use crate::commands::units::decimal;

const NONE: &str = "<none>";

/// One name of an image; of several names each has a row.
pub struct Row {
    repository: String,
    tag: String,
    digest: Option<Digest>,
    image: std::rc::Rc<Image>,
}

/// The rows of images, those of one name alone if it is given.
pub fn rows(images: Vec<Image>, name: Option<&str>) -> Vec<Row> {
    let wanted = name.map(|name| (Reference::candidates(name), name.contains([':', '@'])));
    let matches = |name: &Reference| match &wanted {
        None => true,
        Some((Err(_), _)) => false,
        Some((Ok(candidates), exact)) => candidates.iter().any(|candidate| {
            if *exact {
                candidate == name
            } else {
                candidate.repository() == name.repository()
            }
        }),
    };
    let mut rows = Vec::new();
    for image in images {
        let image = std::rc::Rc::new(image);
        let digest_of = |name: &Reference| {
            let same = |d: &&Reference| d.repository() == name.repository();
            image.digests.iter().find(same).and_then(Reference::digest)
        };
        let row = |name: &Reference| Row {
            repository: name.familiar_repository(),
            tag: name.tag().unwrap_or(NONE).to_owned(),
            digest: digest_of(name),
            image: image.clone(),
        };
        let tagged = |name: &&Reference| {
            let same = |n: &Reference| n.repository() == name.repository();
            image.names.iter().any(same)
        };
        // A name by digest shows where no tag does.
        let untagged = image.digests.iter().filter(|name| !tagged(name));
        let names = image.names.iter().chain(untagged);
        rows.extend(names.filter(|name| matches(name)).map(row));
        if wanted.is_none() && image.names.is_empty() && image.digests.is_empty() {
            rows.push(Row {
                repository: NONE.into(),
                tag: NONE.into(),
                digest: None,
                image: image.clone(),
            });
        }
    }
    rows
}

/// The IDs, each once.
pub fn ids(rows: &[Row], full: bool) -> String {
    let mut seen = Vec::new();
    for row in rows {
        if !seen.contains(&row.image.id) {
            seen.push(row.image.id);
        }
    }
    seen.into_iter().map(|id| shown(id, full) + "\n").collect()
}

fn shown(id: Digest, full: bool) -> String {
    if full { id.to_string() } else { id.short() }
}

/// The listing for people.
pub fn table(rows: &[Row], full: bool, digests: bool) -> String {
    let mut cells = vec![
        vec!["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    for row in rows {
        cells.push(vec![
            row.repository.clone(),
            row.tag.clone(),
            row.digest.map_or(NONE.into(), |digest| digest.to_string()),
            shown(row.image.id, full),
            age(&row.image),
            decimal(row.image.size),
        ]);
    }
    if !digests {
        cells.iter_mut().for_each(|row| drop(row.remove(2)));
    }
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let widths = cells.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        let line: String = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}   "))
            .collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The listing for programs, an object for each image.
pub fn json(rows: &[Row]) -> Value {
    let mut seen = Vec::new();
    let mut list = Vec::new();
    for row in rows {
        if seen.contains(&row.image.id) {
            continue;
        }
        seen.push(row.image.id);
        let image = &row.image;
        list.push(json!({
            "Id": image.id,
            "RepoTags": names(&image.names),
            "RepoDigests": names(&image.digests),
            "Created": created(image),
            "CreatedAt": image.config.created,
            "Size": image.size,
            "Platform": image.config.platform().to_string(),
            "Labels": image.config.config.labels,
        }));
    }
    Value::Array(list)
}

fn names(names: &[Reference]) -> Vec<String> {
    names.iter().map(Reference::familiar).collect()
}

/// All about an image, with the names that Docker and podman give it.
pub fn inspect_value(image: &Image) -> Value {
    let config = &image.config;
    json!({
        "Id": image.id,
        "RepoTags": names(&image.names),
        "RepoDigests": names(&image.digests),
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "Size": image.size,
        "Config": config.config,
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "DiskImages": image.layers,
        "History": config.history,
    })
}

/// When an image was made, in seconds since 1970.
fn created(image: &Image) -> Option<i64> {
    image.config.created.as_deref().and_then(parse_rfc3339)
}

fn age(image: &Image) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |t| t.as_secs() as i64);
    match created(image) {
        // Builds that can be repeated have no time: they say 1970, or year 1.
        Some(created) if created > 0 => human_age(now - created) + " ago",
        _ => "N/A".into(),
    }
}

/// A time span as Docker words it.
fn human_age(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let some = |n: i64, unit: &str| format!("{n} {unit}");
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => some(seconds, "seconds"),
        MINUTE..120 => "About a minute".into(),
        120..HOUR => some(seconds / MINUTE, "minutes"),
        HOUR..7200 => "About an hour".into(),
        7200..172_800 => some(seconds / HOUR, "hours"),
        172_800..1_209_600 => some(seconds / DAY, "days"),
        1_209_600..5_184_000 => some(seconds / (7 * DAY), "weeks"),
        5_184_000..63_072_000 => some(seconds / (30 * DAY), "months"),
        _ => some(seconds / (365 * DAY), "years"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_dockers() {
        for (seconds, text) in [
            (-5, "Less than a second"),
            (59, "59 seconds"),
            (90, "About a minute"),
            (47 * 3600, "47 hours"),
            (3 * 86400, "3 days"),
            (30 * 86400, "4 weeks"),
            (400 * 86400, "13 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(human_age(seconds), text);
        }
    }
}
