//! Lifecycle hooks: what waits for them, and what they cost.

use super::{
    turns::{check, run, stop_at},
    *,
};

/// A pod whose containers, sidecars among them, have both hooks.
fn hooked(policy: &str, inits: &[&str], regulars: &[&str]) -> Pod {
    let mut pod = serde_json::to_value(pod(policy, inits, regulars)).unwrap();
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let hook = json!({"sleep": {"seconds": 1}});
            container["lifecycle"] = json!({"postStart": hook, "preStop": hook});
        }
    }
    serde_json::from_value(pod).unwrap()
}

/// A memory that has just heard of the start of these containers.
fn started(names: &[&str]) -> Memory {
    let mut memory = images(&["a", "b", "s"]);
    for name in names {
        let start = Action::StartContainer {
            container: (*name).to_owned(),
            sandbox_id: "s0".into(),
            restart_count: 0,
            image_ref: "x".into(),
            target: None,
            post_start: true,
            crash: None,
        };
        memory.ended(&start, &Ok(Outcome::Started { id: format!("{name}0") }), at(10));
    }
    memory
}

fn post_start(name: &str) -> Action {
    Action::PostStart { id: format!("{name}0"), container: name.into() }
}

fn failure() -> Failure {
    Failure { reason: "PostStartHookError".into(), message: "no".into() }
}

