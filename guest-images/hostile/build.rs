//! Compiles the guest: a program for no system, by the compiler and the `core` that
//! are there, so that no further target has to be installed.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// The machine that runs this: the guest gets its processor.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where the guest is loaded, above what drupe writes for its kernels.
const ADDRESS: &str = "-Wl,--image-base=0x200000";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("guest");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc
        .args(["--edition", "2024", "--crate-type", "bin"])
        .args(["--crate-name", "guest", "--target", TARGET])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols"])
        .arg("-Crelocation-model=static")
        // An interrupt would write below the stack pointer.
        .arg("-Cno-redzone=yes")
        // No vector registers: nobody switches them on, and a KVM that emulates
        // its guests knows hardly any of their instructions. The compiler warns
        // that such code cannot be linked with other code that has them; here only
        // panics of `core` are linked.
        .arg("-Ctarget-feature=+crt-static,-sse,-sse2");
    for flag in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        ADDRESS,
    ] {
        rustc.arg(format!("-Clink-arg={flag}"));
    }
    let output = rustc.arg("-o").arg(out).arg("guest/main.rs").output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the guest does not build: {rustc:?}: {said}").into());
    }
    Ok(())
}
