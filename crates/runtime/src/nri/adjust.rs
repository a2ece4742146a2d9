//! What plugins want of a container, applied to its plan. What podd cannot apply is refused by its name.

use std::path::{Component, Path, PathBuf};

use podd_cgroup::{DeviceKind as RuleKind, DeviceRule};
use podd_cri::v1::MountPropagation;
use podd_nri::merge::removed;
use podd_nri::message as nri;
use podd_shim::wire::{Device, DeviceKind, Hook, Mount, MountKind, Process, Propagation, Rlimit};

use crate::cdi;
use crate::container::Edits;
use crate::container::limits::merged;
use crate::container::plan::{Plan, Source};
use crate::error::{CriError, Result};
use crate::hooks::Hooks;
use crate::records::{MountMeta, Resources};

fn refused(what: &str) -> CriError {
    CriError::Unsupported(format!("an NRI plugin wants {what}, which podd cannot give"))
}

fn invalid(text: String) -> CriError {
    CriError::Invalid(format!("an NRI plugin wants {text}"))
}

/// Applies an adjustment; the plan is of no use after an error.
pub(super) fn apply(wanted: nri::ContainerAdjustment, plan: &mut Plan, cdi_dirs: &[PathBuf]) -> Result<()> {
    let nri::ContainerAdjustment { annotations, mounts, env, hooks, linux, rlimits, cdi_devices, args } = wanted;
    for (key, value) in annotations {
        match removed(&key) {
            Some(key) => plan.meta.annotations.remove(key),
            None => plan.meta.annotations.insert(key, value),
        };
    }
    for mount in mounts {
        apply_mount(&mount, plan)?;
    }
    // A mount below another one comes after it.
    plan.spec.mounts.sort_by_key(|mount| mount.destination.components().count());
    apply_environment(env, &mut plan.spec.process.env)?;
    for limit in rlimits {
        apply_rlimit(&limit, &mut plan.spec.process.rlimits)?;
    }
    if !args.is_empty() {
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(invalid("an argument with a NUL in it".into()));
        }
        plan.spec.process.args = args;
    }
    if let Some(linux) = linux {
        apply_linux(linux, plan)?;
    }
    plan.meta.args.clone_from(&plan.spec.process.args);
    plan.meta.exec = Process { args: Vec::new(), ..plan.spec.process.clone() };
    let devices: Vec<String> = cdi_devices.into_iter().map(|device| device.name).collect();
    let mut edits = cdi::resolve(cdi_dirs, &devices)?;
    edits.append(Edits { hooks: hooks.map(hooks_of).transpose()?.unwrap_or_default(), ..Edits::default() });
    plan.edit(edits)
}

fn apply_linux(wanted: nri::LinuxContainerAdjustment, plan: &mut Plan) -> Result<()> {
    let unknown = [
        (!wanted.cgroups_path.is_empty(), "another cgroup path"),
        (wanted.io_priority.is_some(), "an I/O priority"),
        (wanted.seccomp_policy.is_some(), "a seccomp policy"),
        (!wanted.namespaces.is_empty(), "other namespaces"),
        (!wanted.sysctl.is_empty(), "sysctls of a container"),
        (!wanted.net_devices.is_empty(), "network devices"),
        (wanted.scheduler.is_some(), "a scheduler"),
        (wanted.rdt.is_some(), "RDT"),
        (wanted.memory_policy.is_some(), "a memory policy"),
    ];
    if let Some((_, what)) = unknown.into_iter().find(|row| row.0) {
        return Err(refused(what));
    }
    for device in &wanted.devices {
        apply_device(device, plan)?;
    }
    if let Some(wanted) = &wanted.resources {
        plan.resources = merged(&plan.resources, resources(wanted)?);
    }
    if let Some(nri::OptionalInt { value }) = wanted.oom_score_adj {
        let adj = i32::try_from(value).ok().filter(|adj| (-1000..=1000).contains(adj));
        let adj = adj.ok_or_else(|| invalid(format!("oom_score_adj {value}, which is not in -1000..=1000")))?;
        plan.spec.process.oom_score_adj = Some(adj);
        plan.resources.oom_score_adj = value;
    }
    Ok(())
}

