//! One CDI file: read, checked, and turned into edits of a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use podd_cgroup::{DeviceKind as RuleKind, DeviceRule};
use podd_shim::wire::{Device, DeviceKind, Hook, Mount, MountKind, Propagation};
use rustix::fs::{major, minor};
use serde::Deserialize;

use crate::container::Edits;
use crate::hooks::Hooks;

type Checked<T> = std::result::Result<T, String>;

/// The versions there are.
const VERSIONS: [&str; 11] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "0.8.1", "1.0.0", "1.1.0"];

/// A file that has been checked.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) path: PathBuf,
    /// `vendor/class`.
    pub(super) kind: String,
    pub(super) devices: Vec<NamedDevice>,
    /// For every container that gets one of the devices.
    pub(super) edits: ContainerEdits,
}

#[derive(Debug)]
pub(super) struct NamedDevice {
    pub(super) name: String,
    pub(super) edits: ContainerEdits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<FileDevice>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileDevice {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    container_edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    hooks: Vec<FileHook>,
    mounts: Vec<FileMount>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type", default)]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    #[serde(default)]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileHook {
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileMount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    options: Vec<String>,
}

/// Reads and checks a file, YAML or JSON.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Checked<Spec> {
    let mut documents = podd_manifest::parse(bytes).map_err(|problem| problem.to_string())?;
    if documents.len() != 1 {
        return Err(format!("{} documents instead of one", documents.len()));
    }
    let value = documents.remove(0).value;
    let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
    check(path, file)
}

fn check(path: &Path, file: File) -> Checked<Spec> {
    let declared = file.cdi_version.strip_prefix('v').unwrap_or(&file.cdi_version);
    if !VERSIONS.contains(&declared) {
        return Err(format!("cdiVersion {:?} is not known", file.cdi_version));
    }
    let (vendor, class) =
        file.kind.split_once('/').ok_or_else(|| format!("kind {:?} is not vendor/class", file.kind))?;
    check_vendor(vendor)?;
    check_class(class)?;
    check_annotations(&file.annotations)?;
    if file.devices.is_empty() {
        return Err("no devices".to_owned());
    }
    let mut needed = file.container_edits.check()?;
    if class.contains('.') || !file.annotations.is_empty() {
        needed = needed.max("0.6.0");
    }
    let mut seen = BTreeSet::new();
    for device in &file.devices {
        check_device(&device.name)?;
        check_annotations(&device.annotations)?;
        if !seen.insert(&device.name) {
            return Err(format!("device {:?} is there twice", device.name));
        }
        let edits = device.container_edits.check().map_err(|why| format!("device {:?}: {why}", device.name))?;
        if device.container_edits.is_empty() {
            return Err(format!("device {:?}: no containerEdits", device.name));
        }
        needed = needed.max(edits);
        if !device.annotations.is_empty() {
            needed = needed.max("0.6.0");
        }
        if device.name.starts_with(|first: char| first.is_ascii_digit()) {
            needed = needed.max("0.5.0");
        }
    }
    // Versions so far compare as text.
    if declared < needed {
        return Err(format!("cdiVersion {declared} has not what version {needed} brought and the file uses"));
    }
    let devices = file.devices.into_iter();
    let devices = devices.map(|device| NamedDevice { name: device.name, edits: device.container_edits }).collect();
    Ok(Spec { path: path.to_owned(), kind: file.kind, devices, edits: file.container_edits })
}

/// `vendor/class=device` in its parts, each checked.
pub(super) fn split_name(name: &str) -> Checked<(&str, &str, &str)> {
    let (kind, device) = name.split_once('=').ok_or("it is not vendor/class=name")?;
    let (vendor, class) = kind.split_once('/').ok_or("it is not vendor/class=name")?;
    check_vendor(vendor)?;
    check_class(class)?;
    check_device(device)?;
    Ok((vendor, class, device))
}

fn check_vendor(vendor: &str) -> Checked<()> {
    check_name("vendor", vendor, false, "_-.")
}

fn check_class(class: &str) -> Checked<()> {
    check_name("class", class, false, "_-.")
}

fn check_device(device: &str) -> Checked<()> {
    check_name("device name", device, true, "_-.:")
}

