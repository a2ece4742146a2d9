//! The phase of a pod, from its containers' statuses.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::containers::{Kind, Member, RestartPolicy, restart_policy};

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
pub(super) fn phase(pod: &Pod, members: &[Member<'_>], status: &PodStatus, over: bool) -> &'static str {
    let policy = restart_policy(pod);
    let mut init_pending = false;
    let mut init_failed = false;
    for (_, standing) in standings(members, Kind::Init, status.init_container_statuses.as_deref()) {
        match standing {
            Standing::Stopped(0) => {}
            Standing::Stopped(_) => init_failed = true,
            Standing::Running | Standing::Waiting | Standing::Unknown => init_pending = true,
        }
    }
    if init_failed && (policy == RestartPolicy::Never || over) {
        return "Failed";
    }

    let regular: Vec<_> =
        standings(members, Kind::Regular, status.container_statuses.as_deref()).map(|(_, s)| s).collect();
    let any = |which: fn(&Standing) -> bool| regular.iter().any(which);
    let unknown = any(|s| *s == Standing::Unknown);
    if over {
        let all_succeeded = !regular.is_empty() && regular.iter().all(|s| *s == Standing::Stopped(0));
        return if all_succeeded && !init_pending { "Succeeded" } else { "Failed" };
    }
    if init_pending || any(|s| *s == Standing::Waiting) || unknown || regular.is_empty() {
        return "Pending";
    }
    if any(|s| *s == Standing::Running) {
        return "Running";
    }
    let succeeded = regular.iter().all(|s| *s == Standing::Stopped(0));
    match policy {
        // All are between two runs.
        RestartPolicy::Always => "Running",
        _ if succeeded => "Succeeded",
        RestartPolicy::Never => "Failed",
        RestartPolicy::OnFailure => "Running",
    }
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
