//! Every manifest of `manifests/` is applied and does what it says; the demo leaves nothing.

use std::path::{Path, PathBuf};

use podd_tests::Node;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").join("manifests")
}

/// Loads the image that all examples use.
fn load_image(node: &Node) {
    let archive = node.path().join("example.tar");
    let script = directory().join("images/busybox.sh");
    let (script, archive) = (script.to_str().expect("a plain path"), archive.to_str().expect("a plain path"));
    node.enter(&[script, "docker.io/library/busybox:example", archive]).ok();
    node.podd(&["load", "-i", archive]).ok();
}

#[test]
fn every_example_runs() {
    let mut node = Node::new();
    node.start_agent();
    load_image(&node);
    let mut seen = 0;
    for entry in std::fs::read_dir(directory()).expect("the examples are there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let file = path.to_str().expect("a plain path");
            node.podd(&["apply", "--wait", "--timeout=60s", "-f", file]).ok();
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} examples");
    assert_eq!(node.podd(&["logs", "job"]).ok(), "sum 5050\n");
    assert_eq!(node.field("pod/job", "/status/phase"), "Succeeded");
    let hardened = node.podd(&["logs", "hardened"]).ok().to_owned();
    assert!(hardened.contains("uid=1000 gid=1000"), "{hardened}");
    assert!(hardened.contains("Read-only file system") && hardened.contains("scratch works"), "{hardened}");
    let together = node.podd(&["logs", "shared-processes", "-c", "watcher"]).ok().to_owned();
    assert!(together.starts_with("together\n") && together.contains("sleep 1000000"), "{together}");
    let page = node.enter(&["curl", "-fsS", "--max-time", "5", "http://127.0.0.1:18080/"]).ok().to_owned();
    assert!(page.starts_with("hello from web"), "{page}");
    node.podd(&["delete", "pods", "--all", "--grace-period=1"]).ok();
    assert!(node.stop_agent(true).ok().contains("pods and network are gone"));
    assert_eq!(node.processes(), [] as [i32; 0]);
    assert!(node.cgroups().is_empty(), "{:?}", node.cgroups());
}

#[test]
fn the_demo_shows_a_pod_and_leaves_nothing() {
    let node = Node::new();
    let script = directory().join("demo.sh");
    let podd = podd_tests::program();
    let shown = node.enter(&[script.to_str().expect("a plain path"), podd.to_str().expect("a plain path")]);
    let text = shown.ok();
    for words in
        ["pod/web created", "2/2     Running", "hello from web", "pod \"web\" deleted", "pods and network are gone"]
    {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let links = node.enter(&["ip", "-br", "link"]).ok().to_owned();
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(!Path::new("/sys/fs/cgroup/memory/podd-demo").exists());
}
