//! What is mounted into a container: images, mounts in each other, propagation, read-only trees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use podd_shim::wire::{Mount, MountKind, Propagation, Request, ShimErrorKind};

use crate::harness::{Node, PATIENCE, eventually};

fn bind(source: &Path, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind { source: source.into(), recursive: true },
        ..Mount::default()
    }
}

/// An image of two layers; the upper one has a link that points out.
fn image(node: &Node) -> Vec<PathBuf> {
    let (upper, lower) = (node.path("upper-layer"), node.path("lower-layer"));
    for directory in [upper.join("data"), lower.join("data/deep")] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(lower.join("data/deep/file"), "below").unwrap();
    fs::write(lower.join("data/hidden"), "below").unwrap();
    fs::write(upper.join("data/hidden"), "above").unwrap();
    symlink("/", upper.join("top")).unwrap();
    symlink("../../../../../../../../..", upper.join("out")).unwrap();
    vec![upper, lower]
}

fn volume(lower: Vec<PathBuf>, sub_path: Option<&str>) -> Mount {
    let kind = MountKind::Image { lower, sub_path: sub_path.map(PathBuf::from) };
    Mount { destination: "/volume".into(), kind, ..Mount::default() }
}

#[test]
fn an_image_is_mounted_read_only_with_its_layers_stacked() {
    let mut node = Node::new();
    let lower = image(&node);
    let mut spec =
        node.spec("a", "cat /volume/data/deep/file; echo; cat /volume/data/hidden; echo; echo x >/volume/new");
    spec.mounts = vec![volume(lower.clone(), None)];
    node.run(spec);
    assert_ne!(node.exit("a").code, 0, "a write is refused");
    assert_eq!(node.texts("a")[..2], ["below", "above"]);
    // One layer is no overlay.
    let mut spec = node.spec("b", "cat /volume/data/hidden; echo; touch /volume/data/hidden 2>&1 | grep -c Read-only");
    spec.mounts = vec![volume(lower[1..].to_vec(), None)];
    assert_eq!(node.output(spec), ["below", "1"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(node.path("").to_str().unwrap()), "no mount travels to the host");
}

#[test]
fn the_image_of_the_root_may_be_a_volume_too() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo mine >/etc/own; ls /volume/etc; cat /volume/etc/group | head -n 1");
    spec.mounts = vec![
        volume(vec![node.path("layer")], None),
        Mount { destination: "/again".into(), ..volume(vec![node.path("layer")], Some("etc")) },
    ];
    assert_eq!(node.output(spec), ["group", "passwd", "root:x:0:"]);
}

#[test]
fn a_sub_path_of_an_image_stays_in_the_image() {
    let mut node = Node::new();
    let lower = image(&node);
    for (seen_as, sub_path, script, seen) in [
        ("a0", "data/deep", "cat /volume/file", "below"),
        ("a1", "data/hidden", "cat /volume", "above"),
        ("a2", "top/data", "cat /volume/hidden", "above"),
        ("a3", "out/data", "cat /volume/hidden", "above"),
        ("a4", "../../data", "cat /volume/hidden", "above"),
    ] {
        let mut spec = node.spec(seen_as, script);
        spec.mounts = vec![volume(lower.clone(), Some(sub_path))];
        assert_eq!(node.output(spec), [seen], "{sub_path}");
    }
    let mut spec = node.spec("b", "true");
    spec.mounts = vec![volume(lower, Some("data/none"))];
    let error = node.refused(Request::Create(Box::new(spec)));
    assert_eq!(error.kind, ShimErrorKind::Invalid);
    assert!(error.to_string().contains("the image has no data/none"), "{error}");
}

#[test]
fn mounts_lie_in_each_other_and_over_the_defaults_whatever_their_order() {
    let mut node = Node::new();
    let (outer, inner, file) = (node.path("outer"), node.path("inner"), node.path("file"));
    fs::create_dir(&outer).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("name"), "inner").unwrap();
    fs::write(&file, "a file\n").unwrap();
    let mut spec =
        node.spec("a", "cat /a/b/c/name; echo; cat /etc/hosts /dev/termination-log; cat /dev/shm/name; echo; ls /a");
    spec.mounts = vec![
        bind(&inner, "/a/b/c"),
        bind(&file, "/etc/hosts"),
        bind(&file, "/dev/termination-log"),
        bind(&inner, "/dev/shm"),
        bind(&outer, "/a"),
    ];
    assert_eq!(node.output(spec), ["inner", "a file", "a file", "inner", "b"]);
}

/// A mount below a test's directory, gone with it.
struct Below(PathBuf);

impl Below {
    fn new(directory: &Path, options: &[&str]) -> Self {
        fs::create_dir_all(directory).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(directory));
        for option in options {
            run(Command::new("mount").arg(option).arg(directory));
        }
        Self(directory.to_owned())
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn a_read_only_tree_is_so_down_to_its_mounts_when_that_is_asked_for() {
    let mut node = Node::new();
    let source = node.path("source");
    let _inner = Below::new(&source.join("inner"), &["--make-private"]);
    for (id, recursive, writable) in [("a", true, "no"), ("b", false, "yes")] {
        let script =
            "touch /m/x 2>/dev/null && echo yes || echo no; touch /m/inner/x 2>/dev/null && echo yes || echo no";
        let mut spec = node.spec(id, script);
        spec.mounts = vec![Mount { readonly: true, recursive_readonly: recursive, ..bind(&source, "/m") }];
        assert_eq!(node.output(spec), ["no", writable]);
    }
}

#[test]
fn mounts_travel_as_far_as_their_propagation_lets_them() {
    for (propagation, inward, outward) in
        [(Propagation::Private, false, false), (Propagation::Slave, true, false), (Propagation::Shared, true, true)]
    {
        let mut node = Node::new();
        let shared = Below::new(&node.path("shared"), &["--make-private", "--make-shared"]);
        for name in ["in", "out"] {
            fs::create_dir(shared.0.join(name)).unwrap();
        }
        let all = (1u64 << 41) - 1;
        let script = "while ! [ -e /m/go ]; do sleep 0.01; done; ls /m/in; busybox mount -t tmpfs none /m/out; \
            echo x >/m/out/file; echo done; sleep 1000";
        let mut spec = node.spec("a", script);
        spec.process.capabilities.bounding = all;
        spec.process.capabilities.effective = all;
        spec.process.capabilities.permitted = all;
        spec.process.seccomp = podd_shim::wire::Seccomp::Unconfined;
        spec.mounts = vec![Mount { propagation, ..bind(&shared.0, "/m") }];
        node.run(spec);
        let inner = Below::new(&shared.0.join("in"), &[]);
        fs::write(inner.0.join("told"), "").unwrap();
        fs::write(shared.0.join("go"), "").unwrap();
        node.await_text("a", "done");
        assert_eq!(node.texts("a").contains(&"told".to_owned()), inward, "{propagation:?}");
        assert_eq!(shared.0.join("out/file").exists(), outward, "{propagation:?}");
        node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: false });
        node.exit("a");
        if outward {
            drop(Below(shared.0.join("out")));
        }
        drop(inner);
        let left =
            || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(shared.0.join("in").to_str().unwrap());
        eventually(PATIENCE, || (!left()).then_some(())).expect("the mount goes");
    }
}
