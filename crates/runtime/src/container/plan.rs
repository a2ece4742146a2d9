//! What a container will be: CRI's configuration and the image's, turned into what the shim is told. Nothing is
//! touched here; whatever podd cannot honour is refused by its name.

mod mounts;
mod process;
mod security;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use podd_cgroup::DeviceRule;
use podd_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, UserNamespace};
use podd_image::Image;
use podd_shim::wire::{
    CgroupSpec, ContainerSpec, Device, LogLimits, LogSpec, Namespaces as WireNamespaces, PidNamespace, Process, Rootfs,
    Scope,
};

use super::Edits;
use crate::error::{CriError, Result};
use crate::hooks::directory::{HookFile, Subject, select};
use crate::paths::{ContainerPaths, SandboxPaths};
use crate::records::{ContainerMeta, ImageNames, NamespaceMode, Owner, Resources, SandboxMeta};
use crate::sandbox::plan::users;
use crate::seccomp::Profile;
use crate::signals;
use crate::systemd::leaf;

pub(crate) use mounts::Source;
pub(crate) use security::{apparmor_profile, seccomp_file};

/// What planning needs to know of the world.
pub(crate) struct Context<'a> {
    /// The new container's id.
    pub(crate) id: &'a str,
    pub(crate) now: i64,
    pub(crate) sandbox: &'a SandboxMeta,
    pub(crate) sandbox_paths: &'a SandboxPaths,
    pub(crate) paths: &'a ContainerPaths,
    pub(crate) image: &'a Image,
    /// The capabilities that this process may hand on at all.
    pub(crate) bounding: u64,
    /// The host devices that the configuration named, or all of them for a privileged container.
    pub(crate) devices: Vec<Device>,
    /// What the cgroup must allow for those that the configuration named.
    pub(crate) rules: Vec<DeviceRule>,
    /// The image of each of the configuration's mounts, for those that show one.
    pub(crate) volumes: &'a [Option<Arc<Image>>],
    /// What the CDI devices bring.
    pub(crate) edits: Edits,
    /// The machine's hooks, for those containers that they are for.
    pub(crate) hook_files: &'a [HookFile],
    pub(crate) log_limits: LogLimits,
    /// The profile that [`seccomp_file`] names, read.
    pub(crate) seccomp: Option<Profile>,
    /// This machine's version and patch level.
    pub(crate) kernel: (u32, u32),
    /// What [`apparmor_profile`] names, where the kernel knows it.
    pub(crate) apparmor: Option<String>,
    /// This machine has SELinux.
    pub(crate) selinux: bool,
    /// The container whose processes the new one joins, by its whole id.
    pub(crate) target: Option<&'a str>,
}

/// A container worked out.
pub(crate) struct Plan {
    pub(crate) meta: ContainerMeta,
    /// Complete but for the files of the cgroup, which exist only once the group does.
    pub(crate) spec: ContainerSpec,
    pub(crate) resources: Resources,
    /// Host paths of mounts, to be looked after before they are mounted.
    pub(crate) sources: Vec<Source>,
    /// What the cgroup must allow beyond what every container may use.
    pub(crate) rules: Vec<DeviceRule>,
    /// The container's directory, which hooks know as its bundle.
    pub(crate) bundle: ContainerPaths,
    /// The annotations of pod and container, for hooks.
    pub(crate) hook_annotations: BTreeMap<String, String>,
    /// It may use every device.
    pub(crate) privileged: bool,
    /// The profile that the specification's filter was made from, if that came from a file.
    pub(crate) seccomp: Option<Profile>,
}

