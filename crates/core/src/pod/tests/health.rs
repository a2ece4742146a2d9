//! Probes: which are made, when a result counts, and what follows.

use serde_json::Value;

use super::*;

/// A pod of one container `a` with these probes.
fn probed(policy: &str, probes: &Value) -> Pod {
    let mut pod = serde_json::to_value(pod(policy, &[], &["a"])).expect("a pod");
    let container = pod["spec"]["containers"][0].as_object_mut().expect("a container");
    container.extend(probes.as_object().expect("probes").clone());
    serde_json::from_value(pod).expect("a pod")
}

fn all_three() -> Pod {
    probed(
        "Always",
        &json!({
            "startupProbe": {"exec": {"command": ["s"]}, "initialDelaySeconds": 3, "failureThreshold": 2},
            "livenessProbe": {"exec": {"command": ["l"]}, "initialDelaySeconds": 5, "terminationGracePeriodSeconds": 90},
            "readinessProbe": {"exec": {"command": ["r"]}, "successThreshold": 2, "failureThreshold": 2},
        }),
    )
}

fn one_running() -> Observation {
    in_sandbox(vec![container("a", "s0", 0, running())])
}

/// Tells results of a probe of `a0`; true if the last one made a difference.
fn tell(memory: &mut Memory, pod: &Pod, kind: ProbeKind, results: &[bool]) -> bool {
    results.iter().fold(false, |_, success| memory.probed(pod, "a", "a0", kind, *success))
}

fn watched(pod: &Pod, goal: &Goal, seen: &Observation, memory: &Memory) -> Vec<(ProbeKind, i64)> {
    let watches = watches(pod, goal, seen, memory);
    watches.iter().map(|w| (w.kind, w.first_at.as_second() - at(0).as_second())).collect()
}

/// Started and ready, as published.
fn told(pod: &Pod, seen: &Observation, memory: &Memory) -> (bool, bool) {
    let status = status(pod, &Goal::Run, seen, memory, &node(), at(100));
    let container = &status.container_statuses.expect("statuses")[0];
    (container.started.expect("started"), container.ready)
}

fn kills(pod: &Pod, seen: &Observation, memory: &Memory) -> Vec<(KillReason, u64, String)> {
    let decision = decide(pod, &Goal::Run, seen, memory, &node(), at(100));
    crate::invariants::check_decision(pod, &Goal::Run, seen, &decision, at(100)).expect("invariants hold");
    let of = |action: Action| match action {
        Action::KillContainer { reason, grace, message, .. } => Some((reason, grace.as_secs(), message)),
        _ => None,
    };
    decision.actions.into_iter().filter_map(of).collect()
}

const GONE: Goal = Goal::Stop { kill_at: Timestamp::UNIX_EPOCH, last: LastStep::Nothing };

#[test]
fn the_others_wait_for_the_startup_probe_and_delays_count_from_the_start() {
    let (pod, seen, mut memory) = (all_three(), one_running(), Memory::default());
    assert_eq!(watched(&pod, &Goal::Run, &seen, &memory), [(ProbeKind::Startup, 13)]);
    assert_eq!(told(&pod, &seen, &memory), (false, false));
    assert!(!tell(&mut memory, &pod, ProbeKind::Startup, &[false]));
    assert_eq!(watched(&pod, &Goal::Run, &seen, &memory), [(ProbeKind::Startup, 13)]);
    assert!(tell(&mut memory, &pod, ProbeKind::Startup, &[true]));
    let both = [(ProbeKind::Liveness, 15), (ProbeKind::Readiness, 10)];
    assert_eq!(watched(&pod, &Goal::Run, &seen, &memory), both);
    assert_eq!(told(&pod, &seen, &memory), (true, false));
}

#[test]
fn a_result_counts_when_it_came_often_enough_in_a_row() {
    let (pod, seen, mut memory) = (all_three(), one_running(), Memory::default());
    tell(&mut memory, &pod, ProbeKind::Startup, &[true]);
    assert!(!tell(&mut memory, &pod, ProbeKind::Readiness, &[true, false, true]));
    assert_eq!(told(&pod, &seen, &memory), (true, false));
    assert!(tell(&mut memory, &pod, ProbeKind::Readiness, &[true]));
    assert_eq!(told(&pod, &seen, &memory), (true, true));
    assert!(!tell(&mut memory, &pod, ProbeKind::Readiness, &[true, false, true, false]));
    assert_eq!(told(&pod, &seen, &memory), (true, true));
    assert!(tell(&mut memory, &pod, ProbeKind::Readiness, &[false]));
    assert_eq!(told(&pod, &seen, &memory), (true, false));
}

#[test]
fn three_failures_of_liveness_stop_a_container_with_the_probes_own_grace() {
    let (pod, seen, mut memory) = (all_three(), one_running(), Memory::default());
    tell(&mut memory, &pod, ProbeKind::Startup, &[true]);
    assert!(!tell(&mut memory, &pod, ProbeKind::Liveness, &[false, false]));
    assert_eq!(kills(&pod, &seen, &memory), []);
    assert!(tell(&mut memory, &pod, ProbeKind::Liveness, &[false]));
    let message = "Container a failed liveness probe, will be restarted".to_owned();
    assert_eq!(kills(&pod, &seen, &memory), [(KillReason::LivenessFailed, 90, message)]);
    // It is not asked again; whether it serves still is.
    assert_eq!(watched(&pod, &Goal::Run, &seen, &memory), [(ProbeKind::Readiness, 10)]);
}

