//! From a manifest to what runs, through every plane: init containers, restarts, deletion while the agent was
//! down.

use std::process::Command;

use podd_tests::{Node, SOON, wait_for};

/// A pod of one container that runs a script, with fields of the spec beside it.
fn pod(name: &str, spec: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}  \
         containers:\n  - name: main\n    image: busybox:test\n    command: [sh, -c, {script:?}]\n"
    )
}

const FOR_EVER: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

#[test]
fn init_containers_run_first_and_in_order() {
    let node = Node::with_agent();
    let init = "  volumes: [{name: v, emptyDir: {}}]\n  initContainers:\n  - {name: one, image: busybox:test, command: [sh, -c, \
                echo one >> /v/order], volumeMounts: [{name: v, mountPath: /v}]}\n  - {name: two, image: busybox:test, \
                command: [sh, -c, echo two >> /v/order], volumeMounts: [{name: v, mountPath: /v}]}\n";
    let manifest = pod("a", init, &format!("cat /v/order; {FOR_EVER}"));
    node.apply_and_wait(&format!("{manifest}    volumeMounts: [{{name: v, mountPath: /v}}]\n"));
    wait_for(SOON, "the log has both lines", || {
        let log = node.podd(&["logs", "a", "-c", "main"]);
        if log.stdout == "one\ntwo\n" { Ok(()) } else { Err(log.stdout) }
    });
    assert_eq!(node.field("pod/a", "/status/initContainerStatuses/1/state/terminated/reason"), "Completed");
}

#[test]
fn exit_codes_are_kept_and_policies_followed() {
    let node = Node::with_agent();
    let manifest = format!(
        "{}---\n{}---\n{}",
        pod("done", "  restartPolicy: Never\n", "echo bye; exit 0"),
        pod("broken", "  restartPolicy: Never\n", "exit 42"),
        pod("again", "  restartPolicy: OnFailure\n", "echo try; exit 3"),
    );
    node.apply(&manifest).ok();
    node.wait_field("pod/done", "/status/phase", "Succeeded");
    node.wait_field("pod/broken", "/status/phase", "Failed");
    assert_eq!(node.field("pod/broken", "/status/containerStatuses/0/state/terminated/exitCode"), "42");
    // The first restart is at once; before the second it waits.
    node.wait_field("pod/again", "/status/containerStatuses/0/restartCount", "1");
    node.wait_field("pod/again", "/status/containerStatuses/0/state/waiting/reason", "CrashLoopBackOff");
    assert_eq!(node.field("pod/again", "/status/containerStatuses/0/lastState/terminated/exitCode"), "3");
    assert_eq!(node.podd(&["logs", "again", "--previous"]).ok(), "try\n");
    assert_eq!(node.podd(&["logs", "done"]).ok(), "bye\n");
}

#[test]
fn a_pod_deleted_while_the_agent_is_away_is_gone_when_it_is_back() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&pod("a", "", FOR_EVER));
    let running = node.pod_processes();
    node.podd(&["delete", "pod", "a", "--wait=false"]).ok();
    node.kill_agent();
    node.start_agent();
    wait_for(SOON, "the pod is gone", || {
        let seen = node.podd(&["get", "pod", "a"]);
        if seen.stderr.contains("not found") { Ok(()) } else { Err(seen.stdout) }
    });
    wait_for(SOON, "its processes are gone", || {
        let left: Vec<i32> = node.processes().into_iter().filter(|pid| running.contains(pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn a_killed_container_is_started_again() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod("a", "", "echo $$; exec sleep 1000"));
    let id = node.field("pod/a", "/status/containerStatuses/0/containerID");
    // The container's first process cannot be killed from inside; one of the node's can.
    let sleeping = wait_for(SOON, "the sleep runs", || {
        let found = node.processes().into_iter().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == "sleep\x001000\0")
        });
        found.ok_or_else(|| format!("{:?}", node.processes()))
    });
    assert!(Command::new("kill").args(["-9", &sleeping.to_string()]).status().expect("kill runs").success());
    node.wait_field("pod/a", "/status/containerStatuses/0/restartCount", "1");
    node.wait_field("pod/a", "/status/containerStatuses/0/ready", "true");
    assert_ne!(node.field("pod/a", "/status/containerStatuses/0/containerID"), id);
    assert_eq!(node.field("pod/a", "/status/containerStatuses/0/lastState/terminated/exitCode"), "137");
}

#[test]
fn a_static_manifest_runs_and_goes_with_its_file() {
    let node = Node::with_agent();
    let file = node.file("manifests/fixed.yaml", &pod("fixed", "", FOR_EVER));
    let name = wait_for(SOON, "the pod of the manifest runs", || {
        let listed = node.podd(&["get", "pods"]);
        let row = listed.stdout.lines().find(|row| row.starts_with("fixed-") && row.contains("Running"));
        row.and_then(|row| row.split_whitespace().next()).map(str::to_owned).ok_or(listed.stdout.clone())
    });
    std::fs::remove_file(file).expect("the manifest is removed");
    wait_for(SOON, "the pod is gone", || {
        let seen = node.podd(&["get", "pod", &name]);
        if seen.stderr.contains("not found") { Ok(()) } else { Err(seen.stdout) }
    });
}