/// Resources in the record's words; zero and empty mean "not set".
pub(super) fn resources(wanted: &nri::LinuxResources) -> Result<Resources> {
    let memory = wanted.memory.unwrap_or_default();
    let cpu = wanted.cpu.clone().unwrap_or_default();
    let unknown = [
        (memory.reservation.is_some(), "a memory reservation"),
        (memory.kernel.is_some(), "a kernel memory limit"),
        (memory.kernel_tcp.is_some(), "a TCP memory limit"),
        (memory.swappiness.is_some(), "swappiness"),
        (memory.disable_oom_killer.is_some_and(|disable| disable.value), "the OOM killer disabled"),
        (cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some(), "real-time CPU time"),
        (wanted.blockio_class.is_some(), "a block I/O class"),
        (wanted.rdt_class.is_some(), "an RDT class"),
        (!wanted.devices.is_empty(), "device rules without devices"),
    ];
    if let Some((_, what)) = unknown.into_iter().find(|row| row.0) {
        return Err(refused(what));
    }
    let signed = |value: Option<nri::OptionalInt64>| value.map_or(0, |value| value.value);
    let unsigned = |value: Option<nri::OptionalUInt64>, what: &str| {
        let value = value.map_or(0, |value| value.value);
        i64::try_from(value).map_err(|_| invalid(format!("{what} {value}, which is too large")))
    };
    Ok(Resources {
        cpu_period: unsigned(cpu.period, "a CPU period of")?,
        cpu_quota: signed(cpu.quota),
        cpu_shares: unsigned(cpu.shares, "CPU shares of")?,
        memory_limit: signed(memory.limit),
        memory_swap_limit: signed(memory.swap),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepage_limits: wanted.hugepage_limits.iter().map(|row| (row.page_size.clone(), row.limit)).collect(),
        unified: wanted.unified.clone(),
        // Zero is "no limit" here, and "not set" there.
        pids_limit: wanted.pids.map_or(0, |pids| if pids.limit == 0 { -1 } else { pids.limit }),
    })
}

/// Hooks in OCI's sense.
fn hooks_of(wanted: nri::Hooks) -> Result<Hooks> {
    let all = |stage: Vec<nri::Hook>| -> Result<Vec<Hook>> { stage.into_iter().map(hook).collect() };
    Ok(Hooks {
        prestart: all(wanted.prestart)?,
        create_runtime: all(wanted.create_runtime)?,
        create_container: all(wanted.create_container)?,
        start_container: all(wanted.start_container)?,
        poststart: all(wanted.poststart)?,
        poststop: all(wanted.poststop)?,
    })
}

fn hook(wanted: nri::Hook) -> Result<Hook> {
    let nri::Hook { path, args, env, timeout } = wanted;
    let path = inside(&path).ok_or_else(|| invalid(format!("a hook at {path:?}, which is no absolute path")))?;
    let timeout = timeout.map(|seconds| u32::try_from(seconds.value).ok().filter(|seconds| *seconds > 0));
    match timeout {
        Some(None) => Err(invalid(format!("a hook at {} whose timeout is not positive", path.display()))),
        timeout => Ok(Hook { path, args, env, timeout: timeout.flatten() }),
    }
}

fn apply_environment(wanted: Vec<nri::KeyValue>, env: &mut Vec<String>) -> Result<()> {
    let named = |variable: &str, name: &str| variable.split_once('=').map_or(variable, |pair| pair.0) == name;
    for nri::KeyValue { key, value } in wanted {
        if let Some(name) = removed(&key) {
            env.retain(|variable| !named(variable, name));
            continue;
        }
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!("environment variable {key:?}, whose name or value is invalid")));
        }
        env.retain(|variable| !named(variable, &key));
        env.push(format!("{key}={value}"));
    }
    Ok(())
}

