//! Single statuses: from one observation to what is published.

use std::time::Duration;

use super::*;

fn of(pod: &Pod, goal: &Goal, seen: &Observation, memory: &Memory, now: i64) -> serde_json::Value {
    let status = status(pod, goal, seen, memory, &node(), at(now));
    serde_json::to_value(status).expect("a status")
}

fn run(pod: &Pod, seen: &Observation, memory: &Memory, now: i64) -> serde_json::Value {
    of(pod, &Goal::Run, seen, memory, now)
}

fn condition(status: &serde_json::Value, kind: &str) -> (String, String, String) {
    let all = status["conditions"].as_array().expect("conditions");
    let one = all.iter().find(|c| c["type"] == kind).expect("the condition");
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[track_caller]
fn check_condition(status: &serde_json::Value, kind: &str, expected: (&str, &str, &str)) {
    let (status, reason, message) = condition(status, kind);
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), expected, "{kind}");
}

#[test]
fn a_new_pod_is_pending_and_its_containers_are_being_created() {
    let status = run(&pod("Always", &[], &["b", "a"]), &Observation::default(), &Memory::default(), 5);
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["startTime"], "2027-01-15T08:00:05Z");
    assert_eq!(status["hostIP"], "192.0.2.1");
    assert_eq!(status["containerStatuses"][0]["name"], "a");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    check_condition(&status, "PodScheduled", ("True", "", ""));
    check_condition(&status, "PodReadyToStartContainers", ("False", "", ""));
    check_condition(&status, "Initialized", ("True", "", ""));
    check_condition(&status, "Ready", ("False", "ContainersNotReady", "containers with unready status: [b a]"));
}

#[test]
fn conditions_stand_in_the_kubelets_order() {
    let status = run(&pod("Always", &[], &["a"]), &Observation::default(), &Memory::default(), 5);
    let kinds: Vec<_> = status["conditions"].as_array().expect("a list").iter().map(|c| c["type"].clone()).collect();
    let order = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    assert_eq!(kinds, order);
}

#[test]
fn a_running_pod_is_ready_and_has_its_address() {
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let status = run(&pod("Always", &[], &["a"]), &seen, &Memory::default(), 20);
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.85.0.2");
    assert_eq!(status["podIPs"][0]["ip"], "10.85.0.2");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "podd://a0");
    assert_eq!(container["ready"], true);
    assert_eq!(container["started"], true);
    check_condition(&status, "Ready", ("True", "", ""));
    check_condition(&status, "ContainersReady", ("True", "", ""));
    check_condition(&status, "PodReadyToStartContainers", ("True", "", ""));
}

#[test]
fn init_containers_hold_the_pod_in_initializing() {
    let seen = in_sandbox(vec![container("i", "s0", 0, running())]);
    let status = run(&pod("Always", &["i", "j"], &["a"]), &seen, &Memory::default(), 20);
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(status["initContainerStatuses"][0]["ready"], false);
    let message = "containers with incomplete status: [i j]";
    check_condition(&status, "Initialized", ("False", "ContainersNotInitialized", message));
    let seen = in_sandbox(vec![container("i", "s0", 0, exited(0, 15))]);
    let status = run(&pod("Always", &["i"], &["a"]), &seen, &Memory::default(), 20);
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    check_condition(&status, "Initialized", ("True", "", ""));
}

#[test]
fn phases_follow_exit_codes_and_policy() {
    let table = [
        ("Always", vec![0, 1], "Running"),
        ("OnFailure", vec![0, 1], "Running"),
        ("OnFailure", vec![0, 0], "Succeeded"),
        ("Never", vec![0, 0], "Succeeded"),
        ("Never", vec![0, 1], "Failed"),
    ];
    for (policy, codes, phase) in table {
        let ended = ["a", "b"].iter().zip(&codes).map(|(n, code)| container(n, "s0", 0, exited(*code, 15)));
        let status = run(&pod(policy, &[], &["a", "b"]), &in_sandbox(ended.collect()), &Memory::default(), 20);
        assert_eq!(status["phase"], phase, "{policy} {codes:?}");
    }
}

#[test]
fn a_failed_init_container_fails_the_pod_only_under_never() {
    let seen = in_sandbox(vec![container("i", "s0", 0, exited(1, 15))]);
    for (policy, phase) in [("Never", "Failed"), ("OnFailure", "Pending"), ("Always", "Pending")] {
        let status = run(&pod(policy, &["i"], &["a"]), &seen, &Memory::default(), 20);
        assert_eq!(status["phase"], phase, "{policy}");
    }
}

#[test]
fn a_crashing_container_waits_in_crash_loop_back_off() {
    let pod = pod("Always", &[], &["a"]);
    let key = members(&pod)[0].back_off_key();
    let mut memory = Memory::default();
    memory.crashes.insert("a".into(), BackOff { key, wait: Duration::from_secs(80), updated_at: at(30) });
    let seen = in_sandbox(vec![container("a", "s0", 4, exited(3, 40))]);
    let status = run(&pod, &seen, &memory, 50);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let message = "back-off 1m20s restarting failed container=a pod=p_n(u)";
    assert_eq!(container["state"]["waiting"]["message"], message);
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(container["restartCount"], 4);
    assert_eq!(status["phase"], "Running");
    check_condition(&status, "Ready", ("False", "ContainersNotReady", "containers with unready status: [a]"));
}

