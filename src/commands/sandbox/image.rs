//! The image that a sandbox is made of.

use std::path::Path;

use images::{Error, Image, Reference, Store};
use thiserror::Error as ThisError;

use crate::cli::run::{Pull, SandboxArgs};
use crate::commands::Failure;
use crate::commands::images::Bars;
use crate::sandbox::id::Id;
use crate::sandbox::images::store;

#[derive(Debug, ThisError)]
#[error(
    "image '{name}' is for {found} and this is a machine for {host}: get it with --platform {host}"
)]
struct Platform {
    name: String,
    found: String,
    host: String,
}

/// Finds the image, after it was fetched if need be, and holds it for a sandbox.
///
/// # Errors
/// When it is not to be had, or not for this machine.
pub fn hold(args: &SandboxArgs, name: &str, home: &Path, id: &Id) -> Result<Image, Failure> {
    let store = store(home)?;
    let platform = args.platform.as_deref().map(parse_platform).transpose()?;
    if let Some(wanted) = &platform {
        // Before it is fetched for nothing.
        runs_here(name, wanted)?;
    }
    let there = store.resolve(name);
    let wanted = match (&there, args.pull) {
        (_, Pull::Always) => true,
        (Err(Error::Unknown(_)), Pull::Missing) => true,
        // Another platform was asked for than the one that is there.
        (Ok(image), Pull::Missing) => platform
            .as_ref()
            .is_some_and(|wanted| !same(wanted, &image.config.platform())),
        _ => false,
    };
    if wanted {
        let pulled = pull(&store, name, platform.as_ref(), args.quiet);
        pulled.map_err(|source| match (&there, args.pull, source) {
            // What is wrong with the store, or with the name, is no one's answer.
            (_, _, source @ (Error::Store { .. } | Error::Reference(_))) => Failure::from(source),
            (_, Pull::Always, source) => source.into(),
            (there, _, source) => Failure::runtime(Nowhere {
                name: name.to_owned(),
                wanted: match (there, &platform) {
                    (Ok(_), Some(platform)) => format!(" for {platform}"),
                    _ => String::new(),
                },
                source,
            }),
        })?;
    } else {
        there?;
    }
    let image = store.hold(name, id.as_str())?;
    runs_here(name, &image.config.platform()).inspect_err(|_| {
        let _ = store.release(id.as_str());
    })?;
    Ok(image)
}

/// Checks that this machine is what an image is for.
fn runs_here(name: &str, found: &images::Platform) -> Result<(), Failure> {
    let host = images::Platform::host();
    match same(found, &host) {
        true => Ok(()),
        false => Err(Failure::runtime(Platform {
            name: name.to_owned(),
            found: found.to_string(),
            host: host.to_string(),
        })),
    }
}

/// An image that is not in the store and cannot be fetched.
#[derive(Debug, ThisError)]
#[error("no image '{name}'{wanted} in the store, and none to be had: {source}")]
struct Nowhere {
    name: String,
    /// The platform, if another one is there.
    wanted: String,
    source: Error,
}

fn same(a: &images::Platform, b: &images::Platform) -> bool {
    (&a.os, &a.architecture) == (&b.os, &b.architecture)
}

fn parse_platform(text: &str) -> Result<images::Platform, Failure> {
    text.parse()
        .map_err(|e: String| crate::cli::CliError::Usage(format!("--platform: {e}")).into())
}

fn pull(
    store: &Store,
    name: &str,
    platform: Option<&images::Platform>,
    quiet: bool,
) -> Result<(), Error> {
    let reference: Reference = name.parse()?;
    let bars = Bars::new(quiet);
    store.pull(&reference, platform, &|event| bars.show(event))?;
    Ok(())
}
