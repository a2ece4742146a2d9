//! The phase of a pod, from its containers' statuses.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::containers::{Kind, Member};

/// Whether the published phase is one that a pod never leaves.
pub fn is_terminal(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|s| is_terminal_phase(s.phase.as_deref()))
}

pub(super) fn is_terminal_phase(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What counts of one container for the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Running,
    /// Ended, or waiting after an end; with the exit code.
    Stopped(i32),
    /// Waiting, and never ran.
    Waiting,
    Unknown,
}

/// The phase by the kubelet's rules. `over` says that nothing will be started again whatever the policy (the pod has
/// been stopped).
pub(super) fn phase(members: &[Member<'_>], status: &PodStatus, over: bool) -> &'static str {
    let inits = |kind| standings(members, kind, status.init_container_statuses.as_deref());
    let mut init_pending = false;
    for (member, standing) in inits(Kind::Init) {
        match standing {
            Standing::Stopped(0) => {}
            Standing::Stopped(code) if over || !member.restarts_after(code) => return "Failed",
            Standing::Stopped(_) => {}
            Standing::Running | Standing::Waiting | Standing::Unknown => init_pending = true,
        }
    }

    let regular: Vec<_> = standings(members, Kind::Regular, status.container_statuses.as_deref()).collect();
    let any = |which: Standing| regular.iter().any(|(_, standing)| *standing == which);
    let succeeded = !regular.is_empty() && regular.iter().all(|(_, standing)| *standing == Standing::Stopped(0));
    if over {
        return if succeeded && !init_pending { "Succeeded" } else { "Failed" };
    }
    // Before the pod is initialised it waits for its sidecars too; afterwards they come and go without a trace in the
    // phase, except that the pod runs as long as one of them does.
    let initialized = regular.iter().any(|(_, standing)| *standing != Standing::Waiting);
    let sidecar_pending =
        inits(Kind::Sidecar).any(|(_, standing)| matches!(standing, Standing::Waiting | Standing::Unknown));
    if init_pending || (sidecar_pending && !initialized) {
        return "Pending";
    }
    if any(Standing::Waiting) || any(Standing::Unknown) || regular.is_empty() {
        return "Pending";
    }
    if any(Standing::Running) || inits(Kind::Sidecar).any(|(_, standing)| standing == Standing::Running) {
        return "Running";
    }
    let restarts = |(member, standing): &(&Member<'_>, Standing)| match standing {
        Standing::Stopped(code) => member.restarts_after(*code),
        _ => false,
    };
    if regular.iter().any(restarts) {
        // All are between two runs, or over.
        return "Running";
    }
    if succeeded { "Succeeded" } else { "Failed" }
}

fn standings<'a>(
    members: &'a [Member<'_>],
    kind: Kind,
    statuses: Option<&'a [ContainerStatus]>,
) -> impl Iterator<Item = (&'a Member<'a>, Standing)> {
    let of = move |m: &Member<'_>| statuses.into_iter().flatten().find(|s| s.name == m.name());
    members.iter().filter(move |m| m.kind == kind).map(move |m| (m, of(m).map_or(Standing::Unknown, standing)))
}

fn standing(status: &ContainerStatus) -> Standing {
    let Some(state) = &status.state else {
        return Standing::Unknown;
    };
    if state.running.is_some() {
        return Standing::Running;
    }
    if let Some(terminated) = &state.terminated {
        return Standing::Stopped(terminated.exit_code);
    }
    if state.waiting.is_none() {
        return Standing::Unknown;
    }
    match status.last_state.as_ref().and_then(|s| s.terminated.as_ref()) {
        Some(terminated) => Standing::Stopped(terminated.exit_code),
        None => Standing::Waiting,
    }
}
