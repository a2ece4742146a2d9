//! Volumes of pods: a directory (or a host path) per volume, ready before the containers and gone after them. Each kind
//! is a row of [`KINDS`]; planning is pure, [`Volumes::set_up`] applies the plans beneath the pod's own directory, and
//! there is one removal, [`Volumes::tear_down`], for finished pods, orphans and half-made ones alike.
//!
//! Layout: `<root>/pods/<uid>/volumes/<kind>/<name>`. Contents come from workloads and are hostile: nothing here resolves
//! a path through a link or across a mount that a workload could have made.

mod atomic;
mod claim;
mod empty_dir;
mod group;
mod host_path;
mod huge_pages;
mod mounts;
pub(crate) mod projection;
mod sub_path;
mod tree;
mod usage;

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use projection::{Projection, Projections, is_projected};
use rustix::fs::Mode;

pub(crate) use claim::{make_directory as make_claim_directory, remove_directory as remove_claim_directory};
pub use group::{Access, Group, hand_over, of_pod as group_of};
pub use sub_path::SubPath;
pub use usage::Usage;

use crate::{claims, config::is_path_component, source::uid, worker::HostVolume};

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The kind is not implemented, or the values make no sense; trying again changes nothing.
    #[error("volume {volume:?}: {message}")]
    Invalid {
        /// Name of the volume.
        volume: String,
        /// What is wrong with it.
        message: String,
    },
    /// A hostPath is not what its type says; in the kubelet's words.
    #[error("hostPath type check failed: {0}")]
    TypeCheck(String),
    /// A path in a volume is not in it.
    #[error("{0:?} leads out of the volume")]
    LeadsOut(String),
    /// A volume cannot be filled; in the kubelet's words.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
    SetUp {
        /// Name of the volume.
        volume: String,
        /// Why not.
        message: String,
    },
    /// The kernel refused.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Removal went on past errors; these are all of them.
    #[error("remove volumes of pod {uid}: {}", errors.join("; "))]
    Removal {
        /// The pod.
        uid: String,
        /// Each with its path.
        errors: Vec<String>,
    },
}

impl VolumeError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }
}

/// What must be done for one volume; a value, so that it can be tested without a kernel.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// A directory of the pod's own, on disk.
    Directory,
    /// A tmpfs of this size in bytes, half of the memory where none is given.
    Memory { size: Option<i64> },
    /// Huge pages of this size in bytes.
    HugePages { size: u64 },
    /// A path of the host, checked and perhaps created.
    Host { path: PathBuf, expect: host_path::Expect },
    /// A claim's, whatever it is bound to.
    Claim,
}

/// One kind of volume: the directory of its volumes and how a volume's source becomes a plan. A new kind is a new row.
struct Kind {
    directory: &'static str,
    plan: fn(&Volume, &Pod) -> Option<Result<Plan, String>>,
}

const KINDS: &[Kind] = &[
    Kind { directory: "empty-dir", plan: empty_dir::plan },
    Kind { directory: "host-path", plan: host_path::plan },
    Kind { directory: "claim", plan: claim::plan },
];

/// The volumes behind a pod's claims, by the names of the pod's volumes.
pub(crate) type Claimed = BTreeMap<String, claims::Found>;

/// The volumes beneath one directory of pods.
#[derive(Clone, Debug)]
pub struct Volumes {
    pods: PathBuf,
}

impl Volumes {
    /// Volumes beneath `pods` (`<root>/pods`).
    pub fn new(pods: impl Into<PathBuf>) -> Self {
        Self { pods: pods.into() }
    }

