//! Sidecars, and containers with a restart policy of their own.

use std::time::{Duration, Instant};

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

/// Lines that the containers of a pod write, in the order in which they came.
fn lines(node: &Node) -> Vec<String> {
    let text = std::fs::read_to_string(node.path().join("lines")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A pod with a volume `v` that is the node's directory.
fn manifest(node: &Node, rest: &str) -> String {
    let directory = node.path().display();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes: [{{name: v, hostPath: {{path: '{directory}'}}}}]\n{rest}"
    )
}

/// A container that runs a script and has the volume at `/v`.
fn container(name: &str, more: &str, script: &str) -> String {
    format!(
        "    - {{name: {name}, image: '{BUSYBOX}', {more} volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, \"{script}\"]}}\n"
    )
}

/// Says when it has started and when it was told to end, and ends at once.
fn told(name: &str) -> String {
    format!(
        "trap 'echo {name} ends >>/v/lines; exit 0' TERM; echo {name} runs >>/v/lines; while true; do sleep 0.05; done"
    )
}

#[test]
fn a_sidecar_starts_first_and_ends_last() {
    let node = Node::with_agent();
    let always = "restartPolicy: Always,";
    let spec = "  initContainers:\n".to_owned()
        + &container("first", always, &told("first"))
        + &container("init", "", "sleep 0.3; echo init runs >>/v/lines")
        + &container("second", always, &told("second"))
        + "  containers:\n"
        + &container("app", "", &told("app"));
    node.apply_and_wait(&manifest(&node, &spec));
    wait_for(
        SOON,
        "all have begun",
        || if lines(&node).len() == 4 { Ok(()) } else { Err(format!("{:?}", lines(&node))) },
    );
    assert_eq!(lines(&node), ["first runs", "init runs", "second runs", "app runs"]);
    assert!(!node.field("pod/p", "/status/initContainerStatuses/0/state/running").is_empty());
    node.podd(&["delete", "pod", "p"]).ok();
    assert_eq!(lines(&node)[4..], ["app ends", "second ends", "first ends"]);
}

#[test]
fn a_sidecar_that_ends_is_started_again_and_does_not_keep_its_pod_alive() {
    let node = Node::with_agent();
    let sidecar = "echo x >>/v/lines; until [ -e /v/go ]; do sleep 0.05; done; sleep 0.05; exit 1";
    let spec = "  restartPolicy: Never\n  initContainers:\n".to_owned()
        + &container("s", "restartPolicy: Always,", sidecar)
        + "  containers:\n"
        + &container("app", "", "until [ $(wc -l </v/lines) -ge 2 ]; do sleep 0.05; done; exit 0");
    node.apply_and_wait(&manifest(&node, &spec));
    node.file("go", "");
    node.wait_field("pod/p", "/status/phase", "Succeeded");
    assert!(node.field("pod/p", "/status/initContainerStatuses/0/restartCount").parse::<u32>().expect("a count") >= 1);
    wait_for(SOON, "nothing of it runs", || {
        let left = node.pod_processes().len();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
}

#[test]
fn sidecars_and_what_they_serve_share_one_grace() {
    let node = Node::with_agent();
    let deaf = "trap '' TERM; while true; do sleep 0.05; done";
    let always = "restartPolicy: Always,";
    let spec = "  terminationGracePeriodSeconds: 2\n  initContainers:\n".to_owned()
        + &container("s", always, deaf)
        + &container("t", always, deaf)
        + "  containers:\n"
        + &container("app", "", deaf);
    node.apply_and_wait(&manifest(&node, &spec));
    let begun = Instant::now();
    node.podd(&["delete", "pod", "p"]).ok();
    // Two seconds for all of them, and the two that everybody gets at the end.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn a_container_has_its_own_policy_and_rules() {
    let node = Node::with_agent();
    let rules =
        "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}],";
    let twice = "echo x >>/v/lines; [ $(wc -l </v/lines) -ge 2 ] && exit 7; exit 42";
    let spec = "  restartPolicy: Never\n  containers:\n".to_owned()
        + &container("ruled", rules, twice)
        + &container("again", "restartPolicy: OnFailure,", "[ -e /v/once ] && exit 0; touch /v/once; exit 1")
        + &container("once", "", "exit 0");
    node.apply(&manifest(&node, &spec)).ok();
    node.wait_field("pod/p", "/status/phase", "Failed");
    let of = |at: usize, field: &str| node.field("pod/p", &format!("/status/containerStatuses/{at}/{field}"));
    assert_eq!((of(0, "restartCount"), of(0, "state/terminated/exitCode")), ("1".into(), "0".into()), "again");
    assert_eq!((of(1, "restartCount"), of(1, "state/terminated/exitCode")), ("0".into(), "0".into()), "once");
    assert_eq!((of(2, "restartCount"), of(2, "state/terminated/exitCode")), ("1".into(), "7".into()), "ruled");
}
