//! Applying again: what cannot be changed is refused or replaced, what is gone from the files is pruned.

use podd_tests::Node;

/// A pod that sleeps, and does not wait for its grace period.
fn pod(name: &str, labels: &str, word: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: main\n    image: busybox:test\n    command: [sh, -c, \"echo {word}; trap 'exit 0' TERM; while true; do sleep 0.1; done\"]\n"
    )
}

fn config_map(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{{labels}}}}}\ndata: {{a: b}}\n")
}

/// The names of the objects of a kind, in every namespace.
fn names(node: &Node, kind: &str) -> Vec<String> {
    let list = node.podd(&["get", kind, "-A", "-o", "name"]);
    list.ok().lines().map(str::to_owned).collect()
}

#[test]
fn an_immutable_change_is_refused_with_its_remedy_and_replaced_when_asked() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod("web", "a: b", "one"));
    let uid = node.field("pod/web", "/metadata/uid");
    let file = node.file("pod.yaml", &pod("web", "a: b", "two"));
    let refusal = node.podd(&["apply", "-f", &file]);
    for part in ["spec.containers[0].command[2]", "`podd apply --replace` deletes the Pod and makes it anew"] {
        assert!(refusal.refused().contains(part), "{part} is not in {}", refusal.stderr);
    }
    let dry = node.podd(&["apply", "--replace", "--dry-run", "-f", &file]);
    assert!(dry.ok().starts_with("pod/web replaced (server dry run)\n"), "{}", dry.stdout);
    assert_eq!(node.field("pod/web", "/metadata/uid"), uid);
    assert_eq!(node.podd(&["apply", "--replace", "--wait", "-f", &file]).ok(), "pod/web replaced\n");
    let anew = node.field("pod/web", "/metadata/uid");
    assert_ne!(anew, uid);
    assert!(node.field("pod/web", "/spec/containers/0/command/2").contains("two"));
    // What can be changed in place is, with --replace too; what is as asked stays.
    assert_eq!(node.podd(&["apply", "--replace", "-f", &file]).ok(), "pod/web unchanged\n");
    let labelled = node.file("labelled.yaml", &pod("web", "a: c", "two"));
    assert_eq!(node.podd(&["apply", "--replace", "-f", &labelled]).ok(), "pod/web configured\n");
    assert_eq!(node.field("pod/web", "/metadata/uid"), anew);
    // A conflict over a field is nobody's immutable change.
    let fixed = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nimmutable: true\nstringData: {k: geheim}\n";
    node.apply(fixed).ok();
    let changed = node.file("secret.yaml", &fixed.replace("geheim", "hidden"));
    let refusal = node.podd(&["apply", "-f", &changed]);
    assert!(refusal.refused().contains("--replace") && !refusal.stderr.contains("hidden"), "{}", refusal.stderr);
    assert_eq!(node.podd(&["apply", "--replace", "-f", &changed]).ok(), "secret/s replaced\n");
    // What could not be made anew is not deleted.
    let homeless = pod("web", "a: b", "three").replace("spec:\n", "spec:\n  priorityClassName: none\n");
    let refusal = node.podd(&["apply", "--replace", "-f", &node.file("homeless.yaml", &homeless)]);
    for part in ["no PriorityClass with name none was found", "the Pod is left as it is"] {
        assert!(refusal.refused().contains(part), "{part} is not in {}", refusal.stderr);
    }
    assert!(!refusal.stderr.contains("podd-trial"), "{}", refusal.stderr);
    assert_eq!(node.field("pod/web", "/metadata/uid"), anew);
}

#[test]
fn what_the_files_do_not_name_any_more_is_pruned_by_label() {
    let node = Node::with_agent();
    let both = format!(
        "{}---\n{}---\n{}",
        pod("web", "app: x", "a"),
        config_map("one", "app: x"),
        config_map("two", "app: x")
    );
    let file = node.file("both.yaml", &format!("{both}---\n{}", config_map("else", "app: other")));
    let refusal = node.podd(&["apply", "--prune", "-f", &file]);
    assert!(refusal.refused().contains("--prune") && refusal.stderr.contains("-l LABELS"), "{}", refusal.stderr);
    // Only what has the labels is applied.
    node.podd(&["apply", "-f", &file, "-l", "app=x"]).ok();
    assert_eq!(names(&node, "cm"), ["configmap/one", "configmap/two"]);
    node.podd(&["apply", "-f", &file]).ok();
    // What lost the label in the files is still named by them.
    let other =
        format!("{}---\n{}---\n{}", config_map("one", "app: x"), config_map("two", ""), pod("web", "app: x", "a"));
    let other = node.file("other.yaml", &other);
    let kept = node.podd(&["apply", "--prune", "-l", "app=x", "-f", &other]);
    assert_eq!(kept.ok(), "configmap/one unchanged\npod/web unchanged\n");
    let less = node.file("less.yaml", &config_map("one", "app: x"));
    let dry = node.podd(&["apply", "--prune", "-l", "app=x", "--dry-run", "-f", &less]);
    assert_eq!(
        dry.ok(),
        "configmap/one unchanged (server dry run)\npod/web pruned (server dry run)\nconfigmap/two pruned (server dry run)\n"
    );
    assert_eq!(names(&node, "cm"), ["configmap/else", "configmap/one", "configmap/two"]);
    let pruned = node.podd(&["apply", "--prune", "-l", "app=x", "-f", &less]);
    assert_eq!(pruned.ok(), "configmap/one unchanged\npod/web pruned\nconfigmap/two pruned\n");
    assert_eq!(names(&node, "cm"), ["configmap/else", "configmap/one"]);
    node.podd(&["wait", "pod/web", "--for=delete"]).ok();
}

