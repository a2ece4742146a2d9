//! What a sandbox has in the file system: a few files that its containers see, and its shared memory.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use podd_sys::mount::{MountAttr, attach, filesystem};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, unmount};

use super::plan;
use crate::error::{Context, Result};
use crate::paths::SandboxPaths;
use crate::records::SandboxMeta;

/// The shared memory of a pod: what Docker and containerd give, too.
const SHM_SIZE: &str = "64m";

/// A file of the host as text; empty when there is none.
pub(super) fn of_the_host(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(path, %error, "the host has no such file to hand on");
            String::new()
        }
    }
}

/// Makes the sandbox's directory and what does not depend on addresses. `root` is who is root in the pod, if not the
/// machine's: these files are the pod's own.
pub(super) fn prepare(paths: &SandboxPaths, resolv_conf: &str, root: Option<(u32, u32)>) -> Result<()> {
    make_directory(&paths.directory, 0o711)?;
    write(&paths.resolv_conf(), resolv_conf, root)
}

/// The files that name the pod.
pub(super) fn write_names(paths: &SandboxPaths, meta: &SandboxMeta, ips: &[IpAddr]) -> Result<()> {
    make_directory(&paths.directory, 0o711)?;
    let host_network = meta.namespaces.network == crate::records::NamespaceMode::Node;
    let (hosts, hostname) = if host_network {
        (of_the_host("/etc/hosts"), format!("{}\n", rustix::system::uname().nodename().to_string_lossy()))
    } else {
        (plan::hosts(&meta.hostname, ips), format!("{}\n", meta.hostname))
    };
    let root = meta.namespaces.root();
    write(&paths.hosts(), &hosts, root)?;
    write(&paths.hostname(), &hostname, root)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
    .context(|| format!("make {}", path.display()))
}

fn write(path: &Path, text: &str, root: Option<(u32, u32)>) -> Result<()> {
    fs::write(path, text).context(|| format!("write {}", path.display()))?;
    match root {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
    .context(|| format!("give {} to the pod's root", path.display()))
}

/// Mounts the pod's shared memory.
pub(super) fn mount_shm(path: &Path, root: Option<(u32, u32)>) -> Result<()> {
    let what = || format!("mount shared memory on {}", path.display());
    make_directory(path, 0o700)?;
    let flags = MountAttr::NOSUID.and(MountAttr::NODEV).and(MountAttr::NOEXEC);
    let (uid, gid) = root.unwrap_or_default();
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let options =
        [("size", Some(SHM_SIZE)), ("mode", Some("1777")), ("uid", Some(uid.as_str())), ("gid", Some(gid.as_str()))];
    let mount = filesystem("tmpfs", &options, flags).context(what)?;
    let target = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    attach(mount.as_fd(), target.context(what)?.as_fd()).context(what)
}

/// Takes the shared memory away; that it is gone already is fine.
pub(super) fn unmount_shm(path: &Path) -> Result<()> {
    use rustix::io::Errno;
    match unmount(path, UnmountFlags::DETACH) {
        // INVAL: the directory is there, nothing is mounted on it.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error).context(|| format!("unmount {}", path.display())),
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .context(|| format!("remove {}", path.display()))
}
