//! The agent killed at any instant: what runs goes on, what was asked for comes to pass.

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: OnFailure\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n    - {{name: c, image: '{BUSYBOX}', command: [sh, -c, '{script}']}}\n"
    )
}

#[test]
fn a_running_pod_outlives_its_agent_with_its_log() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&pod("p", "n=0; while true; do echo line $n; n=$((n + 1)); sleep 0.02; done"));
    let id = node.field("pod/p", "/status/containerStatuses/0/containerID");
    node.kill_agent();
    let lines = || {
        let found = node.enter(&["sh", "-c", &format!("cat '{}'/logs/*/c/0.log", node.path().display())]);
        found.stdout.lines().count()
    };
    let before = lines();
    wait_for(SOON, "it writes on", || {
        let now = lines();
        if now > before + 15 { Ok(()) } else { Err(format!("{before} lines, then {now}")) }
    });
    node.start_agent();
    node.wait_field("pod/p", "/status/phase", "Running");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/containerID"), id);
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/restartCount"), "0");
    let log = node.podd(&["logs", "p"]).ok().to_owned();
    let wanted: Vec<String> = (0..log.lines().count()).map(|number| format!("line {number}")).collect();
    assert_eq!(log.lines().collect::<Vec<_>>(), wanted, "no line lost, none twice");
    assert!(wanted.len() > before + 15, "what it wrote while the agent was away: {} lines", wanted.len());
}

#[test]
fn a_start_that_was_cut_off_is_finished_once() {
    let mut node = Node::with_agent();
    for round in 0..4 {
        let name = format!("p{round}");
        node.apply(&pod(&name, "exec sleep 100000")).ok();
        // Each round a little later in the start.
        std::thread::sleep(std::time::Duration::from_millis(round * 8));
        node.kill_agent();
        node.start_agent();
        node.wait_field(&format!("pod/{name}"), "/status/phase", "Running");
    }
    let sleeping = node.processes().into_iter().filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"sleep\x00100000\x00")
    });
    assert_eq!(sleeping.count(), 4, "each pod's container runs once");
}

#[test]
fn a_deletion_that_was_cut_off_is_finished() {
    let mut node = Node::with_agent();
    for round in 0..3 {
        let name = format!("p{round}");
        node.apply_and_wait(&pod(&name, "exec sleep 100000"));
        node.podd(&["delete", "pod", &name, "--wait=false"]).ok();
        std::thread::sleep(std::time::Duration::from_millis(round * 5));
        node.kill_agent();
        node.start_agent();
        wait_for(SOON, "the pod is gone", || {
            let found = node.podd(&["get", "pod", &name]);
            if found.code == 0 { Err(found.stdout) } else { Ok(()) }
        });
    }
    wait_for(SOON, "nothing runs", || {
        let left = node.pod_processes();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// A pod whose container ends with this code as soon as there is a file `go` in the node's directory.
fn waits_to_end(node: &Node, code: i32) -> String {
    let script = format!("echo run; while [ ! -e /v/go ]; do sleep 0.02; done; exit {code}");
    let volume = format!("spec:\n  volumes: [{{name: v, hostPath: {{path: '{}'}}}}]\n", node.path().display());
    pod("p", &script)
        .replace("spec:\n", &volume)
        .replace("{name: c,", "{name: c, volumeMounts: [{name: v, mountPath: /v}],")
}

/// Lets the container of [`waits_to_end`] end while no agent is there.
fn end_without_an_agent(node: &mut Node) {
    node.kill_agent();
    let waiting = |node: &Node| {
        let line = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        node.processes().iter().any(|pid| String::from_utf8_lossy(&line(pid)).contains("! -e /v/go"))
    };
    assert!(waiting(node), "it runs on when the agent is gone");
    node.file("go", "");
    wait_for(SOON, "the container has ended", || if waiting(node) { Err(String::new()) } else { Ok(()) });
    std::fs::remove_file(node.path().join("go")).expect("a file");
}

#[test]
fn an_exit_while_the_agent_was_away_is_told() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&waits_to_end(&node, 0));
    end_without_an_agent(&mut node);
    node.start_agent();
    node.wait_field("pod/p", "/status/phase", "Succeeded");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/terminated/exitCode"), "0");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/restartCount"), "0");
}

#[test]
fn a_failure_while_the_agent_was_away_is_told_and_is_one_restart() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&waits_to_end(&node, 9));
    let first = node.field("pod/p", "/status/containerStatuses/0/containerID");
    end_without_an_agent(&mut node);
    node.start_agent();
    node.wait_field("pod/p", "/status/containerStatuses/0/restartCount", "1");
    let field = |node: &Node, pointer: &str| node.field("pod/p", &format!("/status/containerStatuses/0{pointer}"));
    let told = |node: &Node| {
        assert_eq!(field(node, "/lastState/terminated/exitCode"), "9");
        assert_eq!(field(node, "/lastState/terminated/reason"), "Error");
        assert_eq!(field(node, "/lastState/terminated/containerID"), first);
        assert_eq!(field(node, "/restartCount"), "1");
    };
    told(&node);
    node.podd(&["wait", "--for=condition=Ready", "pod/p", "--timeout=30s"]).ok();
    let second = field(&node, "/containerID");
    // Another agent counts it no second time, and lets the second run be.
    node.kill_agent();
    node.start_agent();
    node.podd(&["wait", "--for=condition=Ready", "pod/p", "--timeout=30s"]).ok();
    told(&node);
    assert_eq!(field(&node, "/containerID"), second);
    assert_eq!(node.podd(&["logs", "p"]).ok(), "run\n");
    assert_eq!(node.podd(&["logs", "p", "--previous"]).ok(), "run\n");
}
