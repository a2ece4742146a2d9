//! The status of a pod, from what was seen and remembered, and from the status published before.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    Goal, Kind, Memory, NodeFacts, Observation, Refusal, SandboxState,
    conditions::{conditions, disrupted},
    container_status::{container_status, lost},
    containers::members,
    deadline,
    decide::Turn,
    phase::{is_terminal_phase, phase},
    sandbox::{self, Verdict, is_host_network},
};

/// What is true of a pod now. `pod.status` is the last published status: terminal phases, start time, transition times
/// and the conditions of others are carried over from it.
pub fn status(
    pod: &Pod,
    goal: &Goal,
    seen: &Observation,
    memory: &Memory,
    node: &NodeFacts,
    now: Timestamp,
) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    if let Goal::Refuse(refusal) = goal {
        return refused(pod, refusal, seen, old, now);
    }
    if ended_before_it_began(&old, seen) {
        return PodStatus { observed_generation: pod.metadata.generation, ..old };
    }
    let turn = Turn { pod, members: members(pod), seen, memory, node, now };
    let mut status = PodStatus {
        qos_class: Some(crate::qos::class(pod).name().to_owned()),
        start_time: Some(old.start_time.clone().unwrap_or(Time(now))),
        observed_generation: pod.metadata.generation,
        init_container_statuses: statuses(
            &turn,
            goal,
            &[Kind::Init, Kind::Sidecar],
            old.init_container_statuses.as_deref(),
        ),
        container_statuses: statuses(&turn, goal, &[Kind::Regular], old.container_statuses.as_deref()),
        nominated_node_name: old.nominated_node_name.clone(),
        resize: old.resize.clone(),
        resources: pod.spec.as_ref().and_then(|spec| spec.resources.clone()),
        allocated_resources: pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.clone()),
        ephemeral_container_statuses: statuses(
            &turn,
            goal,
            &[Kind::Ephemeral],
            old.ephemeral_container_statuses.as_deref(),
        ),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        ..Default::default()
    };
    addresses(&turn, &old, &mut status);

    let over = is_over(&turn, goal);
    if over {
        mark_lost(&mut status);
    }
    bound_messages(&mut status);
    let computed = phase(&turn.members, &status, over);
    let before = || old.phase.clone().unwrap_or_else(|| "Pending".to_owned());
    let ended = ended(&turn, goal);
    let phase = match old.phase.as_deref().filter(|p| is_terminal_phase(Some(p))) {
        Some(terminal) => terminal.to_owned(),
        None => match ended {
            Some((reason, message)) if over => {
                (status.reason, status.message) = (Some(reason.to_owned()), Some(message.to_owned()));
                "Failed".to_owned()
            }
            // It fails when nothing of it runs any more, whatever its containers' ends look like meanwhile.
            Some(_) => before(),
            None if is_terminal_phase(Some(computed)) && may_run(seen) => before(),
            None => computed.to_owned(),
        },
    };
    if old.phase.as_deref() == Some(&phase) {
        // They tell why the pod is in this phase.
        (status.reason, status.message) = (old.reason.clone(), old.message.clone());
    }
    status.phase = Some(phase);
    let serves = matches!(sandbox::judge(pod, seen), Verdict::Current(_));
    let mut conditions = conditions(pod, &turn.members, &status, serves, now);
    if let Goal::End { ending, .. } = goal
        && ending.disrupted
    {
        disrupted(&mut conditions, &ending.message, pod.metadata.generation, now);
    }
    status.conditions = Some(conditions);
    status
}

/// Why the pod is ended, if it is not its own end.
fn ended<'a>(turn: &Turn<'_>, goal: &'a Goal) -> Option<(&'a str, &'a str)> {
    match goal {
        Goal::End { ending, .. } => Some((&ending.reason, &ending.message)),
        Goal::Run if turn.is_past_deadline() => Some(deadline::EXCEEDED),
        _ => None,
    }
}

/// Bytes of termination messages in the status of a pod: each container has an equal part of them.
const MESSAGES_MAX: usize = 12 << 10;

/// Cuts the containers' last words to what a status may carry.
fn bound_messages(status: &mut PodStatus) {
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    let mut all: Vec<_> = lists.into_iter().flatten().flatten().collect();
    let part = MESSAGES_MAX / all.len().max(1);
    for state in all.iter_mut().flat_map(|s| [&mut s.state, &mut s.last_state]) {
        if let Some(message) = state.as_mut().and_then(|s| s.terminated.as_mut()).and_then(|t| t.message.as_mut()) {
            message.truncate(message.floor_char_boundary(part));
        }
    }
}