    /// Make every volume of a pod but projected ones, or find it made; returns each by its name. Blocking.
    pub(crate) fn set_up(&self, pod: &Pod, claimed: &Claimed) -> Result<BTreeMap<String, HostVolume>, VolumeError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let pod_dir = self.pod_directory(uid)?;
        let mut paths = BTreeMap::new();
        for volume in volumes {
            // Those are made by `project`, and an image's content never lies on the node as a path: the runtime mounts it.
            if is_projected(volume) || volume.image.is_some() {
                continue;
            }
            let HostVolume { mut path, read_only } = self.set_up_one(pod, (uid, &pod_dir), volume, claimed)?;
            // What of the node is no directory of ours takes part in what its own mount does.
            if volume.host_path.is_none() && wants_propagation(pod, &volume.name) {
                path = self.share(&pod_dir, uid, &volume.name, &path)?;
            }
            paths.insert(volume.name.clone(), HostVolume { path, read_only });
        }
        Ok(paths)
    }

    /// Make the volumes that show what the API has, or let them show what it has now; returns as `set_up`. Blocking.
    pub(crate) fn project(
        &self,
        pod: &Pod,
        projections: &Projections,
        now: Timestamp,
    ) -> Result<BTreeMap<String, HostVolume>, VolumeError> {
        let pod_dir = self.pod_directory(uid(pod))?;
        let mut paths = BTreeMap::new();
        for (name, projection) in projections {
            let path = self.projected_path(pod, name, projection);
            if !is_path_component(name) || name.starts_with('.') {
                let message = "the name cannot be a directory's".into();
                return Err(VolumeError::Invalid { volume: name.clone(), message });
            }
            let made = kind_directory(&pod_dir, projection.directory, &path)?;
            let made = match projection.memory {
                true => empty_dir::ensure_tmpfs(&made, name, None, group_of(pod))
                    .and_then(|()| tree::open_child(&made, name)),
                false => empty_dir::ensure_directory(&made, name, group_of(pod)),
            };
            let directory = made.map_err(|e| VolumeError::io("create", &path, e))?;
            atomic::write(&directory, &projection.files, group_of(pod).map(|group| group.id), now)
                .map_err(|e| VolumeError::io("write", &path, e))?;
            paths.insert(name.clone(), HostVolume { path, read_only: true });
        }
        Ok(paths)
    }

    /// Let the volumes that are there show what the API has now. None is made, so that nothing comes back of a pod that is
    /// taken down. Blocking.
    pub(crate) fn refresh(&self, pod: &Pod, projections: &Projections, now: Timestamp) -> Result<(), VolumeError> {
        for (name, projection) in projections {
            let path = self.projected_path(pod, name, projection);
            let directory = match tree::open_directory(&path) {
                Ok(directory) => directory,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(VolumeError::io("open directory", &path, error)),
            };
            // After a reboot the tmpfs is gone, and what it had must not come onto the disk.
            let mounted = !projection.memory || empty_dir::is_mount_point(&directory).is_ok_and(|mounted| mounted);
            if mounted {
                atomic::write(&directory, &projection.files, group_of(pod).map(|group| group.id), now)
                    .map_err(|e| VolumeError::io("write", &path, e))?;
            }
        }
        Ok(())
    }

    fn projected_path(&self, pod: &Pod, name: &str, projection: &Projection) -> PathBuf {
        self.pods.join(uid(pod)).join("volumes").join(projection.directory).join(name)
    }

    /// Remove everything of a pod: mounts, volumes, the pod's directory. Idempotent; goes on past errors. Blocking.
    pub fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        if !is_path_component(uid) {
            return Err(removal(uid, vec![format!("{uid:?} is no pod uid")]));
        }
        let mut errors = Vec::new();
        if let Err(error) = self.unmount_all(uid) {
            errors.push(error.to_string());
        }
        match tree::open_directory(&self.pods) {
            Ok(pods) => errors.extend(tree::remove(&pods, uid).into_iter().map(|e| e.to_string())),
            Err(error) if error == rustix::io::Errno::NOENT => {}
            Err(error) => errors.push(format!("{}: {error}", self.pods.display())),
        }
        if errors.is_empty() { Ok(()) } else { Err(removal(uid, errors)) }
    }

    /// Unmount everything of a pod; its files stay. Idempotent. Blocking.
    pub fn unmount(&self, uid: &str) -> Result<(), VolumeError> {
        if !is_path_component(uid) {
            return Err(removal(uid, vec![format!("{uid:?} is no pod uid")]));
        }
        self.unmount_all(uid).map_err(|error| removal(uid, vec![error.to_string()]))
    }

    fn unmount_all(&self, uid: &str) -> Result<(), VolumeError> {
        let sub_paths = self.unbind_sub_paths(uid);
        mounts::unmount_beneath(&self.pods.join(uid)).and(sub_paths)
    }

    /// UIDs that have a directory, for the search for orphans. Blocking.
    pub fn known_uids(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.pods) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut uids = Vec::new();
        for entry in entries {
            uids.extend(entry?.file_name().into_string());
        }
        Ok(uids)
    }

    /// The pod's own directory, made if need be (mode 0750).
    pub(crate) fn pod_directory(&self, uid: &str) -> Result<OwnedFd, VolumeError> {
        if !is_path_component(uid) {
            return Err(VolumeError::Invalid { volume: String::new(), message: format!("{uid:?} is no pod uid") });
        }
        std::fs::create_dir_all(&self.pods).map_err(|e| VolumeError::io("create directory", &self.pods, e))?;
        let pods = tree::open_directory(&self.pods).map_err(|e| VolumeError::io("open directory", &self.pods, e))?;
        tree::ensure_directory(&pods, uid, PRIVATE)
            .map_err(|e| VolumeError::io("create directory", self.pods.join(uid), e))
    }

    fn set_up_one(
        &self,
        pod: &Pod,
        (uid, pod_dir): (&str, &OwnedFd),
        volume: &Volume,
        claimed: &Claimed,
    ) -> Result<HostVolume, VolumeError> {
        let invalid = |message: String| VolumeError::Invalid { volume: volume.name.clone(), message };
        if !is_path_component(&volume.name) || volume.name.starts_with('.') {
            return Err(invalid("the name cannot be a directory's".into()));
        }
        let planned = KINDS.iter().find_map(|kind| Some((kind, (kind.plan)(volume, pod)?)));
        let (kind, plan) = planned.ok_or_else(|| invalid("its kind is not implemented".into()))?;
        let plan = plan.map_err(invalid)?;
        let path = self.pods.join(uid).join("volumes").join(kind.directory).join(&volume.name);
        let group = group::of_pod(pod);
        match plan {
            Plan::Host { path, expect } => {
                host_path::apply(&path, expect)?;
                return Ok(HostVolume { path, read_only: false });
            }
            Plan::Claim => {
                let found = claimed.get(&volume.name).ok_or_else(|| invalid("its claim was not looked up".into()))?;
                let parent = kind_directory(pod_dir, kind.directory, &path)?;
                claim::set_up(&parent, &volume.name, found, group)?;
                return Ok(HostVolume { path: found.path.clone(), read_only: found.read_only });
            }
            Plan::Directory => {
                let parent = kind_directory(pod_dir, kind.directory, &path)?;
                empty_dir::ensure_directory(&parent, &volume.name, group)
                    .map_err(|e| VolumeError::io("create", &path, e))?;
            }
            Plan::Memory { size } => {
                let parent = kind_directory(pod_dir, kind.directory, &path)?;
                empty_dir::ensure_tmpfs(&parent, &volume.name, size, group)
                    .map_err(|e| VolumeError::io("mount a tmpfs on", &path, e))?;
            }
            Plan::HugePages { size } => {
                huge_pages::check(&volume.name, size)?;
                let parent = kind_directory(pod_dir, kind.directory, &path)?;
                huge_pages::ensure(&parent, &volume.name, size, group)
                    .map_err(|e| VolumeError::io("mount huge pages on", &path, e))?;
            }
        }
        Ok(HostVolume { path, read_only: false })
    }
}

/// Directories that only root may look into.
const PRIVATE: Mode = Mode::from_raw_mode(0o750);

fn kind_directory(pod_dir: &OwnedFd, kind: &str, path: &Path) -> Result<OwnedFd, VolumeError> {
    tree::ensure_directory(pod_dir, "volumes", PRIVATE)
        .and_then(|volumes| tree::ensure_directory(&volumes, kind, PRIVATE))
        .map_err(|e| VolumeError::io("create the directory of", path, e))
}

/// Whether mounts shall travel into or out of a volume.
fn wants_propagation(pod: &Pod, volume: &str) -> bool {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let mut mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.any(|mount| {
        mount.name == volume && mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None")
    })
}

fn removal(uid: &str, errors: Vec<String>) -> VolumeError {
    VolumeError::Removal { uid: uid.into(), errors }
}

#[cfg(test)]
mod tests;
