//! Claims to storage: data that outlives pods and goes with its claim, and who may read and write it.

use std::path::PathBuf;

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

fn claim(name: &str, spec: &str) -> String {
    let separator = if spec.is_empty() { "" } else { ", " };
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], \
         resources: {{requests: {{storage: 1Gi}}}}{separator}{spec}}}\n---\n"
    )
}

/// A pod of one container that sleeps, with one volume at `/data`.
fn pod(name: &str, volume: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: data, \
         {volume}}}]\n{more}  containers:\n  - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000'], volumeMounts: \
         [{{name: data, mountPath: /data}}]}}\n"
    )
}

fn of_claim(name: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {name}}}")
}

fn run(node: &Node, pod: &str, script: &str) -> podd_tests::Output {
    node.podd(&["exec", pod, "--", "sh", "-c", script])
}

/// The directories of claims on the node.
fn directories(node: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(node.path().join("root/claims"));
    entries.into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect()
}

fn events(node: &Node, object: &str, wanted: &str) {
    wait_for(SOON, &format!("{object} tells {wanted}"), || {
        let said = node.podd(&["describe", object]).stdout;
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn data_stays_with_its_claim_when_the_pod_goes_and_goes_with_the_claim() {
    let node = Node::with_agent();
    node.apply(&claim("data", "")).ok();
    events(&node, "pvc/data", "waiting for first consumer to be created before binding");
    assert_eq!(node.field("pvc/data", "/status/phase"), "Pending");
    assert_eq!(node.field("pvc/data", "/spec/storageClassName"), "podd-local");
    node.apply_and_wait(&pod("first", &of_claim("data"), ""));
    run(&node, "first", "echo kept >/data/file").ok();
    assert_eq!(node.field("pvc/data", "/status/phase"), "Bound");
    let volume = node.field("pvc/data", "/spec/volumeName");
    assert_eq!(node.field(&format!("pv/{volume}"), "/status/phase"), "Bound");
    let said = node.podd(&["get", "pvc"]).ok().to_owned();
    assert!(said.contains("STATUS") && said.contains(&volume) && said.contains("podd-local"), "{said}");
    let said = node.podd(&["get", "pv"]).ok().to_owned();
    assert!(said.contains("default/data") && said.contains("Delete") && said.contains("RWO"), "{said}");
    let said = node.podd(&["get", "sc"]).ok().to_owned();
    assert!(said.contains("podd-local (default)") && said.contains("WaitForFirstConsumer"), "{said}");
    node.podd(&["delete", "pod", "first"]).ok();
    node.apply_and_wait(&pod("second", &of_claim("data"), ""));
    assert_eq!(run(&node, "second", "cat /data/file").ok(), "kept\n");
    // A claim that a pod uses waits for it.
    node.podd(&["delete", "pvc", "data", "--wait=false"]).ok();
    events(&node, "pvc/data", "Terminating");
    assert_eq!(run(&node, "second", "cat /data/file").ok(), "kept\n");
    assert_eq!(directories(&node).len(), 1);
    node.podd(&["delete", "pod", "second"]).ok();
    wait_for(SOON, "the claim and its data go", || {
        let left = directories(&node);
        let claims = node.podd(&["get", "pvc,pv", "-o", "name"]).stdout;
        if left.is_empty() && claims.trim().is_empty() { Ok(()) } else { Err(format!("{left:?} {claims}")) }
    });
}

#[test]
fn a_claim_survives_a_restart_of_the_agent_and_serves_several_pods() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&format!("{}{}", claim("data", ""), pod("a", &of_claim("data"), "")));
    run(&node, "a", "echo kept >/data/file").ok();
    node.kill_agent();
    node.start_agent();
    node.apply_and_wait(&pod("b", "persistentVolumeClaim: {claimName: data, readOnly: true}", ""));
    assert_eq!(run(&node, "b", "cat /data/file").ok(), "kept\n");
    assert!(run(&node, "b", "echo x >/data/file").stderr.contains("Read-only file system"));
    assert_eq!(run(&node, "a", "cat /data/file").ok(), "kept\n");
}

#[test]
fn a_pod_waits_for_a_claim_that_is_not_there_and_runs_when_it_comes() {
    let node = Node::with_agent();
    node.apply(&pod("p", &of_claim("late"), "")).ok();
    events(&node, "pod/p", "persistentvolumeclaims \"late\" not found");
    assert_eq!(node.field("pod/p", "/status/phase"), "Pending");
    node.apply(&claim("late", "storageClassName: standard")).ok();
    events(&node, "pvc/late", "storageclass.storage.k8s.io \"standard\" not found");
    let class =
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: standard}\nprovisioner: podd/local\n";
    node.apply(class).ok();
    node.podd(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]).ok();
}

