//! How a container mounts its volumes: by a path in them, read-only to the bottom, with mounts that travel.

use std::os::unix::fs::{PermissionsExt, symlink};

use podd_tests::{
    Node, SOON,
    image::{self, BUSYBOX},
    wait_for,
};

/// A pod of one container that sleeps; `volumes` and `container` are rows of YAML in flow style.
fn pod(name: &str, volumes: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{volumes}]\n  \
         containers:\n  - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000'], {container}}}\n"
    )
}

fn host(node: &Node, name: &str) -> String {
    let path = node.path().join(name);
    std::fs::create_dir_all(&path).expect("a directory");
    path.to_str().expect("a plain path").to_owned()
}

/// Waits until the container of a pod waits with this reason, and returns the message.
fn waiting(node: &Node, pod: &str, reason: &str) -> String {
    let at = "/status/containerStatuses/0/state/waiting";
    node.wait_field(&format!("pod/{pod}"), &format!("{at}/reason"), reason);
    node.field(&format!("pod/{pod}"), &format!("{at}/message"))
}

/// Waits until nothing is mounted below the directories of pods.
fn nothing_stays_mounted(node: &Node) {
    wait_for(SOON, "the pods' mounts go", || {
        let left = node.enter(&["cat", "/proc/self/mounts"]).ok().to_owned();
        if left.contains("/root/pods/") { Err(left) } else { Ok(()) }
    });
}

#[test]
fn a_container_mounts_a_path_in_a_volume() {
    let node = Node::with_agent();
    let data = host(&node, "data");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o2770)).expect("a mode");
    std::fs::write(node.path().join("data/file"), "one file\n").expect("a file");
    let mounts = "volumeMounts: [{name: v, mountPath: /file, subPath: file}, {name: v, mountPath: /made, subPath: a/b}, \
                  {name: v, mountPath: /ro, subPath: a, readOnly: true}, {name: v, mountPath: /whole}]";
    node.apply_and_wait(&pod("p", &format!("{{name: v, hostPath: {{path: '{data}'}}}}"), mounts));
    let run = |script: &str| node.podd(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(run("cat /file; echo x >/made/new; cat /ro/b/new /whole/a/b/new").ok(), "one file\nx\nx\n");
    assert!(run("echo y >/ro/other").stderr.contains("Read-only file system"));
    let mode = std::fs::metadata(node.path().join("data/a/b")).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o7777, 0o2770, "with the mode of the volume");
    let said = node.podd(&["describe", "pod", "p"]).ok().to_owned();
    assert!(said.contains("/ro from v (ro,path=\"a\")"), "{said}");
    // What was bound stays what it was.
    std::fs::rename(node.path().join("data/file"), node.path().join("data/old")).expect("renamed");
    std::fs::write(node.path().join("data/file"), "another file\n").expect("a file");
    assert_eq!(run("cat /file").ok(), "one file\n");
    node.podd(&["delete", "pod", "p"]).ok();
    assert_eq!(std::fs::read_to_string(node.path().join("data/a/b/new")).expect("it outlives its pod"), "x\n");
    nothing_stays_mounted(&node);
}

#[test]
fn a_path_that_leads_out_of_its_volume_is_refused_whatever_links_lie_there() {
    let node = Node::with_agent();
    let data = host(&node, "data");
    host(&node, "secret");
    symlink("../secret", node.path().join("data/up")).expect("a link");
    symlink("/", node.path().join("data/root")).expect("a link");
    for (n, path) in ["up", "up/new", "root", "root/etc/passwd"].iter().enumerate() {
        let name = format!("p{n}");
        let mount = format!("volumeMounts: [{{name: v, mountPath: /m, subPath: '{path}'}}]");
        node.apply(&pod(&name, &format!("{{name: v, hostPath: {{path: '{data}'}}}}"), &mount)).ok();
        let message = waiting(&node, &name, "CreateContainerConfigError");
        let want = "failed to prepare subPath for volumeMount \"v\" of container \"c\"";
        assert!(message.contains(want) && message.contains("leads out of the volume"), "{path}: {message}");
    }
    assert!(!node.path().join("secret/new").exists(), "nothing was made");
    let refused = node.apply(&pod("q", "{name: v}", "volumeMounts: [{name: v, mountPath: /m, subPath: ../x}]"));
    let want = "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..'";
    assert!(refused.refused().contains(want), "{}", refused.stderr);
}

