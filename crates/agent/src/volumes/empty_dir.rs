//! emptyDir: a directory of the pod's own (mode 0777), or a tmpfs for `medium: Memory`. Both survive the containers and an
//! agent restart, and go with the pod.

use std::os::fd::OwnedFd;

use k8s_openapi::{
    api::core::v1::{Pod, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use rustix::{
    fs::{AtFlags, Mode, StatxAttributes, StatxFlags},
    io::Result,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags},
};

use super::{Plan, tree};

const OPEN_TO_ALL: Mode = Mode::from_raw_mode(0o777);

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
        other => Err(format!("emptyDir medium {other:?} is not implemented, only \"\" and \"Memory\" are")),
    })
}

/// The pod's memory limit: the sum of its containers', or the largest init container's, if every container has one. What
/// is in the tmpfs is charged to the pod, so that more room than this would only be a trap.
fn memory_limit(pod: &Pod) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let limit = |c: &k8s_openapi::api::core::v1::Container| {
        c.resources.as_ref()?.limits.as_ref()?.get("memory").and_then(bytes)
    };
    let sum = spec.containers.iter().map(limit).sum::<Option<i64>>()?;
    let init = spec.init_containers.iter().flatten().map(limit).collect::<Option<Vec<_>>>()?;
    Some(init.into_iter().fold(sum, i64::max)).filter(|bytes| *bytes > 0)
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
pub(super) fn ensure_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    tree::ensure_directory(parent, name, OPEN_TO_ALL)
}

/// The tmpfs of a memory emptyDir, mounted once.
pub(super) fn ensure_tmpfs(parent: &OwnedFd, name: &str, size: Option<i64>) -> Result<()> {
    let directory = tree::ensure_directory(parent, name, OPEN_TO_ALL)?;
    if is_mount_point(&directory)? {
        return Ok(());
    }
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", "tmpfs")?;
    rustix::mount::fsconfig_set_string(&context, "mode", "0777")?;
    if let Some(size) = size {
        rustix::mount::fsconfig_set_string(&context, "size", size.to_string())?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", &directory, "", both)
}

pub(super) fn is_mount_point(directory: &OwnedFd) -> Result<bool> {
    let found = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
