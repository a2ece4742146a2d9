//! What a worker needs from the rest of the node, and what the sources tell the dispatcher. A trait stands only where
//! the simulation has a second implementation; CRI is the service traits themselves.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use podd_core::pod::{Failure, NodeFacts, Refusal};
use podd_cri::{ImageService, RuntimeService, v1};
use tokio::time::Instant;

use crate::{downward::DefaultLimits, events::Recorder, references::Unread, volumes::SubPath};

/// Everything a worker acts through. Cheap to clone behind its `Arc`.
pub struct Services {
    /// Sandboxes and containers.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images.
    pub images: Arc<dyn ImageService>,
    /// Volumes, pod cgroups, the hosts file.
    pub resources: Arc<dyn PodResources>,
    /// The pods' objects.
    pub objects: Arc<dyn PodObjects>,
    /// Events.
    pub recorder: Recorder,
    /// The node, as `podd_core` wants to know it.
    pub node: NodeFacts,
    /// Directories, limits and defaults.
    pub settings: Settings,
    /// The time.
    pub clock: Clock,
}

/// What workers are told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Container logs (`/var/log/pods`).
    pub log_root: PathBuf,
    /// A directory per pod (`<root>/pods`); a pod's back-offs are `<uid>/back-offs.json` beneath it.
    pub pods_dir: PathBuf,
    /// RuntimeDefault seccomp where a manifest is silent.
    pub seccomp_default: bool,
    /// Where seccomp profiles of type `Localhost` lie.
    pub seccomp_profiles: PathBuf,
    /// Memory of the node in bytes, for `oom_score_adj`.
    pub memory_capacity: i64,
    /// The node's swap; none where the kernel bounds it only together with memory, or not at all.
    pub swap: Option<podd_core::swap::NodeSwap>,
    /// What a container without limits of its own is told that it has.
    pub default_limits: DefaultLimits,
    /// How often all that the runtime has is compared with what the workers saw last.
    pub resync: Duration,
    /// The longest a runtime call other than a pull or a stop may take.
    pub call_deadline: Duration,
}

/// The node's side of a pod: all that is made before its sandbox and removed after it.
#[async_trait]
pub trait PodResources: Send + Sync {
    /// Makes the pod's directory, volumes and cgroup, or finds them made. A failure's reason is the event's
    /// (`FailedMount`, `FailedCreatePodContainer`).
    async fn prepare(&self, pod: &Pod) -> Result<Prepared, Failure>;

    /// Writes the pod's hosts file, or finds it as it should be, and returns its path. `ips` are the sandbox's, empty
    /// with the host's network. Called before each container's creation.
    async fn hosts_file(&self, pod: &Pod, ips: &[IpAddr]) -> Result<PathBuf, Failure>;

    /// Binds a path in a volume to a place of its own, from where a container mounts it, and returns the place. What was
    /// bound there for an earlier instance goes.
    async fn sub_path(&self, pod: &Pod, wanted: &SubPath) -> Result<PathBuf, Failure>;

    /// A pod's object has changed: the volumes that show it are brought up to date, some time soon.
    fn changed(&self, _pod: &Pod) {}

    /// A worker takes up a pod, which may be an earlier agent's: all its volumes are brought up to date.
    fn taken_up(&self, _pod: &Pod) {}

    /// Takes down what a pod has on the node beside its files (cgroup, mounts), for a node that goes down. Idempotent.
    async fn suspend(&self, pod: &Pod) -> Result<(), Failure>;

    /// Removes cgroup, volumes and directory of a pod of which nothing runs any more. Idempotent; `pod` of an orphan
    /// has only name, namespace and uid.
    async fn release(&self, pod: &Pod) -> Result<(), Failure>;
}

/// What `prepare` made.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The pod's cgroup, for `LinuxPodSandboxConfig.cgroup_parent`.
    pub cgroup_parent: String,
    /// Each volume that lies on the node, by its name in the spec.
    pub volumes: BTreeMap<String, HostVolume>,
    /// What the pod's resolv.conf shall say.
    pub dns: Option<v1::DnsConfig>,
    /// The ids of a pod with users of its own (`hostUsers: false`).
    pub users: Option<v1::UserNamespace>,
    /// The name that the pod's kernel has.
    pub hostname: String,
}

/// A volume that lies on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVolume {
    /// Where.
    pub path: PathBuf,
    /// No container may write to it, whatever its mount says.
    pub read_only: bool,
}

/// The pods' objects in the API, and those that they name.
#[async_trait]
pub trait PodObjects: Send + Sync {
    /// Replaces the status of a pod's object by `status`; `pod` is the newest object that is known. Static pods go to their
    /// mirror.
    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<(), PublishError>;

    /// The runtime handler of the pod's runtime class; empty is the runtime's own choice. The error says what is missing.
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, String>;

    /// Removes the object of a pod that is gone from the node, with uid as precondition. No such object is success.
    async fn delete(&self, pod: &Pod) -> Result<(), PublishError>;

    /// The ConfigMap of this name, if there is one.
    async fn config_map(&self, _namespace: &str, _name: &str) -> Result<Option<ConfigMap>, Unread> {
        Ok(None)
    }

    /// The Secret of this name, if there is one.
    async fn secret(&self, _namespace: &str, _name: &str) -> Result<Option<Secret>, Unread> {
        Ok(None)
    }
}

/// Why a status was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The object is gone, or another pod has its name now. There is nothing to publish to.
    #[error("the pod's object is gone")]
    Gone,
    /// Somebody changed it; a newer one is on its way through the source.
    #[error("the pod's object changed meanwhile")]
    Conflict,
    /// The API did not answer, or refused.
    #[error("publish the pod's status")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where pods come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The Kubernetes API.
    Api,
    /// The directory of static manifests.
    File,
}

/// What a source tells the dispatcher. Each source sends its own in order.
#[derive(Clone, Debug)]
pub enum Update {
    /// The pod is there, or has changed. One with `metadata.deletionTimestamp` is being deleted.
    Applied(Source, Arc<Pod>),
    /// As `Applied`, for a pod that the node does not take: it fails with this reason. Stays so for the pod's life.
    Refused(Source, Arc<Pod>, Refusal),
    /// The pod with this uid is gone from the source: by force, by removal of its file, or after we deleted it.
    Gone(Source, String),
    /// The source has sent all it has, for the first time or again after a relist: what it sent before and not since
    /// its last relist is not implied to be gone, `Gone` says so.
    Synced(Source),
}

/// The wall clock, carried on by tokio's, so that a paused runtime pauses it too.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Option<(Timestamp, Instant)>,
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Clock {
        Clock { base: None }
    }

    /// A clock that shows `start` now and goes as tokio's clock goes.
    pub fn virtual_from(start: Timestamp) -> Clock {
        Clock { base: Some((start, Instant::now())) }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match self.base {
            None => Timestamp::now(),
            Some((start, at)) => start.checked_add(at.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }

    /// How long it is until then; nothing if it is past.
    pub fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.now())).unwrap_or_default()
    }
}