#[test]
fn a_path_in_a_volume_can_name_variables() {
    let node = Node::with_agent();
    let data = host(&node, "data");
    let volume = format!("{{name: v, hostPath: {{path: '{data}'}}}}");
    let container = |expression: &str| {
        format!(
            "env: [{{name: WHO, value: me}}, {{name: UP, value: a/../../x}}], \
             volumeMounts: [{{name: v, mountPath: /m, subPathExpr: '{expression}'}}]"
        )
    };
    node.apply_and_wait(&pod("p", &volume, &container("of/$(WHO)/$$(WHO)")));
    node.podd(&["exec", "p", "--", "sh", "-c", "echo x >/m/file"]).ok();
    assert_eq!(std::fs::read_to_string(node.path().join("data/of/me/$(WHO)/file")).expect("there"), "x\n");
    let table = [("$(NOBODY)", "missing value for \"NOBODY\""), ("$(UP)", "must not contain '..'")];
    for (n, (expression, want)) in table.iter().enumerate() {
        let name = format!("q{n}");
        node.apply(&pod(&name, &volume, &container(expression))).ok();
        let message = waiting(&node, &name, "CreateContainerConfigError");
        assert!(message.contains(want), "{expression}: {message}");
    }
}

#[test]
fn a_recursively_read_only_mount_holds_for_what_is_below_it() {
    let node = Node::with_agent();
    let data = host(&node, "data");
    host(&node, "data/inner");
    node.enter(&["mount", "-t", "tmpfs", "tmpfs", &format!("{data}/inner")]).ok();
    let volume = format!("{{name: v, hostPath: {{path: '{data}'}}}}");
    let mounts = "volumeMounts: [{name: v, mountPath: /plain, readOnly: true}, \
                  {name: v, mountPath: /deep, readOnly: true, recursiveReadOnly: Enabled}]";
    node.apply_and_wait(&pod("p", &volume, mounts));
    let write = |path: &str| node.podd(&["exec", "p", "--", "sh", "-c", &format!("echo x >{path}")]);
    write("/plain/inner/file").ok();
    for path in ["/plain/file", "/deep/file", "/deep/inner/file"] {
        assert!(write(path).stderr.contains("Read-only file system"), "{path}");
    }
    let status =
        |n: u32| node.field("pod/p", &format!("/status/containerStatuses/0/volumeMounts/{n}/recursiveReadOnly"));
    assert_eq!((status(0), status(1)), ("Disabled".to_owned(), "Enabled".to_owned()));
    let refused =
        node.apply(&pod("q", "{name: v}", "volumeMounts: [{name: v, mountPath: /m, recursiveReadOnly: Enabled}]"));
    let want = "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true";
    assert!(refused.refused().contains(want), "{}", refused.stderr);
}

#[test]
fn mounts_travel_as_far_as_a_manifest_says() {
    let node = Node::with_agent();
    let data = host(&node, "data");
    // The mounts of a test's node are private.
    node.enter(&["mount", "--bind", &data, &data]).ok();
    node.enter(&["mount", "--make-shared", &data]).ok();
    let volumes = format!("volumes: [{{name: host, hostPath: {{path: '{data}'}}}}, {{name: own, emptyDir: {{}}}}]");
    let container = |name: &str, propagation: &str, more: &str| {
        format!(
            "  - {{name: {name}, image: '{BUSYBOX}', command: [sleep, '100000'], volumeMounts: \
             [{{name: host, mountPath: /host, mountPropagation: {propagation}}}, \
             {{name: own, mountPath: /own, mountPropagation: {propagation}}}]{more}}}\n"
        )
    };
    node.apply_and_wait(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {volumes}\n  containers:\n{}{}{}",
        container("both", "Bidirectional", ", securityContext: {privileged: true}"),
        container("in", "HostToContainer", ""),
        container("none", "None", "")
    ));
    let run = |container: &str, script: &str| node.podd(&["exec", "p", "-c", container, "--", "sh", "-c", script]);
    for volume in ["host", "own"] {
        let script = format!("mkdir /{volume}/m && mount -t tmpfs tmpfs /{volume}/m && touch /{volume}/m/seen");
        run("both", &script).ok();
        let sees = |container: &str| run(container, &format!("test -e /{volume}/m/seen")).code == 0;
        wait_for(SOON, "the mount travels", || if sees("in") { Ok(()) } else { Err(volume.to_owned()) });
        assert!(!sees("none"), "{volume}: and no further than it is let");
    }
    node.enter(&["test", "-e", &format!("{data}/m/seen")]).ok();
    node.podd(&["delete", "pod", "p"]).ok();
    nothing_stays_mounted(&node);
    node.enter(&["test", "-e", &format!("{data}/m/seen")]).ok();
    // A path that takes no part is refused with the remedy.
    let alone = host(&node, "alone");
    let mount = "volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]";
    node.apply(&pod("q", &format!("{{name: v, hostPath: {{path: '{alone}'}}}}"), mount)).ok();
    let message = waiting(&node, "q", "CreateContainerError");
    assert!(message.contains("it is not a shared or slave mount"), "{message}");
    let refused =
        node.apply(&pod("r", "{name: v}", "volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]"));
    let want =
        "mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers";
    assert!(refused.refused().contains(want), "{}", refused.stderr);
}

