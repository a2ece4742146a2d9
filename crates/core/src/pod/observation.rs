//! What the agent saw of one pod: the runtime's sandboxes and containers, and whether the node holds resources
//! for it. The agent fills these in from CRI; nothing in them is remembered from an earlier turn.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::Timestamp;

/// Everything seen of one pod at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The pod's sandboxes, in any order, dead ones included.
    pub sandboxes: Vec<SandboxSeen>,
    /// The pod's containers in all its sandboxes, in any order, dead ones included.
    pub containers: Vec<ContainerSeen>,
    /// The node's side of the pod: volumes and pod cgroup.
    pub resources: Resources,
    /// By container name, the restart count after the highest `<n>.log` on disk. Only asked for containers the
    /// runtime has no record of; keeps the count going up when the runtime lost its records.
    pub next_by_logs: BTreeMap<String, u32>,
}

/// Whether volumes are set up and the pod cgroup exists. Known only as far as this agent did it itself: after a
/// restart of the agent it starts again as `Unknown`, and preparing and releasing are both idempotent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resources {
    /// This agent has neither prepared nor released them yet.
    #[default]
    Unknown,
    /// Volumes are mounted and the cgroup is there.
    Prepared,
    /// Volumes and cgroup are gone.
    Released,
}

/// One sandbox, as `PodSandboxStatus` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxSeen {
    /// The runtime's id.
    pub id: String,
    /// `metadata.attempt`: how many sandboxes the pod had before this one.
    pub attempt: u32,
    /// Ready or not.
    pub state: SandboxState,
    /// When it was made; the newest is the pod's current one.
    pub created_at: Timestamp,
    /// Its addresses, the primary one first; empty with the host's network.
    pub ips: Vec<IpAddr>,
    /// Whether it shares the host's network namespace.
    pub host_network: bool,
}

/// The two states a sandbox has in CRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Its namespaces and network are up.
    Ready,
    /// Stopped, half made, or lost.
    NotReady,
}

/// One container, as `ContainerStatus` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSeen {
    /// The runtime's id.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// How often the container had been started before this instance (annotation
    /// `io.kubernetes.container.restartCount`, else `metadata.attempt`).
    pub restart_count: u32,
    /// The definition it was made from (annotation `io.kubernetes.container.hash`), `None` when it has none.
    pub hash: Option<String>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// When it was created.
    pub created_at: Timestamp,
    /// The image as the runtime names it.
    pub image: String,
    /// The image's id or digest reference.
    pub image_id: String,
}

/// The four states a container has in CRI.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// Made and not started (yet, or ever).
    Created,
    /// Its process runs.
    Running {
        /// When it started.
        started_at: Timestamp,
    },
    /// Its process is over.
    Exited(Exit),
    /// The runtime does not know; it may run.
    Unknown,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// The exit code, 128 + n for signal n.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, … as the runtime says.
    pub reason: String,
    /// The runtime's words, or the termination message.
    pub message: String,
    /// When its process had started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What core has to know of the node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// The node's name (`spec.nodeName`).
    pub name: String,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<IpAddr>,
    /// The runtime's name in container ids, `podd` in `podd://<id>` (CRI `Version.runtime_name`).
    pub runtime: String,
    /// The longest wait before a crashed container is started again (`maxContainerRestartPeriod`), 300 s as a rule.
    pub max_restart_period: Duration,
    /// Whether the runtime can make a mount read-only with all below it.
    pub recursive_read_only: bool,
}

impl ContainerSeen {
    /// Whether its process runs or may run.
    pub fn may_run(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. } | ContainerState::Unknown)
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Observation {
    /// The newest sandbox, which is the pod's current one if it is ready.
    pub fn newest_sandbox(&self) -> Option<&SandboxSeen> {
        self.sandboxes.iter().max_by_key(|s| (s.created_at, s.attempt))
    }

    /// The newest instance of a container over all sandboxes.
    pub fn newest(&self, name: &str) -> Option<&ContainerSeen> {
        self.instances(name).max_by_key(|c| (c.created_at, c.restart_count))
    }

    /// The newest instance of a container in one sandbox.
    pub fn newest_in(&self, name: &str, sandbox: &str) -> Option<&ContainerSeen> {
        self.instances(name).filter(|c| c.sandbox_id == sandbox).max_by_key(|c| (c.created_at, c.restart_count))
    }

    /// The newest instance of a container that has ended.
    pub fn newest_exit(&self, name: &str) -> Option<&Exit> {
        self.instances(name)
            .filter(|c| c.exit().is_some())
            .max_by_key(|c| (c.created_at, c.restart_count))
            .and_then(ContainerSeen::exit)
    }

    /// The addresses of a sandbox; none if it is not there.
    pub fn ips_of(&self, sandbox_id: &str) -> Vec<IpAddr> {
        self.sandboxes.iter().find(|s| s.id == sandbox_id).map(|s| s.ips.clone()).unwrap_or_default()
    }

    /// All instances of a container.
    pub fn instances(&self, name: &str) -> impl Iterator<Item = &ContainerSeen> {
        self.containers.iter().filter(move |c| c.name == name)
    }
}
