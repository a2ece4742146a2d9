//! Sidecars: what they wait for and what waits for them, on the way up and on the way down, and what a pod with them is
//! called meanwhile.

use super::{
    turns::{check, run, stop_at},
    *,
};

fn status_of(pod: &Pod, seen: &Observation) -> k8s_openapi::api::core::v1::PodStatus {
    status(pod, &Goal::Run, seen, &Memory::default(), &node(), at(30))
}

fn condition(status: &k8s_openapi::api::core::v1::PodStatus, kind: &str) -> String {
    status.conditions.iter().flatten().find(|c| c.type_ == kind).expect("the condition").status.clone()
}

#[test]
fn a_sidecar_starts_in_its_turn_and_the_next_one_once_it_has() {
    let pod = pod("Always", &["i", "s", "j", "t"], &["a"]);
    let all = images(&["i", "s", "j", "t", "a"]);
    let mut containers = Vec::new();
    run(&pod, &in_sandbox(containers.clone()), &all, 20, "start i#0");
    containers.push(container("i", "s0", 0, exited(0, 11)));
    run(&pod, &in_sandbox(containers.clone()), &all, 20, "start s#0");
    containers.push(container("s", "s0", 0, running()));
    run(&pod, &in_sandbox(containers.clone()), &all, 20, "start j#0");
    containers.push(container("j", "s0", 0, running()));
    run(&pod, &in_sandbox(containers.clone()), &all, 20, "settled");
    containers[2] = container("j", "s0", 0, exited(0, 12));
    run(&pod, &in_sandbox(containers.clone()), &all, 20, "start t#0");
    containers.push(container("t", "s0", 0, running()));
    run(&pod, &in_sandbox(containers.clone()), &all, 20, "start a#0");
    containers.push(container("a", "s0", 0, running()));
    run(&pod, &in_sandbox(containers), &all, 20, "settled");
}

#[test]
fn a_sidecar_that_ends_is_started_again_during_initialization_and_after_it() {
    for policy in ["Always", "OnFailure", "Never"] {
        let pod = pod(policy, &["s", "i"], &["a"]);
        let mut containers = vec![container("s", "s0", 0, exited(0, 12)), container("i", "s0", 0, running())];
        run(&pod, &in_sandbox(containers.clone()), &images(&["s"]), 20, "start s#1");
        containers[1] = container("i", "s0", 0, exited(0, 12));
        containers.push(container("a", "s0", 0, running()));
        run(&pod, &in_sandbox(containers), &images(&["s"]), 20, "start s#1");
    }
}

#[test]
fn a_sidecar_that_crashes_before_the_next_has_started_holds_it_up() {
    let pod = pod("Always", &["s"], &["a"]);
    let seen = in_sandbox(vec![container("s", "s0", 0, exited(1, 12))]);
    run(&pod, &seen, &images(&["s", "a"]), 20, "start s#1");
}

#[test]
fn a_sidecar_with_another_image_is_replaced() {
    let mut pod = pod("Always", &["s"], &["a"]);
    pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].image = Some("s:2".into());
    let seen = in_sandbox(vec![container("s", "s0", 0, running()), container("a", "s0", 0, running())]);
    run(&pod, &seen, &Memory::default(), 20, "kill s0 30s");
}

#[test]
fn a_new_sandbox_begins_with_the_first_of_init_containers_and_sidecars() {
    let mut seen = in_sandbox(vec![container("s", "s0", 0, exited(255, 20)), container("a", "s0", 0, exited(255, 20))]);
    seen.sandboxes = vec![sandbox("s1", 1, SandboxState::Ready)];
    run(&pod("Always", &["s"], &["a"]), &seen, &images(&["s", "a"]), 20, "start s#1");
}

#[test]
fn sidecars_do_not_keep_a_pod_alive() {
    let done = |code| {
        in_sandbox(vec![
            container("s", "s0", 0, running()),
            container("t", "s0", 0, running()),
            container("a", "s0", 0, exited(code, 20)),
        ])
    };
    let sidecars = &["s", "t"];
    run(&pod("Never", sidecars, &["a"]), &done(1), &Memory::default(), 20, "kill t0 30s, wake 50");
    run(&pod("OnFailure", sidecars, &["a"]), &done(0), &Memory::default(), 20, "kill t0 30s, wake 50");
    run(&pod("OnFailure", sidecars, &["a"]), &done(1), &images(&["a"]), 20, "start a#1");
}

