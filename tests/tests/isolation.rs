//! What a pod shares with its node, seen from inside: namespaces, users and their ids, `/proc`.

use std::os::unix::fs::{MetadataExt as _, chown};

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

/// A pod of one container; `spec` and `container` are further fields.
fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {spec}\n  \
         containers:\n    - {{name: c, image: '{BUSYBOX}', imagePullPolicy: Never, command: [sleep, '100000']{container}}}\n---\n"
    )
}

/// What a shell script says in a pod.
fn said(node: &Node, pod: &str, script: &str) -> String {
    let output = node.podd(&["exec", pod, "--", "sh", "-c", script]);
    output.stdout + &output.stderr
}

/// The first id of the node that a pod's ids stand for.
fn first_id(node: &Node, pod: &str) -> u32 {
    let said = said(node, pod, "cat /proc/self/uid_map /proc/self/gid_map");
    let numbers: Vec<u32> = said.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert_eq!(numbers.len(), 6, "{said}");
    assert_eq!(numbers[..3], numbers[3..]);
    assert_eq!((numbers[0], numbers[2]), (0, 65_536));
    numbers[1]
}

#[test]
fn a_pod_in_the_nodes_process_and_ipc_namespaces_sees_what_is_there() {
    let node = Node::with_agent();
    node.apply_and_wait(&[pod("own", "", ""), pod("node", "hostPID: true\n  hostIPC: true", "")].concat());
    // The node of a test has the machine's processes and IPC.
    let namespace = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        format!("{}\n", link.display())
    };
    for kind in ["pid", "ipc"] {
        let script = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(said(&node, "node", &script), namespace(kind));
        assert_ne!(said(&node, "own", &script), namespace(kind));
    }
    let agent = node.agent_pid();
    assert!(said(&node, "node", &format!("cat /proc/{agent}/comm")).contains("podd"));
    node.podd(&["delete", "pod", "node"]).ok();
    assert!(std::path::Path::new(&format!("/proc/{agent}")).exists(), "only the pod's own processes end with it");

    for (spec, path) in [
        ("hostPID: true\n  shareProcessNamespace: true", "spec.shareProcessNamespace"),
        ("hostPID: true\n  hostUsers: false", "spec.hostPID"),
        ("hostIPC: true\n  hostUsers: false", "spec.hostIPC"),
        ("hostNetwork: true\n  hostUsers: false", "spec.hostNetwork"),
    ] {
        let refused = node.apply(&pod("both", spec, ""));
        assert!(refused.code != 0 && refused.stderr.contains(path), "{}", refused.stderr);
    }
}

#[test]
fn a_pod_with_users_of_its_own_has_ids_that_nobody_else_has() {
    let mut node = Node::with_agent();
    let shared = node.path().join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    std::fs::write(shared.join("given"), "x").expect("a file");
    chown(shared.join("given"), Some(1234), Some(4321)).expect("another owner");
    let volumes = format!(
        "hostUsers: false\n  volumes: [{{name: e, emptyDir: {{}}}}, {{name: m, emptyDir: {{medium: Memory}}}}, \
         {{name: h, hostPath: {{path: {}}}}}]",
        shared.display()
    );
    let mounts = ", volumeMounts: [{name: e, mountPath: /e}, {name: m, mountPath: /m}, {name: h, mountPath: /h}]";
    node.apply_and_wait(&[pod("a", &volumes, mounts), pod("b", "hostUsers: false", "")].concat());
    let (first, second) = (first_id(&node, "a"), first_id(&node, "b"));
    assert_ne!(first, second);
    assert!(first % 65_536 == 0 && first > 0 && second % 65_536 == 0 && second > 0, "{first} {second}");

    // Root inside is nobody of the node's, and yet owns what it makes and sees the owners that there are.
    let script = "id -u; touch /e/f /m/f /h/f && stat -c %u:%g /e /m /h/f /h/given /etc/hosts";
    assert_eq!(said(&node, "a", script), "0\n0:0\n0:0\n0:0\n1234:4321\n0:0\n");
    let made = std::fs::metadata(shared.join("f")).expect("it is there");
    assert_eq!((made.uid(), made.gid()), (0, 0), "on disk the ids are those that the container saw");
    let owner = |pid: &i32| std::fs::metadata(format!("/proc/{pid}")).ok().map(|process| process.uid());
    let owners: Vec<u32> = node.processes().iter().filter_map(owner).collect();
    assert!(owners.contains(&first) && owners.contains(&second), "{owners:?}");

    // The range outlives the agent, and a new sandbox has it again.
    node.kill_agent();
    node.start_agent();
    node.apply_and_wait(&pod("c", "hostUsers: false", ""));
    assert_eq!(first_id(&node, "a"), first);
    assert!(![first, second].contains(&first_id(&node, "c")));
    let directory = node.path().join("root/pods").join(node.field("pod/a", "/metadata/uid"));
    node.podd(&["delete", "pod", "a"]).ok();
    wait_for(SOON, "the pod has left nothing", || {
        if directory.exists() { Err("its directory".to_owned()) } else { Ok(()) }
    });
    node.apply_and_wait(&pod("d", "hostUsers: false", ""));
    assert_eq!(first_id(&node, "d"), first, "a range is free once its pod is gone");
}

#[test]
fn an_unmasked_proc_is_whole_and_needs_users_of_the_pods_own() {
    let node = Node::with_agent();
    let unmasked = ", securityContext: {procMount: Unmasked}";
    node.apply_and_wait(&[pod("masked", "hostUsers: false", ""), pod("whole", "hostUsers: false", unmasked)].concat());
    let script = "[ -n \"$(cat /proc/interrupts)\" ] && echo interrupts; grep -c ' /proc/' /proc/mounts || true";
    assert_eq!(said(&node, "whole", script), "interrupts\n0\n");
    let masked = said(&node, "masked", script);
    assert!(!masked.contains("interrupts") && masked.trim() != "0", "{masked}");

    let refused = node.apply(&pod("bare", "", unmasked));
    let wanted = "spec.containers[0].securityContext.procMount";
    assert!(refused.code != 0 && refused.stderr.contains(wanted), "{}", refused.stderr);
    assert!(refused.stderr.contains("`hostUsers` must be false to use `Unmasked`"), "{}", refused.stderr);
}

#[test]
fn a_pod_of_another_operating_system_fails() {
    let node = Node::with_agent();
    node.apply(&pod("w", "os: {name: windows}", "")).ok();
    node.wait_field("pod/w", "/status/phase", "Failed");
    assert_eq!(node.field("pod/w", "/status/reason"), "PodOSNotSupported");
    node.apply_and_wait(&pod("l", "os: {name: linux}", ""));
    let refused = node.apply(&pod("p", "os: {name: plan9}", ""));
    assert!(refused.code != 0 && refused.stderr.contains("spec.os.name"), "{}", refused.stderr);
}

#[test]
fn the_node_tells_what_its_runtime_can_do() {
    let node = Node::with_agent();
    node.wait_field("node", "/items/0/status/features/supplementalGroupsPolicy", "true");
    let handlers = node.field("node", "/items/0/status/runtimeHandlers");
    let handlers: serde_json::Value = serde_json::from_str(&handlers).expect("a list");
    let own = handlers.as_array().into_iter().flatten().find(|handler| handler["name"] == "podd");
    let features = &own.expect("podd's own")["features"];
    assert_eq!(features, &serde_json::json!({"recursiveReadOnlyMounts": true, "userNamespaces": true}));
}
