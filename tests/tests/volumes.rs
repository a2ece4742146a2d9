//! What a container may write and as whom: volumes, read-only mounts and the security context, seen from inside.

use podd_tests::{Node, image::BUSYBOX};

#[test]
fn an_empty_directory_is_shared_by_the_containers_of_a_pod() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, emptyDir: {{}}}}]\n  containers:\n    \
         - {{name: a, image: '{BUSYBOX}', command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n    \
         - {{name: b, image: '{BUSYBOX}', command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /w, readOnly: true}}]}}\n"
    ));
    node.podd(&["exec", "p", "-c", "a", "--", "sh", "-c", "echo shared >/v/file"]).ok();
    assert_eq!(node.podd(&["exec", "p", "-c", "b", "--", "cat", "/w/file"]).ok().trim(), "shared");
    let refused = node.podd(&["exec", "p", "-c", "b", "--", "sh", "-c", "echo x >/w/file"]);
    assert_ne!(refused.code, 0, "a read-only mount refuses a write");
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    assert_eq!(node.podd(&["exec", "p", "-c", "a", "--", "cat", "/v/file"]).ok().trim(), "shared");
}

#[test]
fn a_security_context_holds_for_the_containers_process() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n    \
         - name: c\n      image: '{BUSYBOX}'\n      command: [sleep, '100000']\n      securityContext:\n        \
         runAsUser: 1234\n        readOnlyRootFilesystem: true\n        allowPrivilegeEscalation: false\n        \
         capabilities: {{drop: [ALL]}}\n"
    ));
    let status = node.podd(&["exec", "p", "--", "cat", "/proc/1/status"]).ok().to_owned();
    let value = |key: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {status}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(value("Uid:"), "1234 1234 1234 1234");
    assert_eq!(value("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    let mounts = node.podd(&["exec", "p", "--", "cat", "/proc/1/mounts"]).ok().to_owned();
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).expect("a root mount");
    let options = root.split(' ').nth(3).unwrap_or_default();
    assert!(options.split(',').any(|option| option == "ro"), "the root is read-only: {root}");
}
