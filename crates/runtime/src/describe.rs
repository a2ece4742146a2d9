//! The verbose part of PodSandboxStatus and ContainerStatus: what `crictl inspectp` and `inspect` show under `info`.
//!
//! The names at the top are those that people know from containerd (`pid`, `sandboxID`, `snapshotter`, `config`,
//! `runtimeSpec` in OCI's words), as far as podd knows the thing; beneath, the records as they are. The environment is
//! left out everywhere: it holds secrets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Context, Result};
use crate::records::{NamespaceMode, Namespaces, Resources, SandboxStage};
use crate::sandbox::Sandbox;

/// What containers run by.
const RUNTIME: &str = "podd-shim";
/// What root file systems are made by.
const SNAPSHOTTER: &str = "overlayfs";

impl Engine {
    /// A sandbox for people.
    pub(crate) fn describe_sandbox(&self, sandbox: &Sandbox) -> Result<BTreeMap<String, String>> {
        let what = || format!("describe sandbox {}", sandbox.id());
        let (meta, status) = (&sandbox.meta, sandbox.status());
        // There is no pause process: who wants into the pod's namespaces goes by its oldest process.
        let mut containers = self.registry.containers_in(sandbox.id());
        containers.sort_by_key(|container| container.meta.created_at);
        let shim = sandbox.shim_if_alive().map_or(0, |shim| shim.process.pid);
        let pid = containers.iter().map(|container| container.status().pid).find(|pid| *pid != 0);
        let value = json!({
            "pid": pid.unwrap_or(0),
            "shimPid": shim,
            "netNamespaceClosed": status.stage != SandboxStage::Ready,
            "runtimeHandler": meta.runtime_handler,
            "runtimeType": RUNTIME,
            "config": {
                "metadata": {
                    "name": meta.owner.name,
                    "namespace": meta.owner.namespace,
                    "uid": meta.owner.uid,
                    "attempt": meta.owner.attempt,
                },
                "hostname": meta.hostname,
                "log_directory": meta.log_directory,
                "labels": meta.labels,
                "annotations": meta.annotations,
                "linux": {
                    "cgroup_parent": if meta.owns_cgroup { Value::Null } else { rooted(&meta.cgroup_parent) },
                    "sysctls": meta.sysctls,
                    "overhead": status.resources.overhead.as_ref().map(resources),
                    "resources": status.resources.resources.as_ref().map(resources),
                },
            },
            "runtimeSpec": {
                "hostname": meta.hostname,
                "annotations": meta.annotations,
                "linux": {
                    "cgroupsPath": rooted(&meta.cgroup_parent),
                    "namespaces": namespaces(&meta.namespaces, shim),
                    "sysctl": meta.sysctls,
                },
            },
            "meta": serde_json::to_value(meta).context(what)?,
            "status": serde_json::to_value(&status).context(what)?,
        });
        Ok(info(&value))
    }

