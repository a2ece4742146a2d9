//! Builds the shim as a small static binary for `src/shim/launch.rs` to embed.
//!
//! `+crt-static` works only with an explicit `--target`, and the shim has a profile of its own; so it is a second cargo
//! call with a target directory of its own, which neither waits for the outer call's lock nor disturbs its artefacts.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "podd-shim";
const FLAGS: &str = "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static";
/// What the outer cargo, or clippy through it, tells its own compilers and must not tell ours.
const FOREIGN: [&str; 6] =
    ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CLIPPY_ARGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"];

fn main() -> Result<(), Box<dyn Error>> {
    let workspace = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for input in ["Cargo.toml", "Cargo.lock", "crates/shim", "crates/sys"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target = env::var("TARGET")?;
    let directory = out.join("shim-target");
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .args(["build", "--package", PACKAGE, "--bin", PACKAGE, "--profile", "shim", "--target", &target])
        .arg("--target-dir")
        .arg(&directory)
        .current_dir(&workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
    for name in FOREIGN {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("{cargo:?} ended with {status}").into());
    }
    fs::copy(directory.join(&target).join("shim").join(PACKAGE), out.join(PACKAGE))?;
    Ok(())
}
