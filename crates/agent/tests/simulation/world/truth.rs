//! What the runtime truly has of a pod, in core's words, without the agent's way of asking for it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use podd_core::pod::{ContainerSeen, ContainerState, Exit, Observation, SandboxSeen, SandboxState};
use podd_cri::{fake::FakeRuntime, v1};

const POD_UID: &str = "io.kubernetes.pod.uid";

/// Everything of one pod.
pub(super) fn observation(fake: &FakeRuntime, uid: &str) -> Observation {
    let snapshot = fake.snapshot();
    let is_ours = |labels: &BTreeMap<String, String>| labels.get(POD_UID).is_some_and(|u| u == uid);
    let sandboxes = snapshot.sandboxes.iter().filter(|s| is_ours(&s.labels)).map(sandbox).collect();
    let containers = snapshot.containers.iter().filter(|(_, c)| is_ours(&c.labels));
    Observation { sandboxes, containers: containers.map(|(s, c)| container(s, c)).collect(), ..Observation::default() }
}

/// Whose sandbox this is.
pub(super) fn pod_of_sandbox(fake: &FakeRuntime, id: &str) -> Option<String> {
    let sandboxes = fake.snapshot().sandboxes;
    sandboxes.into_iter().find(|sandbox| sandbox.id == id).and_then(|mut sandbox| sandbox.labels.remove(POD_UID))
}

/// Whose container this is.
pub(super) fn pod_of_container(fake: &FakeRuntime, id: &str) -> Option<String> {
    let containers = fake.snapshot().containers;
    containers.into_iter().find(|(_, c)| c.id == id).and_then(|(_, mut container)| container.labels.remove(POD_UID))
}

fn at(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("a time")
}

fn sandbox(status: &v1::PodSandboxStatus) -> SandboxSeen {
    let ready = status.state() == v1::PodSandboxState::SandboxReady;
    SandboxSeen {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().expect("metadata").attempt,
        state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: at(status.created_at),
        ips: Vec::new(),
        host_network: false,
    }
}

fn container(sandbox_id: &str, status: &v1::ContainerStatus) -> ContainerSeen {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running { started_at: at(status.started_at) },
        v1::ContainerState::ContainerExited => ContainerState::Exited(Exit {
            code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            // One that never started has no time of its start.
            started_at: at(if status.started_at == 0 { status.finished_at } else { status.started_at }),
            finished_at: at(status.finished_at),
        }),
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    ContainerSeen {
        id: status.id.clone(),
        name: status.metadata.as_ref().expect("metadata").name.clone(),
        sandbox_id: sandbox_id.to_owned(),
        restart_count: status.annotations["io.kubernetes.container.restartCount"].parse().expect("a count"),
        hash: status.annotations.get("io.kubernetes.container.hash").cloned(),
        state,
        created_at: at(status.created_at),
        image: String::new(),
        image_id: String::new(),
    }
}