#[test]
fn the_next_container_waits_for_the_hook_of_the_one_before() {
    let pod = hooked("Always", &[], &["a", "b"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = started(&["a"]);
    memory.images.extend(images(&["b"]).images);
    run(&pod, &seen, &memory, 11, "post-start a0");
    memory.ended(&post_start("a"), &Ok(Outcome::Done), at(12));
    run(&pod, &seen, &memory, 12, "start b#0");
}

#[test]
fn a_sidecar_has_started_when_its_hook_has_ended() {
    let pod = hooked("Always", &["s"], &["a"]);
    let seen = in_sandbox(vec![container("s", "s0", 0, running())]);
    let mut memory = started(&["s"]);
    run(&pod, &seen, &memory, 11, "post-start s0");
    memory.ended(&post_start("s"), &Ok(Outcome::Done), at(12));
    run(&pod, &seen, &memory, 12, "start a#0");
}

#[test]
fn a_container_whose_hook_runs_is_still_being_created() {
    let pod = hooked("Always", &[], &["a"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = started(&["a"]);
    let of = |memory: &Memory| {
        let status = status(&pod, &Goal::Run, &seen, memory, &node(), at(11));
        let container = status.container_statuses.unwrap().remove(0);
        let waits_for = container.state.unwrap().waiting.map(|w| w.reason.unwrap());
        (status.phase.unwrap(), waits_for, container.ready)
    };
    assert_eq!(of(&memory), ("Pending".into(), Some("ContainerCreating".into()), false));
    memory.ended(&post_start("a"), &Ok(Outcome::Done), at(12));
    assert_eq!(of(&memory), ("Running".into(), None, true));
}

#[test]
fn a_container_whose_hook_failed_is_stopped_and_says_why_it_waits() {
    let mut pod = hooked("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().containers[0].lifecycle.as_mut().unwrap().pre_stop = None;
    let mut seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = started(&["a"]);
    memory.ended(&post_start("a"), &Err(failure()), at(12));
    run(&pod, &seen, &memory, 12, "kill a0 30s");
    seen.containers[0] = container("a", "s0", 0, exited(143, 13));
    let status = status(&pod, &Goal::Run, &seen, &memory, &node(), at(14));
    let waiting = status.container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap();
    assert_eq!((waiting.reason.as_deref(), waiting.message.as_deref()), (Some("PostStartHookError"), Some("no")));
    run(&pod, &seen, &memory, 14, "wake 22");
}

#[test]
fn a_hook_that_was_under_way_when_the_agent_died_is_not_run_again() {
    let pod = hooked("Always", &[], &["a"]);
    let text = serde_json::to_string(&started(&["a"])).unwrap();
    let memory: Memory = serde_json::from_str(&text).unwrap();
    run(&pod, &in_sandbox(vec![container("a", "s0", 0, running())]), &memory, 11, "settled");
}

#[test]
fn a_pre_stop_hook_comes_first_and_its_time_is_paid_from_the_grace() {
    let pod = hooked("Always", &[], &["a", "b"]);
    let mut seen = in_sandbox(vec![container("a", "s0", 0, running()), container("b", "s0", 0, running())]);
    let mut memory = Memory::default();
    check(&pod, &stop_at(50), &seen, &memory, 20, "pre-stop a0, pre-stop b0, wake 50");
    let pre_stop = |name: &str| Action::PreStop {
        id: format!("{name}0"),
        container: name.into(),
        reason: KillReason::PodStopped,
        message: String::new(),
        deadline: at(50),
    };
    // Whether it succeeds or not.
    memory.ended(&pre_stop("a"), &Err(failure()), at(27));
    check(&pod, &stop_at(50), &seen, &memory, 27, "kill a0 23s, pre-stop b0, wake 50");
    memory.ended(&pre_stop("b"), &Ok(Outcome::Done), at(30));
    seen.containers[0] = container("a", "s0", 0, exited(0, 29));
    check(&pod, &stop_at(50), &seen, &memory, 30, "kill b0 20s");
}

#[test]
fn a_pre_stop_hook_is_given_up_when_the_grace_is_over() {
    let pod = hooked("Always", &[], &["a"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    check(&pod, &stop_at(50), &seen, &Memory::default(), 50, "kill a0 2s");
    check(&pod, &stop_at(0), &seen, &Memory::default(), 20, "kill a0 2s");
}

#[test]
fn the_grace_of_a_replaced_container_begins_with_its_hook() {
    let mut pod = hooked("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = Memory::default();
    run(&pod, &seen, &memory, 20, "pre-stop a0, wake 50");
    let decision = decide(&pod, &Goal::Run, &seen, &memory, &node(), at(20));
    memory.began(&decision.actions[0], &node(), at(20));
    run(&pod, &seen, &memory, 25, "pre-stop a0, wake 50");
    memory.ended(&decision.actions[0], &Ok(Outcome::Done), at(40));
    run(&pod, &seen, &memory, 40, "kill a0 10s");
}

#[test]
fn a_sidecar_runs_its_hook_at_once_and_then_waits_for_its_turn() {
    let pod = hooked("Always", &["s"], &["a"]);
    let seen = in_sandbox(vec![container("s", "s0", 0, running()), container("a", "s0", 0, running())]);
    let mut memory = Memory::default();
    check(&pod, &stop_at(50), &seen, &memory, 20, "pre-stop s0, pre-stop a0, wake 50");
    memory.pre_stopped.insert("s0".into());
    check(&pod, &stop_at(50), &seen, &memory, 21, "pre-stop a0, wake 50");
}

#[test]
fn a_promised_end_never_comes_later_for_another_reason() {
    let bare = pod("Always", &[], &["a"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = Memory::default();
    memory.kills.insert("a0".into(), Kill { reason: KillReason::LivenessFailed, deadline: at(25) });
    check(&bare, &stop_at(50), &seen, &memory, 20, "kill a0 5s");
    check(&bare, &stop_at(23), &seen, &memory, 20, "kill a0 3s");
    check(&bare, &stop_at(50), &seen, &memory, 30, "kill a0 2s");
    check(&hooked("Always", &[], &["a"]), &stop_at(50), &seen, &memory, 20, "pre-stop a0, wake 25");
    // A sidecar still waits for its turn.
    let seen = in_sandbox(vec![container("s", "s0", 0, running()), container("a", "s0", 0, running())]);
    memory.kills.insert("s0".into(), Kill { reason: KillReason::LivenessFailed, deadline: at(25) });
    memory.kills.remove("a0");
    check(&pod("Always", &["s"], &["a"]), &stop_at(50), &seen, &memory, 30, "kill a0 20s, wake 50");
}

#[test]
fn a_container_that_runs_on_after_all_is_bound_by_no_earlier_end() {
    let pod = pod("Always", &[], &["a", "b"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running()), container("b", "s0", 0, exited(0, 20))]);
    let kill = Kill { reason: KillReason::DefinitionChanged, deadline: at(25) };
    let kills = [("a0".to_owned(), kill), ("b0".to_owned(), kill)].into();
    let mut memory = Memory { kills, ..Default::default() };
    memory.decided(&decide(&pod, &stop_at(50), &seen, &memory, &node(), at(20)), &seen);
    assert_eq!(memory.kills.len(), 2, "those that end, and those that have");
    memory.decided(&decide(&pod, &Goal::Run, &seen, &memory, &node(), at(20)), &seen);
    assert_eq!(memory.kills.keys().collect::<Vec<_>>(), ["b0"]);
}

#[test]
fn nobody_waits_for_a_hook_that_was_given_up() {
    let pod = hooked("Always", &[], &["a"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = started(&["a"]);
    let runs = |memory: &Memory| {
        let status = status(&pod, &stop_at(50), &seen, memory, &node(), at(21));
        status.container_statuses.unwrap().remove(0).state.unwrap().running.is_some()
    };
    assert!(!runs(&memory));
    memory.called_off(&post_start("a"));
    assert!(runs(&memory));
}

#[test]
fn a_start_that_failed_looks_for_its_images_anew() {
    let mut memory = images(&["a", "b"]);
    memory.images.insert("volume:v".into(), ("v:1".into(), ImageKnown::Present("sha256:v".into())));
    let start = Action::StartContainer {
        container: "a".into(),
        sandbox_id: "s0".into(),
        restart_count: 0,
        image_ref: "x".into(),
        target: None,
        post_start: false,
        crash: None,
    };
    memory.ended(&start, &Err(failure()), at(10));
    assert_eq!(memory.images.keys().collect::<Vec<_>>(), ["b"]);
}
