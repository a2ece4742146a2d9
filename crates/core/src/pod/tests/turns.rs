//! Single turns: from one observation to one batch.

use std::time::Duration;

use super::*;

/// A batch as words, in order: `start a#1`, `kill a0 2s`, `pull a`, ….
fn words(decision: &Decision) -> String {
    let word = |action: &Action| match action {
        Action::Prepare => "prepare".to_owned(),
        Action::InspectImage { container, .. } => format!("inspect {container}"),
        Action::PullImage { container, .. } => format!("pull {container}"),
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandbox { id } => format!("stop {id}"),
        Action::RemoveSandbox { id } => format!("remove {id}"),
        Action::StartContainer { container, restart_count, .. } => format!("start {container}#{restart_count}"),
        Action::PostStart { id, .. } => format!("post-start {id}"),
        Action::PreStop { id, .. } => format!("pre-stop {id}"),
        Action::KillContainer { id, grace, .. } => format!("kill {id} {}s", grace.as_secs()),
        Action::RemoveContainer { id, .. } => format!("remove {id}"),
        Action::PublishFinalStatus => "publish".to_owned(),
        Action::Release => "release".to_owned(),
        Action::Suspend => "suspend".to_owned(),
        Action::DeleteObject => "delete".to_owned(),
    };
    let mut words: Vec<_> = decision.actions.iter().map(word).collect();
    if let Some(at) = decision.wake_at {
        words.push(format!("wake {}", at.as_second() - 1_800_000_000));
    }
    if decision.finished {
        words.push("finished".to_owned());
    } else if decision.settled {
        words.push("settled".to_owned());
    }
    words.join(", ")
}

#[track_caller]
pub(super) fn check(pod: &Pod, goal: &Goal, seen: &Observation, memory: &Memory, now: i64, expected: &str) {
    let decision = decide(pod, goal, seen, memory, &node(), at(now));
    crate::invariants::check_decision(pod, goal, seen, &decision, at(now)).expect("invariants hold");
    assert_eq!(words(&decision), expected);
}

pub(super) fn run(pod: &Pod, seen: &Observation, memory: &Memory, now: i64, expected: &str) {
    check(pod, &Goal::Run, seen, memory, now, expected);
}

pub(super) fn stop_at(seconds: i64) -> Goal {
    Goal::Stop { kill_at: at(seconds), last: LastStep::DeleteObject }
}

#[test]
fn a_new_pod_is_prepared_while_its_images_are_looked_for() {
    let nothing = Observation::default();
    run(&pod("Always", &[], &["a", "b"]), &nothing, &Memory::default(), 0, "inspect a, inspect b, prepare");
    run(&pod("Always", &["i"], &["a"]), &nothing, &Memory::default(), 0, "inspect i, prepare");
}

#[test]
fn missing_images_are_pulled_while_the_sandbox_is_made() {
    let mut memory = images(&["a"]);
    memory.images.insert("b".into(), ("b:1".into(), ImageKnown::Absent));
    let seen = Observation { resources: Resources::Prepared, ..Default::default() };
    run(&pod("Always", &[], &["a", "b"]), &seen, &memory, 0, "pull b, sandbox 0");
}

#[test]
fn an_image_is_pulled_without_a_look_when_the_policy_is_always() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().containers[0].image_pull_policy = Some("Always".into());
    run(&pod, &in_sandbox(vec![]), &Memory::default(), 0, "pull a");
    run(&pod, &in_sandbox(vec![]), &images(&["a"]), 0, "start a#0");
}

#[test]
fn an_image_that_may_not_be_pulled_is_looked_for_again_later() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().containers[0].image_pull_policy = Some("Never".into());
    let mut memory = Memory::default();
    let look = Action::InspectImage { container: "a".into(), image: "a:1".into(), pull: PullPolicy::Never };
    memory.ended(&look, &Ok(Outcome::ImageAbsent), at(0));
    run(&pod, &in_sandbox(vec![]), &memory, 1, "wake 10");
    run(&pod, &in_sandbox(vec![]), &memory, 10, "inspect a");
}

