//! The dependency table of `ARCHITECTURE.md`, held against `cargo metadata` and against the sources: who may use whom,
//! and what is confined to which crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Our crates, and which of ours each may use. A row that names more than the crate uses is fine; the reverse fails.
const MAY_USE: &[(&str, &[&str])] = &[
    ("podd-sys", &[]),
    ("podd-core", &[]),
    ("podd-manifest", &[]),
    ("podd-image", &["podd-sys"]),
    ("podd-cgroup", &["podd-sys"]),
    ("podd-net", &["podd-sys"]),
    ("podd-cni", &[]),
    ("podd-cri", &[]),
    ("podd-dns", &[]),
    ("podd-nri", &[]),
    ("podd-shim", &["podd-sys"]),
    (
        "podd-runtime",
        &[
            "podd-cri",
            "podd-dns",
            "podd-image",
            "podd-cni",
            "podd-manifest",
            "podd-net",
            "podd-nri",
            "podd-cgroup",
            "podd-sys",
            "podd-shim",
        ],
    ),
    ("podd-api", &["podd-core", "podd-cri", "podd-manifest"]),
    ("podd-agent", &["podd-core", "podd-cri", "podd-cgroup", "podd-dns", "podd-sys", "podd-manifest"]),
    (
        "podd",
        &[
            "podd-agent",
            "podd-api",
            "podd-cgroup",
            "podd-core",
            "podd-cri",
            "podd-dns",
            "podd-image",
            "podd-manifest",
            "podd-net",
            "podd-runtime",
            "podd-sys",
        ],
    ),
    ("podd-fuzz", &[]),
    ("podd-tests", &["podd-cri", "podd-sys"]),
];

/// What is confined: a dependency from outside (a name, or a prefix that ends in `*`) and the crates that may have it.
const CONFINED: &[(&str, &[&str])] = &[
    ("libc", &["podd-sys"]),
    ("cgroups-rs", &["podd-cgroup"]),
    ("netlink-packet-*", &["podd-net"]),
    ("prost*", &["podd-cri", "podd-nri"]),
    ("tonic-prost*", &["podd-cri"]),
    ("k8s-openapi", &["podd-core", "podd-api", "podd-agent", "podd"]),
    ("kube", &["podd-agent", "podd"]),
    ("redb", &["podd-api"]),
    ("hickory-*", &["podd-dns"]),
    ("reqwest", &["podd-image", "podd"]),
    ("granit-parser", &["podd-manifest"]),
    ("clap*", &["podd"]),
    ("indicatif", &["podd"]),
    (
        "tokio",
        &[
            "podd-cni",
            "podd-cri",
            "podd-dns",
            "podd-image",
            "podd-nri",
            "podd-runtime",
            "podd-api",
            "podd-agent",
            "podd",
            "podd-tests",
        ],
    ),
];

#[test]
fn dependencies_point_down_only() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for (package, dependencies) in packages() {
        let Some(may) = allowed.get(package.as_str()) else {
            wrong.push(format!("{package} is not in the table"));
            continue;
        };
        let ours = dependencies.iter().filter(|name| *name == "podd" || name.starts_with("podd-"));
        wrong.extend(ours.filter(|name| !may.contains(name.as_str())).map(|name| format!("{package} uses {name}")));
    }
    assert!(wrong.is_empty(), "against the dependency table:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_confined_stays_where_it_may_be() {
    let mut wrong = Vec::new();
    for (package, dependencies) in packages() {
        for (pattern, may) in CONFINED {
            let matches = |name: &String| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            };
            let found = dependencies.iter().filter(|name| matches(name));
            wrong.extend(
                found.filter(|_| !may.contains(&package.as_str())).map(|name| format!("{package} uses {name}")),
            );
        }
    }
    assert!(wrong.is_empty(), "confined to other crates:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_only_in_sys() {
    let mut wrong = Vec::new();
    for path in sources() {
        if path.starts_with(root().join("crates/sys")) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file is text");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let says = |word: &str| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word);
            if says("unsafe") && !code.contains('"') {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside crates/sys:\n{}", wrong.join("\n"));
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a source file is text");
            !text.lines().next().unwrap_or_default().starts_with("//!")
        })
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no `//!` at the head of:\n{}", silent.join("\n"));
}

/// Each package of the workspace with its normal dependencies (those of tests and builds may be anything).
fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let packages: BTreeMap<_, _> = list(&metadata["packages"])
        .iter()
        .map(|package| {
            let normal = list(&package["dependencies"]).into_iter().filter(|one| one["kind"].is_null());
            let names = normal.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect();
            (package["name"].as_str().unwrap_or_default().to_owned(), names)
        })
        .collect();
    assert!(packages.len() >= MAY_USE.len(), "cargo metadata lists {} packages only", packages.len());
    packages
}

/// Every Rust file of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join("crates"), root().join("tests")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the workspace can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() && !path.ends_with("target") {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 200, "only {} source files found", found.len());
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").to_owned()
}
