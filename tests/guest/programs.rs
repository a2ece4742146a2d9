//! Programs of this work tree, built by cargo as the tests themselves are: of the whole workspace, because a narrower
//! selection would unite other features and build half of the dependencies once more.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The test programs of a library, by its crate's name, and of a file in some package's `tests`.
pub(crate) fn tests_of(library: &str, file: &str) -> Result<Vec<Program>> {
    let programs = build(&["test", "--workspace", "--no-run", "--lib", "--test", file])?;
    let programs: Vec<_> = programs.into_iter().filter(|one| one.name == library || one.name == file).collect();
    ensure!(programs.len() == 2, "cargo made other programs than those of {library} and {file}");
    Ok(programs)
}

/// The program of one file of black-box tests.
pub(crate) fn black_box(name: &str) -> Result<Program> {
    let programs = build(&["test", "--workspace", "--no-run", "--test", name])?;
    // The harness' own program is made along with every test.
    let mut found = programs.into_iter().filter(|program| program.name == name);
    found.next().with_context(|| format!("cargo made no program of tests/tests/{name}.rs"))
}

/// podd itself.
pub(crate) fn podd() -> Result<Program> {
    let programs = build(&["build", "--package", "podd", "--bin", "podd"])?;
    programs.into_iter().next().context("cargo made no podd")
}

/// Runs cargo and collects the programs that it made or found fresh.
fn build(arguments: &[&str]) -> Result<Vec<Program>> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--message-format", "json"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .context("run cargo")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {}: {errors}", arguments.join(" "));
    let mut programs = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).context("read cargo's messages")?;
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            programs.push(Program { name: name.to_owned(), path: PathBuf::from(path) });
        }
    }
    Ok(programs)
}
