//! Pods that the node ends for its own sake, or does not take.

use std::time::Duration;

use podd_tests::{Node, image::BUSYBOX};

/// Two rounds, the age that a size may have, and a grace.
const ROUNDS: Duration = Duration::from_secs(60);

fn pod(name: &str, volumes: &str, containers: &[(&str, &str, &str)]) -> String {
    let container = |(name, script, limit): &(&str, &str, &str)| {
        let mount = if volumes.is_empty() { "" } else { ", volumeMounts: [{name: v, mountPath: /v}]" };
        format!(
            "  - {{name: {name}, image: '{BUSYBOX}', command: [sh, -c, \"{script}; exec sleep 100000\"]{mount}, resources: {{limits: {{{limit}}}}}}}\n"
        )
    };
    let containers: String = containers.iter().map(container).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 100\n  volumes: [{volumes}]\n  containers:\n{containers}---\n"
    )
}

#[test]
fn a_pod_that_fills_more_of_the_disk_than_it_may_is_evicted() {
    let node = Node::with_agent();
    let fill = |path: &str, mib: u32| format!("dd if=/dev/zero of={path} bs=1048576 count={mib}");
    let speak = "i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero | tr '\\\\0' x; echo; i=$((i+1)); done";
    let (one, three, five) = (fill("/v/a", 1), fill("/v/a", 3), fill("/a", 5));
    let limit = |mib: u32| format!("ephemeral-storage: {mib}Mi");
    let (of_two, of_four) = (limit(2), limit(4));
    let manifests = [
        pod("modest", "{name: v, emptyDir: {sizeLimit: 2Mi}}", &[("c", &one, &of_two)]),
        pod("volume", "{name: v, emptyDir: {sizeLimit: 2Mi}}", &[("c", &three, "cpu: 1")]),
        pod("whole", "{name: v, emptyDir: {}}", &[("c", &three, &of_two), ("d", "true", "cpu: 1")]),
        pod("layer", "", &[("c", &five, &of_four), ("d", "true", &of_four)]),
        pod("logs", "", &[("c", speak, &of_two), ("d", "true", &limit(100))]),
    ];
    node.apply(&manifests.concat()).ok();
    let table = [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". "),
        ("whole", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
        ("layer", "Container c exceeded its local ephemeral storage limit \"4Mi\". "),
        ("logs", "Container c exceeded its local ephemeral storage limit \"2Mi\". "),
    ];
    for (name, message) in table {
        let object = format!("pod/{name}");
        node.wait_field_for(ROUNDS, &object, "/status/phase", "Failed");
        assert_eq!(node.field(&object, "/status/reason"), "Evicted", "{name}");
        assert_eq!(node.field(&object, "/status/message"), message);
        assert_eq!(node.field(&object, "/status/containerStatuses/0/state/terminated/exitCode"), "137", "{name}");
        let told = node.podd(&["describe", "pod", name]).stdout;
        assert!(told.lines().any(|line| line.contains("Evicted") && line.contains(message.trim_end())), "{told}");
        assert!(!node.podd(&["logs", name, "-c", "c"]).stderr.contains("error"), "{name}: its logs are there");
    }
    assert_eq!(node.field("pod/modest", "/status/phase"), "Running");
    assert_eq!(node.pod_processes().len(), 1, "nothing runs of those that were evicted");
    node.podd(&["delete", "pod", "volume", "whole", "layer", "logs"]).ok();
}

#[test]
fn a_pod_that_asks_for_more_disk_than_there_is_is_not_taken() {
    let node = Node::with_agent();
    let capacity = node.field(&format!("node/{}", node.field("node", "/items/0/metadata/name")), "/status/capacity");
    assert!(capacity.contains("\"ephemeral-storage\""), "{capacity}");
    node.apply(&pod("p", "", &[("c", "true", "ephemeral-storage: 1Ei")])).ok();
    node.wait_field("pod/p", "/status/phase", "Failed");
    assert_eq!(node.field("pod/p", "/status/reason"), "OutOfephemeral-storage");
    assert!(node.pod_processes().is_empty());
}
