//! Ends of pods and containers: the time a pod may be active, and what containers said last.

use super::{turns::run, *};

/// A pod that began at 0 and may be active for 60 seconds.
fn limited(policy: &str) -> Pod {
    let mut pod = pod(policy, &[], &["a"]);
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
    pod.status =
        Some(serde_json::from_value(json!({"phase": "Running", "startTime": "2027-01-15T08:00:00Z"})).unwrap());
    pod
}

fn told(pod: &Pod, seen: &Observation, now: i64) -> (String, Option<String>) {
    let status = status(pod, &Goal::Run, seen, &Memory::default(), &node(), at(now));
    (status.phase.unwrap(), status.reason)
}

#[test]
fn a_pod_is_ended_when_it_was_active_for_too_long() {
    let pod = limited("Always");
    let mut seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = Memory::default();
    run(&pod, &seen, &memory, 20, "wake 60");
    run(&pod, &seen, &memory, 60, "kill a0 30s");
    assert_eq!(told(&pod, &seen, 60), ("Running".into(), None));
    seen.containers[0] = container("a", "s0", 0, exited(0, 61));
    run(&pod, &seen, &memory, 61, "stop s0");
    assert_eq!(told(&pod, &seen, 61), ("Running".into(), None));
    seen.sandboxes[0].state = SandboxState::NotReady;
    memory.stopped.insert("s0".into());
    run(&pod, &seen, &memory, 62, "release");
    assert_eq!(told(&pod, &seen, 62), ("Failed".into(), Some("DeadlineExceeded".into())));
}

fn evicted(disrupted: bool) -> Goal {
    let ending = Ending { reason: "Evicted".into(), message: "too much".into(), disrupted };
    Goal::End { kill_at: at(11), ending }
}

#[test]
fn a_pod_that_the_node_ends_fails_when_nothing_of_it_runs() {
    let (mut pod, goal) = (limited("Always"), evicted(false));
    let mut seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = Memory::default();
    let told = |pod: &Pod, seen: &Observation, now| {
        let status = status(pod, &evicted(false), seen, &Memory::default(), &node(), at(now));
        (status.phase.clone().unwrap(), status.reason.clone(), status)
    };
    turns::check(&pod, &goal, &seen, &memory, 10, "kill a0 2s");
    assert_eq!(told(&pod, &seen, 10).0, "Running");
    seen.containers[0] = container("a", "s0", 0, exited(0, 11));
    turns::check(&pod, &goal, &seen, &memory, 11, "stop s0");
    seen.sandboxes[0].state = SandboxState::NotReady;
    memory.stopped.insert("s0".into());
    turns::check(&pod, &goal, &seen, &memory, 12, "release");
    let (phase, reason, status) = told(&pod, &seen, 12);
    assert_eq!((&*phase, reason.as_deref(), status.message.as_deref()), ("Failed", Some("Evicted"), Some("too much")));
    seen.resources = Resources::Released;
    pod.status = Some(status);
    // Its records stay, for this agent and the next one, which knows of no end.
    for goal in [goal, Goal::Run] {
        turns::check(&pod, &goal, &seen, &memory, 13, "settled");
    }
    assert_eq!(told(&pod, &seen, 90).1.as_deref(), Some("Evicted"));
}

#[test]
fn a_victim_is_told_from_a_culprit() {
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let disrupted = |pod: &Pod, goal: &Goal, now| {
        let status = status(pod, goal, &seen, &Memory::default(), &node(), at(now));
        let all = status.conditions.unwrap().into_iter();
        all.filter(|c| c.type_ == "DisruptionTarget").map(|c| (c.reason, c.last_transition_time)).collect::<Vec<_>>()
    };
    let mut pod = limited("Always");
    assert_eq!(disrupted(&pod, &evicted(false), 10), []);
    let first = disrupted(&pod, &evicted(true), 10);
    assert_eq!(first[0].0.as_deref(), Some("TerminationByKubelet"));
    pod.status = Some(status(&pod, &evicted(true), &seen, &Memory::default(), &node(), at(10)));
    assert_eq!(disrupted(&pod, &evicted(true), 20), first);
}

#[test]
fn a_deadline_says_nothing_of_a_pod_that_has_ended_or_not_begun() {
    let mut pod = limited("Never");
    pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let seen = in_sandbox(vec![container("a", "s0", 0, exited(0, 20))]);
    assert_eq!(told(&pod, &seen, 100), ("Succeeded".into(), None));
    pod.status = None;
    run(&pod, &Observation::default(), &Memory::default(), 100, "inspect a, prepare");
}

#[test]
fn a_container_that_ends_by_the_deadline_is_not_said_to_wait_for_its_next_run() {
    let pod = limited("Always");
    let seen = in_sandbox(vec![container("a", "s0", 0, exited(137, 61))]);
    let mut memory = Memory::default();
    let key = members(&pod)[0].back_off_key();
    memory.crashes.insert("a".into(), BackOff { key, wait: std::time::Duration::from_secs(300), updated_at: at(15) });
    let status = status(&pod, &Goal::Run, &seen, &memory, &node(), at(62));
    assert!(status.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.is_some());
}

fn said(name: &str, message: &str) -> ContainerSeen {
    let mut seen = container(name, "s0", 0, exited(1, 20));
    if let ContainerState::Exited(exit) = &mut seen.state {
        exit.message = message.into();
    }
    seen
}

#[test]
fn last_words_share_twelve_kibibytes_and_are_not_cut_within_a_character() {
    let pod = pod("Never", &[], &["a", "b", "c"]);
    let seen = in_sandbox(vec![
        said("a", &"é".repeat(4000)),
        said("b", "short"),
        said("c", &format!("x{}", "é".repeat(4000))),
    ]);
    let status = status(&pod, &Goal::Run, &seen, &Memory::default(), &node(), at(30));
    let lengths: Vec<_> = status.container_statuses.unwrap().iter().map(|s| message(s).unwrap().len()).collect();
    assert_eq!(lengths, [4096, 5, 4095]);
}

#[test]
fn last_words_that_were_published_stay_when_their_file_is_gone() {
    let mut pod = pod("Never", &[], &["a"]);
    let once = in_sandbox(vec![said("a", "no luck")]);
    pod.status = Some(status(&pod, &Goal::Run, &once, &Memory::default(), &node(), at(30)));
    let later = in_sandbox(vec![said("a", "")]);
    let status = status(&pod, &Goal::Run, &later, &Memory::default(), &node(), at(40));
    assert_eq!(message(&status.container_statuses.unwrap()[0]).as_deref(), Some("no luck"));
}

fn message(status: &k8s_openapi::api::core::v1::ContainerStatus) -> Option<String> {
    status.state.as_ref()?.terminated.as_ref()?.message.clone()
}