fn check_name(what: &str, name: &str, digit_first: bool, between: &str) -> Checked<()> {
    let Some(first) = name.chars().next() else { return Err(format!("the {what} is empty")) };
    if !(first.is_ascii_alphabetic() || digit_first && first.is_ascii_digit()) {
        let with = if digit_first { "a letter or digit" } else { "a letter" };
        return Err(format!("{what} {name:?} must begin with {with}"));
    }
    if let Some(wrong) = name.chars().find(|letter| !letter.is_ascii_alphanumeric() && !between.contains(*letter)) {
        return Err(format!("{what} {name:?} must not contain {wrong:?}"));
    }
    if !name.ends_with(|last: char| last.is_ascii_alphanumeric()) {
        return Err(format!("{what} {name:?} must end with a letter or digit"));
    }
    Ok(())
}

/// Kubernetes' rules for the keys of annotations, as far as a file can break them.
fn check_annotations(annotations: &BTreeMap<String, String>) -> Checked<()> {
    for key in annotations.keys() {
        let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
        let good = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if name.is_empty() || name.len() > 63 || !name.chars().all(good) || key.matches('/').count() > 1 {
            return Err(format!("annotation {key:?} is not a name"));
        }
    }
    Ok(())
}

impl ContainerEdits {
    fn is_empty(&self) -> bool {
        self.env.is_empty()
            && self.device_nodes.is_empty()
            && self.hooks.is_empty()
            && self.mounts.is_empty()
            && self.additional_gids.is_empty()
    }

    /// Checks all of it; the oldest version that knows what it uses.
    fn check(&self) -> Checked<&'static str> {
        let mut needed = "0.1.0";
        if self.intel_rdt.is_some() {
            return Err("intelRdt is not supported".to_owned());
        }
        if !self.net_devices.is_empty() {
            return Err("netDevices is not supported".to_owned());
        }
        for variable in &self.env {
            if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) || variable.contains('\0') {
                return Err(format!("env {variable:?} is not NAME=value"));
            }
        }
        for node in &self.device_nodes {
            node.check()?;
            if node.host_path.is_some() {
                needed = needed.max("0.5.0");
            }
        }
        for hook in &self.hooks {
            if Hooks::default().stage(&hook.hook_name).is_none() {
                return Err(format!("hookName {:?} is none of {}", hook.hook_name, Hooks::STAGES.join(", ")));
            }
            if !hook.path.is_absolute() {
                return Err(format!("hook path {:?} must be absolute", hook.path));
            }
            if let Some(wrong) = hook.env.iter().find(|variable| !variable.contains('=')) {
                return Err(format!("hook env {wrong:?} is not NAME=value"));
            }
        }
        for mount in &self.mounts {
            mount.wire()?;
            if !mount.kind.is_empty() {
                needed = needed.max("0.4.0");
            }
        }
        if !self.additional_gids.is_empty() {
            needed = needed.max("0.7.0");
        }
        Ok(needed)
    }

    /// Adds it to what a container gets. Device nodes are looked up on the host.
    pub(super) fn apply(&self, edits: &mut Edits) -> Checked<()> {
        edits.env.extend(self.env.iter().cloned());
        for node in &self.device_nodes {
            let (device, rule) = node.resolve()?;
            edits.devices.push(device);
            edits.rules.extend(rule);
        }
        for mount in &self.mounts {
            edits.mounts.push(mount.wire()?);
        }
        for hook in &self.hooks {
            if let Some(list) = edits.hooks.stage(&hook.hook_name) {
                list.push(Hook {
                    path: hook.path.clone(),
                    args: hook.args.clone(),
                    env: hook.env.clone(),
                    timeout: hook.timeout,
                });
            }
        }
        // Root's group gives nobody anything that it should have.
        edits.additional_gids.extend(self.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }
}

impl DeviceNode {
    fn check(&self) -> Checked<()> {
        let path = self.path.display();
        if !self.path.is_absolute() {
            return Err(format!("device node path {path:?} must be absolute"));
        }
        if !["", "b", "c", "u", "p"].contains(&self.kind.as_str()) {
            return Err(format!("device node {path}: type {:?} is none of b, c, u, p", self.kind));
        }
        if let Some(wrong) = self.permissions.chars().find(|letter| !"rwm".contains(*letter)) {
            return Err(format!("device node {path}: permission {wrong:?} is none of rwm"));
        }
        Ok(())
    }