#[test]
fn a_sidecar_that_ends_with_its_pod_is_not_started_again() {
    let pod = pod("Never", &["s"], &["a"]);
    let seen = in_sandbox(vec![container("s", "s0", 0, exited(137, 21)), container("a", "s0", 0, exited(0, 20))]);
    run(&pod, &seen, &images(&["s"]), 22, "stop s0");
    let status = status_of(&pod, &seen);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    let state = status.init_container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 137);
}

#[test]
fn a_failed_init_container_takes_the_sidecars_before_it_along() {
    let pod = pod("Never", &["s", "i"], &["a"]);
    let seen = in_sandbox(vec![container("s", "s0", 0, running()), container("i", "s0", 0, exited(1, 20))]);
    run(&pod, &seen, &Memory::default(), 20, "kill s0 30s");
    assert_eq!(status_of(&pod, &seen).phase.as_deref(), Some("Pending"));
}

#[test]
fn on_the_way_down_sidecars_wait_for_what_they_serve_and_end_in_reverse_order() {
    let pod = pod("Always", &["s", "t"], &["a", "b"]);
    let mut seen = in_sandbox(["s", "t", "a", "b"].map(|name| container(name, "s0", 0, running())).into());
    let none = Memory::default();
    check(&pod, &stop_at(50), &seen, &none, 20, "kill a0 30s, kill b0 30s, wake 50");
    seen.containers[2] = container("a", "s0", 0, exited(0, 21));
    check(&pod, &stop_at(50), &seen, &none, 22, "kill b0 28s, wake 50");
    seen.containers[3] = container("b", "s0", 0, exited(0, 25));
    check(&pod, &stop_at(50), &seen, &none, 26, "kill t0 24s, wake 50");
    seen.containers[1] = container("t", "s0", 0, exited(0, 30));
    check(&pod, &stop_at(50), &seen, &none, 31, "kill s0 19s");
}

#[test]
fn at_the_end_of_the_grace_nobody_waits_any_more() {
    let pod = pod("Always", &["s", "t"], &["a"]);
    let seen = in_sandbox(["s", "t", "a"].map(|name| container(name, "s0", 0, running())).into());
    check(&pod, &stop_at(50), &seen, &Memory::default(), 50, "kill s0 2s, kill t0 2s, kill a0 2s");
}

#[test]
fn the_sidecars_of_a_pod_that_has_ended_share_one_grace() {
    let pod = pod("Never", &["s", "t"], &["a"]);
    let mut seen = in_sandbox(vec![
        container("s", "s0", 0, running()),
        container("t", "s0", 0, running()),
        container("a", "s0", 0, exited(0, 20)),
    ]);
    let mut memory = Memory::default();
    let decision = decide(&pod, &Goal::Run, &seen, &memory, &node(), at(20));
    memory.began(&decision.actions[0], &node(), at(20));
    seen.containers[1] = container("t", "s0", 0, exited(0, 40));
    run(&pod, &seen, &memory, 40, "kill s0 10s");
}

#[test]
fn a_pod_with_sidecars_is_pending_until_they_have_started_and_runs_as_long_as_they_do() {
    let pod = pod("Never", &["s"], &["a"]);
    let of = |containers| {
        let status = status_of(&pod, &in_sandbox(containers));
        (status.phase.clone().unwrap(), condition(&status, "Initialized"), condition(&status, "ContainersReady"))
    };
    let words = |phase: &str, initialized: &str, ready: &str| (phase.into(), initialized.into(), ready.into());
    let (s, a) = (|state| container("s", "s0", 0, state), |state| container("a", "s0", 0, state));
    assert_eq!(of(vec![]), words("Pending", "False", "False"));
    assert_eq!(of(vec![s(running())]), words("Pending", "True", "False"));
    assert_eq!(of(vec![s(running()), a(running())]), words("Running", "True", "True"));
    assert_eq!(of(vec![s(exited(1, 20)), a(running())]), words("Running", "True", "False"));
    assert_eq!(of(vec![s(running()), a(exited(0, 20))]), words("Running", "True", "False"));
    assert_eq!(of(vec![s(exited(1, 21)), a(exited(0, 20))]), words("Succeeded", "True", "False"));
    assert_eq!(of(vec![s(exited(0, 21)), a(exited(1, 20))]), words("Failed", "True", "False"));
}