#[test]
fn an_image_volume_shows_what_is_in_an_image() {
    let node = Node::with_agent();
    let files = [("etc/model", "weights\n"), ("etc/deep/file", "deep\n")];
    let archive = image::of_files(node.path(), "models/small:1", &files);
    node.podd(&["load", "-i", &archive.to_string_lossy()]).ok();
    let volume = "{name: v, image: {reference: 'models/small:1'}}";
    let mounts = "volumeMounts: [{name: v, mountPath: /image}, {name: v, mountPath: /part, subPath: etc/deep}]";
    node.apply_and_wait(&pod("p", volume, mounts));
    assert_eq!(node.field("pod/p", "/spec/volumes/0/image/pullPolicy"), "IfNotPresent");
    let run = |script: &str| node.podd(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(run("cat /image/etc/model /part/file").ok(), "weights\ndeep\n");
    assert!(run("echo x >/image/etc/model").stderr.contains("Read-only file system"));
    // What is not to be had holds the container, and is told as a missing image of its own would be.
    let table = [
        ("absent", "models/none:1, pullPolicy: Never", "ErrImageNeverPull", "is not present with pull policy of Never"),
        ("bad", "'No Image'", "InvalidImageName", "No Image"),
        ("refused", "'127.0.0.1:1/none:1'", "ImagePullBackOff", "Back-off pulling image \"127.0.0.1:1/none:1\""),
    ];
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    for (name, reference, _, _) in table {
        node.apply(&pod(name, &format!("{{name: v, image: {{reference: {reference}}}}}"), mount)).ok();
    }
    for (name, _, reason, want) in table {
        let message = waiting(&node, name, reason);
        assert!(message.contains(want), "{name}: {message}");
    }
    let said = node.podd(&["describe", "pod", "refused"]).stdout;
    assert!(said.contains("Failed to pull image \"127.0.0.1:1/none:1\""), "{said}");
    let refused = node.apply(&pod("q", "{name: v, image: {reference: ''}}", mount));
    assert!(refused.refused().contains("spec.volumes[0].image.reference: Required value"), "{}", refused.stderr);
}

#[test]
fn huge_pages_that_the_node_lacks_hold_the_pod_and_are_named() {
    let node = Node::with_agent();
    // No machine has pages of this size.
    node.apply(&pod("p", "{name: v, emptyDir: {medium: HugePages-12Mi}}", "volumeMounts: [{name: v, mountPath: /v}]"))
        .ok();
    wait_for(SOON, "the lack is told", || {
        let said = node.podd(&["describe", "pod", "p"]).stdout;
        let told = said.contains("FailedMount") && said.contains("the node has no huge pages of 12288 KiB");
        if told { Ok(()) } else { Err(said) }
    });
    assert_eq!(node.field("pod/p", "/status/phase"), "Pending");
    let refused = node.apply(&pod("q", "{name: v, emptyDir: {medium: Disk}}", ""));
    assert!(
        refused.refused().contains("spec.volumes[0].emptyDir.medium: Unsupported value: \"Disk\""),
        "{}",
        refused.stderr
    );
}
