//! emptyDir: a directory of the pod's own (mode 0777), or a tmpfs for `medium: Memory`. Both survive the containers and an
//! agent restart, and go with the pod.

use std::os::fd::OwnedFd;

use k8s_openapi::{
    api::core::v1::{Pod, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use rustix::{
    fs::{AtFlags, Mode, StatxAttributes, StatxFlags},
    io::Errno,
    io::Result,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags},
};

use super::{
    Plan,
    group::{Group, SET_GROUP},
    huge_pages, tree,
};

pub(super) fn plan(volume: &Volume, pod: &Pod) -> Option<std::result::Result<Plan, String>> {
    let source = volume.empty_dir.as_ref()?;
    let limit = match &source.size_limit {
        None => None,
        Some(quantity) => match bytes(quantity) {
            Some(bytes) if bytes > 0 => Some(bytes),
            Some(_) => None,
            None => return Some(Err(format!("sizeLimit {:?} is no quantity", quantity.0))),
        },
    };
    Some(match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Plan::Directory),
        "Memory" => Ok(Plan::Memory { size: smaller(limit, memory_limit(pod)) }),
        other => match huge_pages::size_of_medium(other, pod) {
            Some(size) => size.map(|size| Plan::HugePages { size }),
            None => Err(format!("unknown storage medium {other:?}")),
        },
    })
}

/// The memory limit of the pod's cgroup, if it has one. What is in the tmpfs is charged to the pod, so that more room than
/// this would only be a trap.
fn memory_limit(pod: &Pod) -> Option<i64> {
    podd_core::qos::pod_numbers(pod).memory.filter(|bytes| *bytes > 0)
}

fn bytes(quantity: &Quantity) -> Option<i64> {
    podd_core::quantity::Quantity::parse(&quantity.0).ok().map(|parsed| parsed.value())
}

fn smaller(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The directory of a disk emptyDir. What is there already is kept, mode and all: the workload may have changed it.
pub(super) fn ensure_directory(parent: &OwnedFd, name: &str, group: Option<Group>) -> Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o777 | group.map_or(0, |_| SET_GROUP));
    tree::ensure_directory_of(parent, name, mode, group.map(|group| group.id))
}

/// The tmpfs of a memory emptyDir, mounted once. Its mode is that of any tmpfs, as the kubelet leaves it.
pub(super) fn ensure_tmpfs(parent: &OwnedFd, name: &str, size: Option<i64>, group: Option<Group>) -> Result<()> {
    let directory = ensure_directory(parent, name, None)?;
    if is_mount_point(&directory)? {
        return Ok(());
    }
    let mut options = top_of(0o1777, group);
    options.extend(size.map(|size| ("size", size.to_string())));
    mount(&directory, "tmpfs", &options)
}

/// Options that say who may do what with the top of a file system in memory.
pub(super) fn top_of(mode: u32, group: Option<Group>) -> Vec<(&'static str, String)> {
    let mode = mode | group.map_or(0, |_| SET_GROUP);
    let mut options = vec![("mode", format!("{mode:o}"))];
    options.extend(group.map(|group| ("gid", group.id.to_string())));
    options
}

/// Mounts a new file system on a directory.
pub(super) fn mount(directory: &OwnedFd, kind: &str, options: &[(&str, String)]) -> Result<()> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", kind)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, value.as_str())?;
    }
    if kind == "tmpfs" {
        // As the kubelet, so that secrets never reach a disk. Kernels before 6.3 do not know it.
        match rustix::mount::fsconfig_set_flag(&context, "noswap") {
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", directory, "", both)
}

pub(super) fn is_mount_point(directory: &OwnedFd) -> Result<bool> {
    let found = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_volume_in_memory_is_as_large_as_the_memory_of_its_pod() {
        let limited = |limit: &str, more: Value| {
            let mut one = json!({"name": "c", "resources": {"limits": {"memory": limit}}});
            one.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            one
        };
        let (sidecar, none) = (json!({"restartPolicy": "Always"}), json!({}));
        let table = [
            (json!([limited("16Mi", none.clone())]), json!([]), Some(16 << 20)),
            (json!([limited("16Mi", none.clone())]), json!([limited("8Mi", sidecar.clone())]), Some(24 << 20)),
            (
                json!([limited("16Mi", none.clone())]),
                json!([limited("8Mi", sidecar), limited("32Mi", none)]),
                Some(40 << 20),
            ),
            (json!([{"name": "c"}]), json!([]), None),
        ];
        for (containers, inits, want) in table {
            let spec = json!({"containers": containers, "initContainers": inits});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
            assert_eq!(memory_limit(&pod), want, "{spec}");
        }
    }
}
