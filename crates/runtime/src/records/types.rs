//! What is kept about a sandbox and a container: the fields that status, list and recovery answer from, and no more.
//!
//! These are our own types rather than CRI's messages: they carry a version, and protobuf stays in `podd-cri`. Times
//! are nanoseconds since the Unix epoch, as CRI has them; zero means "not yet".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use podd_cri::v1;
use podd_shim::wire::{IdMaps, IdRange};
use serde::{Deserialize, Serialize};

use crate::external::Program;
use crate::hooks::Hooks;

/// The version of everything in this file. A change that an older podd would misread raises it.
pub(crate) const VERSION: u32 = 1;

/// The name of an object in CRI's words: unique among the objects that exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) name: String,
    /// Namespace of the pod; empty for a container.
    pub(crate) namespace: String,
    /// Uid of the pod; empty for a container.
    pub(crate) uid: String,
    pub(crate) attempt: u32,
}

/// Where a container's or sandbox's namespace of one kind comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NamespaceMode {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// One for each container.
    Container,
    /// The machine's.
    Node,
    /// Another container's ([`Namespaces::target`]).
    Target,
}

/// CRI's `NamespaceOption`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    pub(crate) network: NamespaceMode,
    pub(crate) pid: NamespaceMode,
    pub(crate) ipc: NamespaceMode,
    /// The container whose pid namespace is joined with [`NamespaceMode::Target`].
    pub(crate) target: Option<String>,
    /// The ids of the pod's own user namespace; none for the machine's.
    #[serde(default)]
    pub(crate) user: Option<IdMaps>,
}

/// A published port of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortMeta {
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
    pub(crate) container_port: u16,
    pub(crate) host_port: u16,
    pub(crate) host_ip: Option<IpAddr>,
}

/// The immutable part of a sandbox's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxMeta {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) created_at: i64,
    pub(crate) hostname: String,
    pub(crate) log_directory: Option<PathBuf>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) namespaces: Namespaces,
    pub(crate) privileged: bool,
    pub(crate) runtime_handler: String,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) ports: Vec<PortMeta>,
    /// The group that the containers' groups are made in, relative to each hierarchy's root.
    pub(crate) cgroup_parent: PathBuf,
    /// Whether the runtime made that group up (CRI named none), so that it goes with the sandbox.
    pub(crate) owns_cgroup: bool,
}

/// How far a sandbox got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SandboxStage {
    /// The record is written, effects may have begun; found at start, it is removed.
    Creating,
    /// The shim answers, the network is attached.
    Ready,
    /// Stopped, or its shim died.
    NotReady,
}

/// The mutable part of a sandbox's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxStatus {
    pub(crate) stage: SandboxStage,
    /// Removal has begun; found at start, it is finished.
    pub(crate) removing: bool,
    pub(crate) ips: Vec<IpAddr>,
    /// What the pod as a whole was given, as far as the caller said so.
    #[serde(default)]
    pub(crate) resources: PodResources,
}

/// `UpdatePodSandboxResources`, or the sandbox's configuration. For people and plugins to see: the group is the
/// caller's, who has set its limits already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodResources {
    /// What the runtime handler itself takes.
    pub(crate) overhead: Option<Resources>,
    /// The sum over the containers.
    pub(crate) resources: Option<Resources>,
}

/// The image of a container, in the three shapes that CRI asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageNames {
    /// What the caller wrote in `ContainerConfig.image.image`.
    pub(crate) requested: String,
    /// What a person wrote in the manifest, when the caller passed it on.
    pub(crate) user_specified: String,
    /// The digest reference, or the id for an image that came from no registry.
    pub(crate) reference: String,
    /// The digest of the image's configuration.
    pub(crate) id: String,
}

/// A mount as `ContainerStatus` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountMeta {
    pub(crate) container_path: String,
    pub(crate) host_path: String,
    pub(crate) readonly: bool,
    pub(crate) recursive_read_only: bool,
    pub(crate) selinux_relabel: bool,
    /// CRI's number for the propagation.
    pub(crate) propagation: i32,
    /// The ids that it is shown by.
    #[serde(default)]
    pub(crate) ids: Option<IdMaps>,
    /// The image that it shows instead of a host path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<VolumeImage>,
}

/// An image that is mounted as a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeImage {
    pub(crate) requested: String,
    pub(crate) user_specified: String,
    /// What PullImage answers for it.
    pub(crate) id: String,
    pub(crate) sub_path: String,
}

/// The immutable part of a container's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerMeta {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) owner: Owner,
    pub(crate) created_at: i64,
    pub(crate) image: ImageNames,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) mounts: Vec<MountMeta>,
    pub(crate) log_path: Option<PathBuf>,
    /// The signal that asks the container to stop, by number (manifest, else image, else SIGTERM).
    pub(crate) stop_signal: i32,
    /// Whether the container's first process has a pid namespace of its own, which the kernel empties when it ends.
    pub(crate) own_pid_namespace: bool,
    /// The container's group, relative to each hierarchy's root.
    pub(crate) cgroup: PathBuf,
    /// The unpacked layers of its images, the root's and volumes', to be kept while the container is there.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    /// stdin closes when the first client leaves that was attached to it.
    #[serde(default)]
    pub(crate) stdin_once: bool,
    /// The command, for plugins to see.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    /// What a further process in the container has in common with the first: everything but its arguments.
    pub(crate) exec: podd_shim::wire::Process,
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub(crate) hooks: Hooks,
    /// The other OCI runtime that makes it; that also runs its hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) external: Option<Program>,
}