#[test]
fn a_failed_pull_waits_ten_seconds_then_twenty_up_to_three_hundred() {
    let pod = pod("Always", &[], &["a"]);
    let pull = Action::PullImage { container: "a".into(), image: "a:1".into() };
    let mut memory = Memory::default();
    let mut now = 0;
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        memory.images.insert("a".into(), ("a:1".into(), ImageKnown::Absent));
        memory.ended(&pull, &Err(Failure { reason: "ErrImagePull".into(), message: "no".into() }), at(now));
        run(&pod, &in_sandbox(vec![]), &memory, now + 2, &format!("wake {}", now + wait));
        now += wait;
        run(&pod, &in_sandbox(vec![]), &memory, now, "pull a");
    }
}

#[test]
fn init_containers_run_one_after_another() {
    let pod = pod("Always", &["i", "j"], &["a"]);
    let all = images(&["i", "j", "a"]);
    let table = [
        (vec![], "start i#0"),
        (vec![container("i", "s0", 0, running())], "settled"),
        (vec![container("i", "s0", 0, exited(0, 12))], "start j#0"),
        (vec![container("i", "s0", 0, exited(0, 12)), container("j", "s0", 0, running())], "settled"),
        // The record of the one before may be gone.
        (vec![container("j", "s0", 0, exited(0, 12))], "start a#0"),
        (vec![container("i", "s0", 0, exited(1, 12))], "start i#1"),
        (vec![container("i", "s0", 0, ContainerState::Created)], "remove i0"),
        (vec![container("i", "s0", 0, ContainerState::Unknown)], "kill i0 30s"),
        // Once a regular container was made here, they are over.
        (vec![container("a", "s0", 0, running())], "settled"),
    ];
    for (containers, expected) in table {
        run(&pod, &in_sandbox(containers), &all, 20, expected);
    }
}

#[test]
fn a_failed_init_container_ends_the_pod_only_under_never() {
    let seen = in_sandbox(vec![container("i", "s0", 0, exited(3, 12))]);
    for (policy, expected) in [("Never", "stop s0"), ("OnFailure", "start i#1"), ("Always", "start i#1")] {
        run(&pod(policy, &["i"], &["a"]), &seen, &images(&["i"]), 20, expected);
    }
}

#[test]
fn regular_containers_start_in_list_order_one_at_a_time() {
    let pod = pod("Always", &[], &["b", "a"]);
    run(&pod, &in_sandbox(vec![]), &images(&["a", "b"]), 20, "start b#0");
    // The second one's image is fetched meanwhile, but it waits for its turn.
    run(&pod, &in_sandbox(vec![]), &images(&["a"]), 20, "inspect b");
    run(&pod, &in_sandbox(vec![container("b", "s0", 0, running())]), &images(&["a"]), 20, "start a#0");
}

#[test]
fn a_container_that_cannot_start_does_not_hold_up_the_next() {
    let pod = pod("Always", &[], &["a", "b"]);
    let mut memory = images(&["a", "b"]);
    let start = Action::StartContainer {
        container: "a".into(),
        sandbox_id: "s0".into(),
        restart_count: 0,
        image_ref: "a:1".into(),
        target: None,
        post_start: false,
        crash: None,
    };
    memory.ended(&start, &Err(Failure { reason: "RunContainerError".into(), message: "no".into() }), at(20));
    run(&pod, &in_sandbox(vec![]), &memory, 20, "start b#0, wake 30");
}

#[test]
fn restart_policies_are_kept() {
    let table = [
        ("Always", 0, "start a#1"),
        ("Always", 1, "start a#1"),
        ("OnFailure", 0, "stop s0"),
        ("OnFailure", 1, "start a#1"),
        ("Never", 0, "stop s0"),
        ("Never", 1, "stop s0"),
    ];
    for (policy, code, expected) in table {
        let seen = in_sandbox(vec![container("a", "s0", 0, exited(code, 20))]);
        run(&pod(policy, &[], &["a"]), &seen, &images(&["a"]), 20, expected);
    }
}

#[test]
fn one_ended_container_does_not_end_a_pod_with_another_alive() {
    let seen = in_sandbox(vec![container("a", "s0", 0, exited(0, 20)), container("b", "s0", 0, running())]);
    run(&pod("Never", &[], &["a", "b"]), &seen, &Memory::default(), 20, "settled");
}

