//! `podd why`: the answer in the first line, for the ways in which pods fail to run.

use std::time::Duration;

use podd_tests::{Node, wait_for};

/// A pod of one container that runs a script, with fields of the spec and of the container.
fn pod(spec: &str, container: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}  containers:\n  \
         - name: app\n    image: busybox:test\n    command: [sh, -c, {script:?}]\n{container}"
    )
}

/// Waits until the story has all of these parts, the first of them in its first line.
fn told(node: &Node, parts: &[&str]) -> String {
    wait_for(Duration::from_secs(60), &format!("the story has {parts:?}"), || {
        let story = node.podd(&["why", "pod/web"]).stdout;
        let begins = story.lines().next().is_some_and(|line| line.contains(parts[0]));
        if begins && parts.iter().all(|part| story.contains(part)) { Ok(story) } else { Err(story) }
    })
}

#[test]
fn a_crash_loop_is_told_with_its_log_and_its_next_try_also_after_the_agent_was_killed() {
    let mut node = Node::with_agent();
    node.apply(&pod("", "", "echo no database; exit 3")).ok();
    let parts = [
        "pod/web is not Ready: container app exits with code 3 right after its start (2 times); next try in ",
        "\nEvents:\n",
        "BackOff",
        "Log of container app, last lines:\n  no database\n",
    ];
    let story = told(&node, &parts);
    assert_eq!(story.matches("  no database\n").count(), 1, "{story}");
    node.kill_agent();
    node.start_agent();
    told(&node, &["container app exits with code 3 right after its start (", "no database"]);
}

#[test]
fn memory_that_runs_out_is_told_with_the_limit() {
    let node = Node::with_agent();
    let limit = "    resources: {limits: {memory: 16Mi}}\n";
    node.apply(&pod("  restartPolicy: Never\n", limit, "exec tail /dev/zero")).ok();
    told(
        &node,
        &["pod/web has failed: container app was killed for memory beyond its limit of 16Mi (OOMKilled, code 137)"],
    );
}

#[test]
fn what_keeps_a_container_from_starting_is_told() {
    let node = Node::with_agent();
    let manifest = pod("", "", "true").replace("busybox:test", "127.0.0.1:1/none:1");
    node.apply(&manifest).ok();
    told(&node, &["pod/web is not Ready: the image 127.0.0.1:1/none:1 of container app cannot be had: ", "Failed"]);
    node.podd(&["delete", "pod", "web"]).ok();
    // What is gone is told by the events that outlive it.
    let gone = node.podd(&["why", "web"]);
    assert!(gone.refused().contains("there is no pod \"web\" in the namespace default any more"), "{}", gone.stderr);
    assert!(gone.stdout.contains("Failed"), "{}", gone.stdout);
    assert!(node.podd(&["why", "never"]).refused().contains("there is no pod \"never\" in the namespace default\n"));
}

#[test]
fn a_pod_that_the_node_does_not_admit_and_one_that_is_ready_are_told() {
    let node = Node::with_agent();
    let ports = "    ports: [{containerPort: 80, hostPort: 8099}]\n";
    let forever = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    node.apply_and_wait(&pod("", ports, forever).replace("name: web", "name: first"));
    node.apply(&pod("", ports, forever)).ok();
    told(&node, &["pod/web has failed: NodePorts: "]);
    let story = node.podd(&["why", "first"]);
    assert!(story.ok().starts_with("pod/first is Ready\n"), "{}", story.stdout);
}