/// Why a container is no more, in the kubelet's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    /// Ended with 0.
    Completed,
    /// Ended otherwise.
    Error,
    /// The kernel killed it at its memory limit.
    OOMKilled,
    /// Its process could never be started.
    StartError,
    /// Its end was not seen: the shim died, or the machine went down.
    ContainerStatusUnknown,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ContainerStatusUnknown => "ContainerStatusUnknown",
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Zero when the container never ran.
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    /// The process' own code, or 128 plus the signal.
    pub(crate) code: i32,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// Where a container is in its one-way life: `Creating → Created → Running → Exited`; from any of them to `Exited`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The record is written, effects may have begun; found at start, it is removed.
    Creating,
    Created,
    /// The start was sent to the shim; found at start, the shim says what became of it.
    Starting,
    Running {
        started_at: i64,
    },
    Exited(Exit),
}

/// The numbers that a container's user was resolved to under its own root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// `LinuxContainerResources` as last applied. Zero or empty means "not set", as in CRI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resources {
    pub(crate) cpu_period: i64,
    pub(crate) cpu_quota: i64,
    pub(crate) cpu_shares: i64,
    pub(crate) memory_limit: i64,
    pub(crate) oom_score_adj: i64,
    pub(crate) cpuset_cpus: String,
    pub(crate) cpuset_mems: String,
    /// Page size (`2MB`) and limit in bytes.
    pub(crate) hugepage_limits: Vec<(String, u64)>,
    pub(crate) unified: BTreeMap<String, String>,
    pub(crate) memory_swap_limit: i64,
    /// Not CRI's: plugins may set it; -1 is no limit.
    #[serde(default)]
    pub(crate) pids_limit: i64,
}

/// The mutable part of a container's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerStatus {
    pub(crate) stage: Stage,
    /// Removal has begun; found at start, it is finished.
    pub(crate) removing: bool,
    /// Its first process on the host, while there is one; 0 otherwise. For people to see: nothing is sent there.
    pub(crate) pid: u32,
    /// Known from the moment that the shim has made the container.
    pub(crate) user: Option<User>,
    pub(crate) resources: Resources,
    /// Its poststop hooks are still to be run; with another OCI runtime, that has to be told to delete it.
    #[serde(default)]
    pub(crate) poststop_due: bool,
}

impl NamespaceMode {
    pub(crate) fn from_cri(mode: i32) -> Option<Self> {
        Some(match v1::NamespaceMode::try_from(mode).ok()? {
            v1::NamespaceMode::Pod => Self::Pod,
            v1::NamespaceMode::Container => Self::Container,
            v1::NamespaceMode::Node => Self::Node,
            v1::NamespaceMode::Target => Self::Target,
        })
    }

    pub(crate) fn to_cri(self) -> i32 {
        (match self {
            Self::Pod => v1::NamespaceMode::Pod,
            Self::Container => v1::NamespaceMode::Container,
            Self::Node => v1::NamespaceMode::Node,
            Self::Target => v1::NamespaceMode::Target,
        }) as i32
    }
}

impl Namespaces {
    pub(crate) fn to_cri(&self) -> v1::NamespaceOption {
        v1::NamespaceOption {
            network: self.network.to_cri(),
            pid: self.pid.to_cri(),
            ipc: self.ipc.to_cri(),
            target_id: self.target.clone().unwrap_or_default(),
            userns_options: self.user.as_ref().map(users_to_cri),
        }
    }

    /// Who is root in the pod, if not the machine's.
    pub(crate) fn root(&self) -> Option<(u32, u32)> {
        self.user.as_ref()?.outside(0, 0)
    }
}

/// Ranges of ids in CRI's words.
pub(crate) fn mappings(ranges: &[IdRange]) -> Vec<v1::IdMapping> {
    let mapping =
        |range: &IdRange| v1::IdMapping { host_id: range.outside, container_id: range.inside, length: range.count };
    ranges.iter().map(mapping).collect()
}

fn users_to_cri(ids: &IdMaps) -> v1::UserNamespace {
    v1::UserNamespace { mode: v1::NamespaceMode::Pod as i32, uids: mappings(&ids.uids), gids: mappings(&ids.gids) }
}

impl From<&v1::LinuxContainerResources> for Resources {
    fn from(from: &v1::LinuxContainerResources) -> Self {
        Self {
            cpu_period: from.cpu_period,
            cpu_quota: from.cpu_quota,
            cpu_shares: from.cpu_shares,
            memory_limit: from.memory_limit_in_bytes,
            oom_score_adj: from.oom_score_adj,
            cpuset_cpus: from.cpuset_cpus.clone(),
            cpuset_mems: from.cpuset_mems.clone(),
            hugepage_limits: from.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit)).collect(),
            unified: from.unified.clone().into_iter().collect(),
            memory_swap_limit: from.memory_swap_limit_in_bytes,
            pids_limit: 0,
        }
    }
}

impl From<&Resources> for v1::LinuxContainerResources {
    fn from(from: &Resources) -> Self {
        Self {
            cpu_period: from.cpu_period,
            cpu_quota: from.cpu_quota,
            cpu_shares: from.cpu_shares,
            memory_limit_in_bytes: from.memory_limit,
            oom_score_adj: from.oom_score_adj,
            cpuset_cpus: from.cpuset_cpus.clone(),
            cpuset_mems: from.cpuset_mems.clone(),
            hugepage_limits: from
                .hugepage_limits
                .iter()
                .map(|(page_size, limit)| v1::HugepageLimit { page_size: page_size.clone(), limit: *limit })
                .collect(),
            unified: from.unified.clone().into_iter().collect(),
            memory_swap_limit_in_bytes: from.memory_swap_limit,
        }
    }
}
