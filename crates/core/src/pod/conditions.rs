//! The conditions of a pod, with the kubelet's reasons and messages, in the kubelet's order.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::containers::{Kind, Member};

/// The types of conditions that a node writes. Others in the list belong to somebody else and stay.
pub const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// A condition's status before it has a time.
struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn new(kind: &'static str, holds: bool) -> Verdict {
        Verdict { kind, holds, reason: None, message: None }
    }

    fn because(self, reason: &'static str, message: Option<String>) -> Verdict {
        Verdict { reason: Some(reason), message, ..self }
    }
}

/// All conditions of a pod: those of others as they are, then ours. A condition whose status is the old one's keeps its
/// time.
pub(super) fn conditions(
    pod: &Pod,
    members: &[Member<'_>],
    status: &PodStatus,
    sandbox_serves: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let old = || pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut all: Vec<_> = old().filter(|c| !OURS.contains(&c.type_.as_str())).cloned().collect();
    let containers_ready = containers_ready(members, status);
    let ours = [
        Verdict::new("PodReadyToStartContainers", sandbox_serves),
        initialized(members, status),
        ready(pod, &containers_ready, &all),
        containers_ready,
        Verdict::new("PodScheduled", true),
    ];
    for verdict in ours {
        let word = if verdict.holds { "True" } else { "False" };
        let since =
            old().find(|c| c.type_ == verdict.kind && c.status == word).and_then(|c| c.last_transition_time.clone());
        all.push(PodCondition {
            type_: verdict.kind.to_owned(),
            status: word.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_transition_time: Some(since.unwrap_or(Time(now))),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    all
}

/// Says that the node ends the pod for reasons that are not the pod's. One that somebody else has set stays.
pub(super) fn disrupted(all: &mut Vec<PodCondition>, message: &str, generation: Option<i64>, now: Timestamp) {
    if all.iter().any(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True") {
        return;
    }
    all.retain(|condition| condition.type_ != "DisruptionTarget");
    all.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        last_probe_time: None,
        observed_generation: generation,
    });
}

fn initialized(members: &[Member<'_>], status: &PodStatus) -> Verdict {
    let verdict = |holds| Verdict::new("Initialized", holds);
    let statuses = status.init_container_statuses.as_deref();
    let (unknown, incomplete) = lacking(members, statuses, |kind| match kind {
        Kind::Init => Some(|s| s.ready),
        Kind::Sidecar => Some(|s| s.started == Some(true)),
        Kind::Regular | Kind::Ephemeral => None,
    });
    if status.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return verdict(true).because("PodCompleted", None);
    }
    let started = |s: &ContainerStatus| {
        s.started == Some(true) || s.state.as_ref().is_some_and(|s| s.terminated.is_some() || s.running.is_some())
    };
    if status.container_statuses.iter().flatten().any(started) {
        return verdict(true);
    }
    match message(&unknown, "incomplete", &incomplete) {
        Some(message) => verdict(false).because("ContainersNotInitialized", Some(message)),
        None => verdict(true),
    }
}

fn containers_ready(members: &[Member<'_>], status: &PodStatus) -> Verdict {
    let verdict = |holds| Verdict::new("ContainersReady", holds);
    let of_kind = |wanted: Kind, statuses| lacking(members, statuses, |kind| (kind == wanted).then_some(|s| s.ready));
    let (mut unknown, mut unready) = of_kind(Kind::Sidecar, status.init_container_statuses.as_deref());
    let (unknown_too, unready_too) = of_kind(Kind::Regular, status.container_statuses.as_deref());
    unknown.extend(unknown_too);
    unready.extend(unready_too);
    match status.phase.as_deref() {
        Some("Succeeded") if unknown.is_empty() => {
            return verdict(false).because("PodCompleted", None);
        }
        Some("Failed") => return verdict(false).because("PodFailed", None),
        _ => {}
    }
    match message(&unknown, "unready", &unready) {
        Some(message) => verdict(false).because("ContainersNotReady", Some(message)),
        None => verdict(true),
    }
}

fn ready(pod: &Pod, containers: &Verdict, others: &[PodCondition]) -> Verdict {
    if !containers.holds {
        return Verdict { kind: "Ready", holds: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let closed: Vec<_> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match others.iter().find(|c| c.type_ == *kind) {
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    let verdict = Verdict::new("Ready", closed.is_empty());
    if closed.is_empty() { verdict } else { verdict.because("ReadinessGatesNotReady", Some(closed.join(", "))) }
}

/// What is asked of the status of a container.
type Asked = fn(&ContainerStatus) -> bool;

/// The names of the containers without a status, and of those whose status lacks what is asked of their kind.
fn lacking<'a>(
    members: &[Member<'a>],
    statuses: Option<&[ContainerStatus]>,
    asked: impl Fn(Kind) -> Option<Asked>,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut lacking) = (Vec::new(), Vec::new());
    for member in members {
        let Some(asked) = asked(member.kind) else { continue };
        match statuses.into_iter().flatten().find(|s| s.name == member.name()) {
            None => unknown.push(member.name()),
            Some(status) if !asked(status) => lacking.push(member.name()),
            Some(_) => {}
        }
    }
    (unknown, lacking)
}

fn message(unknown: &[&str], what: &str, lacking: &[&str]) -> Option<String> {
    let part = |what: &str, names: &[&str]| {
        (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
    };
    let parts: Vec<_> = [part("unknown", unknown), part(what, lacking)].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
