//! How pods and containers end: the time a pod may be active, what its containers say of their end, and the signal by which
//! they are stopped.

use podd_tests::{Node, image::BUSYBOX};

fn pod(spec: &str, containers: &[String]) -> String {
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n";
    format!("{head}{spec}  containers:\n{}", containers.concat())
}

fn container(name: &str, more: &str, script: &str) -> String {
    format!("    - {{name: {name}, image: '{BUSYBOX}', {more} command: [sh, -c, \"{script}\"]}}\n")
}

#[test]
fn a_pod_that_is_active_for_too_long_fails() {
    let node = Node::with_agent();
    let spec = "  activeDeadlineSeconds: 2\n  terminationGracePeriodSeconds: 1\n";
    node.apply_and_wait(&pod(spec, &[container("c", "", "sleep 100000")]));
    node.wait_field("pod/p", "/status/phase", "Failed");
    assert_eq!(node.field("pod/p", "/status/reason"), "DeadlineExceeded");
    let message = node.field("pod/p", "/status/message");
    assert_eq!(message, "Pod was active on the node longer than the specified deadline");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/terminated/exitCode"), "137");
    assert!(node.pod_processes().is_empty(), "nothing of it runs");
}

#[test]
fn last_words_are_the_files_or_the_logs() {
    let node = Node::with_agent();
    let falls_back = "terminationMessagePolicy: FallbackToLogsOnError,";
    let others = "terminationMessagePath: /tmp/said, securityContext: {runAsUser: 1000},";
    let containers = [
        container("a", "", "echo -n out of luck >/dev/termination-log; exit 1"),
        container("b", others, "echo -n elsewhere >/tmp/said; exit 0"),
        container("c", falls_back, "echo in the log; exit 3"),
        container("d", falls_back, "echo in the log; exit 0"),
        container("e", "", "echo in the log; exit 3"),
    ];
    node.apply(&pod("  restartPolicy: Never\n", &containers)).ok();
    node.wait_field("pod/p", "/status/phase", "Failed");
    let said = |n: usize| node.field("pod/p", &format!("/status/containerStatuses/{n}/state/terminated/message"));
    assert_eq!([0, 1, 2].map(said), ["out of luck", "elsewhere", "in the log\n"]);
    assert_eq!([3, 4].map(said), ["", ""]);
}

#[test]
fn a_container_is_stopped_by_the_signal_it_asks_for() {
    let node = Node::with_agent();
    let script = "trap 'exit 5' USR1; trap '' TERM; touch /dev/shm/ready; while true; do sleep 0.05; done";
    let more = "lifecycle: {stopSignal: SIGUSR1},";
    let spec = "  os: {name: linux}\n  activeDeadlineSeconds: 3\n";
    node.apply_and_wait(&pod(spec, &[container("c", more, script)]));
    node.wait_field("pod/p", "/status/phase", "Failed");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/terminated/exitCode"), "5");
}