fn apply_rlimit(wanted: &nri::PosixRlimit, limits: &mut Vec<Rlimit>) -> Result<()> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let resource = wanted.r#type.trim_start_matches("RLIMIT_").to_ascii_lowercase();
    if !NAMES.contains(&resource.as_str()) || wanted.soft > wanted.hard {
        return Err(invalid(format!("rlimit {} {}:{}, which makes no sense", wanted.r#type, wanted.soft, wanted.hard)));
    }
    limits.retain(|limit| limit.resource != resource);
    limits.push(Rlimit { resource, soft: wanted.soft, hard: wanted.hard });
    Ok(())
}

/// An absolute path without detours, and not the root.
fn inside(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (path.is_absolute() && plain && path != Path::new("/") && !path.as_os_str().as_encoded_bytes().contains(&0))
        .then(|| path.components().collect())
}

fn apply_mount(wanted: &nri::Mount, plan: &mut Plan) -> Result<()> {
    let at = removed(&wanted.destination).unwrap_or(&wanted.destination);
    let destination =
        inside(at).ok_or_else(|| invalid(format!("a mount at {at:?}, which is no path inside the container")))?;
    plan.spec.mounts.retain(|mount| mount.destination != destination);
    plan.meta.mounts.retain(|mount| Path::new(&mount.container_path) != destination);
    if removed(&wanted.destination).is_some() {
        return Ok(());
    }
    let mount = mount(wanted, destination)?;
    if let MountKind::Bind { source, .. } = &mount.kind {
        plan.sources.push(Source { path: source.clone(), propagation: mount.propagation });
        plan.meta.mounts.push(MountMeta {
            container_path: at.to_owned(),
            host_path: source.display().to_string(),
            readonly: mount.readonly,
            propagation: match mount.propagation {
                Propagation::Private => MountPropagation::PropagationPrivate,
                Propagation::Slave => MountPropagation::PropagationHostToContainer,
                Propagation::Shared => MountPropagation::PropagationBidirectional,
            } as i32,
            ..MountMeta::default()
        });
    }
    plan.spec.mounts.push(mount);
    Ok(())
}

fn mount(wanted: &nri::Mount, destination: PathBuf) -> Result<Mount> {
    let is_bind = wanted.r#type == "bind" || wanted.options.iter().any(|option| ["bind", "rbind"].contains(&&**option));
    let kind = match wanted.r#type.as_str() {
        _ if is_bind => match inside(&wanted.source) {
            Some(source) => MountKind::Bind { source, recursive: false },
            None => return Err(invalid(format!("a mount of {:?}, which is no path of the machine", wanted.source))),
        },
        "tmpfs" => MountKind::Tmpfs { size: None, mode: None },
        other => return Err(refused(&format!("a mount of type {other:?} at {}", destination.display()))),
    };
    let mut mount = Mount { destination, kind, ..Mount::default() };
    for option in &wanted.options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match (name, &mut mount.kind) {
            ("bind", MountKind::Bind { .. }) | ("rw" | "suid" | "dev" | "exec", _) => {}
            ("rbind", MountKind::Bind { recursive, .. }) => *recursive = true,
            ("ro", _) => mount.readonly = true,
            ("nosuid", _) => mount.nosuid = true,
            ("nodev", _) => mount.nodev = true,
            ("noexec", _) => mount.noexec = true,
            ("private" | "rprivate", _) => mount.propagation = Propagation::Private,
            ("slave" | "rslave", MountKind::Bind { .. }) => mount.propagation = Propagation::Slave,
            ("shared" | "rshared", MountKind::Bind { .. }) => mount.propagation = Propagation::Shared,
            ("size", MountKind::Tmpfs { size, .. }) => {
                *size = Some(bytes(value).ok_or_else(|| invalid(format!("a tmpfs of size {value:?}")))?);
            }
            ("mode", MountKind::Tmpfs { mode, .. }) => {
                let bits = u32::from_str_radix(value, 8).ok().filter(|bits| *bits <= 0o7777);
                *mode = Some(bits.ok_or_else(|| invalid(format!("a tmpfs of mode {value:?}")))?);
            }
            _ => {
                return Err(refused(&format!("mount option {option:?} at {}", mount.destination.display())));
            }
        }
    }
    Ok(mount)
}

