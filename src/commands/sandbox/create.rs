//! `drupe create`, and what `run` has in common with it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::image;
use crate::cli::run::{CreateArgs, SandboxArgs};
use crate::cli::{CliError, process, spec};
use crate::commands::{Failure, print};
use crate::exit::Exit;
use crate::sandbox::error::SandboxError;
use crate::sandbox::id::Id;
use crate::sandbox::monitor;
use crate::sandbox::spec::{Source, Spec};
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::volumes::{DEFAULT_SIZE, Volumes};
use crate::sandbox::{events, images, names};

/// The largest file of variables, in bytes.
const MAX_ENV_FILE: u64 = 1 << 20;

#[derive(Debug, Error)]
enum CreateError {
    #[error("--cidfile {path}: {source}: give a path where a file can be made and is none yet")]
    CidFile { path: PathBuf, source: io::Error },
    #[error("--env-file {path}: {source}: give a readable file")]
    EnvFile { path: PathBuf, source: io::Error },
    #[error("--env-file {path}: {why}")]
    EnvText { path: PathBuf, why: String },
    #[error("volume {path}: {source}: give a file or a directory of the host that is there")]
    Bind { path: PathBuf, source: io::Error },
    #[error("cannot name the sandbox: {0}")]
    Random(#[source] io::Error),
}

/// Runs `drupe create`.
///
/// # Errors
/// What keeps it from being made; nothing is left behind then.
pub fn run(args: &CreateArgs) -> Result<Exit, Failure> {
    let sandbox = make(&args.create, false)?;
    print(&format!("{}\n", sandbox.id))
}

/// Makes a sandbox. Nobody's leaving ends the standard input of one that is
/// `detached`.
///
/// # Errors
/// What keeps it from being made; nothing is left behind then.
pub fn make(args: &SandboxArgs, detached: bool) -> Result<Sandbox, Failure> {
    let store = Store::open()?;
    if let Some(name) = &args.name {
        names::check(name)?;
        if let Ok(owner) = store.find(name)
            && owner.label() == *name
        {
            // It costs nothing to know before an image is fetched.
            return Err(Failure::from(SandboxError::NameInUse {
                name: name.clone(),
                id: owner.id.short().to_owned(),
            }));
        }
    }
    let id = Id::random().map_err(|e| Failure::runtime(CreateError::Random(e)))?;
    let env_files = env_files(&args.env_file)?;
    let cid_file = args.cidfile.as_deref().map(CidFile::new).transpose()?;
    let name = args.image.first().map(String::as_str).unwrap_or_default();
    let image = image::hold(args, name, store.home(), &id)?;
    let mut spec = None;
    let made = spec::spec(
        args,
        &image,
        &mut spec::Surroundings {
            id: &id,
            env_files,
            host_env: &|name| std::env::var(name).ok(),
            volume_name: &mut || Id::random().map(String::from).unwrap_or_default(),
        },
    )
    .map_err(Failure::from)
    .and_then(|made| {
        let made = spec.insert(made);
        made.process.stdin_once &= !detached;
        settle_paths(made)?;
        make_volumes(&store, made)?;
        Ok(store.create(id.clone(), made, args.name.as_deref())?)
    });
    let sandbox = match made {
        Ok(sandbox) => sandbox,
        Err(failure) => {
            if let Some(spec) = spec {
                monitor::remove_anonymous_volumes(store.home(), &spec);
            }
            images::release(store.home(), &id);
            return Err(failure);
        }
    };
    if let Some(file) = cid_file {
        file.keep(&id)?;
    }
    if let Some(spec) = &spec {
        events::sandbox(&sandbox, spec, "create", &[]);
    }
    Ok(sandbox)
}

/// Makes paths of the host absolute and free of links, and sees that they exist:
/// what is shared later is what was meant now.
fn settle_paths(spec: &mut Spec) -> Result<(), Failure> {
    for mount in &mut spec.mounts {
        if let Source::Bind { path } = &mut mount.source {
            *path = fs::canonicalize(&*path).map_err(|source| {
                Failure::runtime(CreateError::Bind {
                    path: path.clone(),
                    source,
                })
            })?;
        }
    }
    if let Some(kernel) = &mut spec.machine.kernel {
        let chosen = crate::kernels::choose(Some(kernel))?;
        // A name stays one: the store may get a better kernel of that name.
        if chosen.path == *kernel {
            *kernel = fs::canonicalize(&*kernel).unwrap_or_else(|_| kernel.clone());
        }
    }
    Ok(())
}

fn make_volumes(store: &Store, spec: &Spec) -> Result<(), Failure> {
    let volumes = Volumes::new(store.home());
    for mount in &spec.mounts {
        if let Source::Volume {
            name, anonymous, ..
        } = &mount.source
        {
            volumes.create(name, DEFAULT_SIZE, Default::default(), *anonymous)?;
        }
    }
    Ok(())
}

/// The variables of all files.
pub fn env_files(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut variables = Vec::new();
    for path in paths {
        let text = read_env_file(path).map_err(|source| {
            Failure::from(CliError::Usage(
                CreateError::EnvFile {
                    path: path.clone(),
                    source,
                }
                .to_string(),
            ))
        })?;
        let lines = process::env_file(&text).map_err(|why| {
            let path = path.clone();
            Failure::from(CliError::Usage(
                CreateError::EnvText { path, why }.to_string(),
            ))
        })?;
        variables.extend(lines);
    }
    Ok(variables)
}

fn read_env_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    let n = io::Read::read_to_string(&mut io::Read::take(file, MAX_ENV_FILE + 1), &mut text)?;
    match n as u64 > MAX_ENV_FILE {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

/// The file for the identifier: made first, so that nothing is made in vain, and
/// removed when there is no sandbox in the end.
struct CidFile {
    path: PathBuf,
    file: Option<fs::File>,
}

impl CidFile {
    fn new(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        match file {
            Ok(file) => Ok(CidFile {
                path: path.to_owned(),
                file: Some(file),
            }),
            Err(source) => Err(Failure::runtime(CreateError::CidFile {
                path: path.to_owned(),
                source,
            })),
        }
    }

    fn keep(mut self, id: &Id) -> Result<(), Failure> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        file.write_all(id.as_str().as_bytes()).map_err(|source| {
            Failure::runtime(CreateError::CidFile {
                path: self.path.clone(),
                source,
            })
        })
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // An empty file would be all that is left behind.
            let _ = fs::remove_file(&self.path);
        }
    }
}
