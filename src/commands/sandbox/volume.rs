//! `drupe volume`.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::table::{json as print_json, table};
use crate::cli::Format;
use crate::cli::process::map;
use crate::cli::volume::{
    VolumeCommand, VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs,
};
use crate::commands::units::{decimal, reclaimed};
use crate::commands::{Failure, confirmed, print};
use crate::exit::Exit;
use crate::sandbox::id::Id;
use crate::sandbox::ops;
use crate::sandbox::spec::Source;
use crate::sandbox::store::Store;
use crate::sandbox::volumes::{Volume, VolumeError, Volumes};

#[derive(Debug, Error)]
#[error("cannot name the volume: {0}")]
struct Random(#[source] io::Error);

/// Runs `drupe volume`.
///
/// # Errors
/// A volume that is not there, in use, or cannot be made.
pub fn run(command: VolumeCommand) -> Result<Exit, Failure> {
    let store = Store::open()?;
    let volumes = Volumes::new(store.home());
    match command {
        VolumeCommand::Create(args) => create(&volumes, &args),
        VolumeCommand::Ls(args) => list(&volumes, &args),
        VolumeCommand::Rm(args) => remove(&store, &volumes, &args),
        VolumeCommand::Inspect(args) => inspect(&volumes, &args),
        VolumeCommand::Prune(args) => prune(&store, &volumes, &args),
    }
}

fn create(volumes: &Volumes, args: &VolumeCreateArgs) -> Result<Exit, Failure> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => Id::random()
            .map_err(|e| Failure::runtime(Random(e)))?
            .into(),
    };
    let anonymous = args.name.is_none();
    volumes.create(&name, args.size, map(&args.label), anonymous)?;
    print(&format!("{name}\n"))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    size: u64,
    used: u64,
    in_use: bool,
    labels: BTreeMap<String, String>,
}

fn list(volumes: &Volumes, args: &VolumeLsArgs) -> Result<Exit, Failure> {
    let list = volumes.list()?;
    if args.quiet {
        let names = list.iter().map(|volume| format!("{}\n", volume.name));
        return print(&names.collect::<String>());
    }
    let rows = list.iter().filter_map(|volume| match volume.description() {
        Ok(description) => Some(Row {
            name: volume.name.clone(),
            size: description.size.bytes(),
            used: volume.used(),
            in_use: volume.is_busy(),
            labels: description.labels,
        }),
        Err(e) => {
            log::warn!("{e}: left out");
            None
        }
    });
    match args.format {
        Format::Json => print_json(&rows.collect::<Vec<_>>()),
        Format::Text => print(&table(
            ["VOLUME NAME", "SIZE", "USED", "MOUNTED"],
            rows.map(|row| {
                let mounted = if row.in_use { "yes" } else { "no" };
                [
                    row.name,
                    decimal(row.size),
                    decimal(row.used),
                    mounted.to_owned(),
                ]
            }),
        )),
    }
}

/// Which sandbox has which volume.
fn users(store: &Store) -> Result<BTreeMap<String, String>, Failure> {
    let mut users = BTreeMap::new();
    for (_, spec, _) in ops::list(store)? {
        for mount in &spec.mounts {
            if let Source::Volume { name, .. } = &mount.source {
                users.insert(name.clone(), spec.name.clone());
            }
        }
    }
    Ok(users)
}

fn remove(store: &Store, volumes: &Volumes, args: &VolumeRmArgs) -> Result<Exit, Failure> {
    let users = users(store)?;
    let mut last = None;
    for name in &args.volumes {
        let done = match (volumes.find(name), users.get(name)) {
            (Err(VolumeError::Unknown(_)), _) if args.force => continue,
            (Ok(_), Some(sandbox)) => Err(VolumeError::Used {
                name: name.clone(),
                sandbox: sandbox.clone(),
            }),
            (found, _) => found.and_then(|volume| volumes.remove(&volume)),
        };
        match done {
            Ok(()) => drop(print(&format!("{name}\n"))?),
            Err(e) => {
                if let Some(before) = last.replace(e) {
                    crate::output::print_error(&before, false);
                }
            }
        }
    }
    last.map_or(Ok(Exit::Success), |e| Err(e.into()))
}

fn inspect(volumes: &Volumes, args: &VolumeInspectArgs) -> Result<Exit, Failure> {
    let found: Result<Vec<Value>, Failure> = args
        .volumes
        .iter()
        .map(|name| value(&volumes.find(name)?))
        .collect();
    print_json(&found?)
}

/// All about a volume.
///
/// # Errors
/// When its description cannot be read.
pub fn value(volume: &Volume) -> Result<Value, Failure> {
    let description = volume.description()?;
    Ok(json!({
        "Name": volume.name,
        "CreatedAt": description.created,
        "Labels": description.labels,
        "Size": description.size.bytes(),
        "Used": volume.used(),
        "InUse": volume.is_busy(),
        "Anonymous": description.anonymous,
        "Disk": volume.disk(),
    }))
}

fn prune(store: &Store, volumes: &Volumes, args: &VolumePruneArgs) -> Result<Exit, Failure> {
    let what = match args.all {
        true => "every volume that no sandbox has",
        false => "every volume without a name that no sandbox has",
    };
    if !args.force && !confirmed(what)? {
        return Ok(Exit::Success);
    }
    let (gone, bytes) = prune_all(store, volumes, args.all)?;
    print(&reclaimed("Deleted Volumes", &gone, bytes))
}

/// Removes volumes that no sandbox has, and says which, a line for each, and what
/// they took.
///
/// # Errors
/// When they cannot be listed.
pub fn prune_all(store: &Store, volumes: &Volumes, named: bool) -> Result<(String, u64), Failure> {
    let users = users(store)?;
    let (mut gone, mut freed) = (String::new(), 0);
    for volume in volumes.list()? {
        let anonymous = volume.description().is_ok_and(|d| d.anonymous);
        if users.contains_key(&volume.name) || !(named || anonymous) {
            continue;
        }
        let used = volume.used();
        match volumes.remove(&volume) {
            Ok(()) => {
                freed += used;
                gone += &format!("{}\n", volume.name);
            }
            Err(VolumeError::Busy(_)) => {}
            Err(e) => log::warn!("{e}"),
        }
    }
    Ok((gone, freed))
}
