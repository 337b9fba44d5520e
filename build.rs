//! Builds the agent, which drupe carries along: a static program, for the guest
//! and not for this build's target directory.

use std::env;
use std::error::Error;
use std::fs;
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
/// What the agent is made of.
const SOURCES: [&str; 7] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "guest-images/agent/Cargo.toml",
    "guest-images/agent/src",
    "protocol/Cargo.toml",
    "protocol/src",
];

fn main() -> Result<(), Box<dyn Error>> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let built = build(&out.join("target"))?;
    fs::copy(built, out.join("agent"))?;
    Ok(())
}

fn build(target: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .args(["build", "--package", "agent", "--profile", "agent"])
        .args(["--target", TARGET, "--locked", "--quiet"])
        .arg("--target-dir")
        .arg(target);
    // What was set for drupe is not meant for the agent: cargo's own variables,
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
    cargo.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"));
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the agent does not build: {cargo:?}: {status}").into());
    }
    Ok(target.join(TARGET).join("agent/agent"))
}