    /// A container for people.
    pub(crate) fn describe_container(&self, container: &Container) -> Result<BTreeMap<String, String>> {
        let what = || format!("describe container {}", container.id());
        let (mut meta, status) = (container.meta.clone(), container.status());
        meta.exec.env.clear();
        let config_mount = |mount: &crate::records::MountMeta| {
            json!({
                "container_path": mount.container_path,
                "host_path": mount.host_path,
                "readonly": mount.readonly,
            })
        };
        let spec_mount = |mount: &crate::records::MountMeta| {
            json!({
                "destination": mount.container_path,
                "source": mount.host_path,
                "type": "bind",
                "options": ["rbind", if mount.readonly { "ro" } else { "rw" }],
            })
        };
        let user = status.user.clone().unwrap_or_default();
        let capabilities = &meta.exec.capabilities;
        let names = podd_sys::capability::names;
        let value = json!({
            "sandboxID": meta.sandbox_id,
            "pid": status.pid,
            "removing": status.removing,
            "snapshotKey": meta.id,
            "snapshotter": SNAPSHOTTER,
            "runtimeType": RUNTIME,
            "config": {
                "metadata": { "name": meta.owner.name, "attempt": meta.owner.attempt },
                "image": { "image": meta.image.requested, "user_specified_image": meta.image.user_specified },
                "labels": meta.labels,
                "annotations": meta.annotations,
                "mounts": meta.mounts.iter().map(config_mount).collect::<Vec<_>>(),
                "tty": meta.tty,
                "stdin": meta.stdin,
                "stdin_once": meta.stdin_once,
                "linux": { "resources": resources(&status.resources) },
            },
            "runtimeSpec": {
                "process": {
                    "terminal": meta.tty,
                    "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
                    "cwd": meta.exec.cwd,
                    "noNewPrivileges": meta.exec.no_new_privileges,
                    "apparmorProfile": meta.exec.apparmor.clone().unwrap_or_default(),
                    "oomScoreAdj": meta.exec.oom_score_adj,
                    "capabilities": {
                        "bounding": names(capabilities.bounding),
                        "effective": names(capabilities.effective),
                        "permitted": names(capabilities.permitted),
                        "inheritable": names(capabilities.inheritable),
                        "ambient": names(capabilities.ambient),
                    },
                },
                "hostname": container.sandbox.meta.hostname,
                "mounts": meta.mounts.iter().map(spec_mount).collect::<Vec<_>>(),
                "annotations": meta.annotations,
                "linux": {
                    "cgroupsPath": rooted(&meta.cgroup),
                    "resources": {
                        "cpu": {
                            "shares": status.resources.cpu_shares,
                            "quota": status.resources.cpu_quota,
                            "period": status.resources.cpu_period,
                            "cpus": status.resources.cpuset_cpus,
                            "mems": status.resources.cpuset_mems,
                        },
                        "memory": {
                            "limit": status.resources.memory_limit,
                            "swap": status.resources.memory_swap_limit,
                        },
                        "unified": status.resources.unified,
                    },
                },
            },
            "meta": serde_json::to_value(&meta).context(what)?,
            "status": serde_json::to_value(&status).context(what)?,
        });
        Ok(info(&value))
    }
}

fn info(value: &Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

/// A group's path as callers write it.
fn rooted(group: &std::path::Path) -> Value {
    json!(std::path::Path::new("/").join(group))
}

/// CRI's field names and those that are set.
fn resources(resources: &Resources) -> Value {
    let numbers = [
        ("cpu_period", resources.cpu_period),
        ("cpu_quota", resources.cpu_quota),
        ("cpu_shares", resources.cpu_shares),
        ("memory_limit_in_bytes", resources.memory_limit),
        ("memory_swap_limit_in_bytes", resources.memory_swap_limit),
        ("oom_score_adj", resources.oom_score_adj),
    ];
    let set = numbers.into_iter().filter(|(_, value)| *value != 0).map(|(name, value)| (name.to_owned(), json!(value)));
    Value::Object(set.collect())
}

/// The namespaces that the pod has of its own, in OCI's words, with where they can be entered: the shim holds them open.
fn namespaces(modes: &Namespaces, shim: u32) -> Vec<Value> {
    let network = modes.network == NamespaceMode::Pod;
    [
        ("network", network),
        ("uts", network),
        ("ipc", modes.ipc == NamespaceMode::Pod),
        ("pid", modes.pid == NamespaceMode::Pod),
    ]
    .into_iter()
    .filter(|(_, own)| *own)
    .map(|(kind, _)| match namespace_path(shim, kind) {
        Some(path) => json!({ "type": kind, "path": path }),
        None => json!({ "type": kind }),
    })
    .collect()
}

/// The descriptor by which a shim holds a namespace: a link to `net:[4026532000]`.
fn namespace_path(shim: u32, kind: &str) -> Option<std::path::PathBuf> {
    let target = if kind == "network" { "net:[" } else { &format!("{kind}:[") };
    let held = std::fs::read_dir(format!("/proc/{shim}/fd")).ok()?;
    held.filter_map(std::result::Result::ok)
        .map(|entry| entry.path())
        .find(|path| std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with(target)))
}
