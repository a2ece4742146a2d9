//! What a pod gets from the classes that it names: its priority, its runtime handler and the overhead of that.

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

/// A pod of one container; `spec` and `container` are further fields.
fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {spec}\n  \
         containers:\n    - {{name: c, image: '{BUSYBOX}', imagePullPolicy: Never, command: [sleep, '100000']{container}}}\n---\n"
    )
}

fn priority(name: &str, more: &str) -> String {
    format!("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: {name}}}\n{more}\n---\n")
}

fn runtime(name: &str, handler: &str, more: &str) -> String {
    format!(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n{more}\n---\n"
    )
}

/// `priority policy class` of a pod.
fn resolved(node: &Node, name: &str) -> [String; 3] {
    ["priority", "preemptionPolicy", "priorityClassName"]
        .map(|field| node.field(&format!("pod/{name}"), &format!("/spec/{field}")))
}

#[test]
fn a_pod_has_the_priority_of_its_class() {
    let node = Node::with_agent();
    let high = pod("high", "priorityClassName: high", "");
    // The class is made before its pod, wherever it stands.
    let all = [
        high.clone(),
        pod("plain", "", ""),
        pod("critical", "priorityClassName: system-node-critical", ""),
        priority("high", "value: 1000\npreemptionPolicy: Never"),
    ];
    node.apply_and_wait(&all.concat());
    assert_eq!(resolved(&node, "high"), ["1000", "Never", "high"]);
    assert_eq!(resolved(&node, "plain"), ["0", "PreemptLowerPriority", ""]);
    assert_eq!(resolved(&node, "critical"), ["2000001000", "PreemptLowerPriority", "system-node-critical"]);
    let described = node.podd(&["describe", "pod", "high"]).stdout;
    assert!(described.contains("Priority Class Name:") && described.contains("1000"), "{described}");
    let listed = node.podd(&["get", "priorityclasses"]).stdout;
    for name in ["high", "system-cluster-critical", "system-node-critical"] {
        assert!(listed.contains(name), "{listed}");
    }
    // Applied again, or as it was printed, it stays as it is.
    let printed = node.podd(&["get", "pod", "high", "-o", "yaml"]).stdout;
    for manifest in [high, printed] {
        node.apply(&manifest).ok();
        assert_eq!(resolved(&node, "high"), ["1000", "Never", "high"]);
    }

    // A default is for those that come after it.
    node.apply(&priority("usual", "value: 5\nglobalDefault: true")).ok();
    node.apply_and_wait(&pod("later", "", ""));
    assert_eq!(resolved(&node, "later"), ["5", "PreemptLowerPriority", "usual"]);

    for (manifest, why) in [
        (pod("x", "priorityClassName: nobody", ""), "no PriorityClass with name nobody was found"),
        (
            pod("x", "priorityClassName: high\n  priority: 7", ""),
            "the integer value of priority (7) must not be provided",
        ),
        (priority("second", "value: 6\nglobalDefault: true"), "PriorityClass usual is already marked as default"),
        // An update makes no second default either.
        (
            priority("high", "value: 1000\npreemptionPolicy: Never\nglobalDefault: true"),
            "PriorityClass usual is already marked as default",
        ),
        (priority("system-mine", "value: 6"), "reserved for system use only"),
        (priority("high", "value: 1001\npreemptionPolicy: Never"), "may not be changed in an update"),
    ] {
        let refused = node.apply(&manifest);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{}", refused.stderr);
    }
}

#[test]
fn a_runtime_class_names_the_handler_and_its_overhead_is_the_pods() {
    let mut node = Node::new();
    node.file("config.toml", "[runtime.handlers]\nrunc = \"embedded\"\n");
    node.start_agent();
    node.load_busybox();
    let limited = ", resources: {limits: {cpu: 100m, memory: 32Mi}}";
    let all = [
        runtime("heavy", "runc", "overhead: {podFixed: {cpu: 150m, memory: 32Mi}}"),
        runtime("plain", "podd", ""),
        runtime("strange", "gvisor", ""),
        pod("heavy", "runtimeClassName: heavy", limited),
        pod("plain", "runtimeClassName: plain", limited),
    ];
    node.apply_and_wait(&all.concat());
    assert_eq!(node.field("pod/heavy", "/spec/overhead/cpu"), "150m");
    assert_eq!(node.field("pod/plain", "/spec/overhead"), "");
    let of_pod = |name: &str, v1: &str, v2: &str| {
        let directory = format!("pod{}", node.field(&format!("pod/{name}"), "/metadata/uid"));
        let tops = node.cgroups();
        let found = tops.iter().find_map(|top| find(top, &directory, &[v1, v2]));
        found.unwrap_or_else(|| panic!("no {v1} in {tops:?}"))
    };
    let memory = |name| of_pod(name, "memory.limit_in_bytes", "memory.max").parse::<u64>().expect("bytes");
    assert_eq!((memory("heavy"), memory("plain")), (64 << 20, 32 << 20));
    let quota = |name| of_pod(name, "cpu.cfs_quota_us", "cpu.max");
    assert!(quota("heavy").starts_with("25000") && quota("plain").starts_with("10000"), "{}", quota("heavy"));

    // What the runtime does not have, and a class that is gone: the pod waits for it.
    node.apply(&pod("strange", "runtimeClassName: strange", "")).ok();
    node.kill_agent();
    node.file("manifests/static.yaml", &pod("static", "runtimeClassName: later", ""));
    node.start_agent();
    let instance = format!("static-{}", node.field("pod/heavy", "/spec/nodeName"));
    for why in ["no runtime for \"gvisor\" is configured", "runtimeclass.node.k8s.io \"later\" not found"] {
        let wanted = format!("Failed to create pod sandbox: {why}");
        wait_for(SOON, "the event", || {
            let events = node.podd(&["get", "events", "-A"]).stdout;
            if events.contains("FailedCreatePodSandBox") && events.contains(&wanted) { Ok(()) } else { Err(events) }
        });
    }
    assert_eq!(node.field("pod/strange", "/status/phase"), "Pending");
    // The other pod is a change, for which the mirror of the static one is tried again.
    node.apply(&[runtime("later", "podd", ""), pod("other", "", "")].concat()).ok();
    node.wait_field(&format!("pod/{instance}"), "/status/phase", "Running");

    for (manifest, why) in [
        (pod("x", "runtimeClassName: nobody", ""), "pod rejected: RuntimeClass \"nobody\" not found"),
        (pod("x", "overhead: {cpu: 1}", ""), "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (runtime("plain", "other", ""), "handler: Invalid value: \"other\": field is immutable"),
    ] {
        let refused = node.apply(&manifest);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{}", refused.stderr);
    }
}

/// The first of these files in the group of this name, wherever it is below.
fn find(top: &std::path::Path, name: &str, files: &[&str]) -> Option<String> {
    if top.ends_with(name) {
        return files
            .iter()
            .find_map(|file| std::fs::read_to_string(top.join(file)).ok())
            .map(|text| text.trim().to_owned());
    }
    let entries = std::fs::read_dir(top).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.path().is_dir()).find_map(|entry| find(&entry.path(), name, files))
}