#[test]
fn a_volume_that_was_made_by_hand_is_found_and_kept() {
    let node = Node::with_agent();
    let data = node.path().join("by-hand");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("file"), "of the node").expect("a file");
    let volume = format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: disk, labels: {{disk: a}}}}\nspec: {{capacity: {{storage: 5Gi}}, \
         accessModes: [ReadWriteOnce], storageClassName: manual, hostPath: {{path: '{}'}}}}\n---\n",
        data.display()
    );
    let claim = claim("data", "storageClassName: manual, selector: {matchLabels: {disk: a}}");
    node.apply_and_wait(&format!("{volume}{claim}{}", pod("p", &of_claim("data"), "")));
    assert_eq!(run(&node, "p", "cat /data/file").ok(), "of the node");
    assert_eq!(node.field("pvc/data", "/status/capacity/storage"), "5Gi");
    node.podd(&["delete", "pod", "p"]).ok();
    node.podd(&["delete", "pvc", "data"]).ok();
    node.wait_field("pv/disk", "/status/phase", "Released");
    node.podd(&["delete", "pv", "disk"]).ok();
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("it is kept"), "of the node");
}

#[test]
fn a_claim_that_is_mounted_read_only_takes_no_writes() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!("{}{}", claim("data", ""), pod("writer", &of_claim("data"), "")));
    run(&node, "writer", "echo kept >/data/file").ok();
    node.apply_and_wait(&pod("reader", "persistentVolumeClaim: {claimName: data, readOnly: true}", ""));
    assert_eq!(run(&node, "reader", "cat /data/file").ok(), "kept\n");
    let refused = run(&node, "reader", "echo more >/data/file");
    assert!(refused.refused().contains("Read-only file system"), "{}", refused.stderr);
}

#[test]
fn a_claim_grows_where_its_class_lets_it() {
    let node = Node::with_agent();
    let class =
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: fixed}\nprovisioner: podd/local\n---\n";
    node.apply(&format!("{class}{}{}", claim("data", ""), claim("small", "storageClassName: fixed"))).ok();
    node.apply_and_wait(&pod("p", &of_claim("data"), ""));
    node.wait_field("pvc/small", "/status/phase", "Bound");
    node.apply(&claim("data", "").replace("1Gi", "3Gi")).ok();
    node.wait_field("pvc/data", "/status/capacity/storage", "3Gi");
    let refused = node.apply(&claim("small", "storageClassName: fixed").replace("1Gi", "3Gi"));
    assert!(refused.refused().contains("must support resize (allowVolumeExpansion: true)"), "{}", refused.stderr);
    assert_eq!(node.field("pvc/small", "/spec/resources/requests/storage"), "1Gi");
}

