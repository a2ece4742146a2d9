//! The planes as processes of their own: pods run, and the commands for images and for the agent's end find their way.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podd_cri::fake::{FakeRuntime, TokioClock};
use podd_tests::{Node, Output, SOON, image, program, wait_for};

/// A plane of its own; ended with the value.
struct Plane(Child);

impl Plane {
    fn start(node: &Node, args: &[&str], socket: &str) -> Self {
        let mut command = node.command(program());
        let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("podd runs");
        let plane = Self(child);
        let path = node.path().join(socket);
        wait_for(SOON, &format!("{args:?} listens"), || {
            std::os::unix::net::UnixStream::connect(&path).map(drop).map_err(|error| error.to_string())
        });
        plane
    }

    /// Ends it by a signal.
    fn end(self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill runs").success());
        self.ended();
    }

    /// Waits for its end, which was asked for.
    fn ended(mut self) {
        let status = self.0.wait().expect("a child can be waited for");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// An agent between the API of the node and the runtime at `cri`.
fn agent(node: &Node, cri: &str) -> Plane {
    let (socket, endpoint) = (node.path().join("run/podd.sock"), format!("unix://{}", text(&node.path().join(cri))));
    Plane::start(node, &["agent", "--api-socket", text(&socket), "--runtime-endpoint", &endpoint], "run/kubelet.sock")
}

fn load(node: &Node) -> Output {
    node.podd(&["load", "-i", text(&image::busybox(node.path()))])
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
                   - name: main\n    image: busybox:test\n    command: [sh, -c, \"echo hello; trap 'exit 0' TERM; nc -ll -p 8080 \
                   -e sh -c 'cat; echo all said' & while true; do sleep 0.1; done\"]\n";

/// It reads a word from whoever is attached, and ends.
const TALKER: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  restartPolicy: Never\n  containers:\n  \
                      - name: main\n    image: busybox:test\n    stdin: true\n    stdinOnce: true\n    command: [sh, -c, \
                      \"read word; echo got $word\"]\n";

#[test]
fn three_planes_are_three_processes() {
    let node = Node::new();
    let runtime = Plane::start(&node, &["cri"], "run/cri/cri.sock");
    let api = Plane::start(&node, &["api"], "run/podd.sock");
    let agent = agent(&node, "run/cri/cri.sock");
    assert_eq!(load(&node).ok(), "loaded docker.io/library/busybox:test\n");
    let file = node.file("pod.yaml", POD);
    assert_eq!(node.podd(&["apply", "--wait", "--timeout=30s", "-f", &file]).ok(), "pod/a created\n");
    wait_for(SOON, "the log is there", || {
        let log = node.podd(&["logs", "a"]);
        if log.ok() == "hello\n" { Ok(()) } else { Err(log.stdout) }
    });
    let ran = node.podd(&["exec", "a", "--", "sh", "-c", "echo in; exit 4"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, "in\n"), "{}", ran.stderr);
    // Attach and port forwarding go from process to process, too.
    node.apply_and_wait(TALKER);
    let line = format!("echo typed | {} attach -iq b", text(&program()));
    assert_eq!(node.enter(&["timeout", "30", "sh", "-c", &line]).ok(), "got typed\n");
    let mut command = node.command(program());
    let child = command.args(["port-forward", "a", "18080:8080"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let forward = Plane(child.expect("podd runs"));
    wait_for(SOON, "the pod's port answers", || {
        let heard = node.enter(&["sh", "-c", "echo hello | socat -t 30 - TCP:127.0.0.1:18080"]).stdout;
        if heard == "hello\nall said\n" { Ok(()) } else { Err(heard) }
    });
    drop(forward);
    assert_eq!(node.podd(&["delete", "pod", "b"]).ok(), "pod \"b\" deleted\n");
    assert_eq!(node.podd(&["delete", "-f", &file]).ok(), "pod \"a\" deleted\n");
    assert!(node.podd(&["get", "pod", "a"]).refused().contains("not found"));
    agent.end();
    api.end();
    runtime.end();
}

#[test]
fn image_commands_and_the_agents_end_work_across_processes() {
    let node = Node::new();
    let runtime = Plane::start(&node, &["cri"], "run/cri/cri.sock");
    let api = Plane::start(&node, &["api"], "run/podd.sock");
    // An API is no agent.
    assert_eq!(node.podd(&["agent", "status"]).code, 3);
    assert_eq!(node.podd(&["agent", "stop"]).ok(), "no agent runs\n");
    assert!(load(&node).refused().contains("an API without an agent answers at"));
    let one = agent(&node, "run/cri/cri.sock");
    assert!(node.podd(&["agent", "status"]).ok().contains("kubelet.sock"));
    load(&node).ok();
    let listed = node.podd(&["images"]);
    assert!(listed.ok().contains("docker.io/library/busybox"), "{}", listed.stdout);
    assert!(node.podd(&["pull", "127.0.0.1:1/none:1"]).refused().contains("127.0.0.1:1"));
    let broken = node.file("broken.tar", "no archive");
    assert!(node.podd(&["load", "-i", &broken]).refused().contains("the archive is invalid"));
    assert!(node.podd(&["rmi", "busybox:test"]).ok().contains("deleted sha256:"));
    load(&node).ok();
    let file = node.file("pod.yaml", POD);
    node.podd(&["apply", "--wait", "--timeout=30s", "-f", &file]).ok();
    let started = node.field("pod/a", "/status/containerStatuses/0/state/running/startedAt");
    assert_eq!(node.podd(&["agent", "stop"]).ok(), "agent stopped; pods go on running\n");
    one.ended();
    let two = agent(&node, "run/cri/cri.sock");
    node.wait_field("pod/a", "/status/phase", "Running");
    assert_eq!(node.field("pod/a", "/status/containerStatuses/0/state/running/startedAt"), started);
    assert_eq!(node.podd(&["agent", "stop", "--pods"]).ok(), "agent stopped, pods are gone\n");
    two.ended();
    assert_eq!(node.processes(), [0; 0]);
    api.end();
    runtime.end();
}

#[test]
fn a_plane_that_cannot_listen_leaves_nothing() {
    let node = Node::new();
    let refusal = node.podd(&["cri", "--listen", text(&node.path().join("missing/cri.sock"))]);
    assert!(refusal.refused().contains("missing/cri"), "{}", refusal.stderr);
    assert!(node.cgroups().is_empty(), "{:?}", node.cgroups());
    // What is no socket is not replaced.
    node.file("run/podd.sock", "");
    let refusal = node.podd(&["agent"]);
    assert!(refusal.refused().contains("podd.sock exists and is no socket"), "{}", refusal.stderr);
    assert!(!node.path().join("run/cri.sock").exists());
}

#[test]
fn with_another_runtime_images_go_through_cri_and_load_says_what_to_do() {
    let node = Node::new();
    let runtime = tokio::runtime::Runtime::new().expect("an async runtime");
    let fake = FakeRuntime::new(TokioClock::new(0));
    fake.add_image("docker.io/library/other:1");
    let socket = node.path().join("run/fake.sock");
    runtime.block_on(async {
        let listener = podd_cri::server::bind(&socket).await.expect("a socket");
        let (runtime, images) = fake.services();
        tokio::spawn(podd_cri::server::serve(listener, runtime, images, std::future::pending()));
    });
    let api = Plane::start(&node, &["api"], "run/podd.sock");
    let agent = agent(&node, "run/fake.sock");
    assert!(node.podd(&["images"]).ok().contains("docker.io/library/other"));
    assert!(node.podd(&["pull", "docker.io/library/new:1"]).ok().starts_with("sha256:"));
    assert!(node.podd(&["images"]).ok().contains("docker.io/library/new"));
    node.podd(&["rmi", "docker.io/library/new:1"]).ok();
    assert!(!node.podd(&["images"]).ok().contains("docker.io/library/new"));
    assert!(load(&node).refused().contains("`ctr --namespace k8s.io images import FILE`"));
    assert_eq!(node.podd(&["agent", "stop"]).ok(), "agent stopped; pods go on running\n");
    agent.ended();
    api.end();
    runtime.shutdown_timeout(Duration::from_secs(1));
}
