//! Builds what drupe carries along: the agent, for its guests, and the workload,
//! for its benchmarks. Both are static programs, and not for this build's target
//! directory. Says how drupe is linked.

use std::env;
use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The agent runs on the host's processor, in a guest that has no libraries.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Static; and at fixed addresses, which makes it smaller: what it defends
/// itself against comes as data.
const RUSTFLAGS: [&str; 4] = [
    "-Ctarget-feature=+crt-static",
    "-Crelocation-model=static",
    "-Clink-arg=-Wl,-z,noseparate-code",
    "-Clink-arg=-Wl,--build-id=none",
];
/// Without any library, not even the start of a program: see the workload's own.
const FREESTANDING: [&str; 4] = [
    "--cfg=freestanding",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-Wl,-z,noexecstack",
];
/// How hard they are compressed: the level before those that want more
/// memory to unpack, too.
const LEVEL: i32 = 19;
/// The first glibc whose loader knows packed relocations.
const PACKED_RELOCATIONS: (u32, u32) = (2, 36);
/// What they are made of.
const SOURCES: [&str; 9] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "guest-images/agent/Cargo.toml",
    "guest-images/agent/src",
    "guest-images/workload/Cargo.toml",
    "guest-images/workload/src",
    "protocol/Cargo.toml",
    "protocol/src",
];

fn main() -> Result<(), Box<dyn Error>> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target = out.join("target");
    let agent = fs::read(build("agent", &target, &[])?)?;
    // Another agent has another number: files that were made of it are told apart.
    let mut hasher = DefaultHasher::new();
    agent.hash(&mut hasher);
    println!("cargo::rustc-env=AGENT_ID={:016x}", hasher.finish());
    fs::write(out.join("agent.zst"), zstd::encode_all(&agent[..], LEVEL)?)?;
    fs::write(out.join("agent-size"), agent.len().to_string())?;
    let workload = fs::read(build("workload", &target, &FREESTANDING)?)?;
    fs::write(
        out.join("workload.zst"),
        zstd::encode_all(&workload[..], LEVEL)?,
    )?;
    link();
    Ok(())
}

/// The start of every VM pays for the program's relocations and libraries, in
/// time and in resident memory.
fn link() {
    if glibc().is_some_and(|version| version >= PACKED_RELOCATIONS) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    // Cargo forgets `strip` for a package whose profile has an override.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    // Used to tell where a panic came from, and for nothing else.
    println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
}

/// The version of this machine's glibc.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Builds a package by the profile of its name; hands back its program.
fn build(package: &str, target: &Path, flags: &[&str]) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .args(["build", "--package", package, "--profile", package])
        .args(["--target", TARGET, "--locked", "--quiet"])
        .arg("--target-dir")
        .arg(target);
    // Names of directories in messages are changed as drupe's are.
    let outer = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let names = outer
        .split('\u{1f}')
        .filter(|flag| flag.starts_with("--remap-path-prefix="));
    let flags: Vec<&str> = RUSTFLAGS
        .iter()
        .chain(flags)
        .copied()
        .chain(names)
        .collect();
    // What was set for drupe is not meant for them: cargo's own variables,
    // clippy in the compiler's place, flags of coverage or sanitizers.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = matches!(
            &*text,
            "CARGO_HOME" | "CARGO_NET_OFFLINE" | "CARGO_MAKEFLAGS"
        );
        let other = text.starts_with("CARGO") || text.starts_with("RUSTC") || text == "RUSTFLAGS";
        if other && !keep {
            cargo.env_remove(&name);
        }
    }
    // Its jobs are of this build's number.
    if let Some(flags) = env::var_os("CARGO_MAKEFLAGS") {
        cargo.env("MAKEFLAGS", flags);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the {package} does not build: {cargo:?}: {status}").into());
    }
    Ok(target.join(TARGET).join(package).join(package))
}
