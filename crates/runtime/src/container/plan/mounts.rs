//! What is mounted into a container beside the shim's default set.

use std::path::{Component, Path, PathBuf};

use podd_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, Mount as CriMount, MountPropagation};
use podd_shim::wire::{Mount, MountKind, Propagation};

use crate::error::{CriError, Result};
use crate::paths::SandboxPaths;
use crate::records::{MountMeta, NamespaceMode, SandboxMeta};

/// Where the host keeps its shared memory.
const HOST_SHM: &str = "/dev/shm";

/// A host path that a mount needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source(pub(crate) PathBuf);

/// Mounts for the shim, host paths to look after, and the mounts as status shows them.
pub(super) type Planned = (Vec<Mount>, Vec<Source>, Vec<MountMeta>);

pub(super) fn plan(
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    paths: &SandboxPaths,
    sandbox: &SandboxMeta,
) -> Result<Planned> {
    let mut mounts = Vec::new();
    let mut sources = Vec::new();
    for mount in &config.mounts {
        mounts.push(bind(mount)?);
        sources.push(Source(PathBuf::from(&mount.host_path)));
    }
    let given: Vec<PathBuf> = mounts.iter().map(|mount| mount.destination.clone()).collect();
    let own = own(security, paths, sandbox);
    let mut all: Vec<Mount> = own.into_iter().filter(|mount| !given.contains(&mount.destination)).collect();
    all.append(&mut mounts);
    // A mount below another one comes after it, whatever order they were given in.
    all.sort_by_key(|mount| mount.destination.components().count());
    Ok((all, sources, config.mounts.iter().map(shown).collect()))
}

/// What every container gets unless the caller mounts something else there.
fn own(security: &LinuxContainerSecurityContext, paths: &SandboxPaths, sandbox: &SandboxMeta) -> Vec<Mount> {
    let file = |destination: &str, source: PathBuf| Mount {
        destination: destination.into(),
        kind: MountKind::Bind { source, recursive: false },
        readonly: security.readonly_rootfs,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..Mount::default()
    };
    let host_ipc = [
        security.namespace_options.as_ref().and_then(|option| NamespaceMode::from_cri(option.ipc)),
        Some(sandbox.namespaces.ipc),
    ]
    .contains(&Some(NamespaceMode::Node));
    let shm = if host_ipc { PathBuf::from(HOST_SHM) } else { paths.shm() };
    vec![
        file("/etc/hosts", paths.hosts()),
        file("/etc/hostname", paths.hostname()),
        file("/etc/resolv.conf", paths.resolv_conf()),
        Mount { readonly: false, ..file("/dev/shm", shm) },
        Mount {
            destination: "/sys/fs/cgroup".into(),
            kind: MountKind::Cgroup,
            readonly: !security.privileged,
            nosuid: true,
            nodev: true,
            noexec: true,
            ..Mount::default()
        },
    ]
}

fn bind(mount: &CriMount) -> Result<Mount> {
    let refuse = |text: String| Err(CriError::invalid(format!("mount at {:?}: {text}", mount.container_path)));
    if mount.image.is_some() {
        return Err(CriError::Unsupported(format!(
            "mount at {:?}: image volumes are not implemented",
            mount.container_path
        )));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(CriError::Unsupported(format!(
            "mount at {:?}: uidMappings and gidMappings are not implemented",
            mount.container_path
        )));
    }
    let Some(destination) = clean(&mount.container_path) else {
        return refuse("container_path must be absolute, without \"..\" and not the root".into());
    };
    let host = Path::new(&mount.host_path);
    if !host.is_absolute() || mount.host_path.contains('\0') {
        return refuse(format!("host_path {:?} must be absolute", mount.host_path));
    }
    let propagation = match MountPropagation::try_from(mount.propagation) {
        Ok(MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(MountPropagation::PropagationHostToContainer) => Propagation::Slave,
        Ok(MountPropagation::PropagationBidirectional) => Propagation::Shared,
        Err(_) => return refuse(format!("propagation {} is not known", mount.propagation)),
    };
    if mount.recursive_read_only && (!mount.readonly || propagation != Propagation::Private) {
        return refuse("recursive_read_only needs readonly and private propagation".into());
    }
    Ok(Mount {
        destination,
        kind: MountKind::Bind { source: host.to_owned(), recursive: true },
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        propagation,
        ..Mount::default()
    })
}

/// An absolute path with its doubled slashes and dots gone.
fn clean(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let mut parts = path.components();
    if path.as_os_str().is_empty() || path.to_str()?.contains('\0') {
        return None;
    }
    // Kubernetes allows a relative path for Windows' sake; containers are rooted at "/".
    let mut clean = PathBuf::from("/");
    if parts.clone().next() == Some(Component::RootDir) {
        parts.next();
    }
    for part in parts {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (clean != Path::new("/")).then_some(clean)
}

fn shown(mount: &CriMount) -> MountMeta {
    MountMeta {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: mount.propagation,
    }
}
