//! The wish for a pod ([`Goal`]), the closed set of things that can be done for it ([`Action`]), what came of one
//! ([`Outcome`]), and the answer of `decide` ([`Decision`]).

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::PullPolicy;

/// What is wanted of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// It shall run as its spec says, until it has succeeded or failed.
    Run,
    /// The node will not run it: it fails with this reason and nothing is started.
    Refuse(Refusal),
    /// The node ends it, as one that is short of something evicts: it fails with this reason when nothing of it runs any
    /// more; its records and its object stay.
    End {
        /// The moment its containers are killed if they have not ended by themselves. Only ever moves earlier.
        kill_at: Timestamp,
        /// Why.
        ending: Ending,
    },
    /// It shall be gone.
    Stop {
        /// The moment its containers are killed if they have not ended by themselves. Only ever moves earlier.
        kill_at: Timestamp,
        /// What is left to do once everything of it is gone from the node.
        last: LastStep,
    },
    /// The node goes down: nothing of it runs any more, but its records, its files and its object stay, so that the
    /// next agent takes it up again as after a reboot.
    Rest {
        /// The moment its containers are killed if they have not ended by themselves.
        kill_at: Timestamp,
    },
}

/// What happens to the pod's object when the node holds nothing of the pod any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStep {
    /// It waits in the API, marked as deleted: remove it.
    DeleteObject,
    /// There is none (a static pod, an orphan, or a pod that was deleted by force).
    Nothing,
}

/// Why the node refuses a pod (`status.reason` and `status.message`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word in CamelCase, such as `NodePorts`.
    pub reason: String,
    /// A sentence that names the holder or the lack.
    pub message: String,
}

/// Why the node ends a pod that it has taken (`status.reason` and `status.message`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// One word in CamelCase, such as `Evicted`.
    pub reason: String,
    /// What was too much, or too little.
    pub message: String,
    /// Whether the pod is a victim and not to blame, which its condition `DisruptionTarget` then says.
    pub disrupted: bool,
}

/// One thing to do. Everything the executor must know is in the value.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Mount the volumes and make the pod cgroup (idempotent).
    Prepare,
    /// Ask the runtime whether it has a container's image.
    InspectImage {
        /// The container whose start waits for it.
        container: String,
        /// The image as the spec names it.
        image: String,
        /// Whether a pull may follow.
        pull: PullPolicy,
    },
    /// Pull a container's image.
    PullImage {
        /// The container whose start waits for it.
        container: String,
        /// The image as the spec names it.
        image: String,
    },
    /// Make and start a sandbox.
    CreateSandbox {
        /// `metadata.attempt`.
        attempt: u32,
    },
    /// Stop a sandbox: free its network, kill what is left in it. Its records stay.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove a stopped sandbox and the records of its containers.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Create a container and start it.
    StartContainer {
        /// Its name in the pod.
        container: String,
        /// The sandbox it goes into.
        sandbox_id: String,
        /// How often the container was started before.
        restart_count: u32,
        /// The image to run, as the runtime names it.
        image_ref: String,
        /// The runtime's id of the container whose processes it sees, if it is to see another one's.
        target: Option<String>,
        /// Whether a postStart hook follows, until whose end the container does not count as started.
        post_start: bool,
        /// The end of the instance before it: this start counts as a restart and lengthens the back-off.
        crash: Option<Crash>,
    },
    /// Run the postStart hook of a container that has just been started.
    PostStart {
        /// The runtime's id.
        id: String,
        /// Its name in the pod.
        container: String,
    },
    /// Run the preStop hook of a container that is about to be stopped. The stop follows when it has ended, however it
    /// did, and at the deadline at the latest: from then on this action is not decided any more.
    PreStop {
        /// The runtime's id.
        id: String,
        /// Its name in the pod.
        container: String,
        /// Why it is stopped.
        reason: KillReason,
        /// The text of the `Killing` event, which comes before the hook.
        message: String,
        /// The moment the container's grace ends.
        deadline: Timestamp,
    },
    /// Stop a container: its stop signal, then a kill when the grace is over.
    KillContainer {
        /// The runtime's id.
        id: String,
        /// Its name in the pod.
        container: String,
        /// Why.
        reason: KillReason,
        /// The text of the `Killing` event.
        message: String,
        /// How long it may take to end by itself.
        grace: Duration,
        /// `grace` from the moment of the decision: a later decision with an earlier one replaces this action.
        deadline: Timestamp,
    },
    /// Remove the record, the root file system and the log of a dead container.
    RemoveContainer {
        /// The runtime's id.
        id: String,
        /// Its name in the pod.
        container: String,
    },
    /// Publish the status now, and go on only when it is accepted: what it tells is about to be removed.
    PublishFinalStatus,
    /// Unmount the volumes and remove the pod cgroup (idempotent).
    Release,
    /// Unmount the volumes and remove the pod cgroup; what is on disk stays (idempotent).
    Suspend,
    /// Remove the pod's object from the API.
    DeleteObject,
}