    /// The node, with what the file leaves open taken from the host's, and what the cgroup must allow.
    fn resolve(&self) -> Checked<(Device, Option<DeviceRule>)> {
        let host = self.host_path.as_ref().unwrap_or(&self.path);
        let numbers = self.major.zip(self.minor);
        let whole = !self.kind.is_empty() && (numbers.is_some() || self.kind == "p");
        let found = match fs::metadata(host) {
            Ok(found) => Some(found),
            Err(_) if whole => None,
            Err(error) => return Err(format!("look up device node {}: {error}", host.display())),
        };
        let kind = match (self.kind.as_str(), found.as_ref().map(fs::Metadata::file_type)) {
            ("b", _) => DeviceKind::Block,
            ("c" | "u", _) => DeviceKind::Char,
            ("p", _) => DeviceKind::Fifo,
            (_, Some(kind)) if kind.is_block_device() => DeviceKind::Block,
            (_, Some(kind)) if kind.is_char_device() => DeviceKind::Char,
            (_, Some(kind)) if kind.is_fifo() => DeviceKind::Fifo,
            _ => return Err(format!("{} is not a device", host.display())),
        };
        let of_host = found.as_ref().map_or(0, |found| found.rdev());
        let number = |given: Option<i64>, own: u32| match given {
            None | Some(0) => Ok(own),
            Some(number) => {
                u32::try_from(number).map_err(|_| format!("device node {}: number {number}", self.path.display()))
            }
        };
        let (major, minor) = match kind {
            DeviceKind::Fifo => (0, 0),
            _ if numbers.is_some() && whole => (number(self.major, 0)?, number(self.minor, 0)?),
            _ => (number(self.major, major(of_host))?, number(self.minor, minor(of_host))?),
        };
        let mode = self.file_mode.or(found.as_ref().map(|found| found.mode())).unwrap_or(0o660) & 0o7777;
        let device = Device {
            path: self.path.clone(),
            kind,
            major,
            minor,
            mode,
            uid: self.uid.unwrap_or_else(|| found.as_ref().map_or(0, |found| found.uid())),
            gid: self.gid.unwrap_or_else(|| found.as_ref().map_or(0, |found| found.gid())),
        };
        let rule_kind = match kind {
            DeviceKind::Block => RuleKind::Block,
            DeviceKind::Char => RuleKind::Char,
            DeviceKind::Fifo => return Ok((device, None)),
        };
        let has = |letter| self.permissions.is_empty() || self.permissions.contains(letter);
        let rule = DeviceRule {
            allow: true,
            kind: rule_kind,
            major: Some(major),
            minor: Some(minor),
            read: has('r'),
            write: has('w'),
            mknod: has('m'),
        };
        Ok((device, Some(rule)))
    }
}

impl FileMount {
    /// The mount in the shim's words; an option that means nothing there is refused.
    fn wire(&self) -> Checked<Mount> {
        let path = self.container_path.display();
        if !self.container_path.is_absolute() || !self.host_path.is_absolute() {
            return Err(format!("mount at {path:?}: hostPath and containerPath must be absolute"));
        }
        let mut mount = Mount { destination: self.container_path.clone(), ..Mount::default() };
        let bind = |recursive| MountKind::Bind { source: self.host_path.clone(), recursive };
        mount.kind = match self.kind.as_str() {
            "" | "bind" | "none" => bind(self.options.iter().any(|option| option == "rbind")),
            "tmpfs" => MountKind::Tmpfs { size: None, mode: None },
            other => return Err(format!("mount at {path}: type {other:?} is not supported")),
        };
        for option in &self.options {
            match option.as_str() {
                "ro" => mount.readonly = true,
                "rro" => (mount.readonly, mount.recursive_readonly) = (true, true),
                "nosuid" => mount.nosuid = true,
                "nodev" => mount.nodev = true,
                "noexec" => mount.noexec = true,
                "private" | "rprivate" => mount.propagation = Propagation::Private,
                "slave" | "rslave" => mount.propagation = Propagation::Slave,
                "shared" | "rshared" => mount.propagation = Propagation::Shared,
                "bind" | "rbind" | "rw" | "suid" | "dev" | "exec" | "relatime" => {}
                other => return Err(format!("mount at {path}: option {other:?} is not supported")),
            }
        }
        Ok(mount)
    }
}
