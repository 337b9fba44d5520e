//! Compiles the agent: a static program, for the guest and not for this build's
//! target directory.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// The agent runs on the host's processor, in a guest that has no libraries.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("bad-agent");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc
        .args(["--edition", "2024", "--crate-name", "bad_agent"])
        .args(["--target", TARGET, "-Copt-level=s", "-Cpanic=abort"])
        .args(["-Cstrip=symbols", "-Crelocation-model=static"])
        .arg("-Ctarget-feature=+crt-static");
    let output = rustc.arg("-o").arg(out).arg("guest/main.rs").output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the bad agent does not build: {rustc:?}: {said}").into());
    }
    Ok(())
}