/// The status of a pod that this node does not take.
fn refused(pod: &Pod, refusal: &Refusal, seen: &Observation, old: PodStatus, now: Timestamp) -> PodStatus {
    if may_run(seen) {
        // It fails when nothing of it runs any more.
        return old;
    }
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(refusal.reason.clone()),
        message: Some(format!("Pod was rejected: {}", refusal.message)),
        qos_class: Some(crate::qos::class(pod).name().to_owned()),
        start_time: Some(old.start_time.clone().unwrap_or(Time(now))),
        observed_generation: pod.metadata.generation,
        ..old
    }
}

/// Whether the pod was refused, by this agent or one before it: there is nothing more to tell of it than was told then.
fn ended_before_it_began(old: &PodStatus, seen: &Observation) -> bool {
    let untraced = old.container_statuses.is_none() && old.init_container_statuses.is_none();
    let unseen = seen.containers.is_empty() && seen.sandboxes.is_empty();
    is_terminal_phase(old.phase.as_deref()) && untraced && unseen
}

/// Whether a container of the pod runs, or may.
fn may_run(seen: &Observation) -> bool {
    seen.containers.iter().any(super::ContainerSeen::may_run)
}

/// Whether nothing of the pod runs and nothing will: it has been stopped, or its sandbox was lost under a policy that
/// does not begin again. The kubelet leaves a pod of the latter kind pending for ever; here it fails.
fn is_over(turn: &Turn<'_>, goal: &Goal) -> bool {
    let seen = turn.seen;
    let quiet = !may_run(seen) && seen.sandboxes.iter().all(|s| s.state == SandboxState::NotReady);
    match goal {
        Goal::Stop { .. } => quiet && !is_static(turn.pod),
        Goal::End { .. } => quiet,
        Goal::Run if turn.is_past_deadline() => quiet,
        _ => quiet && super::start::is_abandoned(turn),
    }
}

/// Whether the pod comes from a file: it is not forced into a terminal phase when it is stopped, since its next
/// version takes its place.
pub fn is_static(pod: &Pod) -> bool {
    let source = pod.metadata.annotations.as_ref().and_then(|a| a.get("kubernetes.io/config.source"));
    source.is_some_and(|source| source != "api")
}

fn statuses(
    turn: &Turn<'_>,
    goal: &Goal,
    kinds: &[Kind],
    old: Option<&[ContainerStatus]>,
) -> Option<Vec<ContainerStatus>> {
    let has_init = turn.members.iter().any(|m| m.kind.is_init());
    let old_of = |name: &str| old.into_iter().flatten().find(|s| s.name == name);
    let of_kind = turn.members.iter().filter(|m| kinds.contains(&m.kind));
    let mut all: Vec<_> = of_kind.map(|m| container_status(turn, goal, m, old_of(m.name()), has_init)).collect();
    if !kinds.iter().any(|kind| kind.is_init()) {
        // Init containers stay in the order in which they run.
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }
    (!all.is_empty()).then_some(all)
}

/// In a pod that is over, a container without an end was lost, if it can have run: every regular one once the pod was
/// initialised, and every init container up to the last one that left a trace.
fn mark_lost(status: &mut PodStatus) {
    let traced = |s: &ContainerStatus| {
        let ended = |s: &Option<_>| {
            s.as_ref().is_some_and(|s: &k8s_openapi::api::core::v1::ContainerState| {
                s.terminated.is_some() || s.running.is_some()
            })
        };
        ended(&s.state) || ended(&s.last_state)
    };
    let inits = status.init_container_statuses.as_deref_mut().unwrap_or_default();
    let regulars = status.container_statuses.as_deref_mut().unwrap_or_default();
    let initialized = regulars.iter().any(traced) || (!inits.is_empty() && inits.iter().all(|s| s.ready));
    let ran = if initialized { inits.len() } else { inits.iter().rposition(traced).map_or(0, |last| last + 1) };
    inits[..ran].iter_mut().for_each(lost);
    if initialized {
        regulars.iter_mut().for_each(lost);
    }
    status.ephemeral_container_statuses.iter_mut().flatten().filter(|s| traced(s)).for_each(lost);
}

fn addresses(turn: &Turn<'_>, old: &PodStatus, status: &mut PodStatus) {
    let hosts: Vec<String> = turn.node.host_ips.iter().map(IpAddr::to_string).collect();
    status.host_ip = hosts.first().cloned();
    status.host_ips = (!hosts.is_empty()).then(|| hosts.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let seen = match sandbox::judge(turn.pod, turn.seen) {
        Verdict::Current(_) if is_host_network(turn.pod) => hosts,
        Verdict::Current(current) => current.ips.iter().map(IpAddr::to_string).collect(),
        Verdict::Needed { .. } => Vec::new(),
    };
    if seen.is_empty() {
        // A pod without a sandbox keeps the address it had: it is what its logs and its peers know it by.
        (status.pod_ip, status.pod_ips) = (old.pod_ip.clone(), old.pod_ips.clone());
    } else {
        status.pod_ip = seen.first().cloned();
        status.pod_ips = Some(seen.into_iter().map(|ip| PodIP { ip }).collect());
    }
}
