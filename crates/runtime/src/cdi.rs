//! CDI, the Container Device Interface: devices by name, and what each needs in a container (cncf-tags
//! container-device-interface, SPEC.md 1.1.0).
//!
//! Vendors put YAML or JSON files into directories. A device of a later directory takes the place of one with the same
//! name; two in one directory are a conflict, and neither can be had. A file that is wrong takes only itself away: the
//! error of whoever asks for a device that is not there says so. The files are read anew for each container that asks.

mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use podd_cri::v1::ContainerConfig;

use crate::container::Edits;
use crate::error::{Context, CriError, Result};

use spec::Spec;

/// Annotations that name devices begin so; their values are names with commas between them.
const ANNOTATIONS: &str = "cdi.k8s.io/";
/// The longest file.
const LONGEST: u64 = 4 << 20;

/// The names of the devices that a container asks for, each once.
pub(crate) fn wanted(config: &ContainerConfig) -> Result<Vec<String>> {
    let named = config.cdi_devices.iter().map(|device| device.name.clone());
    let annotated = config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATIONS));
    let annotated = annotated.flat_map(|(_, names)| names.split(',').map(|name| name.trim().to_owned()));
    let mut seen = BTreeSet::new();
    let names: Vec<String> = named.chain(annotated).filter(|name| seen.insert(name.clone())).collect();
    for name in &names {
        spec::split_name(name).map_err(|why| CriError::invalid(format!("CDI device {name:?}: {why}")))?;
    }
    Ok(names)
}

/// What the devices of these names put into a container.
pub(crate) fn resolve(directories: &[PathBuf], names: &[String]) -> Result<Edits> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let catalogue = Catalogue::read(directories)?;
    let mut missing = Vec::new();
    let mut used = BTreeSet::new();
    for name in names {
        match catalogue.devices.get(name) {
            Some(Found::One { spec, device }) => {
                let spec = &catalogue.specs[*spec];
                // What a file says of all its devices comes once, before the first of them.
                if used.insert(&spec.path) {
                    spec.edits.apply(&mut edits).map_err(|why| unusable(name, &spec.path, &why))?;
                }
                spec.devices[*device].edits.apply(&mut edits).map_err(|why| unusable(name, &spec.path, &why))?;
            }
            Some(Found::Conflict(paths)) => {
                missing.push(format!("{name} (in conflict: {} both have it)", shown(paths)));
            }
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() {
        return Ok(edits);
    }
    let mut text = format!("unresolvable CDI devices {}", missing.join(", "));
    for wrong in &catalogue.wrong {
        text.push_str(&format!("; {wrong}"));
    }
    Err(CriError::invalid(text))
}

fn unusable(name: &str, path: &Path, why: &str) -> CriError {
    CriError::internal(format!("inject CDI device {name} of {}", path.display()), why)
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

/// All files of all directories.
#[derive(Default)]
struct Catalogue {
    specs: Vec<Spec>,
    /// By full name, `vendor/class=device`.
    devices: BTreeMap<String, Found>,
    /// Files that cannot be used, and why.
    wrong: Vec<String>,
}

enum Found {
    One { spec: usize, device: usize },
    Conflict(Vec<PathBuf>),
}

impl Catalogue {
    fn read(directories: &[PathBuf]) -> Result<Self> {
        let mut catalogue = Self::default();
        for directory in directories {
            let what = || format!("list CDI directory {}", directory.display());
            let entries = match fs::read_dir(directory) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.context(what)?,
            };
            let mut paths = Vec::new();
            for entry in entries {
                let path = entry.context(what)?.path();
                if path.extension().is_some_and(|extension| ["json", "yaml"].iter().any(|known| extension == *known)) {
                    paths.push(path);
                }
            }
            paths.sort();
            catalogue.add_directory(paths);
        }
        Ok(catalogue)
    }

    fn add_directory(&mut self, paths: Vec<PathBuf>) {
        let mut here: BTreeMap<String, Found> = BTreeMap::new();
        for path in paths {
            match read_file(&path) {
                Ok(spec) => {
                    let number = self.specs.len();
                    for (device, entry) in spec.devices.iter().enumerate() {
                        let name = format!("{}={}", spec.kind, entry.name);
                        let found = match here.remove(&name) {
                            None => Found::One { spec: number, device },
                            Some(Found::One { spec: other, .. }) => {
                                Found::Conflict(vec![self.specs[other].path.clone(), spec.path.clone()])
                            }
                            Some(Found::Conflict(mut paths)) => {
                                paths.push(spec.path.clone());
                                Found::Conflict(paths)
                            }
                        };
                        here.insert(name, found);
                    }
                    self.specs.push(spec);
                }
                Err(why) => self.wrong.push(format!("{}: {why}", path.display())),
            }
        }
        self.devices.extend(here);
    }
}

fn read_file(path: &Path) -> std::result::Result<Spec, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > LONGEST {
        return Err(format!("{length} bytes are more than {LONGEST}"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    spec::parse(path, &bytes)
}

#[cfg(test)]
mod tests;