#[test]
fn a_container_follows_its_rules_then_its_own_policy_then_the_pods() {
    let rule = |operator: &str, values: &[i32]| json!({"action": "Restart", "exitCodes": {"operator": operator, "values": values}});
    let table = [
        ("Never", json!({"restartPolicy": "Always"}), 0, true),
        ("Never", json!({"restartPolicy": "OnFailure"}), 0, false),
        ("Never", json!({"restartPolicy": "OnFailure"}), 1, true),
        ("Always", json!({"restartPolicy": "Never"}), 1, false),
        ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": [rule("In", &[3, 4])]}), 4, true),
        ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": [rule("In", &[3, 4])]}), 5, false),
        ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": [rule("NotIn", &[3, 4])]}), 5, true),
        ("Always", json!({"restartPolicy": "Never", "restartPolicyRules": [rule("NotIn", &[3, 4])]}), 4, false),
        ("Never", json!({"restartPolicy": "OnFailure", "restartPolicyRules": [rule("In", &[0])]}), 0, true),
    ];
    for (policy, more, code, again) in table {
        let mut pod = serde_json::to_value(pod(policy, &[], &["a", "b"])).unwrap();
        pod["spec"]["containers"][0].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod: Pod = serde_json::from_value(pod).unwrap();
        // The other one keeps the pod alive.
        let seen = in_sandbox(vec![container("a", "s0", 0, exited(code, 20)), container("b", "s0", 0, running())]);
        run(&pod, &seen, &images(&["a"]), 20, if again { "start a#1" } else { "settled" });
    }
}

#[test]
fn a_pod_is_between_two_runs_if_one_of_its_containers_is() {
    let mut pod = pod("Never", &[], &["a", "b"]);
    let ended = in_sandbox(vec![container("a", "s0", 0, exited(1, 20)), container("b", "s0", 0, exited(0, 20))]);
    assert_eq!(status_of(&pod, &ended).phase.as_deref(), Some("Failed"));
    pod.spec.as_mut().unwrap().containers[0].restart_policy = Some("Always".into());
    assert_eq!(status_of(&pod, &ended).phase.as_deref(), Some("Running"));
}

#[test]
fn a_pod_has_not_ended_while_a_sidecar_of_it_runs() {
    let mut pod = pod("Never", &["s", "i"], &["a"]);
    let goes_on = in_sandbox(vec![container("s", "s0", 0, running()), container("i", "s0", 0, exited(1, 20))]);
    let told = status_of(&pod, &goes_on);
    assert_eq!(told.phase.as_deref(), Some("Pending"));
    pod.status = Some(told);
    let ended = in_sandbox(vec![container("s", "s0", 0, exited(0, 21)), container("i", "s0", 0, exited(1, 20))]);
    assert_eq!(status_of(&pod, &ended).phase.as_deref(), Some("Failed"));
}

#[test]
fn what_was_told_to_have_ended_for_good_is_not_run_again_when_its_record_is_gone() {
    let mut pod = pod("OnFailure", &["s"], &["a"]);
    let sidecar = container("s", "s0", 0, running());
    let seen = in_sandbox(vec![sidecar.clone(), container("a", "s0", 0, exited(0, 12))]);
    pod.status = Some(status_of(&pod, &seen));
    let lost = in_sandbox(vec![sidecar]);
    let told = status_of(&pod, &lost);
    let state = told.container_statuses.iter().flatten().next().and_then(|s| s.state.as_ref()).expect("a state");
    assert_eq!(state.terminated.as_ref().map(|t| t.exit_code), Some(0), "{state:?}");
    run(&pod, &lost, &images(&["s", "a"]), 20, "kill s0 30s");
    pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = None;
    run(&pod, &lost, &images(&["s", "a"]), 20, "start a#0");
}
