//! How containers begin and end where it goes wrong: a failing init container, images that cannot be had, a container
//! that ignores its signal; and processes that share a namespace.

use std::time::{Duration, Instant};

use podd_tests::{Node, image::BUSYBOX};

fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}  containers:\n    - {{name: c, {container}}}\n"
    )
}

const SLEEP: &str = "command: [sleep, '100000']";

#[test]
fn an_init_container_that_fails_keeps_the_others_from_starting() {
    let node = Node::with_agent();
    let spec = format!(
        "  restartPolicy: Never\n  initContainers:\n    - {{name: i, image: '{BUSYBOX}', command: [sh, -c, 'exit 7']}}\n"
    );
    node.apply(&pod("p", &spec, &format!("image: '{BUSYBOX}', {SLEEP}"))).ok();
    node.wait_field("pod/p", "/status/phase", "Failed");
    assert_eq!(node.field("pod/p", "/status/initContainerStatuses/0/state/terminated/exitCode"), "7");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/waiting/reason"), "PodInitializing");
}

#[test]
fn an_image_that_cannot_be_had_is_told_and_spares_other_pods() {
    let node = Node::with_agent();
    let grace = "  terminationGracePeriodSeconds: 0\n";
    node.apply_and_wait(&pod("good", grace, &format!("image: '{BUSYBOX}', {SLEEP}")));
    let id = node.field("pod/good", "/status/containerStatuses/0/containerID");
    node.apply(&pod("refused", grace, &format!("image: '127.0.0.1:1/none:v1', {SLEEP}"))).ok();
    node.apply(&pod("never", grace, &format!("image: 'none:v1', imagePullPolicy: Never, {SLEEP}"))).ok();
    node.wait_field("pod/refused", "/status/containerStatuses/0/state/waiting/reason", "ImagePullBackOff");
    node.wait_field("pod/never", "/status/containerStatuses/0/state/waiting/reason", "ErrImageNeverPull");
    let message = node.field("pod/refused", "/status/containerStatuses/0/state/waiting/message");
    assert!(message.contains("127.0.0.1:1/none:v1"), "{message}");
    assert_eq!(node.field("pod/good", "/status/containerStatuses/0/containerID"), id);
    assert_eq!(node.field("pod/good", "/status/phase"), "Running");
}

#[test]
fn a_container_that_ignores_its_signal_has_its_grace_and_no_more() {
    let node = Node::with_agent();
    let container = format!("image: '{BUSYBOX}', command: [sh, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]");
    node.apply_and_wait(&pod("p", "  terminationGracePeriodSeconds: 1\n", &container));
    let begun = Instant::now();
    node.podd(&["delete", "pod", "p"]).ok();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "it had its grace: {took:?}");
    assert!(took < Duration::from_secs(5), "and was killed after it: {took:?}");
    assert!(node.processes().is_empty(), "nothing runs on");
}

#[test]
fn containers_that_share_processes_see_each_other() {
    let node = Node::with_agent();
    let spec = "  shareProcessNamespace: true\n  terminationGracePeriodSeconds: 0\n";
    let other = format!("    - {{name: d, image: '{BUSYBOX}', command: [sleep, '200000']}}\n");
    node.apply_and_wait(&(pod("p", spec, &format!("image: '{BUSYBOX}', {SLEEP}")) + &other));
    let seen = node.podd(&["exec", "p", "-c", "d", "--", "ps"]).ok().to_owned();
    assert!(seen.contains("sleep 100000") && seen.contains("sleep 200000"), "{seen}");
}
