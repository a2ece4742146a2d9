//! What is mounted into a container beside the shim's default set.

use std::path::{Component, Path, PathBuf};

use podd_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, Mount as CriMount, MountPropagation};
use podd_image::Image;
use podd_shim::wire::{Mount, MountKind, Propagation};

use super::Context;
use crate::error::{CriError, Result};
use crate::paths::SandboxPaths;
use crate::records::{MountMeta, NamespaceMode, SandboxMeta, VolumeImage};
use crate::sandbox::plan::users;

/// Where the host keeps its shared memory.
const HOST_SHM: &str = "/dev/shm";

/// A host path that a mount needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// What the mount that it lies on must allow.
    pub(crate) propagation: Propagation,
}

/// Mounts for the shim, host paths to look after, and the mounts as status shows them.
pub(super) type Planned = (Vec<Mount>, Vec<Source>, Vec<MountMeta>);

pub(super) fn plan(
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    context: &Context<'_>,
) -> Result<Planned> {
    let mut mounts = Vec::new();
    let mut sources = Vec::new();
    let mut shown = Vec::new();
    for (mount, image) in config.mounts.iter().zip(context.volumes) {
        let planned = match image {
            Some(image) => volume(mount, image)?,
            None => {
                let planned = bind(mount)?;
                let (path, propagation) = (PathBuf::from(&mount.host_path), planned.propagation);
                sources.push(Source { path, propagation });
                planned
            }
        };
        mounts.push(planned);
        shown.push(meta(mount, image.as_deref()));
    }
    let given: Vec<PathBuf> = mounts.iter().map(|mount| mount.destination.clone()).collect();
    let own = own(security, context.sandbox_paths, context.sandbox);
    let mut all: Vec<Mount> = own.into_iter().filter(|mount| !given.contains(&mount.destination)).collect();
    all.append(&mut mounts);
    // A mount below another one comes after it, whatever order they were given in.
    all.sort_by_key(|mount| mount.destination.components().count());
    Ok((all, sources, shown))
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
    let refuse = |text: String| refuse(mount, text);
    if !mount.image_sub_path.is_empty() {
        return refuse("image_sub_path needs image".into());
    }
    let ids = match users::of_mount(&mount.uid_mappings, &mount.gid_mappings) {
        Ok(ids) => ids,
        Err(error) => return refuse(error.to_string()),
    };
    let destination = destination(mount)?;
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
        ids,
        ..Mount::default()
    })
}

/// An image's content. It is read-only whatever happens; a caller who thinks otherwise is told.
fn volume(mount: &CriMount, image: &Image) -> Result<Mount> {
    let refuse = |text: String| refuse(mount, text);
    if !mount.host_path.is_empty() {
        return refuse(format!("host_path {:?} and image exclude each other", mount.host_path));
    }
    if !mount.readonly {
        return refuse("an image volume must be readonly".into());
    }
    if mount.propagation != MountPropagation::PropagationPrivate as i32 {
        return refuse("an image volume has private propagation".into());
    }
    let sub_path = Path::new(&mount.image_sub_path);
    let outside = sub_path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
    if outside || mount.image_sub_path.contains('\0') {
        return refuse(format!("image_sub_path {:?} must be relative and without \"..\"", mount.image_sub_path));
    }
    if image.layers.is_empty() {
        return refuse(format!("image {} has no layers", image.id));
    }
    let sub_path = (!mount.image_sub_path.is_empty()).then(|| sub_path.to_owned());
    Ok(Mount {
        destination: destination(mount)?,
        kind: MountKind::Image { lower: image.layers.clone(), sub_path },
        readonly: true,
        nosuid: true,
        nodev: true,
        ..Mount::default()
    })
}

fn refuse<T>(mount: &CriMount, text: String) -> Result<T> {
    Err(CriError::invalid(format!("mount at {:?}: {text}", mount.container_path)))
}

fn destination(mount: &CriMount) -> Result<PathBuf> {
    match clean(&mount.container_path) {
        Some(destination) => Ok(destination),
        None => refuse(mount, "container_path must be absolute, without \"..\" and not the root".into()),
    }
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

fn meta(mount: &CriMount, image: Option<&Image>) -> MountMeta {
    MountMeta {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: mount.propagation,
        ids: users::of_mount(&mount.uid_mappings, &mount.gid_mappings).ok().flatten(),
        image: image.map(|image| {
            let asked = mount.image.clone().unwrap_or_default();
            VolumeImage {
                requested: asked.image,
                user_specified: asked.user_specified_image,
                id: image.id.to_string(),
                sub_path: mount.image_sub_path.clone(),
            }
        }),
    }
}
