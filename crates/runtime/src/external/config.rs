//! The configuration of a container for another OCI runtime (OCI runtime specification 1.2, config.md and config-linux.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use podd_cgroup::{DeviceKind as RuleKind, DeviceRule, Limits};
use podd_shim::wire::{
    ContainerSpec, Device, DeviceKind, Hook, Mount, MountKind, Mounted, NamespaceKind, PidNamespace, Process,
    Propagation, ResolvedUser, Rlimit,
};
use podd_sys::capability;
use serde_json::{Map, Value, json};

use crate::hooks::Hooks;

const OCI_VERSION: &str = "1.2.0";

/// What the configuration is made of.
pub(crate) struct Container<'a> {
    pub(crate) spec: &'a ContainerSpec,
    /// What the shim has found out.
    pub(crate) mounted: &'a Mounted,
    /// Where the root is.
    pub(crate) root: &'a Path,
    /// Where what the mounts show is, by their places in the list.
    pub(crate) mounts: &'a Path,
    /// It refuses writes to its root, which the specification for the shim does not say: mount points are yet to be made.
    pub(crate) readonly: bool,
    pub(crate) hooks: &'a Hooks,
    pub(crate) annotations: &'a BTreeMap<String, String>,
    /// From the top of each hierarchy.
    pub(crate) cgroup: &'a Path,
    pub(crate) limits: &'a Limits,
    /// `linux.seccomp`.
    pub(crate) seccomp: Option<Value>,
}

/// `config.json`.
pub(crate) fn config(container: &Container<'_>) -> Value {
    let Container { spec, mounted, .. } = container;
    let mut process = process(&spec.process, &mounted.user, Some(&mounted.home));
    process["terminal"] = json!(spec.tty);
    if let Some(window) = spec.window {
        process["consoleSize"] = json!({ "height": window.rows, "width": window.cols });
    }
    let mut linux = json!({
        "cgroupsPath": Path::new("/").join(container.cgroup),
        "namespaces": namespaces(spec, &mounted.namespaces),
        "devices": spec.devices.iter().map(device).collect::<Vec<_>>(),
        "resources": resources(container.limits),
        "maskedPaths": spec.masked_paths,
        "readonlyPaths": spec.readonly_paths,
    });
    if let Some(propagation) = root_propagation(&spec.mounts) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    if let Some(seccomp) = &container.seccomp {
        linux["seccomp"] = seccomp.clone();
    }
    json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": { "path": container.root, "readonly": container.readonly },
        "mounts": mounts(spec, container.mounts),
        "hooks": hooks(container.hooks),
        "annotations": container.annotations,
        "linux": linux,
    })
}

/// The process of a container, or of an exec in one. `oomScoreAdj` is left out: the shim sets it as far as the machine
/// allows, and it is inherited.
pub(crate) fn process(process: &Process, user: &ResolvedUser, home: Option<&str>) -> Value {
    let mut env = process.env.clone();
    if let Some(home) = home.filter(|_| !env.iter().any(|variable| variable.starts_with("HOME="))) {
        env.push(format!("HOME={home}"));
    }
    let sets = &process.capabilities;
    let mut told_user = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups });
    if let Some(umask) = process.umask {
        told_user["umask"] = json!(umask);
    }
    let mut told = json!({
        "user": told_user,
        "args": process.args,
        "env": env,
        "cwd": if process.cwd.as_os_str().is_empty() { Path::new("/") } else { &process.cwd },
        "capabilities": {
            "bounding": capability::names(sets.bounding),
            "effective": capability::names(sets.effective),
            "permitted": capability::names(sets.permitted),
            "inheritable": capability::names(sets.inheritable),
            "ambient": capability::names(sets.ambient),
        },
        "rlimits": process.rlimits.iter().map(rlimit).collect::<Vec<_>>(),
        "noNewPrivileges": process.no_new_privileges,
    });
    if let Some(profile) = &process.apparmor {
        told["apparmorProfile"] = json!(profile);
    }
    told
}

fn rlimit(limit: &Rlimit) -> Value {
    json!({ "type": format!("RLIMIT_{}", limit.resource.to_uppercase()), "soft": limit.soft, "hard": limit.hard })
}

/// Those of the pod by the files that the shim names; those of the host are not listed.
fn namespaces(spec: &ContainerSpec, joined: &[(NamespaceKind, PathBuf)]) -> Vec<Value> {
    let name = |kind: &NamespaceKind| match kind {
        NamespaceKind::Net => "network",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::Pid => "pid",
        NamespaceKind::User => "user",
    };
    let mut list = vec![json!({ "type": "mount" })];
    if !spec.namespaces.host_cgroup {
        list.push(json!({ "type": "cgroup" }));
    }
    if spec.namespaces.pid == PidNamespace::Private {
        list.push(json!({ "type": "pid" }));
    }
    list.extend(joined.iter().map(|(kind, path)| json!({ "type": name(kind), "path": path })));
    list
}

/// A mount that every container has: destination, type, options.
type Row = (&'static str, &'static str, &'static [&'static str]);

