//! Ephemeral containers: added to a pod that runs, to look into it. One is started as soon as there is a sandbox, once and
//! never again; nothing of the pod waits for it, and it goes with the pod.

use k8s_openapi::api::core::v1::{Container, ContainerState as ApiState, EphemeralContainer};

use super::{
    ContainerState, Kind, SandboxSeen,
    containers::Member,
    decide::{Batch, Turn},
    start,
};

/// Starts those that never ran.
pub(super) fn plan(turn: &Turn<'_>, current: &SandboxSeen, batch: &mut Batch<'_>) {
    for member in turn.members.iter().filter(|m| m.kind == Kind::Ephemeral) {
        if !turn.has_run(member) && lacks_target(turn, member).is_none() {
            start::advance(turn, member, current, batch);
        }
    }
}

/// The name of the container whose processes an ephemeral one is to see, while that one does not run.
pub(super) fn lacks_target<'a>(turn: &Turn<'_>, member: &Member<'a>) -> Option<&'a str> {
    member.target.filter(|_| target(turn, member).is_none())
}

/// The runtime's id of the instance whose processes a container is to see.
pub(super) fn target(turn: &Turn<'_>, member: &Member<'_>) -> Option<String> {
    let runs = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
    turn.seen.instances(member.target?).find(|c| runs(&c.state)).map(|c| c.id.clone())
}

impl Turn<'_> {
    /// Whether an instance of the container has run, by what the runtime has or by what was published.
    pub(super) fn has_run(&self, member: &Member<'_>) -> bool {
        let ran =
            |state: &Option<ApiState>| state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        let status = self.pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_ref());
        let told = status.into_iter().flatten().any(|s| s.name == member.name() && ran(&s.state));
        told || self.seen.instances(member.name()).any(|c| c.state != ContainerState::Created)
    }
}

/// The container that an ephemeral one is, but for its target.
#[must_use]
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    Container {
        args: ephemeral.args.clone(),
        command: ephemeral.command.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        image: ephemeral.image.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        lifecycle: ephemeral.lifecycle.clone(),
        liveness_probe: ephemeral.liveness_probe.clone(),
        name: ephemeral.name.clone(),
        ports: ephemeral.ports.clone(),
        readiness_probe: ephemeral.readiness_probe.clone(),
        resize_policy: ephemeral.resize_policy.clone(),
        resources: ephemeral.resources.clone(),
        restart_policy: ephemeral.restart_policy.clone(),
        restart_policy_rules: ephemeral.restart_policy_rules.clone(),
        security_context: ephemeral.security_context.clone(),
        startup_probe: ephemeral.startup_probe.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        working_dir: ephemeral.working_dir.clone(),
    }
}

/// The other way round.
#[must_use]
pub fn of_container(container: Container, target: Option<String>) -> EphemeralContainer {
    EphemeralContainer {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        lifecycle: container.lifecycle,
        liveness_probe: container.liveness_probe,
        name: container.name,
        ports: container.ports,
        readiness_probe: container.readiness_probe,
        resize_policy: container.resize_policy,
        resources: container.resources,
        restart_policy: container.restart_policy,
        restart_policy_rules: container.restart_policy_rules,
        security_context: container.security_context,
        startup_probe: container.startup_probe,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_devices: container.volume_devices,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
        target_container_name: target,
    }
}
