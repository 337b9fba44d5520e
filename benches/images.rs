//! `drupe load` against `podman load`: the same archive of a Debian image, each
//! into a store that is empty, on any machine. In pairs, of which the first is
//! dropped; all of it in memory.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common;

use common::podman::Podman;
use common::{disk_bytes, median, mib, output, time, verdict};

const PAIRS: usize = 5;
const BUDGET: f64 = 1.0;
const IMAGE: &str = "localhost/debian-bench";

fn main() -> io::Result<()> {
    let Some(tar) = env::var_os("DRUPE_BENCH_TAR").map(PathBuf::from) else {
        println!("images: left out: `make bench` prepares the archive that it takes");
        return Ok(());
    };
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let archive = archive(dir.path(), &tar)?;
    let size = fs::metadata(&archive)?.len();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut store = 0;
    for pair in 0..=PAIRS {
        let dir = tempfile::tempdir_in(dir.path())?;
        let podman = Podman::new(Path::new("podman"), &dir.path().join("podman"))?;
        let p = time(podman.command(&["load", "--quiet", "-i"]).arg(&archive))?;
        output(&mut podman.command(&["rmi", "--all", "--force"]))?;
        let home = dir.path().join("home");
        let mut drupe = Command::new(env!("CARGO_BIN_EXE_drupe"));
        drupe.args(["load", "--quiet", "-i"]).arg(&archive);
        let d = time(drupe.env("DRUPE_HOME", &home))?;
        store = disk_bytes(&home)?;
        if pair > 0 {
            theirs.push(p);
            ours.push(d);
        }
    }
    let (d, p) = (median(&mut ours), median(&mut theirs));
    let ratio = d / p;
    println!(
        "images: loading a Debian image of {:.0} MiB: drupe {d:.2} s, podman {p:.2} s, ratio {ratio:.2} (n={PAIRS}), budget {BUDGET}: {}",
        mib(size),
        verdict(ratio <= BUDGET)
    );
    println!("images: all, in s: drupe {ours:.2?}, podman {theirs:.2?}");
    println!("images: it takes {:.0} MiB in drupe's store", mib(store));
    Ok(())
}

/// The archive as `podman save` writes it, of a root file system's tar.
fn archive(dir: &Path, tar: &Path) -> io::Result<PathBuf> {
    let podman = Podman::new(Path::new("podman"), &dir.join("make"))?;
    output(podman.command(&["import", "--quiet"]).arg(tar).arg(IMAGE))?;
    let archive = dir.join("image.tar");
    let mut save = podman.command(&["save", "--quiet", "--format", "docker-archive", "-o"]);
    output(save.arg(&archive).arg(IMAGE))?;
    output(&mut podman.command(&["rmi", "--all", "--force"]))?;
    Ok(archive)
}
