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
    std::thread::sleep(std::time::Duration::from_millis(300));
    node.start_agent();
    node.wait_field("pod/p", "/status/phase", "Running");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/containerID"), id);
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/restartCount"), "0");
    let log = node.podd(&["logs", "p"]).ok().to_owned();
    let wanted: Vec<String> = (0..log.lines().count()).map(|number| format!("line {number}")).collect();
    assert_eq!(log.lines().collect::<Vec<_>>(), wanted, "no line lost, none twice");
    assert!(wanted.len() > 15, "it wrote on while the agent was away: {} lines", wanted.len());
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
        let left = node.processes();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn an_exit_while_the_agent_was_away_is_told() {
    let mut node = Node::with_agent();
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 0";
    node.apply_and_wait(&pod("p", script));
    node.podd(&["exec", "p", "--", "sh", "-c", "(sleep 0.4; touch /tmp/go) >/dev/null 2>&1 &"]).ok();
    node.kill_agent();
    std::thread::sleep(std::time::Duration::from_millis(800));
    node.start_agent();
    node.wait_field("pod/p", "/status/phase", "Succeeded");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/terminated/exitCode"), "0");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/restartCount"), "0");
}
