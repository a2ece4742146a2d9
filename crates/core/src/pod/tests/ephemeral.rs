//! Ephemeral containers: when one is started, that it is never started again, and that nothing waits for it.

use super::{
    turns::{check, run, stop_at},
    *,
};

/// A pod with ephemeral containers, which see the processes of a target.
fn with_ephemeral(mut pod: Pod, names: &[&str], target: Option<&str>) -> Pod {
    let one = |name: &&str| json!({"name": name, "image": format!("{name}:1"), "targetContainerName": target});
    let list = names.iter().map(one).collect::<Vec<_>>();
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(json!(list)).unwrap();
    pod
}

#[test]
fn an_ephemeral_container_starts_before_the_pod_is_initialized() {
    let pod = with_ephemeral(pod("Always", &["i"], &["a"]), &["e"], None);
    let seen = in_sandbox(vec![container("i", "s0", 0, running())]);
    run(&pod, &seen, &images(&["i", "a", "e"]), 20, "start e#0");
    let nothing = Observation { resources: Resources::Prepared, ..Default::default() };
    run(&pod, &nothing, &images(&["i", "a", "e"]), 20, "sandbox 0");
}

#[test]
fn an_ephemeral_container_is_never_started_again() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut pod = with_ephemeral(pod(policy, &[], &["a"]), &["e"], None);
        for code in [0, 1] {
            let ended = in_sandbox(vec![container("a", "s0", 0, running()), container("e", "s0", 0, exited(code, 20))]);
            run(&pod, &ended, &images(&["a", "e"]), 30, "settled");
        }
        // Its record is gone, its status is not; with the sandbox neither comes back.
        let seen = in_sandbox(vec![container("a", "s0", 0, running()), container("e", "s0", 0, running())]);
        pod.status = Some(status(&pod, &Goal::Run, &seen, &Memory::default(), &node(), at(30)));
        let lost = in_sandbox(vec![container("a", "s0", 0, running())]);
        run(&pod, &lost, &images(&["a", "e"]), 40, "settled");
        let told = status(&pod, &Goal::Run, &lost, &Memory::default(), &node(), at(40));
        let state = told.ephemeral_container_statuses.unwrap()[0].state.clone().unwrap();
        assert_eq!(state.terminated.unwrap().reason.as_deref(), Some("ContainerStatusUnknown"));
    }
}

#[test]
fn one_that_was_made_and_not_started_is_made_anew() {
    let pod = with_ephemeral(pod("Always", &[], &["a"]), &["e"], None);
    let seen = in_sandbox(vec![container("a", "s0", 0, running()), container("e", "s0", 0, ContainerState::Created)]);
    run(&pod, &seen, &images(&["e"]), 20, "remove e0");
}

#[test]
fn one_with_a_target_waits_until_that_runs_and_is_told_its_id() {
    let pod = with_ephemeral(pod("Always", &[], &["a"]), &["e"], Some("a"));
    let memory = images(&["e"]);
    let waits = in_sandbox(vec![container("a", "s0", 0, exited(1, 20))]);
    let told = status(&pod, &Goal::Run, &waits, &memory, &node(), at(21));
    let waiting = told.ephemeral_container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(waiting.message.as_deref(), Some("unable to find target container \"a\""));
    let seen = in_sandbox(vec![container("a", "s0", 1, running())]);
    let decision = decide(&pod, &Goal::Run, &seen, &memory, &node(), at(21));
    let [Action::StartContainer { container, target, .. }] = &decision.actions[..] else { panic!("{decision:?}") };
    assert_eq!((container.as_str(), target.as_deref()), ("e", Some("a1")));
}

#[test]
fn the_pod_does_not_wait_for_it_nor_live_by_it() {
    let unlike = |policy: &str, code| {
        let pod = with_ephemeral(pod(policy, &[], &["a"]), &["e"], None);
        let seen = in_sandbox(vec![container("a", "s0", 0, exited(code, 20)), container("e", "s0", 0, running())]);
        run(&pod, &seen, &Memory::default(), 20, "kill e0 30s");
    };
    unlike("Never", 1);
    unlike("OnFailure", 0);
    let pod = with_ephemeral(pod("Always", &[], &["a"]), &["e"], None);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let told = status(&pod, &Goal::Run, &seen, &Memory::default(), &node(), at(20));
    assert_eq!(told.phase.as_deref(), Some("Running"));
    assert!(told.conditions.unwrap().iter().all(|condition| condition.status == "True"));
    let ephemeral = &told.ephemeral_container_statuses.unwrap()[0];
    assert_eq!((ephemeral.ready, ephemeral.started, ephemeral.restart_count), (false, None, 0));
}

#[test]
fn it_ends_with_the_pod_beside_the_others() {
    let pod = with_ephemeral(pod("Always", &["s"], &["a"]), &["e"], Some("a"));
    let seen = in_sandbox(vec![
        container("s", "s0", 0, running()),
        container("a", "s0", 0, running()),
        container("e", "s0", 0, running()),
    ]);
    check(&pod, &stop_at(50), &seen, &Memory::default(), 20, "kill a0 30s, kill e0 30s, wake 50");
    let seen = in_sandbox(vec![container("s", "s0", 0, exited(0, 21)), container("e", "s0", 0, running())]);
    check(&pod, &stop_at(50), &seen, &Memory::default(), 22, "kill e0 28s");
}

#[test]
fn the_images_of_a_pod_are_those_of_all_its_containers_and_volumes() {
    let mut pod = with_ephemeral(pod("Always", &["i"], &["a"]), &["e"], None);
    let volumes = json!([{"name": "v", "image": {"reference": "w:1"}}, {"name": "d", "emptyDir": {}}]);
    pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
    let names: Vec<&str> = image_names(&pod).into_iter().collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.contains(&"e:1") && names.contains(&"w:1"), "{names:?}");
}
