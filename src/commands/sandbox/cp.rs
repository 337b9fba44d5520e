//! `drupe cp`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use protocol::{Archive, Entry, FrameKind, Reply, Request};
use thiserror::Error;

use crate::cli::CliError;
use crate::cli::sandbox::CpArgs;
use crate::commands::Failure;
use crate::exit::Exit;
use crate::sandbox::agent::{Agent, AgentError, FrameReader, FrameWriter, unexpected};
use crate::sandbox::copy::{Plan, Side, There, plan};
use crate::sandbox::ops;
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::unpack::{self, UnpackError, unpack};

#[derive(Debug, Error)]
enum CopyError {
    #[error("{path}: {source}")]
    Host { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Plan(String),
    #[error("copying: {0}")]
    Agent(#[from] AgentError),
    #[error("copying: {0}")]
    Stream(#[source] io::Error),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("{name}:{path}: {why}")]
    Guest {
        name: String,
        path: PathBuf,
        why: String,
    },
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        Failure::runtime(error)
    }
}

/// A path in a sandbox that runs.
struct Place {
    sandbox: Sandbox,
    name: String,
    path: PathBuf,
}

/// Copies files into a sandbox or out of it.
///
/// # Errors
/// What is not there, does not fit, or cannot be written.
pub fn run(args: &CpArgs) -> Result<Exit, Failure> {
    match (Side::parse(&args.from), Side::parse(&args.to)) {
        (Side::Sandbox { name, path }, to @ (Side::Host(_) | Side::Stream)) => {
            out(args, &place(&name, path)?, &to)?;
        }
        (from @ (Side::Host(_) | Side::Stream), Side::Sandbox { name, path }) => {
            into(args, &from, &place(&name, path)?)?;
        }
        (Side::Sandbox { .. }, Side::Sandbox { .. }) => {
            let why =
                "it copies between a sandbox and the host: one side has to be a path of the host";
            return Err(CliError::Usage(why.to_owned()).into());
        }
        _ => {
            let why = "one side has to be SANDBOX:PATH";
            return Err(CliError::Usage(why.to_owned()).into());
        }
    }
    Ok(Exit::Success)
}

fn place(name: &str, path: PathBuf) -> Result<Place, Failure> {
    let sandbox = Store::open()?.find(name)?;
    ops::need_running(&sandbox)?;
    Ok(Place {
        name: name.to_owned(),
        sandbox,
        path,
    })
}

impl Place {
    fn agent(&self) -> Result<Agent, Failure> {
        Ok(ops::connect_agent(&self.sandbox)?)
    }

    fn archive(&self, path: &Path, follow: bool, chown_root: bool) -> Archive {
        Archive {
            path: path.to_owned(),
            follow,
            chown_root,
        }
    }

    /// What is at the path; an error when that cannot be told.
    fn stat(&self, follow: bool) -> Result<Entry, CopyError> {
        let agent = self
            .agent()
            .map_err(|failure| CopyError::Plan(failure.error.to_string()));
        let request = Request::Stat(self.archive(&self.path, follow, false));
        match agent?.ask(&request, Some(crate::sandbox::agent::REPLY_TIMEOUT)) {
            Ok(Reply::Entry(entry)) => Ok(entry),
            Ok(reply) => Err(unexpected(&reply).into()),
            Err(AgentError::Failed(failure)) => Err(self.error(failure.message)),
            Err(e) => Err(e.into()),
        }
    }

    fn error(&self, why: String) -> CopyError {
        CopyError::Guest {
            name: self.name.clone(),
            path: self.path.clone(),
            why: without_path(&self.path, why),
        }
    }
}

/// The agent's words without the path, if they begin with it: it is told already.
fn without_path(path: &Path, why: String) -> String {
    match why.strip_prefix(&format!("{}: ", path.display())) {
        Some(rest) => rest.to_owned(),
        None => why,
    }
}

fn is_directory(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR
}

/// From a sandbox.
fn out(args: &CpArgs, from: &Place, to: &Side) -> Result<(), Failure> {
    let mut agent = from.agent()?;
    let request = Request::GetArchive(from.archive(&from.path, args.follow_link, false));
    let entry = match agent.ask(&request, Some(crate::sandbox::agent::REPLY_TIMEOUT)) {
        Ok(Reply::Entry(entry)) => entry,
        Ok(reply) => return Err(CopyError::from(unexpected(&reply)).into()),
        Err(AgentError::Failed(failure)) => return Err(from.error(failure.message).into()),
        Err(e) => return Err(CopyError::from(e).into()),
    };
    let mut archive = FrameReader::new(agent.into_stream(), FrameKind::Stdout);
    let Side::Host(to) = to else {
        io::copy(&mut archive, &mut io::stdout().lock()).map_err(CopyError::Stream)?;
        return Ok(());
    };
    let there = match fs::metadata(to) {
        Ok(m) if m.is_dir() => There::Directory,
        Ok(_) => There::File,
        Err(e) if e.kind() == io::ErrorKind::NotFound => There::Nothing,
        Err(source) => {
            let path = to.clone();
            return Err(CopyError::Host { path, source }.into());
        }
    };
    let Plan { directory, name } =
        plan(&from.path, is_directory(entry.mode), to, there).map_err(CopyError::Plan)?;
    let opened = File::open(&directory).map_err(|source| CopyError::Host {
        path: directory.clone(),
        source,
    })?;
    let options = unpack::Options {
        named: from.path.file_name().is_some(),
        top: name,
        owners: args.archive,
    };
    unpack(archive, opened.into(), &options).map_err(CopyError::from)?;
    Ok(())
}

/// To a sandbox.
fn into(args: &CpArgs, from: &Side, to: &Place) -> Result<(), Failure> {
    let there = match to.stat(true) {
        Ok(entry) if is_directory(entry.mode) => There::Directory,
        Ok(_) => There::File,
        Err(CopyError::Guest { .. }) => There::Nothing,
        Err(e) => return Err(e.into()),
    };
    let Side::Host(from) = from else {
        if there != There::Directory {
            return Err(to
                .error("an archive is unpacked in a directory".to_owned())
                .into());
        }
        return put(args, to, &to.path, |mut writer| {
            io::copy(&mut io::stdin().lock(), &mut writer)?;
            writer.finish()
        });
    };
    let failed = |source| CopyError::Host {
        path: from.clone(),
        source,
    };
    let metadata = match args.follow_link {
        true => fs::metadata(from),
        false => fs::symlink_metadata(from),
    };
    let mut metadata = metadata.map_err(failed)?;
    let slash = from.as_os_str().as_encoded_bytes().ends_with(b"/");
    if metadata.is_symlink() && (slash || from.ends_with(".")) {
        metadata = fs::metadata(from).map_err(failed)?;
    }
    let Plan { directory, name } =
        plan(from, metadata.is_dir(), &to.path, there).map_err(CopyError::Plan)?;
    put(args, to, &directory, |writer| {
        let mut builder = tar::Builder::new(writer);
        builder.follow_symlinks(false);
        pack(&mut builder, from, name.as_deref(), &metadata)?;
        builder.into_inner()?.finish()
    })
}

/// Sends an archive, which `send` writes, to be unpacked.
fn put(
    args: &CpArgs,
    to: &Place,
    directory: &Path,
    send: impl FnOnce(FrameWriter<'_>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut agent = to.agent()?;
    let request = Request::PutArchive(to.archive(directory, true, !args.archive));
    agent.send(&request).map_err(CopyError::from)?;
    let stream = agent.into_stream();
    let sent = send(FrameWriter::new(&stream, FrameKind::Stdin));
    if let Err(e) = &sent
        && e.kind() != io::ErrorKind::BrokenPipe
    {
        // Half an archive is no archive: without its end, the agent says nothing.
        return Err(CopyError::Stream(io::Error::new(e.kind(), e.to_string())).into());
    }
    // When it broke off, it says why.
    match Agent::on(stream).reply(Some(crate::sandbox::agent::REPLY_TIMEOUT)) {
        Ok(_) => Ok(()),
        Err(AgentError::Failed(failure)) => Err(to.error(failure.message).into()),
        Err(e) => Err(CopyError::from(e).into()),
    }
}

/// Packs a file or a directory of the host under another name; without one, what
/// is in it.
fn pack(
    builder: &mut tar::Builder<impl Write>,
    from: &Path,
    name: Option<&OsStr>,
    metadata: &fs::Metadata,
) -> io::Result<()> {
    let Some(name) = name else {
        let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let metadata = entry.metadata()?;
            pack(builder, &entry.path(), Some(&entry.file_name()), &metadata)?;
        }
        return Ok(());
    };
    if metadata.is_dir() {
        return builder.append_dir_all(name, from);
    }
    if metadata.is_file() {
        // Through a link that is to be followed.
        return builder.append_file(name, &mut File::open(from)?);
    }
    builder.append_path_with_name(from, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_once() {
        let path = Path::new("/nope");
        for (why, told) in [
            ("/nope: no such file", "no such file"),
            ("/nope/x: no such file", "/nope/x: no such file"),
            ("no room", "no room"),
        ] {
            assert_eq!(without_path(path, why.to_owned()), told);
        }
    }
}
