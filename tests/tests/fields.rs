//! Fields of a Pod that no other test names, one by one, as the container sees them.

use podd_tests::{Node, SOON, image, wait_for};

/// A pod of one container with these fields, which runs for ever.
fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, \
         emptyDir: {{}}}}]\n  containers:\n  - name: c\n{container}"
    )
}

#[test]
fn a_container_runs_what_its_spec_says() {
    let node = Node::with_agent();
    let config = serde_json::json!({"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo of the image"],
        "Env": ["OF_IMAGE=1", "BOTH=image"], "WorkingDir": "/etc"});
    node.podd(&["load", "-i", &image::archive(node.path(), "entry:1", config).to_string_lossy()]).ok();
    let image = "    image: entry:1\n    imagePullPolicy: Never\n";
    let table = [
        ("nothing", "", "of the image\n"),
        ("args", "    args: [\"echo args in $PWD\"]\n", "args in /etc\n"),
        ("command", "    command: [echo, alone]\n", "alone\n"),
        ("both", "    command: [echo]\n    args: [together]\n", "together\n"),
        ("directory", "    workingDir: /usr\n    args: [pwd]\n", "/usr\n"),
        (
            "environment",
            "    env: [{name: A, value: a}, {name: BOTH, value: spec}, {name: B, value: $(A)b}, {name: C, value: $$(A)}]\n    \
             command: [sh, -c]\n    args: ['echo $A $BOTH $OF_IMAGE $(B) \"$C\" $(NONE_SUCH 2>/dev/null || echo literal)']\n",
            "a spec 1 ab $(A) literal\n",
        ),
    ];
    for (name, fields, wanted) in table {
        node.apply(&pod(name, &format!("{image}{fields}"))).ok();
        wait_for(SOON, name, || {
            let log = node.podd(&["logs", name]);
            if log.stdout.starts_with(wanted) { Ok(()) } else { Err(format!("{} {}", log.stdout, log.stderr)) }
        });
    }
}

#[test]
fn a_pull_policy_says_whether_the_registry_is_asked() {
    let node = Node::with_agent();
    let reason = "/status/containerStatuses/0/state/waiting/reason";
    let sleeper = |policy: &str| {
        format!("    image: busybox:test\n    imagePullPolicy: {policy}\n    command: [sleep, '100000']\n")
    };
    node.apply_and_wait(&pod("present", &sleeper("IfNotPresent")));
    node.apply_and_wait(&pod("never", &sleeper("Never")));
    // There is no registry, so whoever asks it fails.
    node.apply(&pod("always", &sleeper("Always"))).ok();
    wait_for(SOON, "the pull fails", || match node.field("pod/always", reason) {
        reason if reason == "ErrImagePull" || reason == "ImagePullBackOff" => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_read_only_mount_takes_no_writes() {
    let node = Node::with_agent();
    let mounts = "[{name: v, mountPath: /w}, {name: v, mountPath: /r, readOnly: true}]";
    node.apply_and_wait(&pod(
        "p",
        &format!("    image: busybox:test\n    command: [sleep, '100000']\n    volumeMounts: {mounts}\n"),
    ));
    node.podd(&["exec", "p", "--", "sh", "-c", "echo x > /w/file"]).ok();
    assert_eq!(node.podd(&["exec", "p", "--", "cat", "/r/file"]).ok(), "x\n");
    let refused = node.podd(&["exec", "p", "--", "sh", "-c", "echo x > /r/other"]);
    assert!(refused.refused().contains("Read-only file system"), "{}", refused.stderr);
}
