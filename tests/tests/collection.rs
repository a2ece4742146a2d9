//! Images that nobody uses go when their disk is too full, when they are old, when the node is short of disk, and when they
//! are told to.

use podd_tests::{Node, SOON, image, image::BUSYBOX, wait_for};

/// Images of one file each, beside busybox.
fn load(node: &Node, names: &[&str]) {
    node.load_busybox();
    for name in names {
        let archive = image::of_files(node.path(), &format!("docker.io/library/{name}:1"), &[("name", name)]);
        node.podd(&["load", "-i", archive.to_str().expect("a plain path")]).ok();
    }
}

/// A pod of busybox with an image volume.
fn pod(volume: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, image: {{reference: 'docker.io/library/{volume}:1', pullPolicy: Never}}}}]\n  containers:\n  \
         - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n"
    )
}

/// The names of all images, without their tags.
fn names(node: &Node) -> Vec<String> {
    let listed = node.podd(&["images"]).ok().to_owned();
    let name = |line: &str| line.split_whitespace().next()?.rsplit('/').next().map(str::to_owned);
    let mut names: Vec<String> = listed.lines().skip(1).filter_map(name).collect();
    names.sort();
    names
}

fn wait_names(node: &Node, expected: &[&str]) {
    wait_for(SOON, "only these images are left", || {
        let names = names(node);
        if names == expected { Ok(()) } else { Err(format!("{names:?}")) }
    });
}

const PINNED: &str = "[agent.eviction]\nhard = {}\n[images]\npinned = [\"docker.io/library/pinned:1\"]\n";

#[test]
fn images_that_nobody_uses_go_when_their_disk_is_too_full() {
    let mut node = Node::new();
    node.file("config.toml", &format!("{PINNED}gc-high-threshold = 100\n"));
    node.start_agent();
    load(&node, &["mounted", "pinned", "idle", "unused"]);
    node.apply_and_wait(&pod("mounted"));
    node.stop_agent(false);
    // Fuller than one per cent is every disk.
    node.file(
        "config.toml",
        &format!("{PINNED}gc-high-threshold = 1\ngc-low-threshold = 0\ngc-min-age = \"0s\"\ngc-period = \"1s\"\n"),
    );
    node.start_agent();
    wait_names(&node, &["busybox", "mounted", "pinned"]);
    assert_eq!(node.field("pod/p", "/status/phase"), "Running");
    wait_for(SOON, "it is told that more should have gone", || {
        let events = node.podd(&["get", "events", "-o", "json"]).stdout;
        let told = "Failed to garbage collect required amount of images. Attempted to free ";
        if events.contains("FreeDiskSpaceFailed") && events.contains(told) { Ok(()) } else { Err(events) }
    });
    node.podd(&["delete", "pod", "p"]).ok();
    wait_names(&node, &["pinned"]);
}

#[test]
fn images_that_nobody_has_used_for_too_long_go() {
    let mut node = Node::new();
    let age = "gc-high-threshold = 100\ngc-max-age = \"2s\"\ngc-min-age = \"1s\"\ngc-period = \"1s\"\n";
    node.file("config.toml", &format!("{PINNED}{age}"));
    node.start_agent();
    load(&node, &["pinned", "idle"]);
    wait_names(&node, &["pinned"]);
}

#[test]
fn a_node_short_of_disk_gives_up_images_and_dead_pods_before_pods_that_run() {
    let mut node = Node::with_agent();
    load(&node, &["mounted", "idle"]);
    let dead = pod("mounted")
        .replace("name: p}", "name: dead}")
        .replace("[sleep, '100000']", "['true']")
        .replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    node.apply(&dead).ok();
    node.wait_field("pod/dead", "/status/phase", "Succeeded");
    node.stop_agent(false);
    let short = "[agent.eviction]\nhard = {}\nsoft = {\"imagefs.available\" = \"100%\"}\nsoft-grace = {\"imagefs.available\" = \"1s\"}\n";
    node.file("config.toml", &format!("{short}[images]\ngc-high-threshold = 100\ngc-min-age = \"0s\"\n"));
    node.start_agent();
    wait_names(&node, &[]);
    assert_eq!(node.field("pod/dead", "/status/phase"), "Succeeded", "its status tells what became of it");
    assert_eq!(node.field("pod/dead", "/status/containerStatuses/0/state/terminated/exitCode"), "0");
    node.apply(&pod("mounted")).ok();
    node.wait_field("pod/p", "/status/reason", "Evicted");
    assert_eq!(node.field("pod/p", "/status/message"), "Pod was rejected: The node had condition: [DiskPressure]. ");
}

#[test]
fn prune_removes_what_nobody_uses_and_tells_what_it_has_freed() {
    let mut node = Node::new();
    node.file("config.toml", &format!("{PINNED}gc-high-threshold = 100\n"));
    node.start_agent();
    load(&node, &["mounted", "pinned", "idle"]);
    node.apply_and_wait(&pod("mounted"));
    let named = node.podd(&["image", "prune"]).ok().to_owned();
    assert!(named.contains("removed: 0, freed: 0 B"), "{named}");
    let all = node.podd(&["image", "prune", "--all"]).ok().to_owned();
    assert!(all.contains("untagged docker.io/library/idle:1") && all.contains("removed: 1, freed: "), "{all}");
    assert!(!all.contains("freed: 0 B"), "{all}");
    assert_eq!(names(&node), ["busybox", "mounted", "pinned"]);
}