#[test]
fn an_apply_set_follows_its_files_through_kinds_and_namespaces() {
    let node = Node::with_agent();
    let far = "apiVersion: v1\nkind: Namespace\nmetadata: {name: far}\n";
    node.apply(far).ok();
    let apart = config_map("apart", "").replace("name: apart", "name: apart, namespace: far");
    let all = format!("{}---\n{}---\n{apart}", pod("web", "", "a"), config_map("one", ""));
    let file = node.file("all.yaml", &all);
    let refusal = node.podd(&["apply", "--applyset", "mine", "-f", &file]);
    assert!(refusal.refused().contains("--prune"), "{}", refusal.stderr);
    node.podd(&["apply", "--prune", "--applyset", "mine", "-f", &file]).ok();
    let id = node.field("secret/mine", "/metadata/labels/applyset.kubernetes.io~1id");
    assert!(id.starts_with("applyset-") && id.ends_with("-v1"), "{id}");
    assert_eq!(node.field("cm/one", "/metadata/labels/applyset.kubernetes.io~1part-of"), id);
    let held = |annotation: &str| {
        node.field("secret/mine", &format!("/metadata/annotations/applyset.kubernetes.io~1{annotation}"))
    };
    assert_eq!(held("contains-group-kinds"), "ConfigMap,Pod");
    assert_eq!(held("additional-namespaces"), "far");
    assert!(held("tooling").starts_with("podd/v"), "{}", held("tooling"));
    // An object is part of one set only.
    let refusal = node.podd(&["apply", "--prune", "--applyset", "other", "-f", &file]);
    assert!(refusal.refused().contains("another apply-set"), "{}", refusal.stderr);
    // What another set, or nobody's, has stays; what this one had goes, in other namespaces and of other kinds too.
    node.apply(&config_map("free", "")).ok();
    let less = node.file("less.yaml", &config_map("two", ""));
    let pruned = node.podd(&["apply", "--prune", "--applyset", "mine", "-f", &less]);
    assert_eq!(pruned.ok(), "configmap/two created\npod/web pruned\nconfigmap/one pruned\nconfigmap/apart pruned\n");
    assert_eq!(names(&node, "cm"), ["configmap/free", "configmap/two"]);
    assert_eq!((held("contains-group-kinds"), held("additional-namespaces")), ("ConfigMap".into(), String::new()));
}

#[test]
fn a_diff_tells_what_an_apply_would_change_by_text_and_exit_code() {
    let node = Node::with_agent();
    let map = node.file("map.yaml", &config_map("one", "app: x"));
    let fresh = node.podd(&["diff", "-f", &map]);
    assert_eq!(fresh.code, 1, "{}", fresh.stderr);
    assert!(fresh.stdout.contains("+++ MERGED/v1.ConfigMap.default.one\n@@ -0,0 "), "{}", fresh.stdout);
    assert!(names(&node, "cm").is_empty());
    node.podd(&["apply", "-f", &map]).ok();
    assert_eq!(node.podd(&["diff", "-f", &map]).ok(), "");
    let changed = node.file("changed.yaml", &config_map("one", "app: x").replace("a: b", "a: c"));
    let diff = node.podd(&["diff", "-f", &changed]);
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    for part in ["diff -u -N LIVE/v1.ConfigMap.default.one MERGED/", "\n-  a: b\n+  a: c\n"] {
        assert!(diff.stdout.contains(part), "{part} is not in {}", diff.stdout);
    }
    assert_eq!(node.field("cm/one", "/data/a"), "b");
    // The values of secrets are not shown.
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: geheim}\n";
    node.apply(secret).ok();
    let diff = node.podd(&["diff", "-f", &node.file("secret.yaml", &secret.replace("geheim", "hidden"))]);
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    assert!(
        diff.stdout.contains("*** (before)\n+  k: '*** (after)'") || diff.stdout.contains("+  k: \"*** (after)\""),
        "{}",
        diff.stdout
    );
    // Z2VoZWlt and aGlkZGVu are what the two values are in base64.
    for value in ["geheim", "hidden", "Z2VoZWlt", "aGlkZGVu"] {
        assert!(!diff.stdout.contains(value), "{}", diff.stdout);
    }
    // What cannot be told is no difference.
    node.apply(&pod("web", "", "one")).ok();
    let refused = node.podd(&["diff", "-f", &node.file("pod.yaml", &pod("web", "", "two"))]);
    assert!(refused.code == 2 && refused.stderr.contains("--replace"), "{} {}", refused.code, refused.stderr);
    assert_eq!(node.podd(&["diff", "-f", "/nowhere"]).code, 2);
}
