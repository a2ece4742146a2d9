//! Network configurations: the first file of a directory, in the form of one plugin or of a list.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The versions of the protocol that are spoken.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// No configuration is longer than this.
const MAX_SIZE: u64 = 1 << 20;

/// A network's name and its plugins, in the order in which they are asked to add.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkList {
    /// The network's name.
    pub name: String,
    /// The version of the protocol.
    pub cni_version: String,
    /// Whether `CHECK` must not be run.
    #[serde(default)]
    pub disable_check: bool,
    /// The plugins' own configurations; each has a `type`.
    pub plugins: Vec<Map<String, Value>>,
}

impl NetworkList {
    /// Reads a configuration, a list (`plugins`) or a single plugin (`type`).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let file: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let word = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = word("name");
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.bytes().all(fits) {
            return Err(format!("name {name:?} must be letters, digits, dots, dashes and underscores"));
        }
        let cni_version = version(&file)?;
        // The specification has a boolean; files with a string of one are about.
        let disable_check = match file.get("disableCheck") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) => text.parse().map_err(|_| "disableCheck is no boolean".to_owned())?,
            Some(_) => return Err("disableCheck is no boolean".to_owned()),
        };
        let plugins = match file.get("plugins") {
            Some(Value::Array(list)) => list.iter().map(|plugin| plugin.as_object().cloned()).collect(),
            Some(_) => None,
            None => Some(vec![file.clone()]),
        };
        let plugins: Vec<_> = plugins.ok_or("plugins is no list of objects")?;
        if plugins.is_empty() {
            return Err("plugins is empty".to_owned());
        }
        for plugin in &plugins {
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            let a_name = !kind.is_empty() && kind != "." && kind != ".." && !kind.contains(['/', '\0']);
            if !a_name {
                return Err(format!("the type {kind:?} of a plugin is no program's name"));
            }
        }
        Ok(Self { name, cni_version, disable_check, plugins })
    }

    /// Whether the version has `CHECK`, and `prevResult` for `DEL`.
    pub(crate) fn knows_check(&self) -> bool {
        !self.cni_version.starts_with("0.3.")
    }
}

/// The newest version that a configuration offers (`cniVersions`, `cniVersion`) and we speak.
fn version(file: &Map<String, Value>) -> std::result::Result<String, String> {
    let several = file.get("cniVersions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let offered: Vec<&str> = several.iter().chain(file.get("cniVersion")).filter_map(Value::as_str).collect();
    let spoken = VERSIONS.iter().rev().find(|version| offered.contains(version));
    spoken.map(|version| (*version).to_owned()).ok_or_else(|| {
        let offered = if offered.is_empty() { "not given".to_owned() } else { offered.join(", ") };
        format!("cniVersion is {offered}; spoken are {}", VERSIONS.join(", "))
    })
}

/// The network of a directory: its first file by name that ends in `.conf`, `.conflist` or `.json`. None when there is no
/// such file, or no directory. A first file that is broken is an error: the next one would be another network.
///
/// # Errors
/// [`Error::Config`], which names the file.
pub fn load(directory: &Path) -> Result<Option<NetworkList>> {
    let broken = |path: &Path, reason: String| Error::Config { path: path.to_owned(), reason };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(directory, error.to_string())),
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| broken(directory, error.to_string()))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ["conf", "conflist", "json"].contains(&ending) {
            files.push(path);
        }
    }
    let Some(first) = files.into_iter().min() else { return Ok(None) };
    let read = || -> std::result::Result<NetworkList, String> {
        let found = std::fs::metadata(&first).map_err(|error| error.to_string())?;
        if !found.is_file() || found.len() > MAX_SIZE {
            return Err(format!("not a file of at most {MAX_SIZE} bytes"));
        }
        NetworkList::parse(&std::fs::read(&first).map_err(|error| error.to_string())?)
    };
    read().map(Some).map_err(|reason| broken(&first, reason))
}