const SYS: &str = "/sys";
/// What the shim mounts in podd's own containers.
const DEFAULTS: [Row; 6] = [
    ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
    (SYS, "sysfs", &["nosuid", "noexec", "nodev"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
];

fn mounts(spec: &ContainerSpec, staged: &Path) -> Vec<Value> {
    let replaced = |row: &&Row| spec.mounts.iter().any(|mount| mount.destination == Path::new(row.0));
    let mut list: Vec<(PathBuf, Value)> = Vec::new();
    for (destination, kind, options) in DEFAULTS.iter().filter(|row| !replaced(row)) {
        let mut options = options.to_vec();
        if *destination == SYS {
            options.push(if spec.sysfs_writable { "rw" } else { "ro" });
        }
        let told = json!({ "destination": destination, "type": kind, "source": kind, "options": options });
        list.push((destination.into(), told));
    }
    for (number, mount) in spec.mounts.iter().enumerate() {
        list.push((mount.destination.clone(), told_mount(mount, &staged.join(number.to_string()))));
    }
    // Parents before what lies in them.
    list.sort_by_key(|(destination, _)| destination.components().count());
    list.into_iter().map(|(_, told)| told).collect()
}

/// What a mount shows of the host or of an image is bound from where the shim has it, with all that the shim has mounted
/// there.
fn told_mount(mount: &Mount, staged: &Path) -> Value {
    let mut options: Vec<String> = [
        (mount.readonly || matches!(mount.kind, MountKind::Image { .. }), "ro"),
        (mount.nosuid, "nosuid"),
        (mount.nodev, "nodev"),
        (mount.noexec, "noexec"),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .map(|(_, name)| name.to_owned())
    .collect();
    let mut add = |more: &[&str]| options.extend(more.iter().map(|option| (*option).to_owned()));
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::Slave => "rslave",
        Propagation::Shared => "rshared",
    };
    let (kind, source) = match &mount.kind {
        MountKind::Bind { .. } | MountKind::Image { .. } => {
            add(&["rbind", propagation]);
            ("bind", staged.to_owned())
        }
        MountKind::Tmpfs { size, mode } => {
            let mode = format!("mode={:o}", mode.unwrap_or(0o1777));
            add(&[&mode]);
            if let Some(size) = size {
                add(&[&format!("size={size}")]);
            }
            ("tmpfs", "tmpfs".into())
        }
        MountKind::Proc => ("proc", "proc".into()),
        MountKind::Sysfs => ("sysfs", "sysfs".into()),
        MountKind::Mqueue => ("mqueue", "mqueue".into()),
        MountKind::Cgroup => {
            add(&["nosuid", "noexec", "nodev"]);
            ("cgroup", "cgroup".into())
        }
    };
    json!({ "destination": mount.destination, "type": kind, "source": source, "options": options })
}

/// What the root has to be for the mounts to travel as they should; none where none does.
fn root_propagation(mounts: &[Mount]) -> Option<&'static str> {
    let any = |wanted| mounts.iter().any(|mount| mount.propagation == wanted);
    match (any(Propagation::Shared), any(Propagation::Slave)) {
        (true, _) => Some("rshared"),
        (false, true) => Some("rslave"),
        (false, false) => None,
    }
}

fn device(device: &Device) -> Value {
    let kind = match device.kind {
        DeviceKind::Char => "c",
        DeviceKind::Block => "b",
        DeviceKind::Fifo => "p",
    };
    json!({
        "path": device.path,
        "type": kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

/// podd has set them when the program runs; it is told so that it sets no others.
fn resources(limits: &Limits) -> Value {
    let everything = vec![DeviceRule::everything(true)];
    let rules = limits.devices.as_ref().unwrap_or(&everything);
    let mut told = Map::new();
    told.insert("devices".to_owned(), rules.iter().map(rule).collect());
    let mut put = |name: &str, fields: &[(&str, Value)]| {
        let fields: Map<String, Value> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        if !fields.is_empty() {
            told.insert(name.to_owned(), fields.into());
        }
    };
    put("memory", &[("limit", json!(limits.memory)), ("swap", json!(limits.memory_swap))]);
    put(
        "cpu",
        &[
            ("shares", json!(limits.cpu_shares)),
            ("quota", json!(limits.cpu_quota)),
            ("period", json!(limits.cpu_period)),
            ("cpus", json!(limits.cpuset_cpus)),
            ("mems", json!(limits.cpuset_mems)),
        ],
    );
    put("pids", &[("limit", json!(limits.pids))]);
    if !limits.hugepages.is_empty() {
        let pages = limits.hugepages.iter().map(|page| json!({ "pageSize": page.page_size, "limit": page.limit }));
        told.insert("hugepageLimits".to_owned(), pages.collect());
    }
    if !limits.unified.is_empty() {
        told.insert("unified".to_owned(), json!(limits.unified));
    }
    told.into()
}

fn rule(rule: &DeviceRule) -> Value {
    let kind = match rule.kind {
        RuleKind::All => "a",
        RuleKind::Char => "c",
        RuleKind::Block => "b",
    };
    let access: String =
        [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')].into_iter().filter(|a| a.0).map(|a| a.1).collect();
    let mut told = json!({ "allow": rule.allow, "type": kind, "access": access });
    for (name, number) in [("major", rule.major), ("minor", rule.minor)] {
        if let Some(number) = number {
            told[name] = json!(number);
        }
    }
    told
}

fn hooks(hooks: &Hooks) -> Value {
    let mut hooks = hooks.clone();
    let mut told = Map::new();
    for stage in Hooks::STAGES {
        let list = hooks.stage(stage).map(std::mem::take).unwrap_or_default();
        if !list.is_empty() {
            told.insert(stage.to_owned(), list.iter().map(hook).collect());
        }
    }
    told.into()
}

fn hook(hook: &Hook) -> Value {
    let mut told = json!({ "path": hook.path, "env": hook.env });
    if !hook.args.is_empty() {
        told["args"] = json!(hook.args);
    }
    if let Some(timeout) = hook.timeout {
        told["timeout"] = json!(timeout);
    }
    told
}

#[cfg(test)]
mod tests;
