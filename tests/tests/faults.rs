//! What fails around podd, and how the pods of a node live through it.

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n    \
         - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000']}}\n"
    )
}

/// A node with a small disk at `root/<place>`, and a pod that runs on it.
fn small_disk(place: &str) -> (Node, String) {
    let mut node = Node::new();
    let disk = node.path().join("root").join(place);
    std::fs::create_dir_all(&disk).expect("a directory");
    let disk = disk.display().to_string();
    node.enter(&["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", &disk]).ok();
    node.start_agent();
    node.load_busybox();
    node.apply_and_wait(&pod("before"));
    (node, format!("{disk}/filler"))
}

fn fill(node: &Node, filler: &str) {
    let filled = node.enter(&["dd", "if=/dev/zero", &format!("of={filler}"), "bs=4k"]);
    assert!(filled.stderr.contains("No space left on device"), "{}", filled.stderr);
}

#[test]
fn containers_without_room_are_told_on_their_pod_spare_the_others_and_run_once_there_is() {
    let (node, filler) = small_disk("containers");
    fill(&node, &filler);
    node.apply(&pod("during")).ok();
    wait_for(SOON, "status and event tell it", || {
        let told = node.podd(&["describe", "pod", "during"]).stdout;
        if told.matches("No space left on device").count() > 1 { Ok(()) } else { Err(told) }
    });
    assert_eq!(node.podd(&["exec", "before", "--", "echo", "alive"]).ok(), "alive\n");
    assert_eq!(node.field("pod/before", "/status/containerStatuses/0/restartCount"), "0");
    node.enter(&["rm", &filler]).ok();
    node.podd(&["wait", "--for=condition=Ready", "pod/during", "--timeout=60s"]).ok();
}

#[test]
fn an_api_without_room_refuses_what_it_cannot_keep_and_goes_on_once_there_is() {
    let (node, filler) = small_disk("");
    fill(&node, &filler);
    // The database has some room of its own, which objects of a quarter of a megabyte soon use up.
    let object = |number: usize| {
        let data = "x".repeat(256 << 10);
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{number}}}\ndata: {{d: {data}}}\n")
    };
    let refused = (0..40).map(|number| (number, node.apply(&object(number)))).find(|(_, applied)| applied.code != 0);
    let (number, refused) = refused.expect("at some point there is no room");
    assert!(refused.refused().contains("No space left on device"), "{}", refused.stderr);
    assert!(node.podd(&["get", "configmap", &format!("c{number}")]).refused().contains("not found"));
    assert_eq!(node.podd(&["exec", "before", "--", "echo", "alive"]).ok(), "alive\n");
    node.enter(&["rm", &filler]).ok();
    node.apply_and_wait(&pod("during"));
    assert_eq!(node.field("pod/before", "/status/containerStatuses/0/restartCount"), "0");
}