/// Decides on a container.
pub(crate) fn plan(context: Context<'_>, config: &ContainerConfig) -> Result<Plan> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    if security.privileged && !context.sandbox.privileged {
        return Err(CriError::invalid("a privileged container needs a privileged sandbox"));
    }
    let resources = Resources::from(&linux.resources.unwrap_or_default());
    let image = context.image.config.config().clone().unwrap_or_default();
    let namespaces = namespaces(&security, context.sandbox, context.target)?;
    let process = process::plan(config, &security, &image, &context, resources.oom_score_adj)?;
    let (mounts, sources, shown) = mounts::plan(config, &security, &context)?;
    let volumes = context.volumes.iter().flatten().map(AsRef::as_ref);
    let log = log_path(context.sandbox.log_directory.as_deref(), &config.log_path)?;

    let meta = ContainerMeta {
        id: context.id.to_owned(),
        sandbox_id: context.sandbox.id.clone(),
        owner: Owner { name: metadata.name, namespace: String::new(), uid: String::new(), attempt: metadata.attempt },
        created_at: context.now,
        image: image_names(config, context.image),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: shown,
        log_path: log.clone(),
        stop_signal: stop_signal(config.stop_signal, image.stop_signal().as_deref())?,
        own_pid_namespace: namespaces.pid == PidNamespace::Private,
        cgroup: leaf(&context.sandbox.cgroup_parent, context.id),
        layers: std::iter::once(context.image).chain(volumes).flat_map(|image| image.layers.clone()).collect(),
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        args: process.args.clone(),
        exec: Process { args: Vec::new(), ..process.clone() },
        hooks: Default::default(),
        external: None,
    };
    let privileged = security.privileged;
    let hidden = |paths: &[String]| if privileged { Vec::new() } else { paths.iter().map(PathBuf::from).collect() };
    let spec = ContainerSpec {
        id: context.id.to_owned(),
        process,
        rootfs: Rootfs {
            lower: context.image.layers.clone(),
            upper: Some(context.paths.upper()),
            work: Some(context.paths.work()),
            readonly: security.readonly_rootfs,
            mount_point: None,
        },
        mounts,
        masked_paths: hidden(&security.masked_paths),
        readonly_paths: hidden(&security.readonly_paths),
        sysfs_writable: privileged,
        devices: context.devices,
        namespaces,
        cgroup: CgroupSpec::default(),
        log: log.map(|path| LogSpec { path, limits: context.log_limits }),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        window: None,
        deadline_ms: 0,
        hooks: Default::default(),
        external: None,
    };
    let hook_annotations = hook_annotations(&context.sandbox.annotations, &config.annotations);
    let subject = Subject {
        annotations: &hook_annotations,
        command: spec.process.args.first().map_or("", String::as_str),
        has_bind_mounts: !sources.is_empty(),
    };
    let hooks = select(context.hook_files, &subject);
    let mut edits = context.edits;
    edits.append(Edits { hooks, ..Edits::default() });
    let bundle = context.paths.clone();
    let mut plan = Plan {
        meta,
        spec,
        resources,
        sources,
        rules: context.rules,
        bundle,
        hook_annotations,
        privileged,
        seccomp: context.seccomp,
    };
    plan.edit(edits)?;
    Ok(plan)
}

/// What hooks are told of a container's annotations: the pod's too, which win.
pub(crate) fn hook_annotations(
    pod: &BTreeMap<String, String>,
    container: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    container.iter().chain(pod).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn namespaces(
    security: &LinuxContainerSecurityContext,
    sandbox: &SandboxMeta,
    target: Option<&str>,
) -> Result<WireNamespaces> {
    let option = security.namespace_options.clone().unwrap_or_default();
    let mode = |what: &str, number: i32| {
        NamespaceMode::from_cri(number)
            .ok_or_else(|| CriError::invalid(format!("namespace mode {number} for {what} of a container is not known")))
    };
    let scope = |what: &str, number: i32| match mode(what, number)? {
        NamespaceMode::Pod => Ok(Scope::Pod),
        NamespaceMode::Node => Ok(Scope::Host),
        other => Err(CriError::invalid(format!("{what} of a container can be POD or NODE, not {other:?}"))),
    };
    let net = scope("network", option.network)?;
    let pid = match (mode("pid", option.pid)?, sandbox.namespaces.pid) {
        (NamespaceMode::Container, _) => PidNamespace::Private,
        (NamespaceMode::Node, _) | (NamespaceMode::Pod, NamespaceMode::Node) => PidNamespace::Host,
        (NamespaceMode::Pod, NamespaceMode::Pod) => PidNamespace::Pod,
        (NamespaceMode::Pod, _) => {
            return Err(CriError::invalid("the sandbox has no pid namespace that its containers could share"));
        }
        (NamespaceMode::Target, _) => match target {
            Some(target) => PidNamespace::Target(target.to_owned()),
            None => return Err(CriError::invalid("pid namespace TARGET needs target_id")),
        },
    };
    let ipc = scope("ipc", option.ipc)?;
    // The user namespace is the sandbox's; a container may say so again.
    if let Some(asked) = &option.userns_options
        && *asked != UserNamespace::default()
        && users::plan(asked)? != sandbox.namespaces.user
    {
        return Err(CriError::invalid("userns_options of a container must be those of its sandbox"));
    }
    // The host's name goes with the host's network.
    Ok(WireNamespaces { net, ipc, uts: net, pid, host_cgroup: false })
}

fn image_names(config: &ContainerConfig, image: &Image) -> ImageNames {
    let asked = config.image.clone().unwrap_or_default();
    let id = image.id.to_string();
    ImageNames {
        reference: image.repo_digests.first().cloned().unwrap_or_else(|| id.clone()),
        requested: asked.image,
        user_specified: asked.user_specified_image,
        id,
    }
}

/// Where the log lies: `log_path` below the sandbox's directory. Without either there is no log.
fn log_path(directory: Option<&Path>, path: &str) -> Result<Option<PathBuf>> {
    let Some(directory) = directory.filter(|_| !path.is_empty()) else { return Ok(None) };
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(CriError::invalid(format!("log_path {path:?} must lie below the sandbox's log_directory")));
    }
    Ok(Some(directory.join(path)))
}

fn stop_signal(asked: i32, image: Option<&str>) -> Result<i32> {
    if let Some(number) = signals::from_cri(asked) {
        return Ok(number);
    }
    match image.filter(|name| !name.is_empty()) {
        None => Ok(signals::SIGTERM),
        Some(name) => signals::from_name(name)
            .ok_or_else(|| CriError::invalid(format!("the image's stop signal {name:?} is not known"))),
    }
}

#[cfg(test)]
mod tests;
