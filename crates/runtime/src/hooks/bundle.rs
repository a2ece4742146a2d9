//! The bundle that hooks find: the container's directory with an empty `rootfs`, over which the root is mounted in the
//! container's mount namespace, and a `config.json` of what hooks look for in it.

use std::fs;
use std::path::Path;

use podd_shim::wire::{ContainerSpec, MountKind};

use super::Hooks;
use crate::error::{Context, Result};
use crate::paths::ContainerPaths;

/// Writes the bundle.
pub(crate) fn write(paths: &ContainerPaths, spec: &ContainerSpec, hooks: &Hooks) -> Result<()> {
    let root = paths.rootfs();
    fs::create_dir(&root).context(|| format!("make {}", root.display()))?;
    let path = paths.directory.join("config.json");
    let text = config(&root, spec, hooks).to_string();
    fs::write(&path, text).context(|| format!("write {}", path.display()))
}

fn config(root: &Path, spec: &ContainerSpec, hooks: &Hooks) -> serde_json::Value {
    let mounts: Vec<_> = spec
        .mounts
        .iter()
        .map(|mount| {
            let (kind, source) = match &mount.kind {
                MountKind::Bind { source, .. } => ("bind", source.display().to_string()),
                MountKind::Image { lower, .. } => {
                    ("bind", lower.first().map(|l| l.display().to_string()).unwrap_or_default())
                }
                MountKind::Tmpfs { .. } => ("tmpfs", "tmpfs".to_owned()),
                MountKind::Proc => ("proc", "proc".to_owned()),
                MountKind::Sysfs => ("sysfs", "sysfs".to_owned()),
                MountKind::Mqueue => ("mqueue", "mqueue".to_owned()),
                MountKind::Cgroup => ("cgroup", "cgroup".to_owned()),
            };
            let access = if mount.readonly { "ro" } else { "rw" };
            serde_json::json!({ "destination": mount.destination, "type": kind, "source": source, "options": [access] })
        })
        .collect();
    serde_json::json!({
        "ociVersion": "1.2.1",
        "root": { "path": root, "readonly": spec.rootfs.readonly },
        "process": {
            "terminal": spec.tty,
            "args": spec.process.args,
            "env": spec.process.env,
            "cwd": if spec.process.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.process.cwd },
        },
        "mounts": mounts,
        "hooks": hooks,
        "annotations": spec.hooks.annotations,
        "linux": {},
    })
}
