//! What a container may write and as whom: volumes, read-only mounts and the security context, seen from inside.

use std::os::unix::net::UnixListener;
use std::path::Path;

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

/// A pod with a volume per path of the node; the n-th is mounted at `/v<n>`.
fn host_paths(name: &str, paths: &[(&str, &str)]) -> String {
    let rows = |row: &dyn Fn(usize, &str, &str) -> String| -> String {
        paths.iter().enumerate().map(|(n, (kind, path))| row(n, kind, path)).collect()
    };
    let volumes =
        rows(&|n, kind, path| format!("    - {{name: v{n}, hostPath: {{path: '{path}', type: '{kind}'}}}}\n"));
    let mounts = rows(&|n, _, _| format!("        - {{name: v{n}, mountPath: /v{n}}}\n"));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes:\n{volumes}  \
         containers:\n    - name: c\n      image: '{BUSYBOX}'\n      command: [sleep, '100000']\n      volumeMounts:\n{mounts}"
    )
}

#[test]
fn a_path_of_the_node_is_what_its_type_says_or_is_made() {
    let node = Node::with_agent();
    let at = |name: &str| node.path().join(name).to_str().expect("a plain path").to_owned();
    std::fs::create_dir(at("data")).expect("a directory");
    std::fs::write(at("data/file"), "of the node").expect("a file");
    let _listener = UnixListener::bind(at("socket")).expect("a socket");
    let paths = [
        ("", at("data")),
        ("Directory", at("data")),
        ("DirectoryOrCreate", at("new/directory")),
        ("File", at("data/file")),
        ("FileOrCreate", at("new-file")),
        ("Socket", at("socket")),
        ("CharDevice", "/dev/null".to_owned()),
    ];
    let paths: Vec<(&str, &str)> = paths.iter().map(|(kind, path)| (*kind, path.as_str())).collect();
    node.apply_and_wait(&host_paths("p", &paths));
    let looks = "test -d /v0 && test -d /v1 && test -d /v2 && test -f /v3 && test -f /v4 && test -S /v5 && test -c /v6";
    node.podd(&["exec", "p", "--", "sh", "-c", looks]).ok();
    assert_eq!(node.podd(&["exec", "p", "--", "cat", "/v0/file", "/v1/file", "/v3"]).ok(), "of the node".repeat(3));
    node.podd(&["exec", "p", "--", "sh", "-c", "echo from the pod | tee /v2/file >/v4"]).ok();
    node.podd(&["delete", "pod", "p"]).ok();
    for path in [at("new/directory/file"), at("new-file")] {
        assert_eq!(std::fs::read_to_string(&path).expect("it outlives its pod"), "from the pod\n", "{path}");
    }
    assert_eq!(std::fs::read_to_string(at("data/file")).expect("it outlives its pod"), "of the node");
}

#[test]
fn a_path_of_the_node_that_is_not_what_its_type_says_holds_its_pod_and_is_told() {
    let node = Node::with_agent();
    let file = node.file("file", "");
    let missing = node.path().join("missing").to_str().expect("a plain path").to_owned();
    let table = [
        ("Directory", missing.as_str(), "directory"),
        ("Directory", &file, "directory"),
        ("File", &missing, "file"),
        ("DirectoryOrCreate", &file, "directory"),
        ("FileOrCreate", "/dev", "file"),
        ("Socket", &file, "socket file"),
        ("CharDevice", &file, "character device"),
        ("BlockDevice", "/dev/null", "block device"),
    ];
    for (n, (kind, path, _)) in table.iter().enumerate() {
        node.apply(&host_paths(&format!("p{n}"), &[(kind, path)])).ok();
    }
    for (n, (kind, path, word)) in table.iter().enumerate() {
        let message = format!("hostPath type check failed: {path} is not a {word}");
        wait_for(SOON, &format!("an event of {kind}"), || {
            let said = node.podd(&["describe", "pod", &format!("p{n}")]).stdout;
            if said.contains("FailedMount") && said.contains(&message) { Ok(()) } else { Err(said) }
        });
        let status = format!("pod/p{n}");
        assert_eq!(node.field(&status, "/status/phase"), "Pending", "{kind}");
        assert_eq!(node.field(&status, "/status/containerStatuses/0/state/waiting/reason"), "ContainerCreating");
    }
    assert!(!Path::new(&missing).exists(), "nothing was made");
    let refused = node.apply(&host_paths("q", &[("Folder", "/")]));
    let message = "spec.volumes[0].hostPath.type: Unsupported value: \"Folder\"";
    assert!(refused.refused().contains(message), "{}", refused.stderr);
}

#[test]
fn an_empty_directory_goes_with_its_pod() {
    let node = Node::with_agent();
    let manifest = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 20\n  volumes:\n    \
             - {{name: disk, emptyDir: {{}}}}\n    - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}\n  containers:\n    \
             - name: c\n      image: '{BUSYBOX}'\n      command: [sh, -c, \"trap 'exit 0' TERM; while true; do sleep 0.1; done\"]\n      volumeMounts:\n        \
             - {{name: disk, mountPath: /disk}}\n        - {{name: memory, mountPath: /memory}}\n"
        )
    };
    node.apply_and_wait(&manifest("p"));
    let write =
        "echo kept >/disk/marker-on-disk && echo kept >/memory/file && dd if=/dev/zero of=/memory/big bs=4k count=500";
    let full = node.podd(&["exec", "p", "--", "sh", "-c", write]);
    assert!(full.stderr.contains("No space left on device"), "memory has its limit: {} {}", full.code, full.stderr);
    let uid = node.field("pod/p", "/metadata/uid");
    let found = |name: &str| node.enter(&["find", node.path().to_str().expect("a plain path"), "-name", name]).stdout;
    let mounts = || node.enter(&["cat", "/proc/self/mounts"]).ok().to_owned();
    assert!(
        found("marker-on-disk").contains(&uid) && mounts().contains(&uid),
        "{}{}",
        found("marker-on-disk"),
        mounts()
    );
    node.podd(&["delete", "pod", "p"]).ok();
    assert_eq!(found("marker-on-disk"), "");
    assert_eq!(found(&uid), "", "no directory of the pod");
    assert!(!mounts().contains(&uid), "{}", mounts());
    // One of the same name begins with nothing.
    node.apply_and_wait(&manifest("p"));
    assert_eq!(node.podd(&["exec", "p", "--", "ls", "/disk", "/memory"]).ok(), "/disk:\n\n/memory:\n");
}

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