/// The end of a container that is to be started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// When it ended, whatever its exit code.
    pub at: Timestamp,
    /// The key of its back-off: another definition starts a back-off of its own.
    pub key: String,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The pod shall be gone.
    PodStopped,
    /// The pod's sandbox is replaced, or the pod has ended.
    SandboxStopped,
    /// Its definition changed.
    DefinitionChanged,
    /// Its liveness probe failed.
    LivenessFailed,
    /// Its startup probe failed.
    StartupFailed,
    /// The runtime does not know whether it runs, and another one is to be started.
    StateUnknown,
    /// Its postStart hook failed.
    PostStartFailed,
}

/// What an action works on. Two actions on one target never run at the same time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The node's side of the pod.
    Resources,
    /// The image of a container, by the container's name.
    Image(String),
    /// The making of a sandbox.
    NewSandbox,
    /// A sandbox, by id.
    Sandbox(String),
    /// The next instance of a container, by name.
    Container(String),
    /// The end of an instance of a container, by id.
    Instance(String),
    /// What follows the start of an instance of a container, by id.
    Started(String),
    /// The pod's object in the API.
    Object,
}

/// What came of an action that went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The image is there (inspect, pull).
    ImagePresent {
        /// The reference that `CreateContainer` takes.
        image_ref: String,
    },
    /// The image is not there (inspect).
    ImageAbsent,
    /// The container runs (start).
    Started {
        /// The runtime's id.
        id: String,
    },
}

/// Why an action failed, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The waiting reason: `ErrImagePull`, `CreateContainerError`, `RunContainerError`, `FailedMount`, …
    pub reason: String,
    /// What went wrong.
    pub message: String,
}

/// The answer of `decide`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The next batch. Its actions are independent of each other and may run side by side.
    pub actions: Vec<Action>,
    /// The containers on their way out, by id: those that are stopped, and those that wait for their turn or their next try.
    pub ending: BTreeSet<String>,
    /// When time alone will change the answer (the end of a back-off, a retry).
    pub wake_at: Option<Timestamp>,
    /// Whether the goal is reached as far as it can be now: nothing to do and nothing to wait for but the world.
    pub settled: bool,
    /// Whether the pod is gone from this node and its worker may end. Implies `settled`.
    pub finished: bool,
}

impl Action {
    /// What it works on.
    pub fn target(&self) -> Target {
        match self {
            Action::Prepare | Action::Release | Action::Suspend => Target::Resources,
            Action::InspectImage { container, .. } | Action::PullImage { container, .. } => {
                Target::Image(container.clone())
            }
            Action::CreateSandbox { .. } => Target::NewSandbox,
            Action::StopSandbox { id } | Action::RemoveSandbox { id } => Target::Sandbox(id.clone()),
            Action::StartContainer { container, .. } => Target::Container(container.clone()),
            Action::PostStart { id, .. } => Target::Started(id.clone()),
            Action::PreStop { id, .. } | Action::KillContainer { id, .. } | Action::RemoveContainer { id, .. } => {
                Target::Instance(id.clone())
            }
            Action::PublishFinalStatus | Action::DeleteObject => Target::Object,
        }
    }

    /// Whether it may take long and be dropped half-way, so that deciding goes on beside it: a pull, a hook, and the
    /// wait for a container's end. All others are short, and nothing is decided until they have ended.
    pub fn is_patient(&self) -> bool {
        matches!(
            self,
            Action::PullImage { .. } | Action::PostStart { .. } | Action::PreStop { .. } | Action::KillContainer { .. }
        )
    }

    /// One lower-case word for traces.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Prepare => "prepare",
            Action::InspectImage { .. } => "inspect_image",
            Action::PullImage { .. } => "pull_image",
            Action::CreateSandbox { .. } => "create_sandbox",
            Action::StopSandbox { .. } => "stop_sandbox",
            Action::RemoveSandbox { .. } => "remove_sandbox",
            Action::StartContainer { .. } => "start_container",
            Action::PostStart { .. } => "post_start",
            Action::PreStop { .. } => "pre_stop",
            Action::KillContainer { .. } => "kill_container",
            Action::RemoveContainer { .. } => "remove_container",
            Action::PublishFinalStatus => "publish_final_status",
            Action::Release => "release",
            Action::Suspend => "suspend",
            Action::DeleteObject => "delete_object",
        }
    }
}