#[test]
fn a_container_that_does_not_start_is_stopped_with_the_pods_grace() {
    let (pod, seen, mut memory) = (all_three(), one_running(), Memory::default());
    assert!(tell(&mut memory, &pod, ProbeKind::Startup, &[false, false]));
    let message = "Container a failed startup probe, will be restarted".to_owned();
    assert_eq!(kills(&pod, &seen, &memory), [(KillReason::StartupFailed, 30, message)]);
    assert_eq!(watched(&pod, &Goal::Run, &seen, &memory), []);
}

#[test]
fn a_container_that_is_never_restarted_is_not_said_to_be() {
    let pod = probed("Never", &json!({"livenessProbe": {"exec": {"command": ["l"]}, "failureThreshold": 1}}));
    let mut memory = Memory::default();
    assert!(tell(&mut memory, &pod, ProbeKind::Liveness, &[false]));
    let message = "Container a failed liveness probe".to_owned();
    assert_eq!(kills(&pod, &one_running(), &memory), [(KillReason::LivenessFailed, 30, message)]);
}

#[test]
fn the_next_instance_is_judged_by_its_own_probes() {
    let (pod, mut memory) = (all_three(), Memory::default());
    tell(&mut memory, &pod, ProbeKind::Startup, &[false, false]);
    let next = in_sandbox(vec![container("a", "s0", 0, exited(137, 50)), container("a", "s0", 1, running())]);
    assert_eq!(kills(&pod, &next, &memory), []);
    assert_eq!(watched(&pod, &Goal::Run, &next, &memory), [(ProbeKind::Startup, 13)]);
    memory.saw(&in_sandbox(vec![container("a", "s0", 1, running())]));
    assert_eq!(memory.health, [].into());
}

#[test]
fn only_readiness_is_asked_for_while_a_pod_is_stopped() {
    let (pod, seen, mut memory) = (all_three(), one_running(), Memory::default());
    assert_eq!(watched(&pod, &GONE, &seen, &memory), []);
    tell(&mut memory, &pod, ProbeKind::Startup, &[true]);
    assert_eq!(watched(&pod, &GONE, &seen, &memory), [(ProbeKind::Readiness, 10)]);
    let resting = Goal::Rest { kill_at: at(0) };
    assert_eq!(watched(&pod, &resting, &seen, &memory), []);
}

#[test]
fn an_agent_that_begins_anew_makes_nobody_unready() {
    let (mut pod, seen, mut memory) = (all_three(), one_running(), Memory::default());
    tell(&mut memory, &pod, ProbeKind::Startup, &[true]);
    tell(&mut memory, &pod, ProbeKind::Readiness, &[true, true]);
    pod.status = Some(status(&pod, &Goal::Run, &seen, &memory, &node(), at(20)));
    let mut new = Memory::default();
    assert_eq!(told(&pod, &seen, &new), (true, true));
    let both = [(ProbeKind::Liveness, 15), (ProbeKind::Readiness, 10)];
    assert_eq!(watched(&pod, &Goal::Run, &seen, &new), both);
    // What it hears counts as ever.
    assert!(tell(&mut new, &pod, ProbeKind::Readiness, &[false, false]));
    assert_eq!(told(&pod, &seen, &new), (true, false));
    // What was published of one instance says nothing of the next.
    let next = in_sandbox(vec![container("a", "s0", 1, running())]);
    assert_eq!(told(&pod, &next, &Memory::default()), (false, false));
}

#[test]
fn without_probes_a_container_that_runs_is_ready() {
    let pod = pod("Always", &[], &["a"]);
    assert_eq!(told(&pod, &one_running(), &Memory::default()), (true, true));
    assert_eq!(watched(&pod, &Goal::Run, &one_running(), &Memory::default()), []);
    assert!(!Memory::default().probed(&pod, "a", "a0", ProbeKind::Liveness, false));
}

#[test]
fn a_pod_is_ready_when_its_gates_are_open_too() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "example.com/open".into() }]);
    let ready = |pod: &Pod| {
        let status = status(pod, &Goal::Run, &one_running(), &Memory::default(), &node(), at(100));
        let conditions = status.conditions.expect("conditions");
        let of = |kind: &str| conditions.iter().find(|c| c.type_ == kind).expect("the condition").clone();
        let (ready, containers) = (of("Ready"), of("ContainersReady"));
        assert_eq!(containers.status, "True");
        (ready.status, ready.reason.unwrap_or_default(), ready.message.unwrap_or_default())
    };
    let closed = |message: &str| ("False".to_owned(), "ReadinessGatesNotReady".to_owned(), message.to_owned());
    assert_eq!(
        ready(&pod),
        closed("corresponding condition of pod readiness gate \"example.com/open\" does not exist.")
    );
    let said = |word: &str| json!({"conditions": [{"type": "example.com/open", "status": word}]});
    pod.status = Some(serde_json::from_value(said("False")).expect("a status"));
    assert_eq!(ready(&pod), closed("the status of pod readiness gate \"example.com/open\" is not \"True\", but False"));
    pod.status = Some(serde_json::from_value(said("True")).expect("a status"));
    assert_eq!(ready(&pod), ("True".to_owned(), String::new(), String::new()));
}