#[test]
fn an_ephemeral_volume_has_a_claim_of_its_own_that_goes_with_its_pod() {
    let node = Node::with_agent();
    let template = "ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce], \
                    resources: {requests: {storage: 1Gi}}}}}";
    node.apply_and_wait(&pod("p", template, ""));
    run(&node, "p", "echo x >/data/file").ok();
    assert_eq!(node.field("pvc/p-data", "/status/phase"), "Bound");
    assert_eq!(node.field("pvc/p-data", "/metadata/labels/a"), "b");
    assert_eq!(node.field("pvc/p-data", "/metadata/ownerReferences/0/name"), "p");
    node.podd(&["delete", "pod", "p"]).ok();
    wait_for(SOON, "the claim goes", || {
        let left = (directories(&node), node.podd(&["get", "pvc", "-o", "name"]).stdout);
        if left.0.is_empty() && left.1.trim().is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // Somebody else's claim of that name is not taken.
    node.apply(&claim("q-data", "")).ok();
    node.apply(&pod("q", template, "")).ok();
    events(&node, "pod/q", "PVC was not created for pod default/q (pod is not owner)");
}

#[test]
fn a_mistake_in_a_claim_is_told_with_its_place() {
    let node = Node::with_agent();
    let table = [
        (claim("c", "volumeMode: Raw"), "spec.volumeMode: Unsupported value: \"Raw\""),
        (
            pod("p", "persistentVolumeClaim: {claimName: ''}", ""),
            "spec.volumes[0].persistentVolumeClaim.claimName: Required value",
        ),
        (
            pod("p", "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}", ""),
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
        ),
        (pod("p", "ephemeral: {}", ""), "spec.volumes[0].ephemeral.volumeClaimTemplate: Required value"),
        (
            pod("p", "emptyDir: {}, persistentVolumeClaim: {claimName: c}", ""),
            "spec.volumes[0].persistentVolumeClaim: Forbidden: may not specify more than 1 volume type",
        ),
    ];
    for (manifest, want) in table {
        let refused = node.apply(&manifest);
        assert!(refused.refused().contains(want), "{want}\n{}", refused.stderr);
    }
}

#[test]
fn files_of_a_volume_belong_to_the_group_of_the_pod() {
    let node = Node::with_agent();
    let security = |policy: &str| {
        format!(
            "  securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 4321, fsGroupChangePolicy: {policy}}}\n"
        )
    };
    // As root it leaves files that only root may read.
    node.apply_and_wait(&format!("{}{}", claim("data", ""), pod("root", &of_claim("data"), "")));
    run(
        &node,
        "root",
        "mkdir -m 700 /data/d && echo x >/data/d/file && chmod 600 /data/d/file && ln -s /etc/passwd /data/link",
    )
    .ok();
    let look = |pod: &str, path: &str| run(&node, pod, &format!("stat -c '%u:%g %a' {path}")).ok().trim().to_owned();
    assert_eq!(look("root", "/data/d/file"), "0:0 600");
    node.podd(&["delete", "pod", "root"]).ok();
    node.apply_and_wait(&pod("always", &of_claim("data"), &security("Always")));
    assert_eq!(look("always", "/data"), "0:4321 2777");
    assert_eq!(look("always", "/data/d"), "0:4321 2770");
    assert_eq!(look("always", "/data/d/file"), "0:4321 660");
    assert_eq!(look("always", "/etc/passwd").split(' ').next(), Some("0:0"), "no link is followed");
    let groups = run(&node, "always", "id -G").ok().trim().to_owned();
    assert!(groups.split(' ').any(|group| group == "4321"), "{groups}");
    run(&node, "always", "echo y >>/data/d/file && touch /data/d/new && chmod 600 /data/d/new").ok();
    assert_eq!(look("always", "/data/d/new"), "1000:4321 600", "new files get the directory's group");
    node.podd(&["delete", "pod", "always"]).ok();
    // The top looks right, so that nothing is done.
    node.apply_and_wait(&pod("mismatch", &of_claim("data"), &security("OnRootMismatch")));
    assert_eq!(look("mismatch", "/data/d/new"), "1000:4321 600");
    node.podd(&["delete", "pod", "mismatch"]).ok();
    node.apply_and_wait(&pod("again", &of_claim("data"), &security("Always")));
    assert_eq!(look("again", "/data/d/new"), "1000:4321 660");
    // Volumes that begin empty.
    for (name, volume, mode) in [("disk", "emptyDir: {}", "2777"), ("memory", "emptyDir: {medium: Memory}", "3777")] {
        node.apply_and_wait(&pod(name, volume, &security("Always")));
        assert_eq!(look(name, "/data"), format!("0:4321 {mode}"));
        run(&node, name, "touch /data/new").ok();
        assert_eq!(look(name, "/data/new").split(' ').next(), Some("1000:4321"));
    }
    let refused = node.apply(&pod("p", "emptyDir: {}", "  securityContext: {fsGroupChangePolicy: Sometimes}\n"));
    let want = "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnRootMismatch\"";
    assert!(refused.refused().contains(want), "{}", refused.stderr);
}
