//! The commands about images.

mod print;
mod progress;

use std::io::{self, IsTerminal};
use std::path::Path;

use images::{Import, Input, Pruned, Removed, Store};
use thiserror::Error;

use super::units::reclaimed;
use super::{Failure, confirmed, json, print as print_text};
use crate::cli::{
    Format, ImageCommand, ImageInspectArgs, ImagePruneArgs, ImagesArgs, ImportArgs, LoadArgs,
    PullArgs, RmiArgs, TagArgs,
};
use crate::exit::Exit;
use crate::{home, output, sandbox};
pub use print::inspect_value;
pub use progress::Bars;

#[derive(Debug, Error)]
#[error("standard input is a terminal: give --input FILE, or the archive on standard input")]
struct NoArchive;

impl From<images::Error> for Failure {
    fn from(error: images::Error) -> Self {
        use images::Error::{Change, DigestAsName, Reference};
        let exit = match error {
            Change(_) | DigestAsName(_) | Reference(_) => Exit::Usage,
            _ => Exit::Error,
        };
        Failure {
            exit,
            ..Failure::runtime(error)
        }
    }
}

/// The store of images.
///
/// # Errors
/// When it has no place or cannot be made.
pub fn store() -> Result<Store, Failure> {
    let data = home::data_dir().map_err(|e| Failure {
        exit: Exit::Usage,
        ..Failure::runtime(e)
    })?;
    Ok(Store::open(&data.join("images"))?)
}

/// Runs `drupe image`.
///
/// # Errors
/// The command's.
pub fn run(command: ImageCommand) -> Result<Exit, Failure> {
    match command {
        ImageCommand::Import(args) => import(&args),
        ImageCommand::Inspect(args) => inspect(&args),
        ImageCommand::Load(args) => load(&args),
        ImageCommand::Ls(args) => list(&args),
        ImageCommand::Prune(args) => prune(&args),
        ImageCommand::Pull(args) => pull(&args),
        ImageCommand::Rm(args) => remove(&args),
        ImageCommand::Tag(args) => tag(&args),
    }
}

/// Runs `drupe pull`.
///
/// # Errors
/// That of the first image that cannot be had.
pub fn pull(args: &PullArgs) -> Result<Exit, Failure> {
    let store = store()?;
    for name in &args.images {
        let bars = Bars::new(args.quiet);
        let pulled = store.pull(name, args.platform.as_ref(), &|event| bars.show(event))?;
        drop(bars);
        let mut text = String::new();
        if !args.quiet {
            let familiar = name.familiar();
            let status = if pulled.up_to_date {
                format!("Image is up to date for {familiar}")
            } else {
                format!("Downloaded newer image for {familiar}")
            };
            text = format!("Digest: {}\nStatus: {status}\n", pulled.digest);
        }
        print_text(&format!("{text}{name}\n"))?;
    }
    Ok(Exit::Success)
}

/// Runs `drupe load`.
///
/// # Errors
/// What is wrong with the archive or the store.
pub fn load(args: &LoadArgs) -> Result<Exit, Failure> {
    let input = match &args.input {
        Some(path) => Input::Path(path.clone()),
        None if io::stdin().is_terminal() => {
            return Err(Failure {
                exit: Exit::Usage,
                ..Failure::runtime(NoArchive)
            });
        }
        None => Input::Stdin,
    };
    let bars = Bars::new(args.quiet);
    let loaded = store()?.load(&input, args.platform.as_ref(), &|event| bars.show(event))?;
    drop(bars);
    let mut text = String::new();
    for image in loaded {
        if image.names.is_empty() {
            text += &format!("Loaded image ID: {}\n", image.id);
        }
        for name in image.names {
            text += &format!("Loaded image: {}\n", name.familiar());
        }
    }
    print_text(&text)
}

/// Runs `drupe import`.
///
/// # Errors
/// What is wrong with the tar, an instruction or the store.
pub fn import(args: &ImportArgs) -> Result<Exit, Failure> {
    let mut import = Import {
        from: &if args.file == Path::new("-") {
            Input::Stdin
        } else {
            Input::Path(args.file.clone())
        },
        name: args.name.as_ref(),
        config: images::ContainerConfig::default(),
        message: args.message.clone(),
        platform: args.platform.clone(),
    };
    for change in &args.change {
        import.config.change(change)?;
    }
    let bars = Bars::new(args.quiet);
    let id = store()?.import(&import, &|event| bars.show(event))?;
    drop(bars);
    print_text(&format!("{id}\n"))
}

/// Runs `drupe images`.
///
/// # Errors
/// When the store cannot be read.
pub fn list(args: &ImagesArgs) -> Result<Exit, Failure> {
    let rows = print::rows(store()?.list()?, args.name.as_deref());
    match args.format {
        Format::Json => print_text(&json(&print::json(&rows))?),
        Format::Text if args.quiet => print_text(&print::ids(&rows, args.no_trunc)),
        Format::Text => print_text(&print::table(&rows, args.no_trunc, args.digests)),
    }
}

/// Runs `drupe rmi`.
///
/// # Errors
/// That of the first image that cannot be removed, after all the others.
pub fn remove(args: &RmiArgs) -> Result<Exit, Failure> {
    let store = store()?;
    let mut failure: Option<Failure> = None;
    for image in &args.images {
        match store.remove(image, args.force) {
            Ok(removed) => {
                print_text(&removed_lines(&removed))?;
            }
            // As with `rm -f`: what is not there needs no removing.
            Err(e @ images::Error::Unknown(_)) if args.force => output::print_error(&e, false),
            Err(e) => {
                // One is printed by whoever called.
                if let Some(earlier) = failure.replace(with_names(e).into()) {
                    output::print_error(&*earlier.error, earlier.explain);
                }
            }
        }
    }
    failure.map_or(Ok(Exit::Success), Err)
}

/// An error of the store, which knows sandboxes by their identifiers, with the
/// names that people have for them.
fn with_names(mut error: images::Error) -> images::Error {
    if let images::Error::InUse { holders, .. } = &mut error
        && let Ok(sandboxes) = sandbox::store::Store::open()
    {
        for holder in holders {
            if let Ok(sandbox) = sandboxes.find(holder) {
                *holder = sandbox.label();
            }
        }
    }
    error
}

/// A line for each thing that was removed.
pub fn removed_lines(removed: &[Removed]) -> String {
    let line = |removed: &Removed| match removed {
        Removed::Name(name) => format!("Untagged: {name}\n"),
        Removed::Image(id) => format!("Deleted: {id}\n"),
    };
    removed.iter().map(line).collect()
}

/// Runs `drupe tag`.
///
/// # Errors
/// When there is no such image, or the store cannot be written.
pub fn tag(args: &TagArgs) -> Result<Exit, Failure> {
    let store = store()?;
    for name in &args.names {
        store.tag(&args.image, name)?;
    }
    Ok(Exit::Success)
}

fn inspect(args: &ImageInspectArgs) -> Result<Exit, Failure> {
    let store = store()?;
    let mut values = Vec::new();
    for image in &args.images {
        values.push(inspect_value(&store.resolve(image)?));
    }
    print_text(&json(&values)?)
}

fn prune(args: &ImagePruneArgs) -> Result<Exit, Failure> {
    let what = if args.all {
        "all images that no sandbox uses"
    } else {
        "all images without a tag"
    };
    if !args.force && !confirmed(what)? {
        return Ok(Exit::Success);
    }
    let Pruned { removed, bytes } = store()?.prune(args.all)?;
    print_text(&reclaimed(
        "Deleted Images",
        &removed_lines(&removed),
        bytes,
    ))
}