/// Lets a container crash right after each start, and tells how long each restart waited.
fn crash_waits(runs: &[i64]) -> Vec<i64> {
    let pod = pod("Always", &[], &["a"]);
    let (mut memory, mut now, mut waits) = (images(&["a"]), 20, Vec::new());
    for (count, run) in (0_u32..).zip(runs) {
        now += run;
        let ended = now;
        let seen = in_sandbox(vec![container("a", "s0", count, exited(1, ended))]);
        let start = loop {
            let decision = decide(&pod, &Goal::Run, &seen, &memory, &node(), at(now));
            match decision.wake_at {
                Some(at) => now = at.as_second() - 1_800_000_000,
                None => break decision.actions.into_iter().next().expect("a start"),
            }
        };
        memory.began(&start, &node(), at(now));
        memory.images = images(&["a"]).images;
        waits.push(now - ended);
    }
    waits
}

#[test]
fn the_first_crash_restarts_at_once_and_the_tenth_waits_five_minutes() {
    assert_eq!(crash_waits(&[1; 10]), [0, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
}

#[test]
fn ten_quiet_minutes_reset_the_back_off() {
    assert_eq!(crash_waits(&[1, 1, 1, 601, 1, 1]), [0, 10, 20, 0, 10, 20]);
    assert_eq!(crash_waits(&[1, 1, 1, 599, 1]), [0, 10, 20, 40, 80]);
}

#[test]
fn another_image_starts_a_back_off_of_its_own() {
    let mut pod = pod("Always", &[], &["a"]);
    let mut memory = Memory::default();
    let crashed = in_sandbox(vec![container("a", "s0", 1, exited(1, 20))]);
    let key = members(&pod)[0].back_off_key();
    memory.crashes.insert("a".into(), BackOff { key, wait: Duration::from_secs(300), updated_at: at(15) });
    run(&pod, &crashed, &memory, 21, "wake 320");
    pod.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
    run(&pod, &crashed, &memory, 21, "inspect a");
}

#[test]
fn back_offs_survive_the_agent() {
    let mut memory = Memory::default();
    let crash = Crash { at: at(20), key: "k".into() };
    let start = Action::StartContainer {
        container: "a".into(),
        sandbox_id: "s0".into(),
        restart_count: 1,
        image_ref: "a".into(),
        target: None,
        post_start: false,
        crash: Some(crash),
    };
    memory.began(&start, &node(), at(21));
    let text = serde_json::to_string(&memory).expect("serialises");
    let again: Memory = serde_json::from_str(&text).expect("parses");
    assert_eq!(again.crashes, memory.crashes);
}

#[test]
fn a_changed_image_replaces_a_running_container_whatever_the_policy() {
    for policy in ["Always", "Never"] {
        let mut pod = pod(policy, &[], &["a"]);
        pod.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
        let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
        run(&pod, &seen, &Memory::default(), 20, "kill a0 30s");
    }
}

#[test]
fn a_sandbox_that_does_not_serve_is_replaced_after_what_runs_in_it_was_stopped() {
    let pod = pod("Always", &[], &["a"]);
    let dead = Observation {
        sandboxes: vec![sandbox("s0", 0, SandboxState::NotReady)],
        containers: vec![container("a", "s0", 0, running())],
        resources: Resources::Prepared,
        ..Default::default()
    };
    run(&pod, &dead, &images(&["a"]), 20, "kill a0 30s");
    let stopped = Observation { containers: vec![container("a", "s0", 0, exited(137, 20))], ..dead };
    run(&pod, &stopped, &images(&["a"]), 20, "stop s0");
    let mut memory = images(&["a"]);
    memory.stopped.insert("s0".into());
    run(&pod, &stopped, &memory, 20, "sandbox 1");
}

#[test]
fn a_sandbox_is_removed_as_soon_as_it_has_stopped() {
    let pod = pod("Always", &[], &["a"]);
    let stopped = Observation {
        sandboxes: vec![sandbox("s0", 0, SandboxState::NotReady)],
        containers: vec![container("a", "s0", 0, exited(0, 20))],
        resources: Resources::Prepared,
        ..Default::default()
    };
    let mut memory = Memory { final_status_published: true, ..Memory::default() };
    memory.ended(&Action::StopSandbox { id: "s0".into() }, &Ok(Outcome::Done), at(20));
    check(&pod, &stop_at(30), &stopped, &memory, 20, "remove s0");
}

#[test]
fn a_sandbox_serves_only_with_the_right_network_and_an_address() {
    let mut pod = pod("Always", &[], &["a"]);
    let ready = |change: fn(&mut SandboxSeen)| {
        let mut seen = in_sandbox(vec![]);
        change(&mut seen.sandboxes[0]);
        seen
    };
    let all = images(&["a"]);
    run(&pod, &ready(|_| {}), &all, 20, "start a#0");
    run(&pod, &ready(|s| s.ips.clear()), &all, 20, "stop s0");
    run(&pod, &ready(|s| s.host_network = true), &all, 20, "stop s0");
    pod.spec.as_mut().unwrap().host_network = Some(true);
    run(&pod, &ready(|s| (s.host_network, s.ips) = (true, vec![])), &all, 20, "start a#0");
    let mut two = ready(|s| s.host_network = true);
    two.sandboxes.push(SandboxSeen { host_network: true, ..sandbox("s1", 1, SandboxState::Ready) });
    run(&pod, &two, &all, 20, "stop s0, stop s1");
}

#[test]
fn after_a_reboot_what_had_finished_is_not_run_again() {
    let after = |containers| Observation {
        sandboxes: vec![sandbox("s0", 0, SandboxState::NotReady)],
        containers,
        resources: Resources::Prepared,
        ..Default::default()
    };
    let mut memory = images(&["a", "b", "i"]);
    memory.stopped.insert("s0".into());
    let done = || vec![container("a", "s0", 0, exited(0, 15)), container("b", "s0", 0, exited(137, 20))];
    run(&pod("Never", &[], &["a", "b"]), &after(done()), &memory, 30, "release");
    run(&pod("OnFailure", &[], &["a", "b"]), &after(done()), &memory, 30, "sandbox 1");
    run(&pod("Always", &["i"], &["a", "b"]), &after(done()), &memory, 30, "sandbox 1");
    let all_well = vec![container("a", "s0", 0, exited(0, 15)), container("b", "s0", 0, exited(0, 20))];
    run(&pod("OnFailure", &[], &["a", "b"]), &after(all_well), &memory, 30, "release");
    // In the new sandbox only the one that had not succeeded runs, and init containers run again first.
    let mut seen = after(done());
    seen.sandboxes.push(sandbox("s1", 1, SandboxState::Ready));
    run(&pod("OnFailure", &[], &["a", "b"]), &seen, &memory, 30, "start b#1");
    seen.containers.push(container("i", "s0", 0, exited(0, 11)));
    run(&pod("Always", &["i"], &["a", "b"]), &seen, &memory, 30, "start i#1");
}

#[test]
fn a_terminal_pod_is_wound_down_and_keeps_its_records() {
    let mut pod = pod("Never", &[], &["a"]);
    pod.status = Some(k8s_openapi::api::core::v1::PodStatus { phase: Some("Succeeded".into()), ..Default::default() });
    let mut seen = in_sandbox(vec![container("a", "s0", 0, exited(0, 20))]);
    let mut memory = Memory::default();
    run(&pod, &seen, &memory, 20, "stop s0");
    seen.sandboxes[0].state = SandboxState::NotReady;
    memory.stopped.insert("s0".into());
    run(&pod, &seen, &memory, 20, "release");
    seen.resources = Resources::Released;
    run(&pod, &seen, &memory, 20, "settled");
}

#[test]
fn a_refused_pod_starts_nothing() {
    let goal = Goal::Refuse(Refusal { reason: "NodePorts".into(), message: "taken".into() });
    let pod = pod("Always", &[], &["a"]);
    check(&pod, &goal, &Observation::default(), &Memory::default(), 0, "release");
}

#[test]
fn counts_go_on_when_the_runtime_lost_its_records() {
    let mut pod = pod("Always", &[], &["a"]);
    let mut seen = in_sandbox(vec![]);
    seen.next_by_logs.insert("a".into(), 3);
    run(&pod, &seen, &images(&["a"]), 20, "start a#3");
    pod.status = Some(
        serde_json::from_value(json!({"containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 6, "state": {"running": {}}}]}))
        .expect("a status"),
    );
    run(&pod, &seen, &images(&["a"]), 20, "start a#7");
}

#[test]
fn only_the_newest_dead_instance_is_kept() {
    let seen = in_sandbox(vec![
        container("a", "s0", 0, exited(1, 12)),
        container("a", "s0", 1, exited(1, 13)),
        container("a", "s0", 2, running()),
    ]);
    run(&pod("Always", &[], &["a"]), &seen, &Memory::default(), 20, "remove a0");
}

#[test]
fn a_pod_goes_step_by_step() {
    let pod = pod("Always", &[], &["a", "b"]);
    let mut seen = in_sandbox(vec![container("a", "s0", 0, running()), container("b", "s0", 0, running())]);
    let mut memory = Memory::default();
    check(&pod, &stop_at(50), &seen, &memory, 20, "kill a0 30s, kill b0 30s");
    seen.containers[0] = container("a", "s0", 0, exited(0, 21));
    check(&pod, &stop_at(50), &seen, &memory, 22, "kill b0 28s");
    seen.containers[1] = container("b", "s0", 0, exited(137, 50));
    check(&pod, &stop_at(50), &seen, &memory, 50, "stop s0");
    seen.sandboxes[0].state = SandboxState::NotReady;
    check(&pod, &stop_at(50), &seen, &memory, 50, "publish");
    memory.final_status_published = true;
    check(&pod, &stop_at(50), &seen, &memory, 50, "remove s0");
    seen.sandboxes.clear();
    check(&pod, &stop_at(50), &seen, &memory, 50, "remove a0, remove b0");
    seen.containers.clear();
    check(&pod, &stop_at(50), &seen, &memory, 50, "release");
    seen.resources = Resources::Released;
    check(&pod, &stop_at(50), &seen, &memory, 50, "delete");
    memory.object_deleted = true;
    check(&pod, &stop_at(50), &seen, &memory, 50, "finished");
}

#[test]
fn grace_ends_at_the_deadline_and_is_never_less_than_two_seconds() {
    let pod = pod("Always", &[], &["a"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    for (kill_at, now, grace) in [(50, 20, 30), (50, 45, 5), (50, 49, 2), (20, 20, 2), (0, 20, 2)] {
        check(&pod, &stop_at(kill_at), &seen, &Memory::default(), now, &format!("kill a0 {grace}s"));
    }
}

#[test]
fn a_pod_without_an_object_ends_with_its_resources() {
    let pod = pod("Always", &[], &["a"]);
    let goal = Goal::Stop { kill_at: at(0), last: LastStep::Nothing };
    let mut seen = Observation::default();
    check(&pod, &goal, &seen, &Memory::default(), 0, "release");
    seen.resources = Resources::Released;
    check(&pod, &goal, &seen, &Memory::default(), 0, "finished");
}

#[test]
fn a_pod_of_a_node_that_goes_down_keeps_its_records_and_its_object() {
    let pod = pod("Always", &[], &["a"]);
    let goal = Goal::Rest { kill_at: at(30) };
    let mut seen = in_sandbox(vec![container("a", "s0", 0, running())]);
    let mut memory = Memory::default();
    check(&pod, &goal, &seen, &memory, 20, "kill a0 10s");
    seen.containers[0] = container("a", "s0", 0, exited(143, 21));
    check(&pod, &goal, &seen, &memory, 21, "stop s0");
    memory.ended(&Action::StopSandbox { id: "s0".into() }, &Ok(Outcome::Done), at(21));
    seen.sandboxes[0].state = SandboxState::NotReady;
    check(&pod, &goal, &seen, &memory, 21, "suspend");
    seen.resources = Resources::Released;
    check(&pod, &goal, &seen, &memory, 21, "finished");
    // The next agent takes it up again.
    seen.resources = Resources::Unknown;
    run(&pod, &seen, &images(&["a"]), 60, "stop s0");
}

#[test]
fn nothing_is_restarted_once_the_pod_shall_go() {
    let pod = pod("Always", &[], &["a", "b"]);
    let seen = in_sandbox(vec![container("a", "s0", 0, exited(1, 15)), container("b", "s0", 0, running())]);
    check(&pod, &stop_at(50), &seen, &images(&["a"]), 20, "kill b0 30s");
}

#[test]
fn a_step_that_fails_is_tried_again_more_and_more_slowly() {
    let pod = pod("Always", &[], &["a"]);
    let seen = in_sandbox(vec![]);
    let mut memory = Memory::default();
    let stop = Action::StopSandbox { id: "s0".into() };
    let mut now = 0;
    for wait in [1, 2, 4, 8, 10, 10] {
        memory.ended(&stop, &Err(Failure { reason: "StopPodSandbox".into(), message: "no".into() }), at(now));
        check(&pod, &stop_at(50), &seen, &memory, now, &format!("wake {}", now + wait));
        now += wait;
        check(&pod, &stop_at(50), &seen, &memory, now, "stop s0");
    }
}
