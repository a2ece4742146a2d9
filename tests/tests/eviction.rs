//! Pods that the node ends for its own sake, or does not take.

use std::time::Duration;

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

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

#[test]
fn a_node_short_of_memory_says_so_and_ends_who_is_above_its_request_first() {
    let mut node = Node::new();
    let short = "[agent.eviction]\nhard = {}\nsoft = {\"memory.available\" = \"1Pi\"}\nsoft-grace = {\"memory.available\" = \"20s\"}\n\
                 max-pod-grace = \"10s\"\n";
    node.file("config.toml", short);
    node.start_agent();
    node.load_busybox();
    let condition = |node: &Node| node.field("node", "/items/0/status/conditions/0").replace('"', "");
    wait_for(SOON, "the node tells", || {
        let told = condition(&node);
        let all = ["type:MemoryPressure", "status:True", "reason:KubeletHasInsufficientMemory"];
        if all.iter().all(|part| told.contains(part)) { Ok(()) } else { Err(told) }
    });
    let with = |name: &str, limit: &str, more: &str| {
        pod(name, "", &[("c", "true", limit)])
            .replace("spec:\n", &format!("spec:\n{more}"))
            .replace("limits: {}", "limits: null")
    };
    let asking = |name: &str, amount: &str| {
        with(name, "", "").replace("limits: null", &format!("requests: {{memory: {amount}}}"))
    };
    let spared = with("spared", "", "  priorityClassName: system-node-critical\n");
    node.apply(&[asking("modest", "64Mi"), asking("greedy", "1Ki"), spared, with("late", "", "")].concat()).ok();
    node.wait_field("pod/late", "/status/phase", "Failed");
    assert_eq!(node.field("pod/late", "/status/reason"), "Evicted");
    let message = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(node.field("pod/late", "/status/message"), message);
    for name in ["greedy", "modest"] {
        let object = format!("pod/{name}");
        node.wait_field_for(ROUNDS * 2, &object, "/status/phase", "Failed");
        assert_eq!(node.field(&object, "/status/reason"), "Evicted");
        let told = node.field(&object, "/status/message");
        assert!(
            told.starts_with("The node was low on resource: memory. Threshold quantity: 1Pi, available: "),
            "{told}"
        );
        let above = told.contains("Container c was using ") && told.contains(", has larger consumption of memory. ");
        assert_eq!(above, name == "greedy", "{told}");
        assert!(node.field(&object, "/status/conditions").contains("DisruptionTarget"), "{name}");
    }
    let end =
        |name: &str| node.field(&format!("pod/{name}"), "/status/containerStatuses/0/state/terminated/finishedAt");
    assert!(end("greedy") < end("modest"), "one at a time: {} {}", end("greedy"), end("modest"));
    assert_eq!(node.field("pod/spared", "/status/phase"), "Running", "it is critical");
    let events = node.podd(&["get", "events", "-o", "json"]).ok().to_owned();
    assert!(events.contains("EvictionThresholdMet") && events.contains("NodeHasInsufficientMemory"), "{events}");

    node.stop_agent(false);
    node.file("config.toml", "[agent.eviction]\nhard = {}\n");
    node.start_agent();
    wait_for(SOON, "the node is well", || {
        let told = condition(&node);
        if told.contains("status:False") { Ok(()) } else { Err(told) }
    });
    node.apply_and_wait(&with("later", "", ""));
    assert_eq!(node.field("pod/greedy", "/status/reason"), "Evicted", "it is not run again");
}

#[test]
fn thresholds_that_mean_nothing_are_refused_by_their_key() {
    let node = Node::new();
    let refused = |text: &str, expected: &str| {
        node.file("config.toml", &format!("[agent.eviction]\n{text}\n"));
        let mut command = node.command("timeout");
        let output = command.arg("60").arg(podd_tests::program()).arg("agent").output().expect("podd runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{said}");
    };
    refused("hard = {\"memory.free\" = \"1Gi\"}", "agent.eviction.hard.memory.free: no such signal");
    refused("soft = {\"memory.available\" = \"1Gi\"}", "agent.eviction.soft.memory.available: a soft threshold needs");
    refused("hard = {\"memory.available\" = \"1Pi\"}", "leave nothing of the machine's");
}
