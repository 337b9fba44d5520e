//! `drupe system`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::table::{json, table};
use super::volume::prune_all;
use crate::cli::Format;
use crate::cli::volume::{DfArgs, PruneArgs, SystemCommand};
use crate::commands::images::removed_lines;
use crate::commands::units::{decimal, reclaimed};
use crate::commands::{Failure, confirmed, print};
use crate::exit::Exit;
use crate::sandbox::store::Store;
use crate::sandbox::volumes::Volumes;
use crate::sandbox::{images, ops};

/// Runs `drupe system`.
///
/// # Errors
/// When something cannot be read.
pub fn run(command: SystemCommand) -> Result<Exit, Failure> {
    match command {
        SystemCommand::Df(args) => df(&args),
        SystemCommand::Prune(args) => prune(&args),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "Type")]
    kind: &'static str,
    total: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

fn df(args: &DfArgs) -> Result<Exit, Failure> {
    let store = Store::open()?;
    let usage = images::store(store.home())?.disk_usage()?;
    let sandboxes = ops::list(&store)?;
    let mut active = 0;
    let (mut size, mut reclaimable) = (0, 0);
    for (sandbox, _, state) in &sandboxes {
        let used = disk_usage(sandbox.dir());
        size += used;
        match state.status.is_live() {
            true => active += 1,
            false => reclaimable += used,
        }
    }
    let volumes = Volumes::new(store.home()).list()?;
    let idle = volumes.iter().filter(|volume| !volume.is_busy());
    let rows = [
        Row {
            kind: "Images",
            total: usage.images,
            active: usage.active,
            size: usage.size,
            reclaimable: usage.reclaimable,
        },
        Row {
            kind: "Sandboxes",
            total: sandboxes.len(),
            active,
            size,
            reclaimable,
        },
        Row {
            kind: "Volumes",
            total: volumes.len(),
            active: volumes.iter().filter(|volume| volume.is_busy()).count(),
            size: volumes.iter().map(|volume| volume.used()).sum(),
            reclaimable: idle.map(|volume| volume.used()).sum(),
        },
    ];
    match args.format {
        Format::Json => json(&rows),
        Format::Text => print(&table(
            ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
            rows.map(|row| {
                [
                    row.kind.to_owned(),
                    row.total.to_string(),
                    row.active.to_string(),
                    decimal(row.size),
                    decimal(row.reclaimable),
                ]
            }),
        )),
    }
}

/// What the files of a directory take on the disk. What goes away meanwhile takes
/// nothing.
fn disk_usage(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let sizes = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    sizes.map(|metadata| metadata.blocks() * 512).sum()
}

fn prune(args: &PruneArgs) -> Result<Exit, Failure> {
    let mut what = "every sandbox that does not run, ".to_owned();
    what.push_str(match args.all {
        true => "every image that no sandbox has",
        false => "every image without a name",
    });
    if args.volumes {
        what.push_str(", every volume without a name that no sandbox has");
    }
    if !args.force && !confirmed(&what)? {
        return Ok(Exit::Success);
    }
    let store = Store::open()?;
    let mut freed = 0;
    let mut gone = String::new();
    for (sandbox, _, state) in ops::list(&store)? {
        if state.status.is_live() {
            continue;
        }
        let used = disk_usage(sandbox.dir());
        match ops::remove(&sandbox, false, args.volumes) {
            Ok(()) => {
                freed += used;
                gone += &format!("{}\n", sandbox.id);
            }
            // Somebody has started it, or removed it.
            Err(e) => log::warn!("{e}"),
        }
    }
    // As far as it has come, should anything fail further on.
    print(&section("Deleted Sandboxes", &gone))?;
    freed += unfinished(&store);
    if args.volumes {
        let (gone, bytes) = prune_all(&store, &Volumes::new(store.home()), false)?;
        print(&section("Deleted Volumes", &gone))?;
        freed += bytes;
    }
    let pruned = images::store(store.home())?.prune(args.all)?;
    let gone = removed_lines(&pruned.removed);
    print(&reclaimed("Deleted Images", &gone, freed + pruned.bytes))
}

/// A part of what was removed; nothing if nothing was.
fn section(title: &str, lines: &str) -> String {
    match lines.is_empty() {
        true => String::new(),
        false => format!("{title}:\n{lines}\n"),
    }
}

/// Removes what a crash has left of sandboxes that were being made or removed,
/// and says what that took.
fn unfinished(store: &Store) -> u64 {
    const OLD: std::time::Duration = std::time::Duration::from_secs(3600);
    let Ok(entries) = fs::read_dir(store.sandboxes()) else {
        return 0;
    };
    let mut freed = 0;
    for entry in entries.flatten() {
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|time| {
                // Somebody may be at one that is younger.
                time.elapsed().is_ok_and(|age| age > OLD)
            });
        if old && entry.file_name().as_encoded_bytes().starts_with(b".") {
            freed += disk_usage(&entry.path());
            if let Err(e) = fs::remove_dir_all(entry.path()) {
                log::warn!("{}: {e}", entry.path().display());
            }
        }
    }
    freed
}