/// A size as mount(8) takes it.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn apply_device(wanted: &nri::LinuxDevice, plan: &mut Plan) -> Result<()> {
    let at = removed(&wanted.path).unwrap_or(&wanted.path);
    let path = inside(at).ok_or_else(|| invalid(format!("device {at:?}, which is no path inside the container")))?;
    // What was allowed for a device that goes stays allowed: the rules do not say whose they are, and the node is gone.
    plan.spec.devices.retain(|device| device.path != path);
    if removed(&wanted.path).is_some() {
        return Ok(());
    }
    let (kind, rule) = match wanted.r#type.as_str() {
        "c" | "u" => (DeviceKind::Char, RuleKind::Char),
        "b" => (DeviceKind::Block, RuleKind::Block),
        other => return Err(refused(&format!("device {at} of type {other:?}"))),
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| invalid(format!("device {at} with number {number}, which makes no sense")))
    };
    let (major, minor) = (number(wanted.major)?, number(wanted.minor)?);
    plan.spec.devices.push(Device {
        path,
        kind,
        major,
        minor,
        mode: wanted.file_mode.map_or(0o666, |mode| mode.value & 0o7777),
        uid: wanted.uid.map_or(0, |uid| uid.value),
        gid: wanted.gid.map_or(0, |gid| gid.value),
    });
    plan.rules.push(DeviceRule::allow(rule, major, Some(minor)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount_of(kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let wanted = nri::Mount { destination: "/d".into(), r#type: kind.into(), source: source.into(), options };
        mount(&wanted, "/d".into())
    }

    #[test]
    fn mounts_are_taken_with_their_options_or_refused_by_them() {
        let bind = mount_of("bind", "/s", &["rbind", "ro", "rslave", "nosuid"]).expect("a mount");
        assert_eq!(bind.kind, MountKind::Bind { source: "/s".into(), recursive: true });
        assert!(bind.readonly && bind.nosuid && bind.propagation == Propagation::Slave);
        let memory = mount_of("tmpfs", "", &["size=64k", "mode=700"]).expect("a mount");
        assert_eq!(memory.kind, MountKind::Tmpfs { size: Some(64 << 10), mode: Some(0o700) });
        for (kind, source, options, named) in [
            ("bind", "relative", &[][..], "relative"),
            ("overlay", "/s", &[], "overlay"),
            ("bind", "/s", &["idmap"], "idmap"),
            ("tmpfs", "", &["size=much"], "much"),
        ] {
            let error = mount_of(kind, source, options).expect_err("it is refused").to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn resources_that_podd_has_not_are_refused_by_name() {
        let memory = nri::LinuxMemory { swappiness: Some(nri::OptionalUInt64 { value: 1 }), ..Default::default() };
        let error =
            resources(&nri::LinuxResources { memory: Some(memory), ..Default::default() }).expect_err("refused");
        assert!(error.to_string().contains("swappiness"), "{error}");
        let none = nri::LinuxResources { pids: Some(nri::LinuxPids { limit: 0 }), ..Default::default() };
        assert_eq!(resources(&none).expect("resources").pids_limit, -1, "0 is no limit");
    }

    #[test]
    fn paths_stay_inside_and_hooks_are_absolute() {
        for path in ["", "/", "relative", "/a/../b", "/a\0b"] {
            assert_eq!(inside(path), None, "{path:?}");
        }
        assert_eq!(inside("/a//b"), Some("/a/b".into()));
        let hook_at = |path: &str, seconds| {
            let timeout = Some(nri::OptionalInt { value: seconds });
            hook(nri::Hook { path: path.into(), timeout, ..Default::default() })
        };
        assert_eq!(hook_at("/h", 3).expect("a hook").timeout, Some(3));
        assert!(hook_at("h", 3).is_err() && hook_at("/h", 0).is_err());
    }
}
