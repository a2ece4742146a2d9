//! Sandboxes, containers and plans in NRI's words.

use podd_nri::message as nri;
use podd_shim::wire::{self, Mount, MountKind, Propagation};

use crate::container::Container;
use crate::container::plan::Plan;
use crate::records::{ContainerMeta, Resources, Stage};
use crate::sandbox::Sandbox;

pub(super) fn pod(sandbox: &Sandbox) -> nri::PodSandbox {
    let meta = &sandbox.meta;
    nri::PodSandbox {
        id: meta.id.clone(),
        name: meta.owner.name.clone(),
        uid: meta.owner.uid.clone(),
        namespace: meta.owner.namespace.clone(),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        runtime_handler: meta.runtime_handler.clone(),
        linux: Some(nri::LinuxPodSandbox {
            cgroup_parent: group(&meta.cgroup_parent),
            ..nri::LinuxPodSandbox::default()
        }),
        pid: sandbox.shim_if_alive().map_or(0, |shim| shim.process.pid),
        ips: sandbox.status().ips.iter().map(ToString::to_string).collect(),
    }
}

/// A container that is there.
pub(super) fn container(container: &Container) -> nri::Container {
    let status = container.status();
    let mut shown = described(&container.meta, &container.meta.exec, &status.resources);
    shown.args.clone_from(&container.meta.args);
    shown.mounts = container.meta.mounts.iter().map(mount_shown).collect();
    shown.pid = status.pid;
    shown.user = status.user.map(|user| nri::User { uid: user.uid, gid: user.gid, additional_gids: user.groups });
    let state = match status.stage {
        Stage::Creating | Stage::Created | Stage::Starting => nri::ContainerState::Created,
        Stage::Running { started_at } => {
            shown.started_at = started_at;
            nri::ContainerState::Running
        }
        Stage::Exited(exit) => {
            shown.started_at = exit.started_at;
            shown.finished_at = exit.finished_at;
            shown.exit_code = exit.code;
            shown.status_reason = exit.reason.name().to_owned();
            shown.status_message = exit.message;
            nri::ContainerState::Stopped
        }
    };
    shown.state = state as i32;
    shown
}

/// A container that will be.
pub(super) fn planned(plan: &Plan) -> nri::Container {
    let mut shown = described(&plan.meta, &plan.spec.process, &plan.resources);
    shown.args.clone_from(&plan.spec.process.args);
    shown.mounts = plan.spec.mounts.iter().map(mount).collect();
    shown.state = nri::ContainerState::Created as i32;
    if let Some(linux) = &mut shown.linux {
        linux.devices = plan.spec.devices.iter().map(device).collect();
    }
    shown
}

fn described(meta: &ContainerMeta, process: &wire::Process, given: &Resources) -> nri::Container {
    let limit = |limit: &wire::Rlimit| nri::PosixRlimit {
        r#type: format!("RLIMIT_{}", limit.resource.to_ascii_uppercase()),
        hard: limit.hard,
        soft: limit.soft,
    };
    nri::Container {
        id: meta.id.clone(),
        pod_sandbox_id: meta.sandbox_id.clone(),
        name: meta.owner.name.clone(),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        env: process.env.clone(),
        rlimits: process.rlimits.iter().map(limit).collect(),
        created_at: meta.created_at,
        image: Some(nri::Image {
            name: match meta.image.user_specified.as_str() {
                "" => meta.image.requested.clone(),
                named => named.to_owned(),
            },
            digest: meta.image.reference.rsplit_once('@').map(|(_, digest)| digest.to_owned()).unwrap_or_default(),
            config_digest: meta.image.id.clone(),
        }),
        linux: Some(nri::LinuxContainer {
            resources: Some(resources(given)),
            oom_score_adj: process.oom_score_adj.map(|value| nri::OptionalInt { value: value.into() }),
            cgroups_path: group(&meta.cgroup),
            ..nri::LinuxContainer::default()
        }),
        ..nri::Container::default()
    }
}

fn group(path: &std::path::Path) -> String {
    format!("/{}", path.display().to_string().trim_start_matches('/'))
}

/// What is not set is absent.
pub(super) fn resources(given: &Resources) -> nri::LinuxResources {
    let signed = |value: i64| (value != 0).then_some(nri::OptionalInt64 { value });
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
    let unsigned = |value| unsigned(value).map(|value| nri::OptionalUInt64 { value });
    nri::LinuxResources {
        memory: Some(nri::LinuxMemory {
            limit: signed(given.memory_limit),
            swap: signed(given.memory_swap_limit),
            ..nri::LinuxMemory::default()
        }),
        cpu: Some(nri::LinuxCpu {
            shares: unsigned(given.cpu_shares),
            quota: signed(given.cpu_quota),
            period: unsigned(given.cpu_period),
            cpus: given.cpuset_cpus.clone(),
            mems: given.cpuset_mems.clone(),
            ..nri::LinuxCpu::default()
        }),
        hugepage_limits: given
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| nri::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: given.unified.clone(),
        pids: (given.pids_limit != 0).then_some(nri::LinuxPids { limit: given.pids_limit }),
        ..nri::LinuxResources::default()
    }
}

fn mount(mount: &Mount) -> nri::Mount {
    let (kind, source) = match &mount.kind {
        MountKind::Bind { source, .. } => ("bind", source.display().to_string()),
        MountKind::Tmpfs { .. } => ("tmpfs", "tmpfs".to_owned()),
        MountKind::Proc => ("proc", "proc".to_owned()),
        MountKind::Sysfs => ("sysfs", "sysfs".to_owned()),
        MountKind::Mqueue => ("mqueue", "mqueue".to_owned()),
        MountKind::Cgroup => ("cgroup", "cgroup".to_owned()),
        MountKind::Image { .. } => ("overlay", "overlay".to_owned()),
    };
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::Slave => "rslave",
        Propagation::Shared => "rshared",
    };
    let flags = [
        (matches!(mount.kind, MountKind::Bind { recursive: true, .. }), "rbind"),
        (matches!(mount.kind, MountKind::Bind { recursive: false, .. }), "bind"),
        (matches!(mount.kind, MountKind::Bind { .. }), propagation),
        (mount.readonly, "ro"),
        (!mount.readonly, "rw"),
        (mount.nosuid, "nosuid"),
        (mount.nodev, "nodev"),
        (mount.noexec, "noexec"),
    ];
    nri::Mount {
        destination: mount.destination.display().to_string(),
        r#type: kind.to_owned(),
        source,
        options: flags.into_iter().filter(|flag| flag.0).map(|flag| flag.1.to_owned()).collect(),
    }
}

fn mount_shown(mount: &crate::records::MountMeta) -> nri::Mount {
    let access = if mount.readonly { "ro" } else { "rw" };
    nri::Mount {
        destination: mount.container_path.clone(),
        r#type: "bind".to_owned(),
        source: mount.host_path.clone(),
        options: vec!["rbind".to_owned(), access.to_owned()],
    }
}

fn device(device: &wire::Device) -> nri::LinuxDevice {
    nri::LinuxDevice {
        path: device.path.display().to_string(),
        r#type: match device.kind {
            wire::DeviceKind::Char => "c",
            wire::DeviceKind::Block => "b",
            wire::DeviceKind::Fifo => "p",
        }
        .to_owned(),
        major: device.major.into(),
        minor: device.minor.into(),
        file_mode: Some(nri::OptionalFileMode { value: device.mode }),
        uid: nri::OptionalUInt32::some(device.uid),
        gid: nri::OptionalUInt32::some(device.gid),
    }
}
