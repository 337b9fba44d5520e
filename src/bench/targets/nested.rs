//! A container of crun's in a machine of drupe's: crun of this machine, with the
//! libraries that it needs, in an image beside the root file system of the
//! container, which is the same as everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::error::{Context, Error, Result};
use super::super::work::{self, Entry, PROGRAM, Work};
use super::vm::Drupe;
use super::{Network, Size, Target, bundle, seccomp};

/// Stands in the configuration for the command, which the workload fills in
/// (`guest-images/workload/src/bundle.rs`).
const COMMAND: &str = "COMMAND";
/// The bundles: of a container with a network of its own, which is none, and of one
/// with its machine's, which nobody else is in.
const ALONE: &str = "/bundle";
const JOINED: &str = "/joined";

/// The container's root file system.
const ROOT: &str = "bundle/rootfs";

/// A machine with a container in it for each run.
pub struct Nested {
    drupe: Drupe,
    crun: PathBuf,
}

impl Nested {
    /// With an image of crun and the workload.
    ///
    /// # Errors
    /// When there is no crun, and as of [`Drupe::new`].
    pub fn new(work: &Work) -> Result<Self> {
        let crun = super::need("crun")?;
        let tar = work.path("nested.tar");
        work::pack(&image(&crun, work)?, &tar)?;
        if work.is_image() {
            work.append(&tar, ROOT)?;
        }
        let drupe = Drupe::new(&work.path("vm+container"), &tar)?;
        fs::remove_file(&tar).context(|| tar.display().to_string())?;
        Ok(Nested { drupe, crun })
    }
}

/// All that is in it, but for the container's root file system where that is
/// another one than the workload's.
fn image(crun: &Path, work: &Work) -> Result<Vec<Entry>> {
    let mut entries = work::entries()?;
    entries.extend([&ALONE[1..], &JOINED[1..], ROOT, "usr/bin", "run"].map(Entry::directory));
    if !work.is_image() {
        for mut entry in work.root()? {
            entry.path = format!("{ROOT}/{}", entry.path);
            entries.push(entry);
        }
    }
    let root = PathBuf::from("/").join(ROOT);
    let filter = seccomp::filter(&bundle::capabilities());
    for (name, network) in [
        (ALONE, bundle::Network::Own),
        (JOINED, bundle::Network::Host),
    ] {
        let config = bundle::config(&root, &[COMMAND], None, filter.as_ref(), network).to_string();
        let (before, after) = config
            .split_once(&format!("\"{COMMAND}\""))
            .ok_or_else(|| Error::Failed("the configuration has no command".into()))?;
        entries.push(Entry::file(
            &format!("{}/before", &name[1..]),
            before.into(),
        ));
        entries.push(Entry::file(&format!("{}/after", &name[1..]), after.into()));
    }
    let mut files = work::libraries(crun);
    files.push(("usr/bin/crun".to_owned(), crun.to_owned()));
    for (name, path) in files {
        let data = fs::read(&path).context(|| path.display().to_string())?;
        entries.push(Entry::program(&name, data));
    }
    Ok(entries)
}

impl Target for Nested {
    fn about(&self) -> String {
        format!(
            "crun as in the target container, in drupe run --privileged, kernel {}",
            self.drupe.kernel()
        )
    }

    fn versions(&self) -> BTreeMap<String, String> {
        let mut versions = self.drupe.versions();
        versions.insert("crun".to_owned(), super::version(&self.crun));
        versions
    }

    fn command(&mut self, args: &[&str], size: Size) -> Result<Command> {
        let bundle = if size.network { JOINED } else { ALONE };
        let args: Vec<_> = [PROGRAM, "bundle", bundle, PROGRAM]
            .iter()
            .chain(args)
            .copied()
            .collect();
        Ok(self.drupe.run(&["--privileged"], size, &args))
    }

    fn network(&mut self) -> Result<Network> {
        Ok(Network::user(
            "drupe's default network; the container is in its machine's network namespace",
        ))
    }

    fn clean(&mut self) {
        self.drupe.clean();
    }
}