#[test]
fn a_failed_pull_shows_as_error_then_as_back_off() {
    let pod = pod("Always", &[], &["a"]);
    let pull = Action::PullImage { container: "a".into(), image: "a:1".into() };
    let mut memory = Memory::default();
    let failure = Failure { reason: "ErrImagePull".into(), message: "manifest unknown".into() };
    memory.ended(&pull, &Err(failure), at(20));
    let waiting = |now| {
        let status = run(&pod, &in_sandbox(vec![]), &memory, now);
        status["containerStatuses"][0]["state"]["waiting"].clone()
    };
    assert_eq!(waiting(20), json!({"reason": "ErrImagePull", "message": "manifest unknown"}));
    let message = "Back-off pulling image \"a:1\": ErrImagePull: manifest unknown";
    assert_eq!(waiting(21), json!({"reason": "ImagePullBackOff", "message": message}));
}

#[test]
fn the_end_before_shows_as_last_state() {
    let ends = vec![container("a", "s0", 0, exited(7, 12)), container("a", "s0", 1, running())];
    let status = run(&pod("Always", &[], &["a"]), &in_sandbox(ends), &Memory::default(), 20);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(container["lastState"]["terminated"]["containerID"], "podd://a0");
    assert_eq!(container["restartCount"], 1);
}

#[test]
fn a_terminal_phase_is_final() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.status = Some(
        serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted", "message": "m"})).expect("a status"),
    );
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let status = run(&pod, &seen, &Memory::default(), 20);
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
    check_condition(&status, "Ready", ("False", "PodFailed", ""));
}

#[test]
fn transition_times_stay_while_a_condition_does() {
    let mut pod = pod("Always", &[], &["a"]);
    let first = status(&pod, &Goal::Run, &in_sandbox(vec![]), &Memory::default(), &node(), at(5));
    pod.status = Some(first);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let second = run(&pod, &seen, &Memory::default(), 9);
    let time = |kind: &str| {
        let all = second["conditions"].as_array().expect("a list");
        all.iter().find(|c| c["type"] == kind).expect("it")["lastTransitionTime"].clone()
    };
    assert_eq!(time("PodScheduled"), "2027-01-15T08:00:05Z");
    assert_eq!(time("Ready"), "2027-01-15T08:00:09Z");
    assert_eq!(second["startTime"], "2027-01-15T08:00:05Z");
}

#[test]
fn conditions_of_others_stay() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "example.com/lb".into() }]);
    pod.status = Some(
        serde_json::from_value(json!({"conditions": [{"type": "example.com/lb", "status": "False"}]}))
            .expect("a status"),
    );
    let status = run(&pod, &in_sandbox(vec![container("a", "s0", 0, running())]), &Memory::default(), 9);
    assert_eq!(status["conditions"][0]["type"], "example.com/lb");
    let message = "the status of pod readiness gate \"example.com/lb\" is not \"True\", but False";
    check_condition(&status, "Ready", ("False", "ReadinessGatesNotReady", message));
}

#[test]
fn a_stopped_pod_ends_in_a_terminal_phase_with_every_container_accounted_for() {
    let goal = Goal::Stop { kill_at: at(20), last: LastStep::DeleteObject };
    let mut seen = in_sandbox(vec![container("a", "s0", 0, exited(0, 20))]);
    seen.sandboxes[0].state = SandboxState::NotReady;
    let of = |pod: &Pod, seen: &Observation| of(pod, &goal, seen, &Memory::default(), 20);
    assert_eq!(of(&pod("Always", &[], &["a"]), &seen)["phase"], "Succeeded");
    let status = of(&pod("Always", &[], &["a", "b"]), &seen);
    assert_eq!(status["phase"], "Failed");
    let lost = &status["containerStatuses"][1]["state"]["terminated"];
    assert_eq!((&lost["reason"], &lost["exitCode"]), (&json!("ContainerStatusUnknown"), &json!(137)));
    let never_ran = of(&pod("Always", &[], &["a"]), &Observation::default());
    assert_eq!(never_ran["phase"], "Failed");
    assert_eq!(never_ran["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
}

#[test]
fn a_static_pod_is_not_forced_into_a_terminal_phase() {
    let goal = Goal::Stop { kill_at: at(20), last: LastStep::Nothing };
    let mut pod = pod("Always", &[], &["a"]);
    pod.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    let seen = Observation { containers: vec![container("a", "s0", 0, exited(137, 20))], ..Default::default() };
    assert_eq!(of(&pod, &goal, &seen, &Memory::default(), 20)["phase"], "Running");
}

#[test]
fn a_refused_pod_failed_and_says_why() {
    let goal = Goal::Refuse(Refusal { reason: "NodePorts".into(), message: "port 80 is held by n/q".into() });
    let status = of(&pod("Always", &[], &["a"]), &goal, &Observation::default(), &Memory::default(), 5);
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["reason"], "NodePorts");
    assert_eq!(status["message"], "Pod was rejected: port 80 is held by n/q");
}

#[test]
fn what_is_told_of_a_refused_pod_stays_when_the_agent_starts_anew() {
    let mut pod = pod("Always", &[], &["a"]);
    let goal = Goal::Refuse(Refusal { reason: "NodePorts".into(), message: "port 80 is held by n/q".into() });
    let refused = status(&pod, &goal, &Observation::default(), &Memory::default(), &node(), at(5));
    pod.status = Some(refused.clone());
    let stop = Goal::Stop { kill_at: at(40), last: LastStep::Nothing };
    for goal in [Goal::Run, stop] {
        assert_eq!(status(&pod, &goal, &Observation::default(), &Memory::default(), &node(), at(30)), refused);
    }
}

#[test]
fn a_container_whose_record_is_lost_counts_as_restarted() {
    let mut pod = pod("Always", &[], &["a"]);
    let ran = in_sandbox(vec![container("a", "s0", 2, running())]);
    pod.status = Some(status(&pod, &Goal::Run, &ran, &Memory::default(), &node(), at(20)));
    let status = run(&pod, &in_sandbox(vec![]), &Memory::default(), 30);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 3);
    assert_eq!(container["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(status["phase"], "Running");
}
